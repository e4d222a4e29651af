"""The training loop and its parts. Every public name loads when it is first used, so importing this is free.

from loopwright import trainer

state = trainer.TrainState.create(model, optimizer)
trainer.train(state, feed, trainer.gradient_step(objective), num_steps=1000, execution=trainer.graph())
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loopwright.trainer.base.errors import TrainingError
    from loopwright.trainer.base.monitor import Monitor
    from loopwright.trainer.base.retrace import watched
    from loopwright.trainer.checkpoint.checkpoint import Checkpoint
    from loopwright.trainer.compare.choose_execution import choose
    from loopwright.trainer.compare.from_keras import keras_callback, objective_from_keras, step_from_keras
    from loopwright.trainer.compare.parity import Certificate, certify
    from loopwright.trainer.core.evaluation import evaluate, evaluator
    from loopwright.trainer.core.execution import eager, graph, xla
    from loopwright.trainer.core.hook import Hook, StopTraining, at_end, every, every_seconds
    from loopwright.trainer.core.loop import train
    from loopwright.trainer.core.objective import Outputs, classification, regression
    from loopwright.trainer.core.optimizers import averaged_weights, make_optimizer, make_schedule
    from loopwright.trainer.core.state import TrainState
    from loopwright.trainer.core.step import gradient_step
    from loopwright.trainer.export.functional import functional_twin
    from loopwright.trainer.export.h5_reader import load_h5, restore_h5
    from loopwright.trainer.export.h5_writer import export_h5, export_keras, export_weights
    from loopwright.trainer.export.repair import repair_h5
    from loopwright.trainer.hooks.evaluate import Evaluate
    from loopwright.trainer.hooks.guards import AbortOnSkips
    from loopwright.trainer.hooks.log import Log
    from loopwright.trainer.hooks.plateau import early_stop, reduce_on_plateau
    from loopwright.trainer.hooks.signals import SaveOnSignal
    from loopwright.trainer.keras_style import fit
    from loopwright.trainer.observe.predictor import predictor
    from loopwright.trainer.observe.records import JsonLines
    from loopwright.trainer.observe.tensorboard import TensorBoard
    from loopwright.trainer.run import Run

_HOME = {
    "AbortOnSkips": "hooks.guards",
    "Certificate": "compare.parity",
    "Checkpoint": "checkpoint.checkpoint",
    "Evaluate": "hooks.evaluate",
    "Hook": "core.hook",
    "JsonLines": "observe.records",
    "Log": "hooks.log",
    "Monitor": "base.monitor",
    "Outputs": "core.objective",
    "Run": "run",
    "SaveOnSignal": "hooks.signals",
    "StopTraining": "core.hook",
    "TensorBoard": "observe.tensorboard",
    "TrainState": "core.state",
    "TrainingError": "base.errors",
    "at_end": "core.hook",
    "averaged_weights": "core.optimizers",
    "certify": "compare.parity",
    "choose": "compare.choose_execution",
    "classification": "core.objective",
    "eager": "core.execution",
    "early_stop": "hooks.plateau",
    "evaluate": "core.evaluation",
    "evaluator": "core.evaluation",
    "every": "core.hook",
    "every_seconds": "core.hook",
    "export_h5": "export.h5_writer",
    "export_keras": "export.h5_writer",
    "export_weights": "export.h5_writer",
    "fit": "keras_style",
    "functional_twin": "export.functional",
    "gradient_step": "core.step",
    "graph": "core.execution",
    "keras_callback": "compare.from_keras",
    "load_h5": "export.h5_reader",
    "make_optimizer": "core.optimizers",
    "make_schedule": "core.optimizers",
    "objective_from_keras": "compare.from_keras",
    "predictor": "observe.predictor",
    "reduce_on_plateau": "hooks.plateau",
    "repair_h5": "export.repair",
    "restore_h5": "export.h5_reader",
    "regression": "core.objective",
    "step_from_keras": "compare.from_keras",
    "train": "core.loop",
    "watched": "base.retrace",
    "xla": "core.execution",
}

__all__ = [
    "AbortOnSkips",
    "Certificate",
    "Checkpoint",
    "Evaluate",
    "Hook",
    "JsonLines",
    "Log",
    "Monitor",
    "Outputs",
    "Run",
    "SaveOnSignal",
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
    "every_seconds",
    "export_h5",
    "export_keras",
    "export_weights",
    "fit",
    "functional_twin",
    "gradient_step",
    "graph",
    "keras_callback",
    "load_h5",
    "make_optimizer",
    "make_schedule",
    "objective_from_keras",
    "predictor",
    "reduce_on_plateau",
    "regression",
    "repair_h5",
    "restore_h5",
    "step_from_keras",
    "train",
    "watched",
    "xla",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    keras = sys.modules.get("keras")
    if keras is not None and keras.config.backend() != "tensorflow":
        raise ImportError(
            f"Keras runs on {keras.config.backend()} (KERAS_BACKEND or keras.json), but loopwright needs TensorFlow: set "
            "KERAS_BACKEND=tensorflow before Keras is imported"
        )
    return value
