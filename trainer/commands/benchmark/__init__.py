"""`loopwright benchmark`: the loop beside `model.fit`, a process for each row."""
