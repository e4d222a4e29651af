"""What every room needs: errors, clocks, locks, atomic writes, a thread, and TensorFlow's private parts."""
