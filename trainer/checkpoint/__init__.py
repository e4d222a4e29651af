"""Checkpoints: the whole state, committed in one piece, restored to the bit, and kept or deleted by rule."""
