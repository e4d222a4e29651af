"""Tasks: the only place that knows what kind of job is trained. Read `task.py`, then `assignment.py`."""
