"""Objectives: what they count, and that `fit` counts the same."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from loopwright import trainer
from loopwright.data.feed import array_feed
from loopwright.trainer.core.named_metrics import make_metrics


def rows(samples: int = 22) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    parts = {"x": rng.normal(size=(samples, 3)), "y": rng.normal(size=samples), "weight": rng.uniform(size=samples)}
    return {name: part.astype(np.float32) for name, part in parts.items()}


def linear(outputs: int = 1) -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(outputs)])


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_regression_trains_as_fit_does_to_the_bit(weighted: bool) -> None:
    data = rows()
    weights = data["weight"] if weighted else None
    feed = array_feed(data["x"], data["y"], 8, sample_weight=weights)  # the last of three batches is ragged
    ours, theirs = linear(), linear()
    state = trainer.TrainState.create(ours, keras.optimizers.Adam(0.01))
    trainer.train(state, feed, trainer.gradient_step(trainer.regression()), num_steps=9, execution=trainer.graph())
    theirs.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=False)
    keys = ("x", "y", "sample_weight") if weighted else ("x", "y")
    theirs.fit(feed().map(lambda batch: tuple(batch[key] for key in keys)), steps_per_epoch=9, verbose=0)
    for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("pad", [False, True], ids=["ragged", "padded"])
def test_regression_is_evaluated_exactly(pad: bool) -> None:
    data, model = rows(), linear()
    state = trainer.TrainState.create(model, keras.optimizers.SGD())
    feed = array_feed(data["x"], data["y"], 8, shuffle=False, pad=pad)
    errors = model.predict(data["x"], verbose=0)[:, 0] - data["y"]
    expected = {"loss": np.mean(errors**2), "mae": np.mean(np.abs(errors))}
    assert trainer.evaluate(state, feed, trainer.regression()) == pytest.approx(expected, rel=1e-6)


def test_regression_refuses_outputs_of_another_shape() -> None:
    data: dict[str, Any] = rows()
    state = trainer.TrainState.create(linear(outputs=2), keras.optimizers.SGD())
    with pytest.raises(ValueError, match=r"gives \(2,\) for a sample, the target is \(\)"):
        trainer.evaluate(state, array_feed(data["x"], data["y"], 8), trainer.regression())


def classes(**extra: np.ndarray) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"x": rng.normal(size=(20, 3)).astype(np.float32), "y": rng.integers(0, 6, 20), **extra}


def test_label_smoothing_and_class_weights_are_those_of_keras() -> None:
    data, model = classes(), linear(outputs=6)
    batch = {name: tf.constant(part) for name, part in data.items()}
    objective = trainer.classification(from_logits=True, label_smoothing=0.2, class_weight={1: 3.0, 4: 0.5})
    weights = np.select([data["y"] == 1, data["y"] == 4], [3.0, 0.5], 1.0)
    smooth = np.eye(6)[data["y"]] * 0.8 + 0.2 / 6
    logits = model(batch["x"]).numpy().astype(np.float64)
    losses = np.log(np.exp(logits).sum(axis=1)) - (smooth * logits).sum(axis=1)
    outputs = objective(model, batch, training=False)
    assert float(outputs.loss) == pytest.approx((weights * losses).mean(), rel=1e-5)
    correct, count = outputs.metrics["accuracy"]
    assert float(correct / count) == pytest.approx((logits.argmax(axis=1) == data["y"]).mean())


@pytest.mark.parametrize("pad", [False, True], ids=["ragged", "padded"])
def test_metrics_by_name_are_exact_over_every_row(pad: bool) -> None:
    data, model = classes(), linear(outputs=6)
    made = make_metrics(["accuracy", "top_5", "auc", "f1"], 6)
    assert [metric.name for metric in made] == ["top_5", "auc", "f1"]
    objective = trainer.classification(from_logits=True, metrics=made)
    state = trainer.TrainState.create(model, keras.optimizers.SGD(), metrics=made)
    got = trainer.evaluate(state, array_feed(data["x"], data["y"], 8, shuffle=False, pad=pad), objective)
    logits, one_hot = model(data["x"]), np.eye(6, dtype=np.float32)[data["y"]]
    for metric in make_metrics(["top_5", "auc", "f1"], 6):
        metric.update_state(one_hot, tf.nn.softmax(logits))
        assert got[metric.name] == pytest.approx(float(metric.result()), rel=1e-6)
    assert all(
        not variable.numpy().any()
        for metric in made
        for variable in metric.variables
        if "threshold" not in variable.path
    )


@pytest.mark.parametrize(("names", "classes"), [(["acuracy"], 6), (["top_5"], 5)])
def test_make_metrics_refuses_unknown_and_useless_names(names: list[str], classes: int) -> None:
    with pytest.raises(ValueError, match=f"metrics={names[0]}"):
        make_metrics(names, classes)
