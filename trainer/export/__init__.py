"""Models as files: the `.h5` from which training goes on, the other formats, and the safe reading of model files."""
