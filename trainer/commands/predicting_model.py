"""What `predict` calls: the model of a run or of an export, with what it predicts and how its inputs are made."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from loopwright import flags
from loopwright.trainer.base.errors import TrainingError
from loopwright.trainer.commands import exported, sources

if TYPE_CHECKING:
    import numpy as np

    from loopwright.data import Dataset
    from loopwright.data.preprocessing import Preprocessing
    from loopwright.trainer.export.open_export import OpenedModel
    from loopwright.trainer.tasks.assignment import Assignment, Head


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A model that predicts.

    Attributes:
      opened: computes outputs from the model's inputs.
      assignment: what is predicted. None for a file that doesn't say it, which must be a classifier.
      preprocessing: makes the inputs of texts or of columns. None for a model that takes neither.
      inputs: the names of the features that the inputs are made of; empty if they aren't known.
    """

    opened: OpenedModel
    assignment: Assignment | None = None
    preprocessing: Preprocessing | None = None
    inputs: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """What it takes: `text`, `table` or `images`."""
        kinds = {"tokens": "text", "table": "table"}
        return "images" if self.preprocessing is None else kinds[self.preprocessing.kind]

    @property
    def heads(self) -> Mapping[str, Head]:
        return {} if self.assignment is None else self.assignment.heads

    @property
    def continues(self) -> bool:
        """Whether it continues texts."""
        kinds = [head.goal.target.kind for head in self.heads.values()]
        return kinds == ["tokens"] and self.kind == "text"

    def rows(self, x: Any, top: int) -> list[dict[str, Any]]:
        """What is predicted for a batch of inputs, ready for JSON. By name of the target if there are several.

        Raises TrainingError (exit 2) for inputs that don't fit.
        """
        import numpy as np

        _check_shapes(self.opened.input_shape, x)
        x = self._cast(x, self.opened.dtype)
        outputs = self.opened.call(x)
        if self.assignment is None:
            if isinstance(outputs, Mapping):
                raise TrainingError(
                    f"the model gives several outputs ({', '.join(outputs)}), and its file doesn't say what they predict",
                    exit_code=2,
                )
            return _classes(self.opened, np.asarray(outputs), top)
        if isinstance(outputs, Mapping) != (self.assignment.head is None):
            raise TrainingError("the outputs of the model aren't those that the facts about its run name", exit_code=2)
        each = outputs if isinstance(outputs, Mapping) else {next(iter(self.heads)): outputs}
        found = {name: activated(head, np.asarray(each[name], np.float64)) for name, head in self.heads.items()}
        return self.assignment.rows(found if self.assignment.head is None else next(iter(found.values())), top)

    def _cast(self, x: Any, dtype: Any) -> Any:
        if isinstance(x, Mapping):
            return {name: self._cast(x[name], dtype[name] if isinstance(dtype, Mapping) else dtype) for name in x}
        # A Keras model takes token ids as they are.
        return x.astype(dtype) if self.opened.model is None or x.dtype.kind == "f" else x


def of_run(source: sources.Source, dataset: Dataset, outputs: str) -> Predictor:
    """The model with the weights of a run's checkpoint; their averages if the optimizer keeps them."""
    import tensorflow as tf

    from loopwright.trainer.core import optimizers
    from loopwright.trainer.export.open_export import OpenedModel

    if source.config is None:
        raise ValueError("config=None: the source is an export")
    job, _ = sources.restored_job(source, sources.with_outputs(source.config, outputs), dataset)
    model = job.state.model
    # A text is continued by a call for each token.
    apply = _compiled(model) if job.assignment.name == "language_model" else model

    def call(x: Any) -> Any:
        with optimizers.averaged_weights(model, job.state.optimizer):
            return tf.nest.map_structure(lambda part: part.numpy(), apply(x, training=False))

    opened = OpenedModel(call, dataset.input_shape, class_names=tuple(dataset.class_names), model=model)
    keys = getattr(dataset, "keys", None)
    return Predictor(opened, job.assignment, dataset.preprocessing, () if keys is None else keys.inputs)


def of_file(path: pathlib.Path, facts: Mapping[str, Any], prediction: flags.Prediction) -> Predictor:
    """The model in an export, and what its facts say. `--outputs` overrules them."""
    from loopwright.trainer.export import open_export as exports

    opened = exports.open_export(path, trust=prediction.trust_file)
    names = opened.class_names or tuple(facts.get("class_names", ()))
    opened = dataclasses.replace(
        opened, class_names=names, probabilities=_probabilities(opened, facts, prediction.outputs)
    )
    assignment = exported.assignment(facts)
    if assignment is not None and prediction.outputs != "auto":
        assignment = assignment.activated(dict.fromkeys(assignment.heads, prediction.outputs == "probabilities"))
    found = Predictor(opened, assignment, exported.preprocessing(facts), tuple(facts.get("inputs", ())))
    if not found.continues or opened.model is None:
        return found
    apply = _compiled(opened.model)
    call = dataclasses.replace(opened, call=lambda ids: apply(ids, training=False).numpy())
    return dataclasses.replace(found, opened=call)


def _compiled(model: Any) -> Any:
    import tensorflow as tf

    return tf.function(model, reduce_retracing=True)


def activated(head: Head, outputs: np.ndarray) -> np.ndarray:
    """The outputs of a head as probabilities, unless they are numbers or are probabilities already."""
    if head.goal.activated or not head.task.activation:
        return outputs
    return {"softmax": softmax, "sigmoid": sigmoid}[head.task.activation](outputs)


def softmax(logits: np.ndarray) -> np.ndarray:
    import numpy as np

    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.exp(-np.logaddexp(0.0, -logits))


def _probabilities(opened: OpenedModel, facts: Mapping[str, Any], wanted: str) -> bool | None:
    """Whether a file without heads gives probabilities; None if neither the flag nor the file tells it."""
    from loopwright import models

    if "heads" in facts:
        return None
    if wanted == "auto":
        wanted = facts.get("identity", {}).get("outputs", "auto")
    if wanted != "auto":
        return wanted == "probabilities"
    if opened.model is not None:
        return models.ends_in_probabilities("", opened.model)
    if opened.probabilities is not None:
        return opened.probabilities
    return {"probabilities": True, "logits": False}.get(facts.get("outputs", ""))


def _check_shapes(takes: Any, x: Any) -> None:
    """Raises TrainingError (exit 2) for inputs of other names or shapes than the model takes."""
    if isinstance(takes, Mapping) or isinstance(x, Mapping):
        if not (isinstance(takes, Mapping) and isinstance(x, Mapping) and set(takes) == set(x)):
            says = [", ".join(part) if isinstance(part, Mapping) else "a single one" for part in (takes, x)]
            raise TrainingError(f"the model takes other inputs ({says[0]}) than it is given ({says[1]})", exit_code=2)
        for name, shape in takes.items():
            _check_shapes(shape, x[name])
        return
    given = x.shape[1:]
    if len(takes) != len(given) or any(one not in (None, -1, other) for one, other in zip(takes, given, strict=True)):
        raise TrainingError(f"the model takes inputs of shape {takes}, not {given}", exit_code=2)


def _classes(opened: OpenedModel, outputs: np.ndarray, top: int) -> list[dict[str, Any]]:
    """The likeliest classes, for a file that doesn't say what it predicts."""
    import numpy as np

    if outputs.ndim != 2 or outputs.shape[1] < 2:
        raise TrainingError(
            f"the model gives outputs of shape {outputs.shape[1:]} for a sample, not one for each class, and its file "
            "doesn't say what it predicts",
            exit_code=2,
        )
    given, outputs = opened.probabilities, outputs.astype(np.float64)
    if given is None:
        given = bool((outputs >= 0).all() and np.allclose(outputs.sum(axis=-1), 1, atol=1e-2))
    names = opened.class_names
    rows = []
    for row in outputs if given else softmax(outputs):
        best = np.argsort(-row, kind="stable")[:top]
        rows.append(
            {"top": [{"class": names[i] if i < len(names) else str(i), "probability": float(row[i])} for i in best]}
        )
    return rows
