"""The error of a run that can't go on, and other errors in few words. Imports no TensorFlow."""

from __future__ import annotations


class TrainingError(Exception):
    """A run that failed or was refused; the message is one line that says what to do."""

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def first_line(error: BaseException) -> str:
    """The first line of what an error says, in 300 characters; its kind where it says nothing."""
    return next((line.strip()[:300] for line in str(error).splitlines() if line.strip()), type(error).__name__)


def reason(error: Exception) -> str:
    """Why a file can't be used, in the system's words, which TensorFlow puts behind a path and among other lines."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith("\t")]
    said = lines[-1].partition(" [Op:")[0] if lines else ""
    return said.rpartition("; ")[2] or type(error).__name__
