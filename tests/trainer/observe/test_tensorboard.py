"""What a run writes for TensorBoard, read back by TensorBoard's own reader."""

import json
import os
import pathlib
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.util.tensor_util import make_ndarray
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from loopwright import trainer
from loopwright.trainer.core import evaluation
from loopwright.trainer.hooks.board import Histograms, Pictures, Profile
from loopwright.trainer.observe import tensorboard
from loopwright.trainer.observe.records import Record
from loopwright.trainer.observe.tensorboard import model_graph


def reader(folder: pathlib.Path) -> Any:
    return EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()


def scalars(folder: pathlib.Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, float(make_ndarray(event.tensor_proto))) for event in reader(folder).Tensors(tag)]


def test_records_are_scalars_under_the_same_names(tmp_path: pathlib.Path) -> None:
    write = trainer.TensorBoard(tmp_path)
    write(Record(10, "train", {"loss": 0.5, "accuracy": 0.25}))
    write(Record(20, "train", {"loss": 0.125}))
    write(Record(20, "eval", {"loss": 2.0}))
    assert scalars(tmp_path / "train", "loss") == [(10, 0.5), (20, 0.125)]
    assert scalars(tmp_path / "train", "accuracy") == [(10, 0.25)]
    assert scalars(tmp_path / "eval", "loss") == [(20, 2.0)]


def test_run_that_goes_on_takes_back_what_it_writes_again(tmp_path: pathlib.Path) -> None:
    for start, value in ((0, 1.0), (10, 2.0), (10, 3.0)):
        write = trainer.TensorBoard(tmp_path)
        with write.open(start):
            for step in range(start + 5, start + 20, 5):
                write(Record(step, "train", {"loss": value}))
    assert scalars(tmp_path / "train", "loss") == [(5, 1), (10, 1), (15, 3), (20, 3), (25, 3)]


def test_records_of_every_split_are_taken_back(tmp_path: pathlib.Path) -> None:
    splits = ("train", "eval", "test", "test/hard", "ema")
    for start, value in ((0, 1.0), (10, 2.0)):
        writers = (trainer.TensorBoard(tmp_path / "board"), trainer.JsonLines(tmp_path / "metrics.jsonl"))
        for write in writers:
            with write.open(start):
                for step in range(start + 5, start + 20, 5):
                    for split in splits if start == 0 else splits[:1]:
                        write(Record(step, split, {"loss": value}))
    kept = [(5, 1), (10, 1)]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for split in splits:
        expected = [*kept, (15, 2), (20, 2), (25, 2)] if split == "train" else kept
        assert scalars(tmp_path / "board" / split, "loss") == expected
        assert [(line["step"], line["loss"]) for line in lines if line["split"] == split] == expected


def test_folders_of_others_are_not_cut(tmp_path: pathlib.Path) -> None:
    (trainer.TensorBoard(tmp_path / "run"))(Record(20, "train", {"loss": 1.0}))
    with tf.summary.create_file_writer(str(tmp_path / "validation")).as_default():
        tf.summary.scalar("loss", 1.0, step=20)
    tf.summary.flush()
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "note.tfevents.split-plugins.txt").write_text("not an event file")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with trainer.TensorBoard(tmp_path).open(10):
        pass
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_board_needs_no_keras_2(tmp_path: pathlib.Path) -> None:
    code = "from loopwright import trainer; trainer.TensorBoard('x').describe('a', {'rate': 1.0}, {})"
    environment = {**os.environ, "TF_USE_LEGACY_KERAS": "1"}
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=False).returncode == 0


def test_hyperparameters_flags_and_graph_are_there_once(tmp_path: pathlib.Path, make_state: Any) -> None:
    for rate in (0.1, 0.5):
        write = trainer.TensorBoard(tmp_path)
        graph = model_graph(make_state().model, tf.TensorSpec([None, 8, 8, 1]))
        write.describe("mine", {"rate": rate, "augment": None, "flip": True}, {"flags": f"rate {rate}"}, graph)
        write.finish()
    found = reader(tmp_path)
    start = found.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    session = metadata.parse_session_start_info_plugin_data(start)
    assert session.group_name == "mine"
    values = session.hparams
    assert {name: value.number_value or value.bool_value for name, value in values.items()} == {
        "rate": 0.5,
        "flip": True,
    }
    end = found.SummaryMetadata(metadata.SESSION_END_INFO_TAG).plugin_data.content
    assert metadata.parse_session_end_info_plugin_data(end).end_time_secs > 0
    assert make_ndarray(found.Tensors("flags")[0].tensor_proto) == b"rate 0.5"
    assert any("dense" in node.name for node in found.Graph().node)
    assert len([path for path in tmp_path.iterdir() if path.is_file()]) == 1


def test_pictures_show_what_the_model_says(
    tmp_path: pathlib.Path, make_state: Any, make_feed: Any, objective: Any
) -> None:
    state, feed = make_state(), make_feed(shuffle=False)
    state.step.assign(7)
    predict = trainer.predictor(state, feed, from_logits=True)
    Pictures(predict, trainer.TensorBoard(tmp_path), ["a", "b", "c"], tmp_path / "predictions.npz")(state, {})
    found = reader(tmp_path / "eval")
    pngs = {tag: make_ndarray(found.Tensors(tag)[0].tensor_proto) for tag in found.Tags()["tensors"] if "/" not in tag}
    assert set(pngs) == {"confusion_matrix"}
    for tag in ("confusion_matrix", "samples/first", "samples/surest_mistakes"):
        width, height, png = make_ndarray(found.Tensors(tag)[0].tensor_proto)
        assert png.startswith(b"\x89PNG")
        assert min(int(width), int(height)) > 100
        assert found.SummaryMetadata(tag).plugin_data.plugin_name == "images"
    predictions = predict()
    by_class = [scalars(tmp_path / "eval", f"accuracy_of_class/{name}") for name in "abc"]
    np.testing.assert_allclose(by_class, [[(7, share)] for share in predictions.class_accuracy()], rtol=1e-6)
    overall = np.mean(predictions.labels == predictions.predicted)
    assert evaluation.evaluate(state, feed, objective)["accuracy"] == pytest.approx(overall)


@pytest.mark.parametrize("precision", ["float32", pytest.param("mixed_float16", marks=pytest.mark.slow)])
def test_histograms_change_not_a_bit_of_the_run(
    tmp_path: pathlib.Path, make_state: Any, make_feed: Any, objective: Any, precision: str
) -> None:
    hashes = []
    for hooks in ([], [trainer.every(3, Histograms(trainer.TensorBoard(tmp_path), objective, make_feed()))]):
        state = make_state(precision=precision)
        step = trainer.gradient_step(objective)
        trainer.train(state, make_feed(), step, num_steps=6, execution=trainer.graph(2), hooks=hooks)
        hashes.append(state.hashes())
    assert hashes[0] == hashes[1]
    found = reader(tmp_path / "train")
    buckets = [make_ndarray(event.tensor_proto) for event in found.Tensors("gradients/tiny/dense/kernel")]
    assert [event.step for event in found.Tensors("weights/tiny/dense/kernel")] == [3, 6]
    assert all(rows[:, 2].sum() == state.model.get_layer("dense").kernel.shape.num_elements() for rows in buckets)
    assert all(np.abs(rows[:, :2]).max() > 0 for rows in buckets)


def profiled(folder: pathlib.Path) -> list[int]:
    """The numbers of the steps that the only profile in a folder marks."""
    (file,) = folder.glob("plugins/profile/*/*.xplane.pb")
    space = xplane_pb2.XSpace.FromString(file.read_bytes())
    (host,) = (plane for plane in space.planes if plane.name == "/host:CPU")
    events = [
        event for line in host.lines for event in line.events if host.event_metadata[event.metadata_id].name == "train"
    ]
    stats = [
        stat for event in events for stat in event.stats if host.stat_metadata[stat.metadata_id].name == "step_num"
    ]
    return [stat.int64_value for stat in stats]


def test_profile_marks_the_steps_that_were_asked_for(
    tmp_path: pathlib.Path, make_state: Any, make_feed: Any, objective: Any
) -> None:
    seen: list[int] = []
    profile = Profile(tmp_path, 3, 5)
    hooks = [profile, lambda state, metrics: seen.append(int(state.step))]
    step = trainer.gradient_step(objective)
    trainer.train(make_state(), make_feed(), step, num_steps=9, execution=trainer.graph(50), hooks=hooks)
    assert seen == [3, 4, 5, 9]
    assert profiled(tmp_path) == [3, 4]


def test_profile_ends_with_the_run(tmp_path: pathlib.Path, make_state: Any, make_feed: Any, objective: Any) -> None:
    def interrupt(state: trainer.TrainState, metrics: Any) -> None:
        if int(state.step) == 4:
            raise trainer.StopTraining("SIGTERM")

    profile = Profile(tmp_path, 2, 99)
    step = trainer.gradient_step(objective)
    hooks = [profile, interrupt]
    trainer.train(make_state(), make_feed(), step, num_steps=9, execution=trainer.graph(50), hooks=hooks)
    assert profiled(tmp_path) == [2, 3]


def test_loop_of_the_guide_writes_where_it_says(
    repository: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, make_state: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (source,) = re.findall(r"```python\n(.*?)```", (repository / "docs" / "watching.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(source, "docs/watching.md", "exec"), names)
    names["hooks"][0](make_state(), {"loss": 0.5})
    assert scalars(tmp_path / "runs" / "mine" / "tensorboard" / "train", "loss") == [(0, 0.5)]
    assert '"loss": 0.5' in (tmp_path / "runs" / "mine" / "metrics.jsonl").read_text()


def test_scalars_are_those_that_tensorboard_makes() -> None:
    values = {"loss": 1.5, "learning_rate": 1e-3, "nothing": float("inf")}
    expected = [scalar_pb(name, value).value[0] for name, value in values.items()]
    assert list(tensorboard._scalars(values).value) == expected
