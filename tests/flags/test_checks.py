"""Mistakes in values and contradictions between flags: each is one line, and what is right passes."""

import dataclasses
import pathlib
import runpy
from collections.abc import Sequence
from typing import Any

import pytest
import tensorflow_datasets as tfds

from loopwright import flags
from loopwright.data import augment
from loopwright.flags import checks
from loopwright.trainer.export import formats
from loopwright.trainer.tasks import assignment

FIT = (flags.Data, flags.Model, flags.Optimization)
GROUPS = {
    "train": flags.TRAIN_GROUPS,
    "verify_resume": (flags.Verification, *flags.TRAIN_GROUPS),
    "benchmark": (*FIT, flags.Benchmark),
    "parity": (*FIT, flags.Parity),
    "predict": (flags.Prediction, flags.Data),
    "export": (flags.Export, flags.Data),
    "models": (flags.Listing,),
}


MISTAKES = runpy.run_path(str(pathlib.Path(__file__).with_name("mistakes.py")))["MISTAKES"]


def parse(command: str, words: Sequence[str]) -> list[Any]:
    return flags.parse(words, GROUPS[command], usage="", help_text="")[0]


@pytest.mark.parametrize(("command", "words", "parts"), MISTAKES, ids=[" ".join(words) for _, words, _ in MISTAKES])
def test_mistake_is_told_in_a_line_with_flag_value_and_remedy(command: str, words: list[str], parts: list[str]) -> None:
    with pytest.raises(flags.UsageError) as error:
        parse(command, words)
    message = str(error.value)
    assert "\n" not in message
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("train", ["--monitor=loss:min"]),
        ("train", ["--monitor=auc:max", "--metrics=auc, f1"]),
        ("train", ["--monitor=accuracy", "--metrics=auc"]),
        ("train", ["--schedule=piecewise", "--boundaries=0, 20"]),
        ("train", ["--schedule=cosine", "--warmup_steps=3", "--train_steps=4"]),
        ("train", ["--schedule=cosine", "--warmup_steps=1000000", "--epochs=1"]),
        ("train", ["--warmup_steps=9", "--train_steps=4"]),
        ("train", ["--profile_steps=19:30", "--train_steps=20"]),
        ("train", ["--log_samples", "--execution=eager"]),
        ("train", ["--decay_factor=2"]),
        ("train", ["--augment= flip, crop:4,translate:2 ,cutout:8, "]),
        ("train", ["--train_split=anything at all", "--dataset=unittest:mock"]),
        ("benchmark", ["--metrics= accuracy "]),
        ("verify_resume", ["--kill_at=5, 11"]),
        ("models", ["--input_shape=28, 28,1"]),
    ],
    ids=lambda part: part if isinstance(part, str) else " ".join(part),
)
def test_what_is_right_passes(command: str, words: list[str]) -> None:
    parse(command, words)


@pytest.mark.parametrize(
    "split",
    [
        *("train", "train[:90%]", "train[-10%:]", "train[:1_000]", "test[3]", "train[2shard]", "train[1shard:3shard]"),
        *("train+test", "train[:10%] + test[5:]", "all", "my-split_2", "train[12.5%:25%]", "train[:]"),
        *("train[", "train[1:2:3]", "train[]", "", "train+", "train[a]", "train[:10 %]", "train test"),
    ],
)
def test_split_that_tfds_takes_passes(split: str) -> None:
    try:
        tfds.core.ReadInstruction.from_spec(split)
        taken = True
    except ValueError:
        taken = False
    passes = checks._SPLITS.fullmatch(split) is not None
    assert passes == taken


def test_names_are_those_of_the_packages_that_know_them() -> None:
    assert tuple(augment.OPERATIONS) == checks.AUGMENTATIONS
    assert tuple(name for name, (_, sized) in augment.OPERATIONS.items() if sized) == checks.SIZED_AUGMENTATIONS
    assert tuple(assignment.TASKS) == checks.TASKS[1:]
    assert tuple(formats.FORMATS) == checks.EXPORT_FORMATS


def test_values_are_what_they_stand_for() -> None:
    assert checks.image_size("28,32") == (28, 32)
    assert checks.image_size(None) is None
    assert checks.boundaries("10, 200") == (10, 200)
    assert checks.boundaries(None) == ()
    assert checks.profile_steps("3:8") == (3, 8)
    assert checks.profile_steps(None) is None
    assert checks.kill_at("5,11") == (5, 11)
    assert checks.kill_at(None) == ()
    assert checks.input_shape("28,28,1") == (28, 28, 1)
    assert checks.metrics("auc, accuracy,auc") == ("auc", "accuracy")
    assert checks.formats("keras,h5") == ("keras", "h5")
    assert checks.monitor("loss") == ("loss", None)
    assert checks.monitor("loss:min") == ("loss", "min")
    assert checks.augmentations("flip, crop:4,mine:f") == (("flip", None), ("crop", 4), ("mine:f", None))


def test_every_group_of_a_check_is_one_that_has_flags() -> None:
    known = {group for groups in GROUPS.values() for group in groups}
    for kinds, function in checks.CHECKS:
        assert set(kinds) <= known
        assert all(dataclasses.is_dataclass(kind) for kind in kinds), function
