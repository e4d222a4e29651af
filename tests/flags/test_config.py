"""The facts about flags that other code relies on: the identity of a run, and that flags survive a flagfile."""

import dataclasses
import pathlib
import tempfile
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from loopwright import flags
from loopwright.flags.fields import kind_of
from loopwright.flags.flagfile import flag_values

FIELDS = [(group, field) for group in flags.TRAIN_GROUPS for field in dataclasses.fields(group)]
IDENTITY = {
    *("dataset", "train_split", "eval_split", "batch_size", "drop_remainder", "model", "precision", "optimizer"),
    *("learning_rate", "schedule", "warmup_steps", "momentum", "weight_decay", "seed", "execution", "deterministic"),
    *("freeze", "metrics", "boundaries", "decay_factor", "clip_norm", "clip_value", "ema_decay", "label_smoothing"),
    *("gradient_accumulation", "loss_scale_floor", "reduce_on_plateau"),
}
FREE = {
    *("data_dir", "manual_dir", "download", "epochs", "train_steps", "workdir", "steps_per_call", "log_every"),
    *("eval_every", "checkpoint_every", "keep", "overwrite", "json"),
    *("intra_op_threads", "inter_op_threads", "onednn", "max_skipped_steps", "log_norms", "monitor", "early_stop"),
}


def values_of(group: type, field: dataclasses.Field) -> st.SearchStrategy[Any]:
    """Values that the flag accepts."""
    bounds, kind = field.metadata["bounds"], kind_of(group, field)
    if field.metadata["choices"]:
        values: st.SearchStrategy[Any] = st.sampled_from(field.metadata["choices"])
    elif kind is bool:
        values = st.booleans()
    elif kind is int:
        top = 2**31 if bounds.below is None else int(bounds.below) - 1
        values = st.integers(int(bounds.minimum), top)
    elif kind is float:
        low, strict = (bounds.minimum, False) if bounds.above is None else (bounds.above, True)
        values = st.floats(
            low, bounds.below, exclude_min=strict, exclude_max=bounds.below is not None, allow_infinity=False
        )
    else:
        values = st.text(st.characters(exclude_categories=("C", "Z"), include_characters=" ")).map(str.strip)
    return values | st.none() if field.default is None else values


@st.composite
def configs(draw: st.DrawFn) -> flags.Config:
    """Any run that can be asked for."""
    groups = [
        group(**{field.name: draw(values_of(group, field), label=field.name) for field in dataclasses.fields(group)})
        for group in flags.TRAIN_GROUPS
    ]
    data, model, optimization, run = groups
    if run.epochs is not None:
        run = dataclasses.replace(run, train_steps=None)
    return flags.Config(data, model, optimization, run)


def replaced(config: flags.Config, name: str, value: Any) -> flags.Config:
    for group in dataclasses.fields(config):
        part = getattr(config, group.name)
        if name in {field.name for field in dataclasses.fields(part)}:
            return dataclasses.replace(config, **{group.name: dataclasses.replace(part, **{name: value})})
    raise KeyError(name)


def another_value(group: type, field: dataclasses.Field) -> Any:
    kind = kind_of(group, field)
    if field.metadata["choices"]:
        return next(choice for choice in field.metadata["choices"] if choice != field.default)
    return not field.default if kind is bool else "other" if kind is str else kind(1) / 2 if kind is float else 7


@pytest.mark.slow
@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(configs())
def test_flagfile_repeats_the_run(config: flags.Config) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "flags.txt"
        path.write_text(flags.to_flagfile(config), encoding="utf-8")
        again = flags.read_flagfile(path)
    once = {"workdir": None, "overwrite": False, "allow_fresh_start": False, "json": False}
    expected = dataclasses.replace(config, run=dataclasses.replace(config.run, **once))
    assert again == expected
    assert flags.identity(again) == flags.identity(config)


@pytest.mark.parametrize(("group", "field"), FIELDS, ids=lambda part: getattr(part, "name", ""))
def test_identity_changes_with_identity_flags_only(group: type, field: dataclasses.Field) -> None:
    changed = replaced(flags.Config(), field.name, another_value(group, field))
    assert changed != flags.Config()
    assert (flags.identity(changed) != flags.identity(flags.Config())) == field.metadata["identity"]


def test_identity_holds_what_the_contract_says() -> None:
    assert set(flags.identity(flags.Config())) >= IDENTITY
    assert not set(flags.identity(flags.Config())) & FREE
    assert set(flag_values(flags.Config())) >= IDENTITY | FREE


def test_identity_holds_the_length_where_the_schedule_does() -> None:
    cosine = replaced(flags.Config(), "schedule", "cosine")
    assert flags.identity(replaced(cosine, "epochs", 3)) != flags.identity(replaced(cosine, "epochs", 4))
    assert flags.identity(replaced(cosine, "train_steps", 3)) != flags.identity(replaced(cosine, "train_steps", 4))


def test_identity_of_older_runs_stays_the_same() -> None:
    newer = {"scale": "none", "outputs": "logits"}
    assert not newer.keys() & flags.identity(flags.Config()).keys()
    for name, value in newer.items():
        assert flags.identity(replaced(flags.Config(), name, value)) == flags.identity(flags.Config()) | {name: value}


def test_config_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        flags.Config().data.batch_size = 1  # type: ignore[misc]
