"""What each task shows on TensorBoard beside numbers, and keeps in the run's folder for the report."""

from __future__ import annotations

import pathlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from loopwright.trainer.core.feed import Feed
from loopwright.trainer.core.hook import Hook
from loopwright.trainer.core.state import TrainState
from loopwright.trainer.hooks.board import Pictures, Written
from loopwright.trainer.observe.predictor import gatherer
from loopwright.trainer.observe.tensorboard import TensorBoard
from loopwright.trainer.observe.views import ClassView, LabelView, NumberView, PositionView, View
from loopwright.trainer.tasks.task import Goal


class Board(NamedTuple):
    """Where a task shows what it sees: the model, the evaluation split, and what is written.

    `preprocessing` is that of the dataset. Its function `text` makes a text of a sample's inputs.
    """

    state: TrainState
    feed: Feed
    tensorboard: TensorBoard
    keep: pathlib.Path
    preprocessing: Any = None

    @property
    def text(self) -> Callable[[np.ndarray], str] | None:
        """Makes a text of a sample's inputs, where that can be done."""
        return getattr(self.preprocessing, "text", None)


class Views(Pictures):
    """Pictures of what a pass over the evaluation split gathers. `views` are by head; the name of a single one is empty."""

    def __init__(self, views: Mapping[str, View], board: Board) -> None:
        names = {name: getattr(view, "names", ()) for name, view in views.items()}
        super().__init__(gatherer(board.state, board.feed, views), board.tensorboard, names, board.keep)
        self.views = views


def several(heads: Mapping[str, tuple[str, Goal]], board: Board) -> Hook | None:
    """The hook of the boards of several heads, or None if no head has any. What a head shows stands under its name.

    `heads` are the `board` of the task and the goal of each head. Only boards with views are shown, all in one pass.
    """
    made = {name: pkgutil.resolve_name(of_task)(goal, board) for name, (of_task, goal) in heads.items() if of_task}
    views = {name: part.views[""] for name, part in made.items() if isinstance(part, Views)}
    return Views(views, board) if views else None


def classes(goal: Goal, board: Board) -> Hook:
    """Samples and mistakes with their classes, the confusion matrix, and scores of each class, over samples or positions."""
    view = ClassView if goal.target.kind == "class" else PositionView
    return Views({"": view(goal.target.names, goal.activated, board.text)}, board)


def labels(goal: Goal, board: Board) -> Hook:
    """Scores of each label, and curves of precision over recall."""
    return Views({"": LabelView(goal.target.names, goal.activated, board.text)}, board)


def numbers(goal: Goal, board: Board) -> Hook:
    """Predictions over targets, residuals, and the samples with the largest errors."""
    return Views({"": NumberView(", ".join(goal.target.names), board.text)}, board)


def language(goal: Goal, board: Board) -> Hook:
    """Texts that the model writes."""
    text = board.text or (lambda ids: " ".join(goal.target.names[number] for number in ids))
    tokens = {name: getattr(board.preprocessing, name) for name in ("never", "end")} if board.preprocessing else {}
    return Written(
        *(board.state, board.feed, board.tensorboard, board.keep), text=text, activated=goal.activated, **tokens
    )
