"""Numbers that are none, readers beside the writer, no network, and nobody who listens."""

import json
import pathlib
from typing import Any

import pytest
import tensorflow as tf

from loopwright.trainer.checkpoint.checkpoint import newest_good


def finite(checkpoint: pathlib.Path) -> bool:
    reader = tf.train.load_checkpoint(str(checkpoint / "state"))
    names = [name for name, dtype in reader.get_variable_to_dtype_map().items() if dtype.is_floating]
    names = [name for name in names if name.startswith(("model/", "optimizer/"))]
    return all(bool(tf.reduce_all(tf.math.is_finite(reader.get_tensor(name)))) for name in names)


def test_nan_at_a_step_ends_the_run_before_it_is_saved(
    start: Any, assert_whole: Any, tmp_path: pathlib.Path, survived: Any
) -> None:
    workdir = tmp_path / "run"
    trainer = start(workdir, "--augment=tiny:poison")
    assert trainer.wait() == 1
    last = trainer.said().splitlines()[-1]  # of the loss, or where the relu of this CPU hides the NaN, of a weight
    assert "the loss is nan" in last or ("is not saved" in last and "has values that aren't finite" in last)
    assert assert_whole(workdir) < 60
    assert all(finite(folder) for folder in (workdir / "checkpoints").glob("0*"))
    survived("NaN at a step: abort")


@pytest.mark.slow
def test_nan_at_a_step_is_left_out(start: Any, assert_whole: Any, tmp_path: pathlib.Path, survived: Any) -> None:
    workdir = tmp_path / "run"
    trainer = start(workdir, "--augment=tiny:poison", "--on_nonfinite=skip")
    assert trainer.wait() == 0, trainer.said()
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    skipped = [record["skipped_steps"] for record in records if record["split"] == "train"]
    assert skipped == sorted(skipped)
    assert 1 <= skipped[-1] < 60
    assert assert_whole(workdir) == 60
    assert all(finite(folder) for folder in (workdir / "checkpoints").glob("0*"))
    survived("NaN at a step: skip")


def test_collapse_of_the_loss_scale_ends_the_run(
    start: Any, assert_whole: Any, tmp_path: pathlib.Path, survived: Any
) -> None:
    workdir = tmp_path / "run"
    words = ["--augment=tiny:poison_all", "--precision=mixed_float16", "--max_skipped_steps=20"]
    trainer = start(workdir, *words, "--on_nonfinite=skip")
    assert trainer.wait() == 1
    assert "updates in a row were skipped" in trainer.said().splitlines()[-1]
    assert assert_whole(workdir) >= 10
    assert all(finite(folder) for folder in (workdir / "checkpoints").glob("0*"))
    survived("collapse of the loss scale")


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--keep=1", "--checkpoint_every=1"]], ids=["keep=1"])
def test_reader_never_sees_a_half_deleted_checkpoint(
    start: Any, tmp_path: pathlib.Path, survived: Any, words: list[str]
) -> None:
    workdir, reads = tmp_path / "run", 0
    trainer = start(workdir, *words)
    assert trainer.until_step(2), trainer.said()
    said: list[str] = []
    while trainer.alive():
        assert newest_good(workdir / "checkpoints", said.append) is not None
        reads += 1
    assert trainer.wait() == 0
    assert not said
    assert reads > 20
    survived("reader during deletion", reads)


@pytest.mark.slow
def test_no_network(start: Any, goes_on: Any, tmp_path: pathlib.Path, survived: Any) -> None:
    trainer = start(tmp_path / "run", no_network=True)
    assert trainer.wait() == 0, trainer.said()
    goes_on(tmp_path / "run")
    survived("no network")


@pytest.mark.slow
def test_stdout_is_closed(start: Any, goes_on: Any, assert_whole: Any, tmp_path: pathlib.Path, survived: Any) -> None:
    trainer = start(tmp_path / "run", closed=[1])
    assert trainer.wait() == 1
    assert "Bad file descriptor" in trainer.said().splitlines()[-1]
    assert assert_whole(tmp_path / "run") == 60
    goes_on(tmp_path / "run")
    survived("stdout closed")
