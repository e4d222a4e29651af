"""A saver writes the same tensors as TensorFlow's own `write`, at every save."""

import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from loopwright import trainer
from loopwright.trainer.checkpoint.checkpoint import restore_folder
from loopwright.trainer.checkpoint.saver import Saver


def tensors(prefix: pathlib.Path) -> dict[str, Any]:
    """Every tensor of a checkpoint's files, including the description of the tree."""
    reader = tf.train.load_checkpoint(str(prefix))
    found = {key: np.asarray(reader.get_tensor(key)) for key in reader.get_variable_to_shape_map()}
    return {key: (value.dtype, value.shape, value.tolist()) for key, value in found.items()}


def test_files_hold_what_those_of_plain_tensorflow_do_each_time(make_state: Any, tmp_path: pathlib.Path) -> None:
    state = make_state(precision="mixed_float16", extras={"average": tf.Variable([1.0, 2.0])})
    saver = Saver(state)
    for number in range(3):
        for variable in state.variables().values():
            variable.assign(variable + tf.ones_like(variable))
        ours, theirs = tmp_path / f"ours{number}", tmp_path / f"theirs{number}"
        for folder in (ours, theirs):
            folder.mkdir()
        saver.write(ours / "state", saver.read())
        tf.train.Checkpoint(**state.trackables()).write(theirs / "state")
        assert tensors(ours / "state") == tensors(theirs / "state")
        assert {path.name for path in ours.iterdir()} == {"state.index", "state.data-00000-of-00001"}


def test_only_the_first_save_is_tensorflows_own(
    make_state: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    write = tf.train.Checkpoint.write
    monkeypatch.setattr(tf.train.Checkpoint, "write", lambda self, *words: written.append(words) or write(self, *words))
    state, checkpoint = make_state(), trainer.Checkpoint(tmp_path)
    for step in range(3):
        state.step.assign(step)
        checkpoint(state, {})
    assert (len(written), len(checkpoint.folders())) == (1, 3)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_what_joins_the_state_after_a_save_is_in_the_next(
    make_state: Any, tmp_path: pathlib.Path, asynchronous: bool
) -> None:
    state = make_state()
    checkpoint = trainer.Checkpoint(tmp_path, asynchronous=asynchronous)
    with checkpoint.open(state):
        for step in (0, 1, 2):
            state.step.assign(step)
            state.extras[f"joined{step}"] = tf.Variable(float(step + 5))
            checkpoint(state, {})
    extras = {f"joined{step}": tf.Variable(0.0) for step in (0, 1, 2)}
    fresh = make_state(extras=extras)
    restore_folder(tmp_path / "00000002", fresh)
    assert [float(variable) for variable in extras.values()] == [5.0, 6.0, 7.0]
    assert fresh.hashes() == state.hashes()


class Count(tf.train.experimental.PythonState):
    """A number in Python, outside of any variable."""

    def __init__(self, value: int) -> None:
        self.value = value

    def serialize(self) -> str:
        return str(self.value)

    def deserialize(self, string_value: str) -> None:
        self.value = int(string_value)


class Counted(tf.Module):
    """Something that a step may keep: a variable and a count in Python."""

    def __init__(self, value: int) -> None:
        super().__init__()
        self.variable, self.count = tf.Variable(1.0), Count(value)


def test_state_in_python_is_saved_as_it_is_at_each_save(make_state: Any, tmp_path: pathlib.Path) -> None:
    kept = Counted(3)
    state, checkpoint = make_state(extras={"kept": kept}), trainer.Checkpoint(tmp_path)
    for step in (0, 1):
        state.step.assign(step)
        kept.count.value += 1
        checkpoint(state, {})
    fresh = Counted(0)
    restore_folder(tmp_path / "00000001", make_state(extras={"kept": fresh}))
    assert fresh.count.value == 5


class Table(tf.Module):
    """A lookup table, whose content isn't a variable."""

    def __init__(self) -> None:
        super().__init__()
        self.variable, self.table = tf.Variable(1.0), tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)


class Reader(tf.Module):
    """A variable, and a position in a stream of data."""

    def __init__(self) -> None:
        super().__init__()
        self.variable, self.iterator = tf.Variable(1.0), iter(tf.data.Dataset.range(9))


@pytest.mark.parametrize(
    "kept", [lambda: Counted(1), Table, Reader], ids=["Count", "MutableHashTable", "OwnedIterator"]
)
def test_what_is_in_no_variable_cannot_be_copied(
    make_state: Any, tmp_path: pathlib.Path, request: Any, kept: Any
) -> None:
    checkpoint = trainer.Checkpoint(tmp_path, asynchronous=True)
    with pytest.raises(trainer.TrainingError, match="asynchronous=True can't copy the") as refused:
        checkpoint(make_state(extras={"kept": kept()}), {})
    assert request.node.callspec.id in str(refused.value)
    assert refused.value.exit_code == 2
    assert not checkpoint.folders()


def test_table_that_joins_the_state_after_a_save_is_in_the_next(make_state: Any, tmp_path: pathlib.Path) -> None:
    kept = tf.Module()
    kept.variable = tf.Variable(1.0)
    state, checkpoint = make_state(extras={"kept": kept}), trainer.Checkpoint(tmp_path)
    for step in (0, 1, 2):
        state.step.assign(step)
        checkpoint(state, {})
        kept.table = kept.table if step else Table().table
        kept.table.insert("joined", step)
    fresh = Table()
    restore_folder(tmp_path / "00000002", make_state(extras={"kept": fresh}))
    assert int(fresh.table.lookup(tf.constant("joined"))) == 1


def test_lookup_table_is_saved_as_it_is_at_each_save(make_state: Any, tmp_path: pathlib.Path) -> None:
    kept = Table()
    state, checkpoint = make_state(extras={"kept": kept}), trainer.Checkpoint(tmp_path)
    for step, word in enumerate(("one", "two")):
        state.step.assign(step)
        kept.table.insert(word, step)
        checkpoint(state, {})
    fresh = Table()
    restore_folder(tmp_path / "00000001", make_state(extras={"kept": fresh}))
    assert fresh.table.lookup(tf.constant(["one", "two", "three"])).numpy().tolist() == [0, 1, -1]


@pytest.mark.parametrize("copied", [False, True])
def test_first_that_is_not_finite_is_named(make_state: Any, copied: bool) -> None:
    state = make_state()
    saver = Saver(state, copied=copied)
    places = [(variable.path, variable) for variable in [*state.model.weights, *state.optimizer.variables]]
    floating = [(name, variable) for name, variable in places if "float" in variable.dtype]
    assert len(floating) > 8
    for value in (np.nan, -np.inf):
        for name, variable in floating:
            before = variable.numpy()
            variable.assign(np.where(np.arange(before.size).reshape(before.shape) == before.size - 1, value, before))
            saver.take()
            assert saver.first_nonfinite(saver.read()) == name
            variable.assign(before)
    saver.take()
    assert saver.first_nonfinite(saver.read()) is None
