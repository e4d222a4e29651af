"""Frozen variables and layers: what trains, what batch normalisation does, and what the files hold."""

import pathlib
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from loopwright import models, trainer

NAME = "keras.applications:MobileNetV2"


def batch() -> dict[str, tf.Tensor]:
    x = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.float32)
    return {"x": tf.constant(x), "y": tf.constant([0, 1, 2, 1])}


def build() -> keras.Model:
    keras.utils.set_random_seed(0)
    return models.create(NAME, (32, 32, 3), 3)


def freeze(model: keras.Model, pattern: str) -> list[Any]:
    parts = models.matched(model, pattern)
    for part in parts:
        part.trainable = False
    return parts


def arrays(variables: list[keras.Variable]) -> list[np.ndarray]:
    return [np.array(variable) for variable in variables]


def equal(before: list[np.ndarray], variables: list[keras.Variable]) -> list[bool]:
    return [np.array_equal(old, new) for old, new in zip(before, variables, strict=True)]


def one_step(model: keras.Model) -> None:
    state = trainer.TrainState.create(model, keras.optimizers.SGD(0.1))
    trainer.gradient_step(trainer.classification(from_logits=True))(state, batch())


def test_a_frozen_backbone_stays_as_it_is_with_its_moving_statistics() -> None:
    model = build()
    freeze(model, "backbone")
    backbone, head = model.get_layer("backbone"), model.get_layer("head")
    before, of_head = arrays(backbone.weights), arrays(head.weights)
    one_step(model)
    assert all(equal(before, backbone.weights))
    assert not all(equal(of_head, head.weights))


def test_a_frozen_backbone_trains_like_one_that_keras_froze() -> None:
    ours, theirs = build(), build()
    freeze(ours, "^backbone/")
    theirs.get_layer("backbone").trainable = False
    assert len(ours.trainable_variables) == len(theirs.trainable_variables) == 2
    for model in (ours, theirs):
        one_step(model)
    assert all(equal(arrays(ours.weights), theirs.weights))


def test_unfreezing_takes_it_back() -> None:
    model, free = build(), build()
    for part in freeze(model, "backbone"):
        part.trainable = True
    assert len(model.trainable_variables) == len(free.trainable_variables)
    for one in (model, free):
        one_step(one)
    assert all(equal(arrays(model.weights), free.weights))


def test_what_the_model_itself_has_frozen_stays_frozen() -> None:
    model = keras.Sequential([keras.Input((2,)), *(keras.layers.Dense(2, name=name) for name in ("a1", "a2", "b"))])
    model.get_layer("a1").trainable = False
    found = models.matched(model, r"a\d")
    for value in (False, True):
        for part in found:
            part.trainable = value
    trained = ["/".join(variable.path.split("/")[-2:]) for variable in model.trainable_variables]
    assert trained == ["a2/kernel", "a2/bias", "b/kernel", "b/bias"]


def test_a_pattern_of_some_variables_freezes_no_layer() -> None:
    model = build()
    freeze(model, "gamma|beta")
    assert all(layer.trainable for layer in model._flatten_layers())
    statistics = [weight for weight in model.weights if "moving" in weight.path]
    scales = [weight for weight in model.weights if "gamma" in weight.path]
    before, of_scales = arrays(statistics), arrays(scales)
    one_step(model)
    assert not any(equal(before, statistics))
    assert all(equal(of_scales, scales))


@pytest.mark.parametrize(("pattern", "part"), [("nothing", "none of the 158"), ("/", "all of the 158")])
def test_none_or_all_is_refused(pattern: str, part: str) -> None:
    with pytest.raises(models.ModelError, match=f"freeze={pattern}: matches {part} variables: backbone/Conv1/kernel"):
        models.matched(build(), pattern)


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_files_of_a_frozen_model_come_back(suffix: str, tmp_path: pathlib.Path) -> None:
    model = build()
    freeze(model, "backbone")
    one_step(model)
    write = trainer.export_h5 if suffix == ".h5" else trainer.export_keras
    loaded = keras.models.load_model(write(model, tmp_path / f"model{suffix}"), compile=False)
    x = batch()["x"]
    np.testing.assert_array_equal(loaded(x), model(x))
    assert len(loaded.trainable_variables) == 2
