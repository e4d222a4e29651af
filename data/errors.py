"""The error for data that is missing or wrong, and short forms of errors from elsewhere. Imports no TensorFlow."""

from __future__ import annotations

import re


class DataError(Exception):
    """Data is missing or wrong. The message says which data, and what to do."""

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its class if the message is empty."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def short_reason(error: BaseException) -> str:
    """What a TensorFlow error says, in one short line without node names and the frame of a failed assertion."""
    text = str(getattr(error, "message", error)).strip()
    if "Summarized data:" in text:
        text = text.split("Summarized data:")[1].strip()
        text = " ".join(line.removeprefix("b").strip("'\"") for line in text.splitlines())
    text = next(iter(text.splitlines()), type(error).__name__)
    text = re.sub(r"\{\{.*?\}\}", "", text)
    return text.split(" [Op:")[0].strip()[:300]
