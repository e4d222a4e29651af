"""The training loop and its parts. Every public name loads when it is first used, so importing this is free.

from loopwright import trainer

state = trainer.TrainState.create(model, optimizer)
trainer.train(state, feed, trainer.gradient_step(objective), num_steps=1000, execution=trainer.graph())
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loopwright.trainer.checkpoint import Checkpoint
    from loopwright.trainer.choose import choose
    from loopwright.trainer.control import early_stop, reduce_on_plateau
    from loopwright.trainer.errors import TrainingError
    from loopwright.trainer.evaluation import Evaluate, evaluate, evaluator, predictor
    from loopwright.trainer.execution import eager, graph, xla
    from loopwright.trainer.export import export_h5
    from loopwright.trainer.from_keras import keras_callback, objective_from_keras, step_from_keras
    from loopwright.trainer.loop import Hook, StopTraining, at_end, every, train
    from loopwright.trainer.objective import Outputs, classification, regression
    from loopwright.trainer.optimizers import averaged_weights, make_optimizer, make_schedule
    from loopwright.trainer.parity import Certificate, certify
    from loopwright.trainer.precision import AbortOnSkips
    from loopwright.trainer.records import JsonLines, Log
    from loopwright.trainer.retrace import watched
    from loopwright.trainer.state import TrainState
    from loopwright.trainer.step import gradient_step
    from loopwright.trainer.tensorboard import TensorBoard

_HOME = {
    "AbortOnSkips": "precision",
    "Certificate": "parity",
    "Checkpoint": "checkpoint",
    "Evaluate": "evaluation",
    "Hook": "loop",
    "JsonLines": "records",
    "Log": "records",
    "Outputs": "objective",
    "StopTraining": "loop",
    "TensorBoard": "tensorboard",
    "TrainState": "state",
    "TrainingError": "errors",
    "at_end": "loop",
    "averaged_weights": "optimizers",
    "certify": "parity",
    "choose": "choose",
    "classification": "objective",
    "eager": "execution",
    "early_stop": "control",
    "evaluate": "evaluation",
    "evaluator": "evaluation",
    "every": "loop",
    "export_h5": "export",
    "gradient_step": "step",
    "graph": "execution",
    "keras_callback": "from_keras",
    "make_optimizer": "optimizers",
    "make_schedule": "optimizers",
    "objective_from_keras": "from_keras",
    "predictor": "evaluation",
    "reduce_on_plateau": "control",
    "regression": "objective",
    "step_from_keras": "from_keras",
    "train": "loop",
    "watched": "retrace",
    "xla": "execution",
}

__all__ = [
    "AbortOnSkips",
    "Certificate",
    "Checkpoint",
    "Evaluate",
    "Hook",
    "JsonLines",
    "Log",
    "Outputs",
    "StopTraining",
    "TensorBoard",
    "TrainState",
    "TrainingError",
    "at_end",
    "averaged_weights",
    "certify",
    "choose",
    "classification",
    "eager",
    "early_stop",
    "evaluate",
    "evaluator",
    "every",
    "export_h5",
    "gradient_step",
    "graph",
    "keras_callback",
    "make_optimizer",
    "make_schedule",
    "objective_from_keras",
    "predictor",
    "reduce_on_plateau",
    "regression",
    "step_from_keras",
    "train",
    "watched",
    "xla",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
