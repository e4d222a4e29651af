"""What the loop calls between steps: log, evaluate, steer, guard, save on a signal, and fill TensorBoard."""
