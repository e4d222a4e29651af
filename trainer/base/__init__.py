"""What every room needs: errors, clocks, locks, atomic writes, a background thread, and TensorFlow's private parts."""
