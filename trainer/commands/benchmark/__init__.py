"""`loopwright benchmark`: the loop beside `model.fit`, with a process for each row."""
