"""Memory that this process doesn't need any more. Imports no TensorFlow."""

from __future__ import annotations

import ctypes
import sys


def give_back_memory() -> None:
    """Gives memory that compiling took and freed back to the system. glibc would keep these tens of megabytes."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
