"""Compares the loop with `model.fit`, executions with each other, and a killed run with one that never was killed."""
