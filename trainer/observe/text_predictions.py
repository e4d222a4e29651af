"""Texts that a language model has written."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np


@dataclasses.dataclass(frozen=True)
class TextPredictions:
    """Prompts out of a split, and how the model goes on.

    Attributes:
      index: int64 `[P]`, the places in the split of the samples whose beginnings are the prompts.
      prompts, continuations: texts `[P]`.
      temperature: that of the sampling.
      step: the training step of the model.
    """

    kind: ClassVar[str] = "texts"

    index: np.ndarray
    prompts: np.ndarray
    continuations: np.ndarray
    temperature: float
    step: int
