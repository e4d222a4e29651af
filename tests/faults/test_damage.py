"""Checkpoints that were damaged or changed, and runs that aren't the run any more."""

import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import pytest

FULL = os.environ.get("FAULTS", "quick") != "quick"


def truncate(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def empty(path: pathlib.Path) -> None:
    path.write_bytes(b"")


def flip(path: pathlib.Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


FILES = ["state.data-00000-of-00001", "state.index", "manifest.json"]
DAMAGES: dict[str, Callable[[pathlib.Path], None]] = {
    f"{damage.__name__} {file}": lambda folder, damage=damage, file=file: damage(folder / file)
    for file in FILES
    for damage in (truncate, empty, flip)
}
DAMAGES["shard missing"] = lambda folder: (folder / FILES[0]).unlink()
DAMAGES["stray shard"] = lambda folder: (folder / "state.data-00001-of-00002").write_bytes(b"stray")


@pytest.mark.parametrize("kind", DAMAGES if FULL else [f"flip {FILES[0]}"])
def test_damaged_checkpoint_is_named_and_skipped(
    run_copy: pathlib.Path, goes_on: Any, survived: Any, kind: str
) -> None:
    newest = run_copy / "checkpoints" / "00000060"
    DAMAGES[kind](newest)
    (run_copy / "summary.json").unlink()
    said = goes_on(run_copy)
    assert f"a damaged checkpoint is skipped: {newest}" in said
    assert (run_copy / "checkpoints" / "damaged-00000060").is_dir()
    survived(f"checkpoint damaged: {kind}")


@pytest.mark.slow
@pytest.mark.parametrize("text", ["00000050\n", "99999999\n", ""] if FULL else ["99999999\n"])
def test_latest_is_stale_or_dangling(run_copy: pathlib.Path, goes_on: Any, survived: Any, text: str) -> None:
    shutil.rmtree(run_copy / "checkpoints" / "00000060")
    (run_copy / "summary.json").unlink()
    (run_copy / "checkpoints" / "latest").write_text(text)
    goes_on(run_copy)
    survived("latest stale or dangling")


@pytest.mark.slow
def test_all_damaged_begins_afresh_only_when_asked(
    run_copy: pathlib.Path, start: Any, goes_on: Any, survived: Any
) -> None:
    for folder in (run_copy / "checkpoints").glob("0*"):
        flip(folder / FILES[0])
    (run_copy / "summary.json").unlink()
    trainer = start(run_copy)
    assert trainer.wait() == 1
    assert "--allow_fresh_start" in trainer.said().splitlines()[-1]
    goes_on(run_copy, 60, "--allow_fresh_start")
    survived("all checkpoints damaged")


@pytest.mark.parametrize(
    ("kind", "words", "code", "part"),
    [
        ("optimizer", ["--optimizer=sgd"], 2, "--optimizer=adam there, sgd here"),
        ("dtype", ["--precision=mixed_float16"], 2, "--precision=float32 there, mixed_float16 here"),
        ("dataset", ["--train_split=train[:352]"], 2, "--train_split=train[:320] there"),
    ][: None if FULL else 1],
)
def test_other_run_is_refused(
    run_copy: pathlib.Path, start: Any, survived: Any, kind: str, words: list[str], code: int, part: str
) -> None:
    before = {path: path.read_bytes() for path in (run_copy / "checkpoints").rglob("*") if path.is_file()}
    trainer = start(run_copy, *words)
    assert trainer.wait() == code
    assert part in trainer.said().splitlines()[-1]
    assert {path: path.read_bytes() for path in (run_copy / "checkpoints").rglob("*") if path.is_file()} == before
    survived(f"{kind} changed")


def test_checkpoints_of_another_run_under_its_name_are_refused(
    run_copy: pathlib.Path, start: Any, tmp_path: pathlib.Path, survived: Any
) -> None:
    shutil.copytree(run_copy / "checkpoints", tmp_path / "other" / "checkpoints")
    trainer = start(tmp_path / "other", "--optimizer=sgd")
    assert trainer.wait() == 2
    assert "identity.optimizer: adam there, sgd here" in trainer.said().splitlines()[-1]
    survived("checkpoints of another run")


def test_model_that_changed_under_its_name_is_refused_with_a_list(
    run_copy: pathlib.Path, start: Any, tmp_path: pathlib.Path, survived: Any
) -> None:
    source = (tmp_path / "tiny.py").read_text()
    (tmp_path / "tiny.py").write_text(source.replace('"TINY_WIDTH", "2"', '"TINY_WIDTH", "3"'))
    trainer = start(run_copy, "--train_steps=70")
    assert trainer.wait() == 1
    last = trainer.said().splitlines()[-1]
    assert "of another shape: " in last
    assert "conv2d/kernel (float32 (3, 3, 1, 2) there, float32 (3, 3, 1, 3) here)" in last
    survived("model changed under its name")


@pytest.mark.slow
def test_dataset_that_changed_under_its_name_is_refused(start: Any, tmp_path: pathlib.Path, survived: Any) -> None:
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)

    def add(split: str, name: str) -> None:
        for label in ("cat", "dog"):
            folder = tmp_path / "images" / split / label
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (12, 12, 1), np.uint8)[:, :, 0]).save(folder / f"{name}.png")

    for number in range(8):
        add("train", str(number))
        add("test", str(number))
    words = [f"--dataset=folder:{tmp_path / 'images'}", "--train_split=train", "--eval_split=test", "--batch_size=4"]
    trainer = start(tmp_path / "run", *words, "--train_steps=5")
    assert trainer.wait() == 0, trainer.said()
    add("train", "another")
    trainer = start(tmp_path / "run", *words, "--train_steps=10")
    assert trainer.wait() == 1
    assert "was trained on different data" in trainer.said().splitlines()[-1]
    survived("dataset changed under its name")
