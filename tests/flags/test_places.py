"""Files, folders and modules that flags name: what can't be there is refused, and a run that goes on needs none of it."""

import pathlib
import runpy
from collections.abc import Sequence

import pytest

from loopwright import flags

MISTAKES = runpy.run_path(str(pathlib.Path(__file__).with_name("mistakes.py")))
CHECKPOINT = MISTAKES["CHECKPOINT"]
GROUPS = {
    "train": flags.TRAIN_GROUPS,
    "parity": (flags.Parity,),
    "benchmark": (flags.Benchmark,),
    "doctor": (flags.Doctor,),
    "datasets": (flags.Data, flags.Description),
}


@pytest.fixture(autouse=True)
def here(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """The current folder, with a few files."""
    monkeypatch.chdir(tmp_path)
    MISTAKES["surround"](tmp_path)
    return tmp_path


def parse(*words: str, groups: Sequence[type] = flags.TRAIN_GROUPS) -> None:
    flags.parse(words, groups, usage="", help_text="", positional="NAME")


@pytest.mark.parametrize(
    ("command", "words", "parts"),
    MISTAKES["IMPOSSIBLE"],
    ids=[" ".join(words)[:60] for _, words, _ in MISTAKES["IMPOSSIBLE"]],
)
def test_what_cannot_be_there_is_told_in_a_line(command: str, words: list[str], parts: list[str]) -> None:
    with pytest.raises(flags.UsageError) as error:
        parse(*words, groups=GROUPS[command])
    message = str(error.value)
    assert "\n" not in message
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    "words",
    [
        ["--dataset=folder:runs"],
        ["--dataset=modules_of_mine:f", "--model=modules_of_mine.inner:net", "--augment=modules_of_mine:f"],
        ["--model=keras.applications:ResNet50"],
        ["--data_dir=a new folder"],
        ["--workdir=runs/new"],
        [f"--restore_from={CHECKPOINT}"],
        ["--restore_from=model.h5"],
        [f"--init_from={CHECKPOINT}"],
    ],
    ids=" ".join,
)
def test_what_is_there_or_may_come_passes(words: list[str]) -> None:
    parse(*words)


@pytest.mark.parametrize("word", ["--restore_from=gone", "--init_from=gone"])
def test_run_that_may_go_on_does_without_what_it_began_with(here: pathlib.Path, word: str) -> None:
    parse(word, "--workdir=runs/other")
    with pytest.raises(flags.UsageError, match="gone"):
        parse(word)
    (here / "runs/other/flags.txt").write_text(f"--model=mlp\n{word}\n")
    parse(word)


def test_export_cannot_be_written_into_a_file() -> None:
    with pytest.raises(flags.UsageError, match="--output=a_file: a_file is a file"):
        parse("--output=a_file", groups=(flags.Export,))
