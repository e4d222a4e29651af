"""`loopwright train` on real data: the run's folder, going on, and being stopped."""

import dataclasses
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from loopwright import flags
from loopwright.trainer.commands import workdir
from loopwright.trainer.export import formats


def records_of(run: pathlib.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def lasting(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records without what differs between two runs of the same bits."""
    return [{k: v for k, v in record.items() if k not in ("wall_time", "examples_per_second")} for record in records]


def places(run: pathlib.Path) -> list[tuple[int, str]]:
    return [(record["step"], record["split"]) for record in records_of(run)]


def names(folder: pathlib.Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def tensors_of(run: pathlib.Path, step: int) -> dict[str, bytes]:
    """Every tensor of a checkpoint by TensorFlow's name for it; what describes the Python objects is left out."""
    reader = tf.train.load_checkpoint(run / "checkpoints" / f"{step:08d}" / "state")
    names = [name for name in reader.get_variable_to_shape_map() if name != "_CHECKPOINTABLE_OBJECT_GRAPH"]
    return {name: reader.get_tensor(name).tobytes() for name in names}


def is_kept(path: pathlib.Path) -> bool:
    """Whether a path is a file that a writer of the folder must leave as it is."""
    return path.is_file() and path.name != "lock"


def events_of(run: pathlib.Path, split: str) -> list[tuple[int, float, float]]:
    """Step, wall time and loss as TensorBoard's own reader finds them."""
    events = EventAccumulator(str(run / "tensorboard" / split), size_guidance={"tensors": 0}).Reload().Tensors("loss")
    return [(event.step, event.wall_time, float(tf.make_ndarray(event.tensor_proto))) for event in events]


def assert_tensorboard_equals_the_records(run: pathlib.Path) -> None:
    for split in ("train", "eval"):
        records = [r for r in records_of(run) if r["split"] == split]
        expected = [(r["step"], r["wall_time"], float(np.float32(r["loss"]))) for r in records]
        assert events_of(run, split) == expected


def test_command_makes_the_folder_of_the_contract(small_run_result: Any) -> None:
    folder, result = small_run_result
    assert result.code == 0, result.err
    assert names(folder) == {"run", "result.json"}
    run = folder / "run"
    assert names(run) == {
        *("flags.txt", "run.json", "metrics.jsonl", "summary.json", "tensorboard", "checkpoints", "exports", "lock"),
        *("goodput.json", "predictions.npz"),
    }
    assert names(run / "checkpoints") == {"00000015", "00000030", "latest", "best.json", "lock"}
    assert names(run / "checkpoints" / "00000030") >= {"manifest.json", "state.index"}
    assert "model.h5" in names(run / "exports")
    assert {path.name for path in (run / "tensorboard").iterdir() if path.is_dir()} == {"train", "eval"}
    assert not list(run.rglob(".*"))


def test_command_prints_a_table_and_a_line_a_record(small_run_result: Any) -> None:
    folder, result = small_run_result
    lines = result.out.splitlines()
    table = {line[:13].strip(): line[13:] for line in lines}
    assert list(table) == ["time", "report", "accuracy", "model", "watch", "go on"]
    assert "run/exports/model.h5" in table["model"]
    assert "tensorboard --logdir=" in table["watch"]
    assert "report --workdir=run" in table["report"]
    assert re.search(r"\d+ s: .*start \d+%", table["time"])
    assert "--train_steps=60" in table["go on"]
    assert "\x1b" not in result.out + result.err
    assert [line.split()[:3] for line in result.err.splitlines()] == [
        ["step", str(step), split] for step, split in places(folder / "run")
    ]


def test_metrics_hold_every_record_once(small_run: pathlib.Path) -> None:
    assert places(small_run) == [(10, "train"), (20, "train"), (20, "eval"), (30, "train"), (30, "eval")]
    for record in records_of(small_run):
        assert set(record) >= {"step", "epoch", "split", "wall_time", "loss", "accuracy"}
        assert record["epoch"] == pytest.approx(record["step"] / 125)
        assert (record["split"] == "train") == ("learning_rate" in record)


def test_summary_and_run_json_hold_the_facts(small_run: pathlib.Path) -> None:
    summary = json.loads((small_run / "summary.json").read_text())
    records = records_of(small_run)
    assert (summary["step"], summary["train"], summary["eval"]) == (30, records[-2], records[-1])
    assert summary["best"]["accuracy"] == max(r["accuracy"] for r in records if r["split"] == "eval")
    phases = {"start", "data", "compile", "input", "step", "evaluation", "checkpoint", "pictures", "export"}
    assert set(summary["goodput"]["seconds"]) == set(summary["goodput"]["share"]) == phases
    run = json.loads((small_run / "run.json").read_text())
    assert run["parameters"] == 101_770
    assert run["execution"] == "graph"
    assert set(run["versions"]) == {"python", "tensorflow", "keras", "tensorflow_datasets", "numpy"}
    assert {"host", "devices", "git_revision", "dataset_fingerprint"} <= set(run)


@pytest.mark.slow
def test_flagfile_of_the_run_repeats_it(
    loopwright: Any, small_run: pathlib.Path, mnist_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    text = (small_run / "flags.txt").read_text()
    assert "--workdir" not in text
    assert loopwright("train", f"--flagfile={small_run / 'flags.txt'}", "--workdir=again").code == 0
    assert lasting(records_of(tmp_path / "again")) == lasting(records_of(small_run))
    assert tensors_of(tmp_path / "again", 30) == tensors_of(small_run, 30)


def test_exported_model_is_the_trained_one(loopwright: Any, small_run: pathlib.Path, mnist_dir: pathlib.Path) -> None:
    from loopwright import data

    model = keras.models.load_model(small_run / "exports" / "model.h5")
    x, y = data.load("mnist_5k", data_dir=str(mnist_dir)).arrays("test")
    correct = np.asarray(model(x * np.float32(1 / 255))).argmax(axis=1) == y
    assert correct.mean() == pytest.approx(records_of(small_run)[-1]["accuracy"], abs=1e-9)


def test_second_run_says_that_it_is_finished(loopwright: Any, run_folder: pathlib.Path) -> None:
    before = {path: path.read_bytes() for path in run_folder.rglob("*") if path.is_file()}
    result = loopwright("train", f"--flagfile={run_folder / 'flags.txt'}", "--workdir=run")
    assert result.code == 0
    assert "finished" in result.out.splitlines()[0]
    assert "--train_steps=60" in result.out.splitlines()[-1]
    changed = [path.name for path, data in before.items() if path.read_bytes() != data]
    assert set(changed) <= {"run.json", "lock"}
    assert loopwright("train", f"--flagfile={run_folder / 'flags.txt'}", "--workdir=run", "--json").json["step"] == 30


@pytest.mark.slow
def test_longer_run_goes_on_and_equals_one_that_was_never_ended(
    loopwright: Any, run_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    words = ["train", f"--flagfile={run_folder / 'flags.txt'}", "--train_steps=45"]
    assert loopwright(*words, "--workdir=straight").code == 0
    result = loopwright(*words, "--workdir=run", "--json")
    assert (result.code, result.json["step"]) == (0, 45)
    assert [step for step, split in places(run_folder) if split == "train"] == [10, 20, 30, 40, 45]
    straight = [r for r in lasting(records_of(tmp_path / "straight")) if r["split"] == "train"]
    assert [r for r in lasting(records_of(run_folder)) if r["split"] == "train"] == straight
    assert tensors_of(run_folder, 45) == tensors_of(tmp_path / "straight", 45)
    assert "--train_steps=45" in (run_folder / "flags.txt").read_text()


def test_run_that_died_after_its_checkpoint_writes_the_same_records_again(
    loopwright: Any, run_folder: pathlib.Path, small_run: pathlib.Path
) -> None:
    shutil.rmtree(run_folder / "checkpoints" / "00000030")
    (run_folder / "summary.json").unlink()
    assert loopwright("train", f"--flagfile={run_folder / 'flags.txt'}", "--workdir=run").code == 0
    assert lasting(records_of(run_folder)) == lasting(records_of(small_run))
    assert_tensorboard_equals_the_records(run_folder)
    assert tensors_of(run_folder, 30) == tensors_of(small_run, 30)


@pytest.mark.slow
def test_overwrite_moves_the_other_run_aside(
    loopwright: Any, mnist_dir: pathlib.Path, run_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    before = {path.relative_to(run_folder): path.read_bytes() for path in run_folder.rglob("*") if is_kept(path)}
    words = [f"--data_dir={mnist_dir}", "--model=mlp", "--train_steps=3", "--seed=4", "--workdir=run", "--overwrite"]
    assert loopwright("train", *words).code == 0
    (aside,) = [path for path in tmp_path.iterdir() if path != run_folder]
    assert {path.relative_to(aside): path.read_bytes() for path in aside.rglob("*") if is_kept(path)} == before
    assert places(run_folder) == [(3, "train"), (3, "eval")]


def test_default_workdir_follows_the_identity(small_run: pathlib.Path) -> None:
    config = workdir.read_config(small_run)
    assert config is not None
    first = workdir.default_workdir(config)
    assert re.fullmatch(r"runs/mnist_5k-mlp-[0-9a-f]{8}", first)
    longer = dataclasses.replace(config.run, train_steps=99, log_every=1, workdir="x")
    assert workdir.default_workdir(dataclasses.replace(config, run=longer)) == first
    other = dataclasses.replace(config.run, seed=99)
    assert workdir.default_workdir(dataclasses.replace(config, run=other)) != first


@pytest.mark.parametrize(
    "words",
    [
        ["--model=cnn_subclass", "--precision=mixed_float16", "--optimizer=adamw"],
        pytest.param(
            ["--model=cnn", "--precision=mixed_bfloat16", "--schedule=cosine", "--warmup_steps=2"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["--model=cnn_sequential", "--execution=eager", "--optimizer=sgd", "--drop_remainder"],
            marks=pytest.mark.slow,
        ),
    ],
    ids=" ".join,
)
def test_train_takes_every_kind_of_run(
    loopwright: Any, mnist_dir: pathlib.Path, tmp_path: pathlib.Path, words: list[str]
) -> None:
    base = ["train", f"--data_dir={mnist_dir}", "--train_steps=6", "--workdir=run", "--train_split=train[:90]"]
    result = loopwright(*base, *words, "--json")
    assert (result.code, result.json["step"]) == (0, 6)
    keras.models.load_model(tmp_path / "run" / "exports" / "model.h5")


def test_run_whose_loss_is_no_number_ends_with_that(
    loopwright: Any, mnist_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    words = ["--model=mlp", "--train_steps=4", "--learning_rate=1e30", "--workdir=run"]
    result = loopwright("train", f"--data_dir={mnist_dir}", *words)
    assert result.code == 1
    assert "the loss is nan up to step 4, which is not saved" in result.err.splitlines()[-1]
    assert not list((tmp_path / "run").glob("checkpoints/0*"))


@pytest.mark.slow
def test_restore_from_goes_on_in_another_folder(
    loopwright: Any, run_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    words = ["train", f"--flagfile={run_folder / 'flags.txt'}", "--workdir=other"]
    result = loopwright(*words, "--restore_from=run/checkpoints/00000015")
    assert result.code == 0
    assert places(tmp_path / "other") == [(20, "train"), (20, "eval"), (30, "train"), (30, "eval")]
    assert tensors_of(tmp_path / "other", 30) == tensors_of(run_folder, 30)
    result = loopwright(*words, "--restore_from=run/checkpoints/00000015")
    assert (result.code, "isn't read: the run goes on from its own step 30" in result.err) == (0, True)


@pytest.mark.slow
def test_restore_from_h5_goes_on_to_the_bit(loopwright: Any, run_folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    words = ["train", f"--flagfile={run_folder / 'flags.txt'}", "--train_steps=50"]
    result = loopwright(*words, "--workdir=other", "--restore_from=run/exports/model.h5")
    assert result.code == 0, result.err
    assert loopwright(*words, "--workdir=run").code == 0
    assert places(tmp_path / "other") == [place for place in places(run_folder) if place[0] > 30]
    assert tensors_of(tmp_path / "other", 50) == tensors_of(run_folder, 50)


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (["--seed=9", "--train_steps=50", "--restore_from=run/exports/model.h5"], 2, "identity.seed: 3 there, 9 here"),
        (["--restore_from=run/exports/model.h5"], 2, "is at step 30, and the run ends at 30"),
        (["--restore_from=run/checkpoints/00000030"], 2, "is at step 30, and the run ends at 30"),
        (["--restore_from=run/flags.txt"], 2, "not a checkpoint folder"),
    ],
)
def test_restore_from_refuses_in_one_line(
    loopwright: Any, run_folder: pathlib.Path, words: list[str], code: int, part: str
) -> None:
    result = loopwright("train", f"--flagfile={run_folder / 'flags.txt'}", "--workdir=other", *words)
    assert (result.code, result.err.count("\n")) == (code, 1), result.err
    assert part in result.err


@pytest.mark.slow
def test_restore_from_refuses_another_run_and_init_from_takes_its_weights(
    loopwright: Any, run_folder: pathlib.Path, mnist_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    words = ["train", f"--flagfile={run_folder / 'flags.txt'}", "--seed=9", "--train_steps=2", "--workdir=other"]
    result = loopwright(*words, "--restore_from=run/checkpoints/00000030")
    assert (result.code, "identity.seed: 3 there, 9 here" in result.err) == (2, True)
    result = loopwright(*words, "--restore_from=run/checkpoints/latest")
    assert (result.code, "not a checkpoint folder" in result.err) == (2, True)
    result = loopwright(*words, "--init_from=run/checkpoints/00000030", "--learning_rate=1e-9", "--overwrite", "--json")
    assert result.code == 0
    trained = [record for record in records_of(run_folder) if record["split"] == "eval"][-1]
    assert result.json["eval"]["accuracy"] == pytest.approx(trained["accuracy"], abs=0.002)


@pytest.mark.slow
def test_default_model_learns_the_default_dataset(loopwright: Any, mnist_dir: pathlib.Path) -> None:
    result = loopwright("train", f"--data_dir={mnist_dir}", "--epochs=3", "--json")
    assert result.code == 0
    assert result.json["eval"]["accuracy"] > 0.92  # about 0.95; ten epochs, the default, give 0.965


@pytest.mark.slow
def test_cosine_run_of_another_length_is_refused(loopwright: Any, mnist_dir: pathlib.Path) -> None:
    words = ["train", f"--data_dir={mnist_dir}", "--model=mlp", "--schedule=cosine", "--workdir=run"]
    assert loopwright(*words, "--train_steps=3").code == 0
    result = loopwright(*words, "--train_steps=6")
    assert result.code == 2
    assert "--train_steps=3 there, 6 here" in result.err


@pytest.mark.slow
def test_run_stopped_by_a_signal_goes_on_without_gap_or_duplicate(
    loopwright: Any, installed: Any, mnist_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    words = ["train", "--model=mlp", f"--data_dir={mnist_dir}", "--steps_per_call=10"]
    words += ["--log_every=70", "--eval_every=600", "--checkpoint_every=900"]
    command, environment = installed
    argv = [command, *words, "--workdir=stopped", "--train_steps=1000000"]
    with subprocess.Popen(argv, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if " train " in line)  # it is on its way
        os.kill(process.pid, signal.SIGTERM)
        said = process.stderr.read()
    stopped, straight = tmp_path / "stopped", tmp_path / "straight"
    assert process.returncode == 143
    step = int((stopped / "checkpoints" / "latest").read_text())
    assert step > 0
    assert said.splitlines()[-1] == f"loopwright: stopped by SIGTERM at step {step}, which is saved"
    assert not (stopped / "summary.json").exists()

    for run in (stopped, straight):
        result = loopwright(*words, f"--workdir={run}", f"--train_steps={step + 1000}", "--json")
        assert (result.code, result.json["step"]) == (0, step + 1000)
    assert lasting(records_of(stopped)) == lasting(records_of(straight))
    assert_tensorboard_equals_the_records(stopped)
    assert tensors_of(stopped, step + 1000) == tensors_of(straight, step + 1000)


def test_identity_of_the_run_is_in_its_checkpoints(small_run: pathlib.Path) -> None:
    manifest = json.loads((small_run / "checkpoints" / "00000030" / "manifest.json").read_text())
    groups, _ = flags.parse([f"--flagfile={small_run / 'flags.txt'}"], flags.TRAIN_GROUPS, usage="", help_text="")
    assert manifest["identity"] == flags.identity(flags.config_from_groups(groups))
    assert manifest["dataset_fingerprint"] == json.loads((small_run / "run.json").read_text())["dataset_fingerprint"]


def test_longer_run_that_fails_in_its_export_is_not_called_finished(
    loopwright: Any, run_folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device", "model.h5")

    words = ["train", "--flagfile=run/flags.txt", "--workdir=run", "--train_steps=40"]
    with monkeypatch.context() as patch:
        patch.setattr(formats, "export_h5", full)
        failed = loopwright(*words)
    assert (failed.code, failed.err.splitlines()[-1]) == (1, "loopwright: model.h5: No space left on device")
    before = (run_folder / "exports" / "model.h5").read_bytes()
    result = loopwright(*words)
    assert (result.code, "is finished" in result.out) == (0, False)
    assert "after step 40" in result.out
    assert (run_folder / "exports" / "model.h5").read_bytes() != before
    assert "This run is finished: it took 40 steps" in loopwright(*words).out


def test_start_sweeps_what_a_killed_writer_left_in_the_folder(loopwright: Any, run_folder: pathlib.Path) -> None:
    left = [run_folder / ".tmp-1-flags.txt", run_folder / "tensorboard" / "train" / ".tmp-1-cut"]
    for path in left:
        path.write_text("half")
    assert loopwright("train", "--flagfile=run/flags.txt", "--workdir=run", "--train_steps=31").code == 0
    assert not any(path.exists() for path in left)
