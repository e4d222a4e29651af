"""`loopwright train`: from flags to a run's folder."""
