"""Checkpoints: everything that was saved comes back, to the bit, or a line says why not."""

import json
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from loopwright import models, trainer
from loopwright.trainer.checkpoint import restore_folder

#: Builds the hardest state there is: subclassed, with dropout, under a LossScaleOptimizer, with extras and a window.
HARD_STATE = """
import keras, tensorflow as tf
from loopwright import models, trainer

def hard_state(seed):
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(seed)
    model = models.create("cnn_subclass", (12, 12, 1), 3, precision="mixed_float16")
    schedule = trainer.make_schedule("cosine", 1e-3, warmup_steps=2, total_steps=30)
    options = dict(momentum=0.9, weight_decay=0.01, precision="mixed_float16")
    optimizer = trainer.make_optimizer("adamw", schedule, **options)
    return trainer.TrainState.create(model, optimizer, extras={"average": tf.Variable([float(seed)])})
"""


@pytest.fixture(scope="module")
def hard_state() -> Callable[[int], trainer.TrainState]:
    namespace: dict[str, Any] = {}
    exec(HARD_STATE, namespace)
    return namespace["hard_state"]


@pytest.fixture(scope="module")
def advance(make_feed: Any) -> Callable[..., trainer.TrainState]:
    """Trains a state up to a step: ragged batches, dropout, a window that is never read."""

    def go(state: trainer.TrainState, num_steps: int, *hooks: Any) -> trainer.TrainState:
        step = trainer.gradient_step(trainer.classification(from_logits=False))
        feed = make_feed(side=12)
        return trainer.train(state, feed, step, num_steps=num_steps, execution=trainer.graph(7), hooks=hooks)

    return go


@pytest.fixture(scope="module")
def saved(hard_state: Any, advance: Any, tmp_path_factory: Any) -> tuple[pathlib.Path, dict[str, str]]:
    """A folder of checkpoints with one at step 13, and the hashes of the state in it."""
    directory = tmp_path_factory.mktemp("saved")
    state = advance(hard_state(0), 13)
    folder = trainer.Checkpoint(directory, facts={"identity": {"seed": 0}}).save(state)
    assert folder == directory / "00000013"
    return directory, state.hashes()


def test_restore_into_fresh_objects_gives_every_number_back(saved: Any, hard_state: Any) -> None:
    directory, hashes = saved
    fresh = hard_state(1)
    assert fresh.hashes() != hashes
    assert trainer.Checkpoint(directory).restore(fresh) == 13
    assert fresh.hashes() == hashes
    parts = {name.split("/")[0] for name in hashes}
    assert parts == {"model", "optimizer", "seeds", "step", "window", "extras"}


def test_restore_in_a_new_process_gives_every_number_back(saved: Any) -> None:
    directory, hashes = saved
    code = f"{HARD_STATE}\nimport json, sys\nstate = hard_state(1)\n"
    code += "trainer.Checkpoint(sys.argv[1]).restore(state)\nprint(json.dumps(state.hashes()))"
    command = [sys.executable, "-c", code, str(directory)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == hashes


def test_resumed_run_equals_an_uninterrupted_one_to_the_bit(
    saved: Any, hard_state: Any, advance: Any, tmp_path: pathlib.Path
) -> None:
    logged: list[list[Any]] = [[], []]

    def log_into(records: list[Any]) -> Any:
        return trainer.every(10, lambda state, metrics: records.append({k: float(v) for k, v in metrics.items()}))

    straight = advance(hard_state(0), 30, log_into(logged[0]))
    first = advance(hard_state(0), 10, log_into(logged[1]))
    checkpoint = trainer.Checkpoint(tmp_path)
    advance(first, 13, trainer.at_end(checkpoint))
    resumed = hard_state(1)
    checkpoint.restore(resumed)
    advance(resumed, 30, log_into(logged[1]))
    assert resumed.hashes() == straight.hashes()
    assert len(logged[0]) == 3
    assert logged[0] == logged[1]


@pytest.mark.parametrize("name", models.MODELS)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_every_model_comes_back(make_state: Any, tmp_path: pathlib.Path, name: str, optimizer: str) -> None:
    def build() -> keras.Model:
        return models.create(name, (20, 20, 1), 3)

    state = make_state(build, optimizer)
    for number, variable in enumerate([*state.model.variables, *state.optimizer.variables]):
        variable.assign(np.full(variable.shape, number))
    trainer.Checkpoint(tmp_path).save(state)
    fresh = make_state(build, optimizer)
    assert fresh.hashes() != state.hashes()
    trainer.Checkpoint(tmp_path).restore(fresh)
    assert fresh.hashes() == state.hashes()


def test_plain_tensorflow_restores_the_weights(saved: Any) -> None:
    directory, hashes = saved
    keras.utils.clear_session(free_memory=False)
    model = models.create("cnn_subclass", (12, 12, 1), 3, precision="mixed_float16")
    # The lines of the docstring of trainer/checkpoint.py.
    checkpoint = tf.train.Checkpoint(model=model)
    checkpoint.restore(str(directory / "00000013" / "state")).expect_partial()
    twin = trainer.TrainState.create(model, keras.optimizers.SGD())
    assert {name: digest for name, digest in twin.hashes().items() if name.startswith("model/")} == {
        name: digest for name, digest in hashes.items() if name.startswith("model/")
    }


def test_manifest_holds_step_versions_and_facts(saved: Any) -> None:
    manifest = json.loads((saved[0] / "00000013" / "manifest.json").read_text())
    assert manifest["step"] == 13
    assert manifest["identity"] == {"seed": 0}
    assert (manifest["tensorflow"], manifest["keras"]) == (tf.__version__, keras.__version__)
    assert (saved[0] / "latest").read_text() == "00000013\n"


def test_restore_without_a_checkpoint_changes_nothing(make_state: Any, tmp_path: pathlib.Path) -> None:
    state = make_state()
    before = state.hashes()
    assert trainer.Checkpoint(tmp_path / "nowhere").restore(state) is None
    assert state.hashes() == before


def test_checkpoint_keeps_the_newest(make_state: Any, tmp_path: pathlib.Path) -> None:
    state, checkpoint = make_state(), trainer.Checkpoint(tmp_path, keep=2)
    for step in (5, 10, 100_000_000, 100_000_001):
        state.step.assign(step)
        checkpoint(state, {})
    assert [folder.name for folder in checkpoint.folders()] == ["100000000", "100000001"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["100000000", "100000001", "latest"]
    assert (tmp_path / "latest").read_text() == "100000001\n"
    assert not checkpoint.reads_metrics


def test_saving_a_step_twice_writes_once(make_state: Any, tmp_path: pathlib.Path) -> None:
    flushed: list[bool] = []
    state = make_state()
    checkpoint = trainer.Checkpoint(tmp_path, before_commit=lambda: flushed.append((tmp_path / "00000000").exists()))
    first = checkpoint.save(state)
    written = (first / "manifest.json").stat().st_mtime_ns
    assert checkpoint.save(state) == first
    assert (first / "manifest.json").stat().st_mtime_ns == written
    assert flushed == [False]


def test_failed_save_leaves_the_older_checkpoint_the_newest(
    make_state: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, checkpoint = make_state(), trainer.Checkpoint(tmp_path)
    checkpoint.save(state)
    before = state.hashes()
    state.step.assign(7)

    def no_space(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "rename", no_space)
        with pytest.raises(OSError, match="No space"):
            checkpoint.save(state)
    assert [folder.name for folder in checkpoint.folders()] == ["00000000"]
    assert checkpoint.restore(state) == 0
    assert state.hashes() == before


@pytest.mark.parametrize("file", ["state.index", "state.data-00000-of-00001", "manifest.json"])
def test_damaged_file_is_refused_by_name(make_state: Any, tmp_path: pathlib.Path, file: str) -> None:
    state, checkpoint = make_state(), trainer.Checkpoint(tmp_path)
    path = checkpoint.save(state) / file
    path.write_bytes(path.read_bytes()[:-9])
    before = state.hashes()
    with pytest.raises(trainer.TrainingError) as error:
        checkpoint.restore(state)
    assert file in str(error.value)
    assert str(path.parent) in str(error.value)
    assert "move that folder away" in str(error.value)
    assert "\n" not in str(error.value)
    assert (error.value.exit_code, state.hashes()) == (1, before)


def wider() -> keras.Model:
    return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(5)])


def narrower() -> keras.Model:
    return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])


@pytest.mark.parametrize(
    "other",
    [{"model": wider}, {"optimizer": "sgd"}, {"precision": "mixed_float16"}, {"extras": {"average": tf.Variable(1.0)}}],
    ids=["model", "optimizer", "loss-scale", "extras"],
)
def test_state_of_another_structure_is_refused(make_state: Any, tmp_path: pathlib.Path, other: dict[str, Any]) -> None:
    folder = trainer.Checkpoint(tmp_path).save(make_state(model=narrower))
    with pytest.raises(trainer.TrainingError, match="doesn't fit this model and optimizer") as error:
        restore_folder(folder, make_state(**{"model": narrower, **other}))
    assert "\n" not in str(error.value)
