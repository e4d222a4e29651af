"""Language models: the next token of each position."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from loopwright.trainer.tasks.classification import Classification
from loopwright.trainer.tasks.task import Target


@dataclasses.dataclass(frozen=True)
class LanguageModel(Classification):
    """Cross-entropy in nats a token. Less is better, and decides what is best."""

    name: str = "language_model"
    kinds: tuple[str, ...] = ("tokens",)
    monitor: str = "loss:min"
    board: str = "loopwright.trainer.tasks.boards:language"

    def rows(self, outputs: np.ndarray, target: Target, top: int) -> list[dict[str, Any]]:
        """The likeliest tokens after each text."""
        return super().rows(outputs[:, -1], target, top)


TASK = LanguageModel()
