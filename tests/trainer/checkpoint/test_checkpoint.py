"""Checkpoints: everything that was saved comes back to the bit, or a line says why not."""

import json
import os
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
from loopwright.trainer.base import atomic
from loopwright.trainer.base.lock import only_writer
from loopwright.trainer.checkpoint.checkpoint import load_weights, newest_good, restore_folder, restore_newest

IMAGE_MODELS = [name for name, entry in models.MODELS.items() if "images" in entry.takes]

#: Builds a state with everything: a subclassed model, dropout, a LossScaleOptimizer, extras and a window.
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


@pytest.mark.slow
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


@pytest.mark.parametrize("name", IMAGE_MODELS)
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
    # These are the lines in the docstring of trainer/checkpoint/checkpoint.py.
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
    assert sorted(path.name for path in tmp_path.iterdir()) == ["100000000", "100000001", "latest", "lock"]
    assert (tmp_path / "latest").read_text() == "100000001\n"
    assert not checkpoint.reads_metrics


def test_saving_a_step_twice_writes_once(make_state: Any, tmp_path: pathlib.Path) -> None:
    flushed: list[bool] = []
    state = make_state()
    checkpoint = trainer.Checkpoint(tmp_path)
    checkpoint.before_commit.append(lambda: flushed.append((tmp_path / "00000000").exists()))
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
        with pytest.raises(trainer.TrainingError, match="No space left on device; the checkpoints before it are whole"):
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
    assert "allow_fresh_start=True" in str(error.value)
    assert "--" not in str(error.value)
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


@pytest.fixture
def three(make_state: Any, tmp_path: pathlib.Path) -> tuple[trainer.TrainState, pathlib.Path, list[str]]:
    """A state at step 3, a folder with checkpoints of steps 1, 2 and 3, and an empty list for what is said."""
    state = make_state()
    for step in (1, 2, 3):
        state.step.assign(step)
        trainer.Checkpoint(tmp_path / "checkpoints").save(state)
    return state, tmp_path / "checkpoints", []


def flip(path: pathlib.Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_restore_takes_the_newest_good_one_and_sets_damaged_ones_aside(three: Any) -> None:
    state, directory, said = three
    flip(directory / "00000003" / "state.index")
    (directory / "00000002" / "manifest.json").unlink()
    checkpoint = trainer.Checkpoint(directory)
    checkpoint.say = said.append
    assert checkpoint.restore(state) == 1
    assert len(said) == 2
    assert "state.index doesn't match its SHA-256" in said[0]
    assert "manifest.json is missing" in said[1]
    names = {path.name for path in directory.iterdir()}
    assert names == {"00000001", "damaged-00000002", "damaged-00000003", "latest", "lock"}
    assert (directory / "latest").read_text() == "00000001\n"


def test_restore_passes_over_what_file_managers_leave(three: Any) -> None:
    state, directory, said = three
    for place in (directory, directory / "00000003"):
        (place / ".DS_Store").write_bytes(b"Bud1")
        (place / "Thumbs.db").write_bytes(b"")
    (directory / "\u00b2").mkdir()  # a digit, but not a step
    checkpoint = trainer.Checkpoint(directory)
    checkpoint.say = said.append
    assert checkpoint.restore(state) == 3
    assert not said
    assert newest_good(directory) == directory / "00000003"


WRITER = """
import sys
import keras
from loopwright import trainer
state = trainer.TrainState.create(keras.Sequential([keras.Input([1]), keras.layers.Dense(1)]), keras.optimizers.SGD())
checkpoint = trainer.Checkpoint(sys.argv[1])
getattr(checkpoint, sys.argv[2])(state)
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("taken", ["restore", "save"])
def test_second_process_on_a_folder_of_checkpoints_is_refused(
    make_state: Any, tmp_path: pathlib.Path, taken: str
) -> None:
    state, checkpoint = make_state(), trainer.Checkpoint(tmp_path)
    command = [sys.executable, "-c", WRITER, str(tmp_path), taken]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        for use in (checkpoint.save, checkpoint.restore, lambda state: checkpoint.open(state).__enter__()):
            with pytest.raises(trainer.TrainingError, match=f"{tmp_path} is being written by process {other.pid} on"):
                use(state)
        other.communicate("\n")
    assert checkpoint.save(state) == tmp_path / "00000000"


def test_run_and_checkpoints_of_one_process_share_a_folder(make_state: Any, tmp_path: pathlib.Path) -> None:
    state = make_state()
    with trainer.Run(tmp_path, state, progress="none") as run:
        mine = trainer.Checkpoint(run.files.checkpoints)
        assert mine.save(state) == run.files.checkpoints / "00000000"
        assert trainer.Checkpoint(run.files.checkpoints).restore(state) == 0
        state.step.assign(1)
        assert run.checkpoint.save(state) == run.files.checkpoints / "00000001"


def test_lock_ends_with_the_training_or_the_checkpoint(make_state: Any, tmp_path: pathlib.Path) -> None:
    state = make_state()
    checkpoint = trainer.Checkpoint(tmp_path)
    with checkpoint.open(state), pytest.raises(trainer.TrainingError), only_writer(tmp_path):
        pass
    with only_writer(tmp_path):
        pass
    checkpoint.save(state)
    with pytest.raises(trainer.TrainingError), only_writer(tmp_path):
        pass
    del checkpoint
    with only_writer(tmp_path):
        pass


def test_folder_that_cannot_be_written_can_be_restored(
    make_state: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = make_state()
    trainer.Checkpoint(tmp_path).save(state)
    (tmp_path / "lock").unlink()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert trainer.Checkpoint(tmp_path).restore(state) == 0
    assert not (tmp_path / "lock").exists()


def test_reader_looks_again_where_the_writer_deleted_what_it_saw(three: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, directory, said = three
    flip(directory / "00000001" / "state.index")
    read, seen = atomic.verify_folder, []

    def slow_reader(folder: Any) -> Any:
        seen.append(folder.name)
        if len(seen) < 3:  # meanwhile the writer commits a newer one and deletes this one
            folder.rename(directory / f"{len(seen) + 3:08d}")
        return read(folder)

    monkeypatch.setattr(atomic, "verify_folder", slow_reader)
    assert newest_good(directory, said.append) == directory / "00000005"
    assert seen == ["00000003", "00000002", "00000001", "00000005"]
    assert len(said) == 1


def test_reader_restores_a_newer_one_where_the_writer_deleted_what_it_chose(
    three: Any, make_state: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, directory, _ = three
    read, seen = atomic.verify_folder, []

    def slow_reader(folder: Any) -> Any:
        seen.append(folder.name)
        if len(seen) == 2:  # it was whole; before it is restored, the writer commits a newer one and deletes it
            folder.rename(directory / "00000004")
        return read(folder)

    monkeypatch.setattr(atomic, "verify_folder", slow_reader)
    reader = make_state()
    assert reader.hashes() != state.hashes()
    assert restore_newest(directory, reader) == directory / "00000004"
    assert seen == ["00000003", "00000003", "00000004", "00000004"]
    assert reader.hashes() == state.hashes()


def test_restore_begins_afresh_only_where_that_is_allowed(three: Any) -> None:
    state, directory, said = three
    for folder in directory.glob("0*"):
        flip(folder / "manifest.json")
    checkpoint = trainer.Checkpoint(directory)
    checkpoint.say = said.append
    with pytest.raises(trainer.TrainingError, match=r"no checkpoint in .* is whole.* with allow_fresh_start=True$"):
        checkpoint.restore(state)
    assert not said
    assert checkpoint.restore(state, allow_fresh_start=True) is None
    assert len(said) == 3
    trainer.Checkpoint(directory).save(state)
    assert (directory / "00000003").exists()


def test_latest_that_names_nothing_is_no_fresh_start(three: Any, make_state: Any) -> None:
    state, directory, _ = three
    for folder in directory.glob("0*"):
        folder.rename(directory.parent / folder.name)
    with pytest.raises(trainer.TrainingError, match="latest names a checkpoint, but there is none"):
        trainer.Checkpoint(directory).restore(state)


@pytest.mark.parametrize(
    "text", ["00000001\n", "99999999\n", "", "no step\n"], ids=["stale", "dangling", "empty", "word"]
)
def test_latest_is_only_a_hint(three: Any, text: str) -> None:
    state, directory, _ = three
    (directory / "latest").write_text(text)
    assert trainer.Checkpoint(directory).restore(state) == 3
    assert (directory / "latest").read_text() == "00000003\n"


def test_checkpoint_of_another_run_is_refused_with_the_differences(make_state: Any, tmp_path: pathlib.Path) -> None:
    state = make_state()
    facts = {"identity": {"seed": 0, "model": "cnn"}, "dataset_fingerprint": "ab"}
    trainer.Checkpoint(tmp_path, facts=facts).save(state)
    other = {"identity": {"seed": 1, "model": "cnn"}, "dataset_fingerprint": "cd"}
    with pytest.raises(trainer.TrainingError) as error:
        trainer.Checkpoint(tmp_path, facts=other).restore(state)
    assert "identity.seed: 0 there, 1 here, dataset_fingerprint: ab there, cd here" in str(error.value)
    assert error.value.exit_code == 2
    assert trainer.Checkpoint(tmp_path, facts=facts).restore(state) == 0


def test_mismatch_lists_what_is_missing_unexpected_and_of_another_shape(
    make_state: Any, tmp_path: pathlib.Path
) -> None:
    folder = trainer.Checkpoint(tmp_path).save(make_state(model=narrower))
    other = make_state(model=wider)
    before = other.hashes()
    with pytest.raises(trainer.TrainingError) as error:
        restore_folder(folder, other)
    assert "of another shape: " in str(error.value)
    assert "/kernel (float32 (64, 3) there, float32 (64, 5) here)" in str(error.value)
    with pytest.raises(trainer.TrainingError, match=r"missing: .*; unexpected: "):
        restore_folder(folder, make_state(model=narrower, extras={"average": tf.Variable(1.0)}, optimizer="sgd"))
    assert other.hashes() == before


def test_weights_alone_are_taken_without_what_is_excluded(
    make_state: Any, tiny_model: Any, tmp_path: pathlib.Path
) -> None:
    trained = make_state()
    for variable in trained.model.weights:
        variable.assign(tf.fill(variable.shape, 7.0))
    folder = trainer.Checkpoint(tmp_path).save(trained)

    def other_head() -> keras.Model:
        head = keras.layers.Dense(5, dtype="float32", name="dense")
        return keras.Sequential([keras.Input((8, 8, 1)), *tiny_model().layers[:-1], head], name="tiny")

    model = make_state(model=other_head).model
    before = [np.array(variable) for variable in model.layers[-1].weights]
    with pytest.raises(trainer.TrainingError, match=r"of another shape: .*dense/kernel.*with exclude=REGEX$"):
        load_weights(folder, model)
    assert len(load_weights(folder, model, exclude="dense")) == len(model.weights) - 2
    assert all((np.array(variable) == 7).all() for layer in model.layers[:-1] for variable in layer.weights)
    assert all((np.array(v) == b).all() for v, b in zip(model.layers[-1].weights, before, strict=True))


def test_asynchronous_save_is_the_state_as_it_was(make_state: Any, tmp_path: pathlib.Path) -> None:
    state = make_state(precision="mixed_float16", extras={"d": tf.Variable(1)})
    hashes = []
    checkpoint = trainer.Checkpoint(tmp_path, asynchronous=True, keep=9)
    with checkpoint.open(state):
        for step in (1, 2, 3):
            state.step.assign(step)
            state.model.weights[0].assign_add(tf.ones_like(state.model.weights[0]))
            hashes.append(state.hashes())
            checkpoint(state, {})
            for variable in state.model.weights:  # as training does meanwhile
                variable.assign_add(tf.ones_like(variable) * 5)
    for step, expected in enumerate(hashes, 1):
        fresh = make_state(precision="mixed_float16", extras={"d": tf.Variable(0)})
        restore_folder(tmp_path / f"{step:08d}", fresh)
        assert fresh.hashes() == expected


def test_failure_of_an_asynchronous_save_surfaces(
    make_state: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, checkpoint = make_state(), trainer.Checkpoint(tmp_path / "file" / "x", asynchronous=True)
    (tmp_path / "file").write_text("")
    checkpoint(state, {})
    with pytest.raises(trainer.TrainingError, match="step 0 can't be saved"):
        checkpoint(state, {})
    with pytest.raises(trainer.TrainingError, match="step 0 can't be saved"), checkpoint.open(state):
        checkpoint(state, {})


def test_keep_every_and_best_survive_and_the_best_is_known_after_a_restart(
    make_state: Any, tmp_path: pathlib.Path
) -> None:
    state = make_state()

    def save(step: int, accuracy: float) -> None:  # by a new object each time, as after a restart
        state.step.assign(step)
        options = {"keep": 2, "keep_every": 100, "evaluation": lambda: {"accuracy": accuracy}}
        trainer.Checkpoint(tmp_path, **options).save(state)

    for step, accuracy in [(100, 0.1), (110, 0.9), (120, 0.8), (130, float("nan")), (140, 0.9), (150, 0.2)]:
        save(step, accuracy)
    names = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert names == ["00000100", "00000110", "00000140", "00000150"]
    best = json.loads((tmp_path / "best.json").read_text())
    assert best == {"step": 110, "monitor": "accuracy", "value": 0.9}
    save(160, 0.95)
    assert json.loads((tmp_path / "best.json").read_text())["step"] == 160
    assert not (tmp_path / "00000110").exists()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_state_with_a_nan_is_not_saved(make_state: Any, tmp_path: pathlib.Path, asynchronous: bool) -> None:
    state, said = make_state(), []
    checkpoint = trainer.Checkpoint(tmp_path, asynchronous=asynchronous)
    checkpoint.say = said.append
    with checkpoint.open(state):
        checkpoint(state, {})
        state.step.assign(1)
        state.optimizer.variables[-1].assign(tf.fill(state.optimizer.variables[-1].shape, float("nan")))
        checkpoint(state, {})
        assert checkpoint.save(state) is None
    assert [folder.name for folder in checkpoint.folders()] == ["00000000"]
    assert "step 1 is not saved" in said[0]
    assert "aren't finite" in said[0]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_state_with_a_nan_ends_training_where_that_is_asked_for(
    make_state: Any, tmp_path: pathlib.Path, asynchronous: bool
) -> None:
    """A loss can stay finite although weights aren't finite, because the relu of some CPUs' kernels turns NaN into 0."""
    state = make_state()
    state.model.variables[0].assign(tf.fill(state.model.variables[0].shape, float("nan")))
    checkpoint = trainer.Checkpoint(tmp_path, asynchronous=asynchronous, abort_on_nonfinite=True)
    with (
        pytest.raises(trainer.TrainingError, match=r"step 0 is not saved: .*kernel has values that aren't finite"),
        checkpoint.open(state),
    ):
        checkpoint(state, {})
    assert not checkpoint.folders()


def test_restore_compares_the_hashes_that_the_manifest_holds(
    make_state: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = make_state()
    checkpoint = trainer.Checkpoint(tmp_path)
    checkpoint.hash_tensors = True
    checkpoint.save(state)
    assert checkpoint.restore(state) == 0
    trackables = trainer.TrainState.trackables
    with monkeypatch.context() as patch:
        patch.setattr(trainer.TrainState, "trackables", lambda self: {**trackables(self), "step": tf.Variable(0)})
        again = trainer.Checkpoint(tmp_path)
        again.hash_tensors = True
        again.save(state)
        state.step.assign(5)
        with pytest.raises(trainer.TrainingError, match=r"not to the bit: step$"):
            checkpoint.restore(state)
