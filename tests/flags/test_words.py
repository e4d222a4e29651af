"""Errors of the library speak of parameters; the command line turns these into flags, and leaves all else alone."""

import dataclasses
import shlex
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from loopwright import flags
from loopwright.flags import words
from loopwright.flags.fields import kind_of

FIELDS = {field.name: (group, field) for group in flags.TRAIN_GROUPS for field in dataclasses.fields(group)}
#: Texts without anything that a message could hold for a parameter.
PLAIN = st.text(st.characters(categories=("L", "Nd", "Zs"), include_characters=".,:;()'\"/[]%"))


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "batch_size=64 is larger than the split 'train' of mnist (50 samples)",
            "--batch_size=64 is larger than the split 'train' of mnist (50 samples)",
        ),
        (
            "clip_norm=1.0 and clip_value=0.5 exclude each other; give one of them",
            "--clip_norm=1.0 and --clip_value=0.5 exclude each other; give one of them",
        ),
        ("not 6x5x3 as the first image is (give image_size)", "not 6x5x3 as the first image is (give --image_size)"),
        ("give image_size, or label_key.", "give --image_size, or --label_key."),
        ("image_size: two numbers", "--image_size: two numbers"),
        ("download=False forbids it; json=True", "--nodownload forbids it; --json"),
        ("feed='sequential'", "--feed=sequential"),
        ('feed="memory"; seed=3', "--feed=memory; --seed=3"),
        ("augment='flip,crop:4'.", "--augment=flip,crop:4."),
        ("train_split='train[:90%]' eval_split='train[90%:]'", "--train_split=train[:90%] --eval_split=train[90%:]"),
        ("freeze='dense|conv' leaves nothing", "--freeze='dense|conv' leaves nothing"),
        (r"dataset='C:\\data'", r"--dataset='C:\data'"),
        ("image_size=(64, 64)", "--image_size=64,64"),
        ("image_size=[64, 64] is", "--image_size=64,64 is"),
        ("metrics=('auc', 'f1',)", "--metrics=auc,f1"),
        ("(execution=graph())", "(--execution=graph)"),
        ("skip_nonfinite=True skips them", "--on_nonfinite=skip skips them"),
        ("asynchronous=True", "--async_checkpoints"),
        ("pass trust=True to open it", "pass --trust_file to open it"),
        ("exclude='dense/' leaves out every variable", "--init_exclude=dense/ leaves out every variable"),
        ("AbortOnSkips(limit) is 50", "--max_skipped_steps is 50"),
        ("data_dir=/data/x y", "--data_dir=/data/x y"),
    ],
)
def test_parameters_become_flags(message: str, expected: str) -> None:
    assert flags.as_flags(message) == expected


@pytest.mark.parametrize(
    "message",
    [
        "runs/seed=1/x: no such file",
        "seed=1/checkpoints/00000010: is damaged",
        "my_learning_rate=1 and batch_sizes=3, learning_rate_2=1",
        "--learning_rate=1 and --nodownload, --image_size=(1, 2)",
        "the split 'seed=1' isn't there, and \"batch_size\" neither",
        "fit(jit_compile=False, batch_size=3) and trainer.graph(steps_per_call)",
        "https://example.org/?seed=1&batch_size=3",
        "the model, the seed and the dataset: top, keep, split",
        "input_shape=(28, 28, 1) and num_classes=10; give num_classes",
        "batch_size.py, batch_size/x, batch_size(), batch_size[0], data_dir-2",
    ],
)
def test_what_only_looks_like_a_parameter_stays(message: str) -> None:
    assert flags.as_flags(message) == message


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(st.sampled_from(list(FIELDS)), st.data())
def test_every_flag_can_be_typed_as_the_message_has_it(name: str, data: st.DataObject) -> None:
    group, field = FIELDS[name]
    kind = kind_of(group, field)
    values: dict[type, st.SearchStrategy[Any]] = {
        bool: st.booleans(),
        int: st.integers(0, 10**6),
        float: st.floats(0, 1e9, allow_nan=False),
        str: st.text(st.characters(categories=("L", "N", "P"), include_characters=" ")),  # `repr` escapes others
    }
    value = data.draw(values[kind])
    (word,) = shlex.split(
        flags.as_flags(f"give {name}={value!r} instead").removeprefix("give ").removesuffix(" instead")
    )
    if kind is bool:
        assert word == (f"--{name}" if value else f"--no{name}")
    else:
        assert word == f"--{name}={value}"


@hypothesis.given(st.lists(PLAIN | st.sampled_from([*words._KINDS, *words._RENAMED]).map(lambda name: f" {name}=1 ")))
def test_second_time_changes_nothing(parts: list[str]) -> None:
    once = flags.as_flags("".join(parts))
    assert flags.as_flags(once) == once


@hypothesis.given(st.text(st.characters(exclude_characters="_=")))
def test_text_without_underscore_and_equals_sign_stays(message: str) -> None:
    hypothesis.assume("AbortOnSkips(limit)" not in message)
    assert flags.as_flags(message) == message
