"""The networks of `keras.applications`: the table is complete, and each scales raw pixels as its own module does."""

import importlib
import inspect
import pathlib
import re
from typing import Any

import keras
import numpy as np
import pytest

from loopwright import models, trainer
from loopwright.models import applications
from loopwright.trainer.export import safe_load

#: A small network of each way to scale pixels, and the others that have layers of their own.
SOME = ("MobileNetV3Small", "MobileNet", "DenseNet121", "ResNet50", "EfficientNetB0", "EfficientNetV2B0")
#: Keras can't rebuild these from an `.h5`.
NO_H5 = ("MobileNetV3Small",)


def pixels(size: int = 32, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, size, size, channels)).astype(np.float32)


def create(name: str, shape: tuple[int, ...] = (32, 32, 3), **options: Any) -> keras.Model:
    keras.utils.set_random_seed(0)
    return models.create(f"keras.applications:{name}", shape, 10, input_kind="images", **options)


def module_of(name: str) -> Any:
    return importlib.import_module(inspect.unwrap(getattr(keras.applications, name)).__module__)


def test_table_has_every_network_of_keras() -> None:
    functions = {name for name, part in vars(keras.applications).items() if inspect.isfunction(part)}
    assert set(applications.NAMES) == functions


@pytest.mark.parametrize("name", applications.NAMES)
def test_table_has_the_mode_of_each_network(name: str) -> None:
    """What the layers do to pixels equals what the `preprocess_input` of the network's module does."""
    mode = applications.NAMES[name]
    inputs = keras.Input((4, 4, 3))
    outputs = applications._preprocessed(inputs, mode)
    found = keras.Model(inputs, outputs)(pixels(4)) if mode else pixels(4)
    np.testing.assert_allclose(found, module_of(name).preprocess_input(pixels(4)), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", applications.NAMES)
def test_table_has_the_least_size_of_each_network(name: str) -> None:
    least = applications._LEAST.get(name, 32)
    with pytest.raises(models.ModelError) as error:
        create(name, (least, least - 1, 3))
    assert str(error.value).endswith(f"have at least {least}x{least} pixels; give image_size={least},{least}")
    said = re.findall(r"min_size=(\d+)", inspect.getsource(module_of(name)))
    assert set(said) <= {str(least)}


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("name", [SOME[0], *(pytest.param(name, marks=pytest.mark.slow) for name in SOME[1:])])
def test_network_keeps_the_contract(name: str, precision: str) -> None:
    model = create(name, precision=precision)
    outputs = model(pixels())
    assert outputs.shape == (2, 10)
    assert outputs.dtype == "float32"
    assert models.scales_itself(model)
    assert not models.ends_in_probabilities(f"keras.applications:{name}", model)
    of_head = [variable.path for variable in model.weights if not variable.path.startswith("backbone/")]
    assert of_head == ["head/kernel", "head/bias"]
    network = model.get_layer("backbone")
    assert {id(variable) for variable in network.weights} < {id(variable) for variable in model.weights}


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".h5", ".keras"])
@pytest.mark.parametrize("name", SOME)
def test_plain_keras_opens_the_files(name: str, suffix: str, tmp_path: pathlib.Path) -> None:
    if name in NO_H5 and suffix == ".h5":
        pytest.skip("Keras loses an argument of an operation in the .h5 file")
    model = create(name)
    write = trainer.export_h5 if suffix == ".h5" else trainer.export_keras
    loaded = keras.models.load_model(write(model, tmp_path / f"model{suffix}"), compile=False)
    np.testing.assert_array_equal(loaded(pixels()), model(pixels()))
    assert safe_load.load_model(tmp_path / f"model{suffix}").count_params() == model.count_params()


def test_one_channel_is_repeated() -> None:
    model = create("MobileNetV3Small", (32, 32, 1))
    grey = pixels(channels=1)
    colours = create("MobileNetV3Small")
    np.testing.assert_array_equal(model(grey), colours(np.repeat(grey, 3, axis=-1)))


@pytest.mark.parametrize(
    ("name", "shape", "part"),
    [
        ("MobileNetV3Smal", (32, 32, 3), "no such model; did you mean 'MobileNetV3Small'?"),
        ("VGG16", (32, 32, 4), "can't be built for samples of shape (32, 32, 4): it takes images of 1 or 3 channels"),
        (
            "VGG16",
            (28, 28, 1),
            "can't be built for samples of shape (28, 28, 1): its images have at least 32x32 pixels",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(name: str, shape: tuple[int, ...], part: str) -> None:
    with pytest.raises(models.ModelError) as error:
        create(name, shape)
    assert str(error.value).startswith(f"model='keras.applications:{name}': {part}")
    assert "\n" not in str(error.value)
