"""What people give `train` and `evaluate`, checked once, before anything is traced.

What is meant is taken where it is plain: an execution by name, one hook, a `tf.data.Dataset`, a function of the step.
Everything else is refused in a sentence.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from loopwright.trainer.base.autograph import no_autograph
from loopwright.trainer.base.errors import TrainingError, in_trace, what
from loopwright.trainer.core import streams
from loopwright.trainer.core.execution import Execution, Run, eager, graph, xla
from loopwright.trainer.core.feed import Batch, Feed
from loopwright.trainer.core.hook import Hook
from loopwright.trainer.core.objective import Classification, Metric, Objective, Outputs, Regression
from loopwright.trainer.core.state import TrainState
from loopwright.trainer.core.step import GradientStep, Step

#: What `train` and `evaluate` take as a feed.
AnyFeed = Feed | tf.data.Dataset | Callable[[int], tf.data.Dataset]

_EXECUTIONS: dict[str, Callable[[], Execution]] = {"graph": graph, "eager": eager, "xla": xla}


class Training(NamedTuple):
    """The checked arguments of `train`."""

    feed: Feed
    step: Step
    num_steps: int
    execution: Execution
    hooks: list[Hook]


def training(state: Any, feed: Any, step: Any, num_steps: Any, execution: Any, hooks: Any) -> Training:
    """The arguments of `train`, checked.

    Raises TypeError or ValueError for what can't be meant, and TrainingError for a feed that ends before `num_steps`.
    """
    _check_state(state)
    num_steps = as_count("num_steps", num_steps)
    checked, execution, hooks = _as_step(step), _as_execution(execution, num_steps), _as_hooks(hooks)
    begin = int(state.step)
    feed = as_feed(feed, start_step=begin, repeat=True)
    _check_batches(feed.element_spec, step.objective if isinstance(step, GradientStep) else step)
    end = getattr(feed, "end", None)
    if end is not None and begin < num_steps and end < num_steps:
        raise TrainingError(
            f"num_steps={num_steps} is more than the feed has: it ends before step {end}; give num_steps={end}, or a feed "
            "that goes on, such as array_feed(..., shuffle=True) or dataset.repeat()",
            exit_code=2,
        )
    return Training(feed, checked, num_steps, execution, hooks)


def evaluation(state: Any, feed: Any, objective: Any) -> tuple[Feed, Objective]:
    """The arguments of `evaluate`, checked. Raises TypeError or ValueError for what can't be meant."""
    _check_state(state)
    feed, checked = evaluation_feed(feed), as_objective(objective)
    _check_batches(feed.element_spec, objective)
    return feed, checked


def evaluation_feed(given: Any) -> Feed:
    """A feed of one epoch. Raises TypeError or ValueError for anything that has no epoch or no batches."""
    feed = as_feed(given, start_step=0, repeat=False)
    if as_count("steps_per_epoch", feed.steps_per_epoch) == 0:
        raise ValueError("the feed has no batches, so there is nothing to evaluate; give it at least one")
    return feed


def as_feed(given: Any, *, start_step: int, repeat: bool) -> Feed:
    """A feed as it is, or one made of a dataset or a function. `repeat` begins a dataset again at its end."""
    if isinstance(given, tf.data.Dataset):
        return streams.of_dataset(given, repeat=repeat)
    if hasattr(given, "train_feed"):
        raise TypeError(f"feed is {what(given)}, not a feed of it; give dataset.train_feed(batch_size)")
    if not callable(given) or isinstance(given, type):
        remedy = "give array_feed(x, y, batch_size=32), a tf.data.Dataset of batches (x, y), or a function of the step"
        raise TypeError(f"feed is {what(given)}, which can't be opened at a step; {remedy}")
    if hasattr(given, "element_spec") and hasattr(given, "steps_per_epoch"):
        return given
    if not _takes(given, 0):
        raise TypeError(f"feed is {what(given)}, which doesn't take the step to begin at; write def feed(start_step)")
    return streams.of_function(given, start_step)


def as_count(name: str, given: Any, *, least: int = 0) -> int:
    """A whole number. Raises TypeError for another kind of number, and ValueError for one below `least`."""
    try:
        count = operator.index(given)
    except TypeError as error:
        whole = isinstance(given, float) and given.is_integer()
        remedy = f"give {name}={int(given)}" if whole else "give a whole number"
        raise TypeError(f"{name}={given!r} must be a whole number; {remedy}") from error
    if count < least or isinstance(given, bool):
        raise ValueError(f"{name}={given}: give a whole number of at least {least}")
    return count


def as_objective(given: Any) -> Objective:
    """An objective whose results are checked when it is traced. Raises TypeError for what isn't an objective."""
    if _is_loss(given):
        raise TypeError(f"the objective is {what(given)}, a loss of Keras; give objective_from_keras(loss)")
    if isinstance(given, type) or not callable(given):
        raise TypeError(f"the objective is {what(given)}; give classification(...), regression(), or a function")
    if not _takes(given, None, None, training=True):
        raise TypeError(
            f"the objective is {what(given)}, which takes other arguments; write def objective(model, batch, *, training)"
        )

    def checked(model: keras.Model, batch: Batch, *, training: bool) -> Outputs:
        with _batch_named(batch):
            outputs = given(model, batch, training=training)
        _check_outputs(outputs)
        return outputs

    return checked


@no_autograph
def _check_outputs(outputs: Any) -> None:
    if not (hasattr(outputs, "loss") and hasattr(outputs, "metrics")):
        raise in_trace(
            TypeError(
                f"the objective returned {what(outputs)}; return Outputs(loss, metrics), such as "
                "Outputs(loss, {'loss': (loss * rows, rows)})"
            )
        )
    if not tf.is_tensor(outputs.loss):
        raise in_trace(TypeError(f"the objective's loss is {what(outputs.loss)}; give a scalar tensor"))
    if not outputs.loss.dtype.is_floating:
        raise in_trace(TypeError(f"the objective's loss is of dtype {outputs.loss.dtype.name}; give a float"))
    if outputs.loss.shape.rank not in (0, None):
        shape = tuple(outputs.loss.shape)
        raise in_trace(
            ValueError(
                f"the objective's loss has the shape {shape}; reduce it to a scalar, as with tf.reduce_mean(loss)"
            )
        )
    _check_metrics(outputs.metrics, "the objective's metrics")


@contextlib.contextmanager
def _batch_named(batch: Batch) -> Iterator[None]:
    """Says what a batch holds where somebody looks in it for something else."""
    try:
        yield
    except KeyError as error:
        name = error.args[0] if error.args else None
        if not isinstance(name, str) or name in batch or not isinstance(batch, Mapping):
            raise
        raise in_trace(LookupError(f"the batch has no {name!r}; it holds {', '.join(map(str, batch))}")) from error


def _check_state(state: Any) -> None:
    if not isinstance(state, TrainState):
        made = "model" if isinstance(state, keras.Model) else "..."
        raise TypeError(f"state is {what(state)}; give TrainState.create({made}, optimizer)")


def _as_step(given: Any) -> Step:
    """A step whose results are checked when it is traced."""
    if isinstance(given, GradientStep):
        return dataclasses.replace(given, objective=as_objective(given.objective))
    if "training" in _parameters(given):
        raise TypeError(f"step is {what(given)}, an objective; make a step of it: gradient_step(objective)")
    if _is_loss(given):
        raise TypeError(f"step is {what(given)}, a loss; make a step of it: gradient_step(objective_from_keras(loss))")
    if isinstance(given, type) or not callable(given):
        raise TypeError(f"step is {what(given)}; give gradient_step(objective), or a function of the state and a batch")
    if not _takes(given, None, None):
        raise TypeError(f"step is {what(given)}, which takes other arguments; write def step(state, batch)")

    def checked(state: TrainState, batch: Batch) -> dict[str, Metric]:
        with _batch_named(batch):
            metrics = given(state, batch)
        _check_metrics(metrics, "the step's result")
        return metrics

    return checked


@no_autograph
def _check_metrics(metrics: Any, whose: str) -> None:
    """Raises TypeError or ValueError for anything but pairs of scalars by name."""
    if not isinstance(metrics, Mapping):
        words = f"{whose} must be a dict of pairs (total, weight), not {what(metrics)}; give {{}} for none"
        raise in_trace(TypeError(words))
    for name, pair in metrics.items():
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            words = f"metric {name!r} is {what(pair)}; give (total, weight), such as (mean * rows, rows)"
            raise in_trace(TypeError(words))
        total, weight = (tf.TensorShape(getattr(part, "shape", ())) for part in pair)
        if total.rank or weight.rank:
            words = f"metric {name!r} has a total of shape {total} and a weight of shape {weight}; sum each to a scalar"
            raise in_trace(ValueError(words))


def _as_execution(given: Any, num_steps: int) -> Execution:
    """An execution whose errors of the feed are told in a sentence, and which can't go on without taking a step."""
    if isinstance(given, str):
        if given not in _EXECUTIONS:
            raise ValueError(f"execution={given!r}: choose from {', '.join(_EXECUTIONS)}")
        given = _EXECUTIONS[given]()
    elif given in _EXECUTIONS.values():
        given = given()
    if not callable(given) or not _takes(given, None, None, None):
        raise TypeError(f"execution is {what(given)}; give graph(), eager() or xla()")

    def bind(state: TrainState, step: Step, feed: Feed) -> Run:
        try:
            current, run = int(state.step), given(state, step, feed)
        except AttributeError as error:
            if error.name != "stacked" or error.obj is not feed:
                raise
            raise TrainingError("xla needs stacks, but the feed has no stacked(k); use execution=graph()") from error

        def checked(n: int) -> int:
            nonlocal current
            with in_words(f"num_steps={num_steps}", f"; it ended between steps {current} and {current + n}"):
                taken = run(n)
            if taken < 1:
                raise TrainingError(
                    f"the execution took {taken} steps, so training would never end; give steps_per_call of at least 1"
                )
            current += taken
            return taken

        return checked

    return bind


def _as_hooks(given: Any) -> list[Hook]:
    """A list of hooks of one hook, several or none."""
    if given is None or callable(given):
        hooks = [] if given is None else [given]
    elif isinstance(given, Iterable) and not isinstance(given, (str, Mapping)):
        hooks = list(given)
    else:
        hooks = [given]
    for place, hook in enumerate(hooks):
        _check_hook(f"hooks[{place}]", hook)
    return hooks


def _check_hook(name: str, hook: Any) -> None:
    if isinstance(hook, keras.callbacks.Callback):
        raise TypeError(f"{name} is {what(hook)}, a callback of Keras; give hooks=keras_callback(callback, ...)")
    if isinstance(hook, (list, tuple)):
        raise TypeError(f"{name} is {what(hook)} of hooks; put them into one list: hooks=[*first, *second]")
    if isinstance(hook, type):
        raise TypeError(f"{name} is {what(hook)}; make a hook of it: {hook.__name__}(...)")
    if not callable(hook):
        raise TypeError(f"{name} is {what(hook)}; a hook is a function of the state and the metrics")
    while hasattr(hook, "hook"):  # `every` and its kin take any arguments that their hook takes
        hook = hook.hook
        if isinstance(hook, type) or not callable(hook):
            return _check_hook(name, hook)
    if not _takes(hook, None, None):
        raise TypeError(f"{name} is {what(hook)}, which takes other arguments; write def hook(state, metrics)")
    return None


def _check_batches(spec: Any, objective: Any) -> None:
    """Raises TypeError for batches that aren't dicts, and those that an objective of this package can't use."""
    if not isinstance(spec, Mapping):
        raise TypeError(f"a batch of the feed is {what(spec)}; give a dict with x and y, as array_feed makes it")
    if not isinstance(objective, (Classification, Regression)):
        return
    missing = [name for name in ("x", "y") if name not in spec]
    if missing:
        held, lacking = ", ".join(map(str, spec)) or "nothing", " and no ".join(missing)
        raise TypeError(f"a batch of the feed holds {held}, but no {lacking}; name the inputs x and the labels y")
    if any(part.dtype == tf.string for part in tf.nest.flatten(spec["y"])):
        raise TypeError("the labels y are strings; number them first: names, y = numpy.unique(y, return_inverse=True)")


@contextlib.contextmanager
def in_words(wanted: str, where: str = "") -> Iterator[None]:
    """Says in a TrainingError that the feed ended too early, or that a label is out of range. Other errors pass.

    Args:
      wanted: for what the feed has too few batches.
      where: where it ended, as the end of a sentence.
    """
    try:
        yield
    except (StopIteration, tf.errors.OpError) as error:
        words = _words(error, wanted, where)
        if not words:
            raise
        raise TrainingError(words) from error


def _words(error: Exception, wanted: str, where: str) -> str:
    said = str(error).replace("\n", " ")
    if isinstance(error, StopIteration) or (isinstance(error, tf.errors.OutOfRangeError) and "End of sequence" in said):
        return f"the feed has too few batches for {wanted}{where}; take fewer steps, or give a feed that goes on"
    label = re.search(r"label value of (\S+) which is outside the valid range of (\[.*?\))", said)
    if label is None:
        return ""
    remedy = "give labels from 0, and the model an output for each class"
    return f"a label is {label[1]}, outside the range {label[2]} of the model's outputs; {remedy}"


def _is_loss(given: Any) -> bool:
    """Whether something is a loss as `compile` takes it: a name, an object, a class, or a function of `y_true`."""
    named = isinstance(given, (str, keras.losses.Loss)) or (
        inspect.isclass(given) and issubclass(given, keras.losses.Loss)
    )
    return named or "y_true" in _parameters(given)


def _parameters(function: Any) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # it is no function, or one in C, which doesn't say
        return ()


def _takes(function: Callable[..., Any], *arguments: Any, **named: Any) -> bool:
    """Whether a function can be called with these arguments; True where it doesn't say."""
    try:
        inspect.signature(function).bind(*arguments, **named)
    except ValueError:
        return True
    except TypeError:
        return False
    return True
