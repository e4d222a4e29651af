"""What each task shows on TensorBoard beside numbers, and keeps in the run's folder for the report."""

from __future__ import annotations

import pathlib
from typing import NamedTuple

from loopwright.trainer.core.feed import Feed
from loopwright.trainer.core.hook import Hook
from loopwright.trainer.core.state import TrainState
from loopwright.trainer.hooks.board import Pictures
from loopwright.trainer.observe.predictor import predictor
from loopwright.trainer.observe.tensorboard import TensorBoard
from loopwright.trainer.tasks.task import Goal


class Board(NamedTuple):
    """Where a task shows what it sees: the model, the evaluation split, and what is written."""

    state: TrainState
    feed: Feed
    tensorboard: TensorBoard
    keep: pathlib.Path


def classes(goal: Goal, board: Board) -> Hook | None:
    """Samples and mistakes with their classes, the confusion matrix, and the accuracy of each class."""
    if goal.target.kind != "class":
        return None
    predict = predictor(board.state, board.feed, from_logits=not goal.activated)
    return Pictures(predict, board.tensorboard, goal.target.names, board.keep)
