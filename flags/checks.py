"""What is wrong with flags beyond a single number or choice, found before TensorFlow is imported.

Each function `check_…` takes the groups that its row of `CHECKS` names, and raises UsageError for the first mistake in them.
`parse` and `parse_matrix` call `check` for every command. The public functions that take a text turn the value of a flag
into what it stands for, and raise UsageError if it has the wrong form.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from loopwright.flags import keras_names
from loopwright.flags.config import Data, Model, Optimization, Run
from loopwright.flags.errors import UsageError, nearest
from loopwright.flags.other_commands import Benchmark, Export, Listing, Parity, Prediction, Verification

#: For each check the groups that it needs, and the function that takes them.
Table = tuple[tuple[tuple[type, ...], Callable[..., None]], ...]

#: Names that other packages know. This package imports none of them, so a test compares these tuples with them.
TASKS = ("auto", "classification", "binary", "multi_label", "regression", "language_model")
EXPORT_FORMATS = ("h5", "keras", "saved_model", "litert")
AUGMENTATIONS = ("flip", "translate", "crop", "cutout")
#: The augmentations that are written with a number of pixels.
SIZED_AUGMENTATIONS = ("translate", "crop", "cutout")
#: `module:function`, as `pkgutil.resolve_name` takes it.
FUNCTION = re.compile(r"(?!\d)\w+(\.(?!\d)\w+)*:(?!\d)\w+(\.(?!\d)\w+)*")
_BOUND = r"-?[\d_.]+(?:%|shard)?"
_SPLIT = rf"[\w-]+(?:\[(?:{_BOUND}:(?:{_BOUND})?|:{_BOUND}|-?[\d_]+shard)\])?"
#: What TFDS takes for a split, and a little more.
_SPLITS = re.compile(rf"{_SPLIT}(?:\s*\+\s*{_SPLIT})*")


def check(groups: Sequence[Any]) -> None:
    """Checks groups of flags, each alone and together. Raises UsageError for the first mistake."""
    run_checks(CHECKS, groups)


def run_checks(table: Table, groups: Sequence[Any]) -> None:
    """Runs the checks of a table for which all groups are given."""
    given = {type(group): group for group in groups}
    for kinds, function in table:
        if all(kind in given for kind in kinds):
            function(*(given[kind] for kind in kinds))


def image_size(text: str | None) -> tuple[int, int] | None:
    """`--image_size` as height and width."""
    sizes = _whole_numbers(text)
    if text is None:
        return None
    if sizes is None or len(sizes) != 2 or min(sizes) < 1:
        raise UsageError(f"--image_size={text}: write HEIGHT,WIDTH in pixels, such as --image_size=64,64")
    return sizes[0], sizes[1]


def boundaries(text: str | None) -> tuple[int, ...]:
    """`--boundaries` as ascending updates; empty if there are none."""
    updates = _whole_numbers(text)
    if updates is None or not _ascend(updates):
        raise UsageError(
            f"--boundaries={text}: write ascending updates, comma separated, such as --boundaries=1000,2000"
        )
    return updates


def profile_steps(text: str | None) -> tuple[int, int] | None:
    """`--profile_steps` as the first and the last step."""
    if text is None:
        return None
    steps = _whole_numbers(text, ":")
    if steps is None or len(steps) != 2 or not 0 < steps[0] < steps[1]:
        raise UsageError(f"--profile_steps={text}: write FIRST:LAST, such as --profile_steps=100:110")
    return steps[0], steps[1]


def kill_at(text: str | None) -> tuple[int, ...]:
    """`--kill_at` as ascending steps; empty if there are none."""
    steps = _whole_numbers(text)
    if steps is None or not _ascend(steps) or 0 in steps:
        raise UsageError(f"--kill_at={text}: write ascending steps, comma separated, such as --kill_at=10,35")
    return steps


def input_shape(text: str) -> tuple[int, ...]:
    """`--input_shape` as sizes."""
    sizes = _whole_numbers(text)
    if not sizes or min(sizes) < 1:
        raise UsageError(f"--input_shape={text}: write sizes, comma separated, such as --input_shape=28,28,1")
    return sizes


def metrics(text: str) -> tuple[str, ...]:
    """`--metrics` as names with their arguments, each once."""
    return keras_names.check_metrics(text)


def loss_weights(text: str | None) -> dict[str, float]:
    """`--loss_weights` as numbers by the name of the head; empty if there are none."""
    weights = {}
    for word in filter(None, (text or "").split(",")):
        name, _, number = word.strip().rpartition(":")
        try:
            weights[name] = float(number)
        except ValueError:
            name = ""
        if not name or not weights[name] >= 0:
            raise UsageError(
                f"--loss_weights={text}: write NAME:NUMBER for each head, such as --loss_weights=age:0.1,kind:1"
            )
    return weights


def formats(text: str) -> tuple[str, ...]:
    """`--formats` as names, each once."""
    return _names("formats", text, EXPORT_FORMATS)


def monitor(text: str) -> tuple[str, str | None]:
    """`--monitor` as the name of a metric, and `min`, `max`, or None where the name alone was given."""
    name, colon, mode = text.rpartition(":")
    if not colon:
        return text, None
    if not name or mode not in ("min", "max"):
        raise UsageError(f"--monitor={text}: write NAME, NAME:min or NAME:max, such as --monitor=loss:min")
    return name, mode


def augmentations(text: str) -> tuple[tuple[str, int | None], ...]:
    """`--augment` as names, each with its number of pixels; None where there is no such number."""
    return tuple(_augmentation(word) for word in filter(None, map(str.strip, text.split(","))))


def check_data(data: Data) -> None:
    if not data.dataset:
        raise UsageError("--dataset=: name a dataset; 'loopwright datasets' lists them")
    check_split("train_split", data.train_split, data)
    check_split("eval_split", data.eval_split, data)
    augmentations(data.augment)
    image_size(data.image_size)


def check_split(name: str, text: str | None, data: Data) -> None:
    """Checks the form of a split. A function of the user's own may give its splits any names."""
    if text is not None and not FUNCTION.fullmatch(data.dataset) and not _SPLITS.fullmatch(text):
        raise UsageError(f"--{name}={text}: write a split in TFDS syntax, such as train, train[:90%] or train+test")


def check_model(model: Model) -> None:
    if ":" in model.model and not FUNCTION.fullmatch(model.model):
        raise UsageError(f"--model={model.model}: write module:function, such as --model=my_models:net")
    if model.init_exclude is not None and model.init_from is None:
        raise UsageError(f"--init_exclude={model.init_exclude} needs --init_from, whose variables it leaves out")
    _check_pattern("init_exclude", model.init_exclude)
    _check_pattern("freeze", model.freeze)
    if model.unfreeze_at is not None and model.freeze is None:
        raise UsageError(f"--unfreeze_at={model.unfreeze_at} needs --freeze, whose variables it trains")
    if model.task not in TASKS and not FUNCTION.fullmatch(model.task):
        raise UsageError(f"--task={model.task}: no such task; {nearest(model.task, (*TASKS, 'module:function'))}")
    loss_weights(model.loss_weights)
    keras_names.check_loss(model.loss)
    if model.metrics is not None:
        metrics(model.metrics)


def check_optimization(optimization: Optimization) -> None:
    keras_names.check_optimizer(optimization.optimizer)
    keras_names.check_learning_rate(optimization.learning_rate)
    text, schedule = optimization.boundaries, optimization.schedule
    if keras_names.is_schedule(optimization.learning_rate) and (
        schedule not in ("auto", "constant") or optimization.warmup_steps
    ):
        other = (
            f"--schedule={schedule}"
            if schedule not in ("auto", "constant")
            else f"--warmup_steps={optimization.warmup_steps}"
        )
        raise UsageError(
            f"--learning_rate={optimization.learning_rate} is a schedule already; leave out {other}, or give a number"
        )
    boundaries(text)
    if text is not None and schedule != "piecewise":
        raise UsageError(f"--boundaries={text} needs --schedule=piecewise, not --schedule={schedule}")
    if text is None and schedule == "piecewise":
        raise UsageError("--schedule=piecewise needs --boundaries, such as --boundaries=1000,2000")
    if optimization.clip_norm is not None and optimization.clip_value is not None:
        raise UsageError(
            f"--clip_norm={optimization.clip_norm} and --clip_value={optimization.clip_value} exclude each other; "
            "give one of them"
        )


def check_run(run: Run) -> None:
    if run.monitor is not None:
        monitor(run.monitor)
    profiled = profile_steps(run.profile_steps)
    if profiled and run.epochs is None and run.train_steps is not None and profiled[0] >= run.train_steps:
        raise UsageError(
            f"--profile_steps={run.profile_steps}: the run ends at step {run.train_steps}; profile earlier steps"
        )
    if run.log_samples and run.execution in ("xla", "auto"):
        raise UsageError(f"--log_samples needs --execution=graph or --execution=eager, not --execution={run.execution}")


def check_monitor(model: Model, run: Run) -> None:
    """Refuses a --monitor that no run evaluates. Whether this run does is known when its task is."""
    if run.monitor is None or not model.task.isidentifier() or FUNCTION.search(model.metrics or ""):
        return
    name, _ = monitor(run.monitor)
    renamed = re.findall(r":name=(\w+)", model.metrics or "")
    known = ["loss", *keras_names.OWN_METRICS, *keras_names.METRICS, *keras_names.SHORT, *renamed]
    if name not in known and not model.loss_weights:
        near = difflib.get_close_matches(name, known, 1, 0.5)
        hint = f"did you mean {near[0]!r}?" if near else "name loss or one of --metrics"
        raise UsageError(f"--monitor={run.monitor}: no such metric; {hint}")


def check_beginning(model: Model, run: Run) -> None:
    """Refuses two sources for one beginning."""
    if run.restore_from is not None and model.init_from is not None:
        raise UsageError(
            f"--restore_from={run.restore_from} and --init_from={model.init_from} exclude each other: the first goes on "
            "with a run, the second begins a new one; give one of them"
        )


def check_unfreezing(model: Model, optimization: Optimization) -> None:
    """Refuses what can't begin in the middle of a run."""
    if model.unfreeze_at is not None and optimization.ema_decay is not None:
        raise UsageError(
            f"--unfreeze_at={model.unfreeze_at} and --ema_decay={optimization.ema_decay} exclude each other: an average of "
            "weights has to begin with all of them; give one of them"
        )
    if model.unfreeze_at is not None and optimization.gradient_accumulation > 1:
        raise UsageError(
            f"--unfreeze_at={model.unfreeze_at} and --gradient_accumulation={optimization.gradient_accumulation} exclude "
            "each other: the sums of gradients belong to one set of variables; give one of them"
        )


def check_plateau(optimization: Optimization, run: Run) -> None:
    """Refuses a --reduce_on_plateau that can't lower the rate."""
    if run.reduce_on_plateau is None:
        return
    flag = f"--reduce_on_plateau={run.reduce_on_plateau}"
    if keras_names.is_schedule(optimization.learning_rate):
        raise UsageError(f"{flag} needs a number as the rate, not --learning_rate={optimization.learning_rate}")
    if optimization.schedule not in ("auto", "constant"):
        raise UsageError(f"{flag} needs --schedule=constant, not --schedule={optimization.schedule}")
    if optimization.warmup_steps:
        raise UsageError(f"{flag} needs a constant rate; leave out --warmup_steps={optimization.warmup_steps}")
    if optimization.decay_factor >= 1:
        raise UsageError(
            f"--decay_factor={optimization.decay_factor}: {flag} lowers the rate only with a factor less than 1"
        )


def check_run_length(optimization: Optimization, run: Run) -> None:
    if run.epochs is None and run.train_steps is not None:
        _check_warm_up(optimization, run.train_steps)


def check_benchmark(model: Model, optimization: Optimization, benchmark: Benchmark) -> None:
    check_same_as_fit(model, optimization)
    _check_warm_up(optimization, benchmark.train_steps * (benchmark.repeats + 1))


def check_parity(model: Model, optimization: Optimization, parity: Parity) -> None:
    check_same_as_fit(model, optimization)
    _check_warm_up(optimization, parity.train_steps)


def check_same_as_fit(model: Model, optimization: Optimization) -> None:
    """Refuses what `fit` does differently, so that nothing could be compared with it."""
    if optimization.gradient_accumulation > 1:
        raise UsageError(
            f"--gradient_accumulation={optimization.gradient_accumulation} can't be compared with fit: its optimizer counts "
            "batches, where the loop counts updates; leave it out"
        )
    if model.unfreeze_at is not None:
        raise UsageError(f"--unfreeze_at={model.unfreeze_at}: fit can't unfreeze while it runs; leave it out")
    if model.init_from is not None:
        raise UsageError(
            f"--init_from={model.init_from}: the loop and fit both begin with the model's own first weights; leave it out"
        )
    ours = set(metrics(model.metrics or "accuracy")) & {"top_5", "auc", "f1"}
    if ours and model.task in ("auto", "classification") and model.loss is None:
        raise UsageError(
            f"--metrics={model.metrics}: fit has no metric {min(ours)} of classes; leave it out of the comparison"
        )


def check_verification(verification: Verification, run: Run) -> None:
    late = [step for step in kill_at(verification.kill_at) if run.train_steps is not None and step > run.train_steps]
    if late and run.epochs is None:
        raise UsageError(f"--kill_at={late[0]}: the run ends at step {run.train_steps}; kill it before")
    if run.train_steps == 1 and run.epochs is None and verification.kill_at is None:
        raise UsageError("--train_steps=1: a run that is killed in between has at least 2 steps; give it more")
    if run.execution in ("xla", "auto"):
        raise UsageError(
            f"--execution={run.execution}: verify_resume logs the samples of every step, which needs --execution=graph or "
            "--execution=eager"
        )


def check_prediction(prediction: Prediction, data: Data) -> None:
    check_split("split", prediction.split, data)


def check_export(export: Export) -> None:
    formats(export.formats)


def check_listing(listing: Listing) -> None:
    input_shape(listing.input_shape)


#: Every check, in the order in which they run.
CHECKS: Table = (
    ((Data,), check_data),
    ((Model,), check_model),
    ((Optimization,), check_optimization),
    ((Run,), check_run),
    ((Model, Run), check_monitor),
    ((Model, Run), check_beginning),
    ((Model, Optimization), check_unfreezing),
    ((Optimization, Run), check_plateau),
    ((Optimization, Run), check_run_length),
    ((Model, Optimization, Benchmark), check_benchmark),
    ((Model, Optimization, Parity), check_parity),
    ((Verification, Run), check_verification),
    ((Prediction, Data), check_prediction),
    ((Export,), check_export),
    ((Listing,), check_listing),
)


def _whole_numbers(text: str | None, separator: str = ",") -> tuple[int, ...] | None:
    """The numbers of a text; none for None, and None for a text that holds anything else."""
    if text is None:
        return ()
    parts = [part.strip() for part in text.split(separator)]
    return tuple(map(int, parts)) if all(part.isascii() and part.isdigit() for part in parts) else None


def _ascend(numbers: Iterable[int]) -> bool:
    numbers = list(numbers)
    return numbers == sorted(set(numbers))


def _names(flag: str, text: str, known: Sequence[str]) -> tuple[str, ...]:
    """Comma separated names, each once. Raises UsageError for an unknown one, and for none at all."""
    names = tuple(dict.fromkeys(filter(None, map(str.strip, text.split(",")))))
    if not names:
        raise UsageError(f"--{flag}={text}: name at least one of {', '.join(known)}")
    for name in names:
        if name not in known:
            raise UsageError(f"--{flag}={text}: {name!r} is unknown; {nearest(name, known)}")
    return names


def _augmentation(word: str) -> tuple[str, int | None]:
    name, colon, argument = word.partition(":")
    if name in SIZED_AUGMENTATIONS:
        if not (argument.isascii() and argument.isdigit() and int(argument) > 0):
            raise UsageError(f"--augment={word}: write {name}:PIXELS, such as {name}:4")
        return name, int(argument)
    if name in AUGMENTATIONS:
        if colon:
            raise UsageError(f"--augment={word}: write {name} alone, it takes no number")
        return name, None
    if not FUNCTION.fullmatch(word):
        raise UsageError(f"--augment={word}: unknown; {nearest(word, (*AUGMENTATIONS, 'module:function'))}")
    return word, None


def _check_pattern(flag: str, pattern: str | None) -> None:
    try:
        re.compile(pattern or "")
    except re.error as error:
        raise UsageError(
            f"--{flag}={pattern}: not a valid regular expression ({error}); put a backslash before a character "
            "that is meant literally"
        ) from None


def _check_warm_up(optimization: Optimization, steps: int) -> None:
    """Refuses a warm-up as long as the whole run, which leaves nothing for the cosine. `steps` are batches."""
    updates = steps // optimization.gradient_accumulation
    if optimization.schedule == "cosine" and optimization.warmup_steps >= updates:
        raise UsageError(
            f"--warmup_steps={optimization.warmup_steps} leaves no update for --schedule=cosine: the run makes {updates} "
            "updates; give fewer warm-up steps or more --train_steps"
        )
