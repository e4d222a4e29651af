"""What the model gets and what it gives is found out or refused, and every command sees it alike."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from loopwright.trainer.commands import workdir

MODULE = """
import keras
import numpy as np
import tensorflow as tf
from keras import layers


def plain(shape, classes):
    return keras.Sequential([keras.Input(shape), layers.Flatten(), layers.Dense(classes)])


def rescaled(shape, classes):
    return keras.Sequential([keras.Input(shape), layers.Rescaling(1 / 255), layers.Flatten(), layers.Dense(classes)])


def averaged(shape, classes):
    inputs = keras.Input(shape)
    x = layers.Flatten()(inputs)
    heads = [layers.Dense(classes, activation="softmax")(x) for _ in range(2)]
    return keras.Model(inputs, layers.Average()(heads))


def sigmoids(shape, classes):
    return keras.Sequential([keras.Input(shape), layers.Flatten(), layers.Dense(classes, activation="sigmoid")])


def ids(split):
    x = np.random.default_rng(0).integers(0, 9, (60, 5)).astype(np.uint8)
    return tf.data.Dataset.from_tensor_slices((x, x[:, 0].astype(np.int64) % 3))


def embedded(shape, classes):
    ids = keras.Input(shape, dtype="int32")
    return keras.Model(ids, layers.Dense(classes)(layers.Flatten()(layers.Embedding(9, 4)(ids))))
"""


@pytest.fixture
def run(loopwright: Any, mnist_dir: pathlib.Path, tmp_path: pathlib.Path) -> Callable[..., Any]:
    """Trains a model of the module for 60 steps, or fails."""
    (tmp_path / "given.py").write_text(MODULE, encoding="utf-8")

    def train(model: str, *words: str, folder: str = "run") -> Any:
        base = (f"--model=given:{model}", f"--workdir={folder}", "--train_steps=60", "--eval_every=60")
        data = () if any("--dataset" in word for word in words) else (f"--data_dir={mnist_dir}",)
        return loopwright("train", *base, *data, "--progress=none", *words)

    return train


def accuracy(folder: pathlib.Path) -> Any:
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))["eval"]


@pytest.mark.slow
def test_a_model_that_scales_its_inputs_gets_pixels(run: Any, loopwright: Any, tmp_path: pathlib.Path) -> None:
    assert run("plain", folder="plain").code == 0
    result = run("rescaled", folder="rescaled")
    assert result.code == 0, result.err
    assert "the model scales its inputs itself (Rescaling ('rescaling')), so pixels stay as they are" in result.err
    plain, rescaled = (accuracy(tmp_path / name) for name in ("plain", "rescaled"))
    assert rescaled["loss"] == pytest.approx(plain["loss"], rel=1e-3)
    assert "--scale=none\n" in (tmp_path / "rescaled" / "flags.txt").read_text(encoding="utf-8")
    assert "--scale=auto\n" in (tmp_path / "plain" / "flags.txt").read_text(encoding="utf-8")
    for words in (["--workdir=rescaled"], ["--restore_from=rescaled/exports/model.h5"]):
        evaluated = loopwright("evaluate", *words, f"--data_dir={_data_dir(tmp_path)}", "--json")
        assert evaluated.code == 0, evaluated.err
        assert evaluated.json["metrics"]["loss"] == pytest.approx(rescaled["loss"], rel=1e-6)
    predicted = loopwright("predict", "--workdir=rescaled", "--split=test", "--json")
    assert predicted.code == 0, predicted.err
    rows = predicted.json["predictions"]
    right = np.mean([row["label"] == row["top"][0]["class"] for row in rows])
    assert right == pytest.approx(rescaled["accuracy"])
    again = run("rescaled", "--train_steps=70", folder="rescaled")
    assert again.code == 0, again.err


def _data_dir(tmp_path: pathlib.Path) -> str:
    config = workdir.read_config(tmp_path / "rescaled")
    assert config is not None
    return str(config.data.data_dir)


@pytest.mark.slow
def test_a_scale_that_is_given_decides(run: Any, tmp_path: pathlib.Path) -> None:
    result = run("rescaled", "--scale=unit")
    assert result.code == 0, result.err
    assert "scales its inputs itself" not in result.err
    assert "--scale=unit\n" in (tmp_path / "run" / "flags.txt").read_text(encoding="utf-8")


def test_ids_of_dtype_uint8_are_refused_and_then_stay_ids(run: Any, tmp_path: pathlib.Path) -> None:
    words = ("--dataset=given:ids", "--eval_split=test", "--batch_size=20")
    result = run("embedded", *words)
    assert result.code == 2
    assert "--scale=auto can't tell whether the input [N, 5] uint8 holds images; give --scale=unit" in result.err
    assert not (tmp_path / "run").exists()
    result = run("embedded", *words, "--scale=none", "--learning_rate=0.1")
    assert result.code == 0, result.err
    assert accuracy(tmp_path / "run")["accuracy"] == 1.0


def test_two_heads_that_are_averaged_train_as_probabilities(run: Any, loopwright: Any, tmp_path: pathlib.Path) -> None:
    assert run("averaged").code == 0
    predicted = loopwright("predict", "--workdir=run", "--split=test[:8]", "--top=10", "--json").json["predictions"]
    saved = np.load(tmp_path / "run" / "predictions.npz") if (tmp_path / "run" / "predictions.npz").exists() else None
    for row in predicted:
        assert sum(entry["probability"] for entry in row["top"]) == pytest.approx(1, abs=1e-5)
    assert accuracy(tmp_path / "run")["accuracy"] > 0.5
    if saved is not None:
        np.testing.assert_allclose(
            saved["confidence"][:8], [row["top"][0]["probability"] for row in predicted], rtol=1e-4
        )


def test_sigmoids_are_refused_until_the_user_decides(run: Any, loopwright: Any, tmp_path: pathlib.Path) -> None:
    result = run("sigmoids")
    assert result.code == 2
    assert "don't add up to 1" in result.err
    assert result.err.strip().endswith("give --outputs=logits or --outputs=probabilities")
    assert not (tmp_path / "run").exists()
    assert run("sigmoids", "--outputs=probabilities").code == 0
    for source in ("--workdir=run", "--restore_from=run/exports/model.h5"):
        assert loopwright("evaluate", source, "--json").code == 0
        assert loopwright("predict", source, "--split=test[:2]", "--json").code == 0
    listed = loopwright("models", "given:sigmoids", "--json")
    assert listed.json["outputs"] == "logits or probabilities"
