"""What each task shows: it says what the model says, keeps it in a file, and changes no bit of the run."""

import dataclasses
import pathlib
import pkgutil
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from loopwright import trainer
from loopwright.data import array_feed
from loopwright.trainer.commands import report_predictions
from loopwright.trainer.observe import prediction_files, predictor
from loopwright.trainer.observe.position_predictions import NONE
from loopwright.trainer.observe.predictions import MISTAKES
from loopwright.trainer.observe.views import PositionView
from loopwright.trainer.tasks.assignment import Assignment, assign
from loopwright.trainer.tasks.boards import Board, several

N, T, C, L = 70, 6, 4, 5
RNG = np.random.default_rng(0)
PETS = ("cat", "dog", "a pet with a name that is much longer than any picture is wide", "o|w*l_")


@dataclasses.dataclass(frozen=True)
class Target:
    kind: str
    shape: tuple[int, ...]
    names: tuple[str, ...]


class Letters:
    """Preprocessing that makes texts of token ids."""

    never, end = (0,), None

    def text(self, ids: np.ndarray) -> str:
        return "".join("_abcdefgh"[int(number)] for number in ids if number)


@dataclasses.dataclass(frozen=True)
class Case:
    """A task with a target, inputs, labels, and a model."""

    task: str
    target: Target
    x: Any
    y: Any
    layers: tuple[str, ...]
    preprocessing: Any = None
    weight: Any = None


IDS = RNG.integers(1, 9, (N, T)).astype(np.int32)
IMAGES = RNG.random((N, 8, 8, 3)).astype(np.float32)
ROWS = RNG.normal(size=(N, 7)).astype(np.float32)
REAL = (np.arange(T) < RNG.integers(2, T + 1, (N, 1))).astype(np.float32)
CASES = {
    "classes of images": Case(
        "classification", Target("class", (), PETS), IMAGES, RNG.integers(0, C, N), ("flat", "dense:4")
    ),
    "classes of texts": Case(
        "classification",
        Target("class", (), PETS),
        IDS,
        RNG.integers(0, C, N),
        ("embedding", "flat", "dense:4"),
        Letters(),
    ),
    "classes of rows": Case("classification", Target("class", (), PETS), ROWS, RNG.integers(0, C, N), ("dense:4",)),
    "binary": Case("binary", Target("class", (), ("ham", "spam")), ROWS, RNG.integers(0, 2, N), ("dense:1",)),
    "labels": Case(
        "multi_label", Target("multi_hot", (L,), (*PETS, "e")), IMAGES, RNG.integers(0, 2, (N, L)), ("flat", "dense:5")
    ),
    "labels of texts": Case(
        "multi_label",
        Target("multi_hot", (L,), (*PETS, "e")),
        IDS,
        RNG.integers(0, 2, (N, L)),
        ("embedding", "flat", "dense:5"),
        Letters(),
    ),
    "number": Case("regression", Target("number", (), ("price",)), ROWS, RNG.normal(9, 2, N), ("dense:1",)),
    "numbers": Case("regression", Target("numbers", (3,), ("place",)), ROWS, RNG.normal(9, 2, (N, 3)), ("dense:3",)),
    "tags": Case(
        "classification",
        Target("classes", (T,), PETS),
        IDS,
        RNG.integers(0, C, (N, T)),
        ("embedding", "dense:4"),
        Letters(),
        REAL,
    ),
    "pixels": Case(
        "classification", Target("classes", (8, 8), PETS), IMAGES, RNG.integers(0, C, (N, 8, 8)), ("conv", "dense:4")
    ),
    "language": Case(
        "language_model",
        Target("tokens", (T,), tuple("_abcdefgh")),
        IDS,
        np.roll(IDS, -1, axis=1).astype(np.int64),
        ("embedding", "causal", "dense:9"),
        Letters(),
    ),
}


def made_layer(name: str) -> Any:
    kind, _, units = name.partition(":")
    return {
        "flat": keras.layers.Flatten,
        "embedding": lambda: keras.layers.Embedding(9, 8),
        "conv": lambda: keras.layers.Conv2D(4, 3, padding="same", activation="relu"),
        "causal": lambda: keras.layers.Conv1D(8, 3, padding="causal"),
        "dense": lambda: keras.layers.Dense(int(units)),
    }[kind]()


def prepared(case: Case) -> tuple[Assignment, trainer.TrainState, Any, Any]:
    """The assignment, a fresh state with a dropout that draws, the feed, and the objective."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(1)
    chosen = assign(case.task, {"y": case.target}, weights={}).activated({"y": False})
    x = keras.Input(case.x.shape[1:], dtype=case.x.dtype.name)
    y = x
    for name in case.layers[:-1]:
        y = made_layer(name)(y)
    y = made_layer(case.layers[-1])(keras.layers.Dropout(0.2)(y))
    model = keras.Model(x, y)
    feed = array_feed(case.x, case.y, 16, sample_weight=case.weight, shuffle=False)
    objective = chosen.objective()
    if hasattr(objective, "build"):
        objective.build(model, feed.element_spec)
    optimizer = trainer.make_optimizer("adam", 0.01, ema_decay=0.9)
    return (
        chosen,
        trainer.TrainState.create(model, optimizer, metrics=getattr(objective, "metrics", ())),
        feed,
        objective,
    )


def hook_of(chosen: Assignment, board: Board) -> Any:
    head = chosen.head
    assert head is not None
    return pkgutil.resolve_name(head.task.board)(head.goal, board)


def trained(case: Case, folder: pathlib.Path, *, shown: bool) -> tuple[trainer.TrainState, Any, Assignment]:
    chosen, state, feed, objective = prepared(case)
    hooks = []
    if shown:
        board = Board(state, feed, trainer.TensorBoard(folder), folder / "predictions.npz", case.preprocessing)
        hooks = [trainer.every(3, hook_of(chosen, board))]
    step = trainer.gradient_step(objective)
    shuffled = array_feed(case.x, case.y, 16, sample_weight=case.weight)
    trainer.train(state, shuffled, step, num_steps=6, execution=trainer.graph(2), hooks=hooks)
    return state, feed, chosen


def outputs_of(state: trainer.TrainState, x: Any) -> np.ndarray:
    """What the model with averaged weights gives."""
    from loopwright.trainer.core.optimizers import averaged_weights

    with averaged_weights(state.model, state.optimizer):
        return np.array(state.model(x, training=False))


def events(folder: pathlib.Path) -> dict[str, Any]:
    found = EventAccumulator(str(folder / "eval"), size_guidance={"tensors": 0}).Reload()
    return {tag: make_ndarray(found.Tensors(tag)[-1].tensor_proto) for tag in found.Tags()["tensors"]}


@pytest.mark.parametrize("name", CASES)
def test_pictures_change_no_bit_and_the_report_shows_them(name: str, tmp_path: pathlib.Path) -> None:
    case = CASES[name]
    plain, _, _ = trained(case, tmp_path, shown=False)
    shown, _, _ = trained(case, tmp_path, shown=True)
    for a, b in zip(tf.nest.flatten(plain.tensors()), tf.nest.flatten(shown.tensors()), strict=True):
        np.testing.assert_array_equal(a, b)
    found = events(tmp_path)
    assert found
    for tag, value in found.items():
        if tag.startswith("samples/") and value.shape == (3,):
            assert value[2].startswith(b"\x89PNG")
    loaded = prediction_files.load(tmp_path / "predictions.npz")
    section = report_predictions.section(loaded[""], [])
    assert section.step == 6
    assert section.said
    assert section.cards or section.wide


@pytest.mark.parametrize("name", ["classes of texts", "binary"])
def test_classes_are_counted(name: str, tmp_path: pathlib.Path) -> None:
    case = CASES[name]
    state, _, _ = trained(case, tmp_path, shown=True)
    outputs = outputs_of(state, case.x)
    said = (outputs[:, 0] > 0).astype(int) if name == "binary" else outputs.argmax(axis=1)
    found = prediction_files.load(tmp_path / "predictions.npz")[""]
    np.testing.assert_array_equal(found.predicted, said)
    assert tuple(found.names) == case.target.names
    scores, shown = found.scores(), events(tmp_path)
    for k, label in enumerate(case.target.names):
        right = np.sum((said == k) & (case.y == k))
        both = np.sum(said == k) + np.sum(case.y == k)
        assert scores.f1[k] == pytest.approx(2 * right / both)
        assert shown[f"f1_of_class/{label}"] == pytest.approx(2 * right / both)
    if name == "binary":
        assert shown["precision_recall/pr_curves"].shape == (6, 200)
        assert shown["precision_recall/pr_curves"][0, 100] == np.sum((said == 1) & (case.y == 1))
    else:
        assert found.texts[0] == Letters().text(IDS[found.shown[0]])
        assert b"| says | is | sure | sample |" in shown["samples/surest_mistakes"].ravel()[0]


def test_labels_are_counted(tmp_path: pathlib.Path) -> None:
    case = CASES["labels"]
    state, _, _ = trained(case, tmp_path, shown=True)
    chances = np.array(keras.ops.sigmoid(outputs_of(state, case.x)))
    said, true = chances > 0.5, case.y == 1
    found = prediction_files.load(tmp_path / "predictions.npz")[""]
    expected = [np.sum(a & b, axis=0) for a, b in ((said, true), (said, ~true), (~said, true), (~said, ~true))]
    np.testing.assert_array_equal(found.confusion(), np.stack(expected, axis=1))
    assert (found.samples, found.all_right) == (N, np.sum((said == true).all(axis=1)))
    distance = np.where((said != true).any(axis=1), np.abs(chances - true).max(axis=1), -1)
    np.testing.assert_array_equal(found.rows[found.mistakes], np.argsort(-distance, kind="stable")[:MISTAKES])
    metric = keras.metrics.F1Score(threshold=0.5)
    metric.update_state(true.astype(np.float32), chances)
    np.testing.assert_allclose(np.nan_to_num(found.scores().f1), np.array(metric.result()), atol=1e-6)
    shown = events(tmp_path)
    assert shown[f"recall_of_label/{PETS[0]}"] == pytest.approx(found.scores().recall[0])
    assert f"precision_recall/{PETS[3]}/pr_curves" in shown


@pytest.mark.parametrize("name", ["number", "numbers"])
def test_errors_of_numbers_are_exact(name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    state, feed, chosen = trained(case, tmp_path, shown=True)
    said = outputs_of(state, case.x).reshape(N, -1).astype(np.float64)
    true = np.asarray(case.y, np.float32).reshape(N, -1).astype(np.float64)
    found = prediction_files.load(tmp_path / "predictions.npz")[""]
    np.testing.assert_allclose(found.labels, true)
    assert found.rmse == pytest.approx(np.sqrt(np.mean((said - true) ** 2)))
    assert found.mae == pytest.approx(np.mean(np.abs(said - true)))
    explained = 1 - ((said - true) ** 2).sum(axis=0) / ((true - true.mean(axis=0)) ** 2).sum(axis=0)
    assert found.r2 == pytest.approx(explained.mean())
    worst = np.argsort(-np.abs(said - true).max(axis=1), kind="stable")[:MISTAKES]
    np.testing.assert_array_equal(found.shown[found.largest], worst)
    monkeypatch.setattr("loopwright.trainer.observe.views.MOST_NUMBERS", 40)
    board = Board(state, feed, trainer.TensorBoard(tmp_path / "again"), tmp_path / "thin.npz")
    hook_of(chosen, board)(state, {})
    thin = prediction_files.load(tmp_path / "thin.npz")[""]
    assert thin.index.tolist() == list(range(0, N, 2 if name == "number" else 8))
    np.testing.assert_array_equal(thin.labels, found.labels[thin.index])
    assert (thin.samples, thin.rmse) == (N, found.rmse)


@pytest.mark.parametrize("name", ["tags", "pixels"])
def test_positions_are_counted_without_padding(name: str, tmp_path: pathlib.Path) -> None:
    case = CASES[name]
    state, _, _ = trained(case, tmp_path, shown=True)
    said = outputs_of(state, case.x).argmax(axis=-1)
    counts = np.ones_like(said, bool) if case.weight is None else case.weight > 0
    found = prediction_files.load(tmp_path / "predictions.npz")[""]
    expected = np.zeros((C, C), np.int64)
    np.add.at(expected, (case.y[counts], said[counts]), 1)
    np.testing.assert_array_equal(found.pairs, expected)
    assert found.accuracy == pytest.approx(np.mean((said == case.y)[counts]))
    right = np.diag(expected)
    union = expected.sum(axis=0) + expected.sum(axis=1) - right
    np.testing.assert_allclose(found.iou(), right / union)
    np.testing.assert_array_equal(found.labels, np.where(counts, case.y, NONE)[found.rows])
    assert found.confidences[2].sum() == counts.sum()
    shares = found.shares()[found.mistakes]
    assert (np.diff(shares) >= 0).all()
    shown = events(tmp_path)
    if name == "tags":
        assert found.texts[0].tolist() == [Letters().text(IDS[0, k : k + 1]) for k in range(T)]
        assert f"f1_of_class/{PETS[0]}" in shown
    else:
        assert shown[f"iou_of_class/{PETS[0]}"] == pytest.approx(found.iou()[0])
        assert shown["samples/worst"][2].startswith(b"\x89PNG")


def test_language_model_writes_the_same_again(tmp_path: pathlib.Path) -> None:
    state, feed, chosen = trained(CASES["language"], tmp_path, shown=True)
    found = prediction_files.load(tmp_path / "predictions.npz")[""]
    assert found.prompts.tolist() == [Letters().text(ids) for ids in IDS[:2, :3]]
    assert [len(text) for text in found.continuations] == [200, 200]
    hook_of(chosen, Board(state, feed, trainer.TensorBoard(tmp_path / "b"), tmp_path / "b.npz", Letters()))(state, {})
    assert prediction_files.load(tmp_path / "b.npz")[""].continuations.tolist() == found.continuations.tolist()
    assert found.continuations[0].encode() in events(tmp_path)["written"].ravel()[0]


def test_several_heads_are_shown_under_their_names_in_one_pass(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = keras.Input((7,))
    model = keras.Model(x, {"kind": keras.layers.Dense(4)(x), "price": keras.layers.Dense(1)(x)})
    state = trainer.TrainState.create(model, trainer.make_optimizer("adam", 0.01))
    targets = {"kind": CASES["classes of rows"], "price": CASES["number"]}
    feed = array_feed(ROWS, {name: case.y for name, case in targets.items()}, 16, shuffle=False)
    chosen = assign("auto", {name: case.target for name, case in targets.items()}, weights={})
    heads = {name: (head.task.board, head.goal) for name, head in chosen.heads.items()}
    hook = several(heads, Board(state, feed, trainer.TensorBoard(tmp_path), tmp_path / "predictions.npz"))
    assert hook is not None
    passes = []
    watched = predictor.watched
    monkeypatch.setattr(predictor, "watched", lambda call, what: passes.append(what) or watched(call, what))
    hook(state, {})
    loaded = prediction_files.load(tmp_path / "predictions.npz")
    assert set(loaded) == {"kind", "price"}
    np.testing.assert_array_equal(loaded["kind"].predicted, np.array(model(ROWS)["kind"]).argmax(axis=1))
    np.testing.assert_allclose(loaded["price"].predicted, model(ROWS)["price"], rtol=1e-5)
    assert {"kind/confusion_matrix", "price/residuals", f"kind/f1_of_class/{PETS[0]}"} <= events(tmp_path).keys()
    assert several({"kind": ("", chosen.heads["kind"].goal)}, hook) is None  # type: ignore[arg-type]


def test_confidence_of_many_positions_is_exact() -> None:
    """Sums in float32 stop at 16.8 million."""
    logits = tf.constant([0.0, np.log(0.97 / 0.03)], tf.float32)
    outputs = tf.broadcast_to(logits, [64, 128, 128, 2])
    found = PositionView(("no", "yes")).of_batch(outputs, tf.ones([64, 128, 128], tf.int64), None)
    sure, right, count = found["confidences"].numpy().sum(-1)
    assert (right, count) == (64 * 128 * 128, 64 * 128 * 128)
    assert sure / count == pytest.approx(0.97, abs=1e-4)


def test_masks_of_layers_and_padding_of_batches_leave_positions_out(tmp_path: pathlib.Path) -> None:
    ids = np.where(REAL > 0, IDS, 0).astype(np.int32)
    y = CASES["tags"].y
    x = keras.Input((T,), dtype="int32")
    outputs = keras.layers.Dense(C)(keras.layers.Embedding(9, 8, mask_zero=True)(x))
    state = trainer.TrainState.create(keras.Model(x, outputs), trainer.make_optimizer("adam", 0.01))
    said = np.array(state.model(ids)).argmax(axis=-1)
    for pad in (False, True):
        feed = array_feed(ids, y, 16, shuffle=False, pad=pad)
        board = Board(state, feed, trainer.TensorBoard(tmp_path / str(pad)), tmp_path / "predictions.npz")
        hook_of(assign("auto", {"y": CASES["tags"].target}, weights={}), board)(state, {})
        found = prediction_files.load(tmp_path / "predictions.npz")[""]
        assert found.samples == N
        expected = np.zeros((C, C), np.int64)
        np.add.at(expected, (y[ids > 0], said[ids > 0]), 1)
        np.testing.assert_array_equal(found.pairs, expected)


def test_first_image_of_several_inputs_is_shown(tmp_path: pathlib.Path) -> None:
    inputs = {"row": keras.Input((7,), name="row"), "photo": keras.Input((8, 8, 3), name="photo")}
    joined = keras.layers.Concatenate()([inputs["row"], keras.layers.Flatten()(inputs["photo"])])
    state = trainer.TrainState.create(
        keras.Model(inputs, keras.layers.Dense(C)(joined)), trainer.make_optimizer("adam", 0.01)
    )
    case = CASES["classes of images"]
    feed = array_feed({"row": ROWS, "photo": IMAGES}, case.y, 16, shuffle=False)
    board = Board(state, feed, trainer.TensorBoard(tmp_path), tmp_path / "predictions.npz")
    hook_of(assign("auto", {"y": case.target}, weights={}), board)(state, {})
    found = prediction_files.load(tmp_path / "predictions.npz")[""]
    np.testing.assert_array_equal(found.inputs, IMAGES[found.shown])
    assert "samples/first" in events(tmp_path)
