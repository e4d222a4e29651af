"""The loop beside others: `model.fit`, other executions, and the same run killed and resumed."""
