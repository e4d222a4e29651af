"""The error of a run that can't go on. Imports nothing."""


class TrainingError(Exception):
    """A run that failed or was refused; the message is one line that says what to do."""

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code
