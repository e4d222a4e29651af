"""The error of data that isn't there or isn't right. Imports nothing."""


class DataError(Exception):
    """Data that isn't there or isn't right; the message says which and what to do."""

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code
