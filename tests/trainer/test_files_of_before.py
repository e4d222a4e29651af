"""Files that the version before wrote are still open: checkpoints, exports and a run's folder (`files_of_before/`)."""

import importlib.util
import json
import pathlib
import shutil
import subprocess
from typing import Any

import keras
import numpy as np
import pytest

from loopwright import trainer

FILES = pathlib.Path(__file__).with_name("files_of_before")
#: The order of sums differs between machines, so only restored values must be equal to the bit.
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def small_state() -> Any:
    """The module that builds the state of the files."""
    spec = importlib.util.spec_from_file_location("small_state", FILES / "small_state.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def expected(kind: str) -> dict[str, np.ndarray]:
    """The tensors of a kind by their names: `saved` or `after`."""
    with np.load(FILES / "expected.npz") as arrays:
        return {name.removeprefix(f"{kind}/"): arrays[name] for name in arrays.files if name.startswith(f"{kind}/")}


def array(name: str) -> np.ndarray:
    with np.load(FILES / "expected.npz") as arrays:
        return arrays[name]


def assert_same_bits(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert list(found) == list(wanted)
    differing = [name for name, value in wanted.items() if found[name].tobytes() != value.tobytes()]
    assert differing == []


def test_files_hold_what_training_changes(small_state: Any) -> None:
    saved = expected("saved")
    assert int(saved["step"]) == small_state.SAVED_STEP
    kinds = {name.partition("/")[0] for name in saved}
    assert kinds == {"model", "seeds", "optimizer", "step", "window", "metrics", "extras"}
    # A tensor of zeros would look restored where nothing was.
    assert [name for name, value in saved.items() if not np.any(value)] == []


def test_checkpoint_is_restored_to_the_bit(small_state: Any, tmp_path: pathlib.Path) -> None:
    job = small_state.Job()
    folder = shutil.copytree(FILES / "checkpoints", tmp_path / "checkpoints")
    manifest = json.loads((folder / "00000020" / "manifest.json").read_text(encoding="utf-8"))
    assert trainer.Checkpoint(folder).restore(job.state) == small_state.SAVED_STEP
    assert job.state.hashes() == manifest["tensors"]
    assert_same_bits(job.state.tensors(), expected("saved"))


@pytest.mark.parametrize("source", ["checkpoint", "h5"])
def test_training_goes_on_as_the_version_before_did(small_state: Any, tmp_path: pathlib.Path, source: str) -> None:
    job = small_state.Job()
    if source == "h5":
        trainer.restore_h5(FILES / "model.h5", job.state)
    else:
        trainer.Checkpoint(shutil.copytree(FILES / "checkpoints", tmp_path / "checkpoints")).restore(job.state)
    job.train(small_state.SAVED_STEP + small_state.MORE_STEPS)
    found, saved = job.state.tensors(), expected("saved")
    for name, value in expected("after").items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=TOLERANCE, err_msg=name)
        assert np.abs(found[name] - saved[name]).max() > 100 * TOLERANCE, name


def test_load_h5_builds_the_whole_state(small_state: Any) -> None:
    job = small_state.Job()
    extras = {"early_stop": job.early_stop}
    state = trainer.load_h5(FILES / "model.h5", metrics=job.metrics, extras=lambda model, optimizer: extras)
    assert_same_bits(state.tensors(), expected("saved"))
    assert state.model.compiled
    assert float(state.optimizer.learning_rate) == pytest.approx(float(rate_of(job)))


def rate_of(job: Any) -> Any:
    """The learning rate of a job's schedule at the saved step."""
    trainer.restore_h5(FILES / "model.h5", job.state)
    return job.state.optimizer.learning_rate


def test_restore_h5_gives_the_whole_state_and_the_facts(small_state: Any) -> None:
    state = small_state.Job().state
    assert trainer.restore_h5(FILES / "model.h5", state)["facts"] == {"note": "before"}
    assert_same_bits(state.tensors(), expected("saved"))


def test_plain_keras_reads_the_h5() -> None:
    model = keras.models.load_model(FILES / "model.h5")
    outputs = np.asarray(model(array("inputs"), training=False))
    np.testing.assert_allclose(outputs, array("outputs"), rtol=1e-5, atol=TOLERANCE)
    assert isinstance(model.loss, keras.losses.SparseCategoricalCrossentropy)


def test_weights_are_loaded_into_a_new_model(small_state: Any) -> None:
    state = small_state.Job().state
    state.model.load_weights(FILES / "model.weights.h5")
    saved = expected("saved")
    weights = {name: value for name, value in state.tensors().items() if name.startswith("model/")}
    assert_same_bits(weights, {name: saved[name] for name in weights})


def test_run_goes_on_with_the_same_command(
    small_state: Any, installed: Any, mnist_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    run = shutil.copytree(FILES / "run", tmp_path / "run")
    shutil.copy(FILES / "small_state.py", tmp_path)
    before = (run / "metrics.jsonl").read_text(encoding="utf-8")
    command, environment = installed
    argv = [command, *small_state.RUN_FLAGS, "--train_steps=60", f"--data_dir={mnist_dir}", "--workdir=run", "--json"]
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["step"] == 60
    text = (run / "metrics.jsonl").read_text(encoding="utf-8")
    assert text.startswith(before)
    records = [json.loads(line) for line in text.removeprefix(before).splitlines()]
    assert [(record["step"], record["split"]) for record in records] == [
        *((40, "train"), (45, "eval"), (50, "train"), (60, "train"), (60, "eval"))
    ]
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in samples] == list(range(1, 61))
    # An epoch has 125 steps. If today's order of samples were different, some samples would come twice.
    assert len({index for line in samples for index in line["index"]}) == 60 * 32
    assert (run / "checkpoints" / "latest").read_text(encoding="utf-8") == "00000060\n"
