"""The heart: objective, state, step, execution and loop, in this reading order, and the protocols between them."""
