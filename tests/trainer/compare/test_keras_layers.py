"""Keras's layers: the loop trains each like `fit` to the bit, and its `.h5` trains on to the bit."""

import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from loopwright import trainer
from loopwright.data.feed import array_feed
from loopwright.trainer.compare.parity import FIT_OPTIONS
from loopwright.trainer.export.functional import NotRebuildable
from loopwright.trainer.export.h5_reader import load_h5
from loopwright.trainer.export.h5_writer import export_h5, export_keras

LINE, SEQUENCE, IMAGE, VOLUME = (6,), (8, 6), (8, 8, 3), (4, 4, 4, 2)
Built = Callable[[Any], Any]


def made(layer: type[keras.Layer], *arguments: Any, **options: Any) -> Built:
    """Calls a new layer at each use."""
    return lambda x: layer(*arguments, **options)(x)


#: The shape of a sample, and the layers that are tried with it. Each has trainable weights before it and after it.
FLOATS: list[tuple[tuple[int, ...], dict[str, Built]]] = [
    (
        LINE,
        {
            "Dense": made(layers.Dense, 5, "gelu", kernel_regularizer="l2", bias_constraint="non_neg"),
            "Dense-lora": made(layers.Dense, 5, lora_rank=2),
            "EinsumDense": made(layers.EinsumDense, "ab,bc->ac", output_shape=5, bias_axes="c"),
            "Activation": made(layers.Activation, "silu"),
            "ELU": made(layers.ELU, 0.5),
            "LeakyReLU": made(layers.LeakyReLU, 0.1),
            "PReLU": made(layers.PReLU),
            "ReLU": made(layers.ReLU, max_value=1.0, negative_slope=0.1, threshold=0.1),
            "Softmax": made(layers.Softmax),
            "ActivityRegularization": made(layers.ActivityRegularization, 0.01, 0.01),
            "Dropout": made(layers.Dropout, 0.4, seed=3),
            "AlphaDropout": made(layers.AlphaDropout, 0.3),
            "GaussianDropout": made(layers.GaussianDropout, 0.3),
            "GaussianNoise": made(layers.GaussianNoise, 0.3),
            "BatchNormalization": made(layers.BatchNormalization, momentum=0.8),
            "GroupNormalization": made(layers.GroupNormalization, groups=2),
            "LayerNormalization": made(layers.LayerNormalization),
            "RMSNormalization": made(layers.RMSNormalization),
            "UnitNormalization": made(layers.UnitNormalization),
            "SpectralNormalization": lambda x: layers.SpectralNormalization(layers.Dense(5))(x),
            "Rescaling": made(layers.Rescaling, 0.5, 0.1),
            "Normalization": made(layers.Normalization, mean=0.3, variance=0.5),
            "RepeatVector": made(layers.RepeatVector, 3),
            "Reshape": made(layers.Reshape, (2, 3)),
            "Identity": made(layers.Identity),
            "Add": lambda x: layers.Add()([x, layers.Dense(6)(x)]),
            "Average": lambda x: layers.Average()([x, layers.Dense(6)(x)]),
            "Concatenate": lambda x: layers.Concatenate()([x, layers.Dense(2)(x)]),
            "Dot": lambda x: layers.Dot(1, normalize=True)([x, layers.Dense(6)(x)]),
            "Maximum": lambda x: layers.Maximum()([x, layers.Dense(6)(x)]),
            "Minimum": lambda x: layers.Minimum()([x, layers.Dense(6)(x)]),
            "Multiply": lambda x: layers.Multiply()([x, layers.Dense(6)(x)]),
            "Subtract": lambda x: layers.Subtract()([x, layers.Dense(6)(x)]),
        },
    ),
    (
        SEQUENCE,
        {
            "Conv1D": made(layers.Conv1D, 4, 3, padding="causal", dilation_rate=2),
            "Conv1DTranspose": made(layers.Conv1DTranspose, 4, 3, strides=2),
            "DepthwiseConv1D": made(layers.DepthwiseConv1D, 3),
            "SeparableConv1D": made(layers.SeparableConv1D, 4, 3),
            "AveragePooling1D": made(layers.AveragePooling1D, 2),
            "MaxPooling1D": made(layers.MaxPooling1D),
            "AdaptiveAveragePooling1D": made(layers.AdaptiveAveragePooling1D, 3),
            "GlobalAveragePooling1D": made(layers.GlobalAveragePooling1D),
            "GlobalMaxPooling1D": made(layers.GlobalMaxPooling1D),
            "Cropping1D": made(layers.Cropping1D, 1),
            "UpSampling1D": made(layers.UpSampling1D, 2),
            "ZeroPadding1D": made(layers.ZeroPadding1D, 1),
            "Permute": made(layers.Permute, (2, 1)),
            "SpatialDropout1D": made(layers.SpatialDropout1D, 0.4),
            "LSTM": made(layers.LSTM, 4, dropout=0.2, recurrent_dropout=0.2, return_sequences=True),
            "GRU": made(layers.GRU, 4, go_backwards=True),
            "GRU-reset_before": made(layers.GRU, 4, reset_after=False),
            "SimpleRNN": made(layers.SimpleRNN, 4),
            "RNN-stacked": lambda x: layers.RNN([layers.LSTMCell(4), layers.GRUCell(3)])(x),
            "Bidirectional": lambda x: layers.Bidirectional(layers.GRU(3), merge_mode="sum")(x),
            "TimeDistributed": lambda x: layers.TimeDistributed(layers.Dense(4, "tanh"))(x),
            "Masking": lambda x: layers.LSTM(4)(layers.Masking()(x)),
            "Attention": lambda x: layers.Attention(use_scale=True, dropout=0.1)([x, layers.Dense(6)(x)]),
            "AdditiveAttention": lambda x: layers.AdditiveAttention()([x, layers.Dense(6)(x)]),
            "MultiHeadAttention": lambda x: layers.MultiHeadAttention(2, 3, dropout=0.1)(x, x, use_causal_mask=True),
            "GroupQueryAttention": lambda x: layers.GroupQueryAttention(3, 4, 2)(x, x),
        },
    ),
    (
        IMAGE,
        {
            "Conv2D": made(layers.Conv2D, 4, 3, strides=2, padding="same", activation="relu"),
            "Conv2DTranspose": made(layers.Conv2DTranspose, 4, 3, strides=2),
            "DepthwiseConv2D": made(layers.DepthwiseConv2D, 3, depth_multiplier=2),
            "SeparableConv2D": made(layers.SeparableConv2D, 4, 3),
            "AveragePooling2D": made(layers.AveragePooling2D, 2, padding="same"),
            "MaxPooling2D": made(layers.MaxPooling2D),
            "MaxPooling2D-overlapping": made(layers.MaxPooling2D, 3, strides=2),
            "AdaptiveMaxPooling2D": made(layers.AdaptiveMaxPooling2D, 3),
            "GlobalAveragePooling2D": made(layers.GlobalAveragePooling2D),
            "GlobalMaxPooling2D": made(layers.GlobalMaxPooling2D),
            "Cropping2D": made(layers.Cropping2D, 1),
            "UpSampling2D": made(layers.UpSampling2D, interpolation="bilinear"),
            "ZeroPadding2D": made(layers.ZeroPadding2D, 1),
            "Resizing": made(layers.Resizing, 5, 5),
            "CenterCrop": made(layers.CenterCrop, 5, 5),
            "SpatialDropout2D": made(layers.SpatialDropout2D, 0.4),
            "BatchNormalization-image": made(layers.BatchNormalization),
            "UnitNormalization-axes": made(layers.UnitNormalization, axis=(1, 2)),
            "RandomFlip": made(layers.RandomFlip),
            "RandomContrast": made(layers.RandomContrast, 0.3),
            "RandomTranslation": made(layers.RandomTranslation, 0.2, 0.2),
            "ConvLSTM1D": made(layers.ConvLSTM1D, 3, 3),
        },
    ),
    (
        VOLUME,
        {
            "Conv3D": made(layers.Conv3D, 3, 2),
            "Conv3DTranspose": made(layers.Conv3DTranspose, 3, 2),
            "AveragePooling3D": made(layers.AveragePooling3D, 2),
            "MaxPooling3D": made(layers.MaxPooling3D),
            "GlobalMaxPooling3D": made(layers.GlobalMaxPooling3D),
            "Cropping3D": made(layers.Cropping3D, 1),
            "UpSampling3D": made(layers.UpSampling3D, 2),
            "ZeroPadding3D": made(layers.ZeroPadding3D, 1),
            "SpatialDropout3D": made(layers.SpatialDropout3D, 0.4),
            "ConvLSTM2D": made(layers.ConvLSTM2D, 3, 2),
        },
    ),
]
WORDS = 9
#: Layers for whole numbers below `WORDS`, `[B, 6]`.
NUMBERS: dict[str, Built] = {
    "Embedding": lambda x: layers.LSTM(3)(layers.Embedding(WORDS, 4, mask_zero=True)(x)),
    "Embedding-lora": made(layers.Embedding, WORDS, 4, lora_rank=2),
    "CategoryEncoding": made(layers.CategoryEncoding, WORDS, output_mode="count"),
    "Discretization": made(layers.Discretization, [2, 5]),
    "Hashing": made(layers.Hashing, 5),
    "IntegerLookup": lambda x: layers.Embedding(12, 4)(layers.IntegerLookup(vocabulary=list(range(WORDS)))(x)),
}
#: Layers for strings, `[B]`.
STRINGS: dict[str, Built] = {
    "StringLookup": lambda x: layers.Embedding(6, 4)(layers.StringLookup(vocabulary=["a b", "b c"])(x)),
    "TextVectorization": lambda x: layers.Embedding(6, 4)(
        layers.TextVectorization(vocabulary=["a", "b"], output_sequence_length=4)(x)
    ),
}
#: The layers that no `.h5` holds, each with the reason that `export_h5` gives. Their `.keras` trains on.
NOT_IN_H5 = {
    "Dense-lora": "Shape mismatch in layer",
    "Embedding-lora": "Shape mismatch in layer",
    "UnitNormalization-axes": "comes back with other arguments",
    "Attention": "Error when deserializing class 'Attention'",
    "Masking": "Unknown layer: 'NotEqual'",
    "Embedding": "Unknown layer: 'NotEqual'",
}

CASES: dict[str, tuple[tuple[int, ...], str, Built]] = {
    **{name: (shape, "float32", layer) for shape, table in FLOATS for name, layer in table.items()},
    **{name: (LINE, "int64", layer) for name, layer in NUMBERS.items()},
    **{name: ((), "string", layer) for name, layer in STRINGS.items()},
}


def feed_of(shape: tuple[int, ...], dtype: str) -> Any:
    rng = np.random.default_rng(0)
    if dtype == "string":
        x = rng.choice(["a b", "b c", "c"], 20)
    else:
        x = rng.integers(0, WORDS, (20, *shape)) if dtype == "int64" else rng.uniform(size=(20, *shape))
        x = x.astype(dtype)
    return array_feed(x, rng.uniform(size=(20, 1)).astype("float32"), batch_size=8)


def model_of(name: str) -> keras.Model:
    """A model around the layer. Each call makes new layers with the same first weights and seeds."""
    shape, dtype, layer = CASES[name]
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    inputs = keras.Input(shape, dtype=dtype)
    x = layers.Dense(shape[-1])(inputs) if dtype == "float32" else inputs
    x = layer(x)
    x = layers.Rescaling(1.0)(x) if x.dtype != "float32" else x
    return keras.Model(inputs, layers.Dense(1)(layers.Flatten()(x)))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_layer_trains_like_fit_and_its_export_trains_on(name: str, tmp_path: pathlib.Path) -> None:
    feed = feed_of(*CASES[name][:2])
    fitted = model_of(name)
    fitted.compile(keras.optimizers.Adam(0.01), "mse", **FIT_OPTIONS["graph"])
    model = model_of(name)
    objective = trainer.objective_from_keras("mse").build(model, feed.element_spec)
    state = trainer.TrainState.create(model, keras.optimizers.Adam(0.01), metrics=objective.metrics)
    step = trainer.gradient_step(objective)
    certificate = trainer.certify(fitted, state, step, feed, num_steps=4, execution=trainer.graph(3))
    assert certificate.first_difference is None
    if name in NOT_IN_H5:
        with pytest.raises(NotRebuildable, match=NOT_IN_H5[name]):
            export_h5(state, tmp_path / "model.h5")
        path = export_keras(state, tmp_path / "model.keras")
    else:
        path = export_h5(state, tmp_path / "model.h5")
    loaded = load_h5(path)
    for one in (state, loaded):
        trainer.train(one, feed, step, num_steps=7, execution=trainer.graph(3))
    assert values(loaded) == values(state)


def values(state: trainer.TrainState) -> list[bytes]:
    variables = [*state.model.weights, *state.optimizer.variables, *state.seeds]
    return [tf.convert_to_tensor(variable).numpy().tobytes() for variable in variables]


def sparse() -> tuple[Any, Built]:
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(16, 6)) * (rng.uniform(size=(16, 6)) > 0.5)
    return tf.sparse.from_dense(x.astype("float32")), layers.Dense(5)


def ragged() -> tuple[Any, Built]:
    x = tf.ragged.constant([list(range(1 + i % 5)) for i in range(16)], dtype=tf.int64)
    return x, lambda x: layers.GlobalAveragePooling1D()(layers.Embedding(WORDS, 4)(x))


@pytest.mark.parametrize("kind", [sparse, ragged])
def test_sparse_and_ragged_batches_train_like_fit_and_run_by_graph(kind: Callable[[], tuple[Any, Built]]) -> None:
    models = []
    for _ in range(2):
        keras.utils.clear_session(free_memory=False)
        keras.utils.set_random_seed(0)
        x, body = kind()
        inputs = keras.Input(x.shape[1:], dtype=x.dtype.name, sparse=kind is sparse)
        models.append(keras.Model(inputs, layers.Dense(1)(body(inputs))))
    y = np.random.default_rng(1).uniform(size=(16, 1)).astype("float32")
    feed = Composites(tf.data.Dataset.from_tensor_slices({"x": x, "y": y}).batch(8))
    fitted, model = models
    fitted.compile(keras.optimizers.SGD(0.1), "mse", **FIT_OPTIONS["graph"])
    objective = trainer.objective_from_keras("mse").build(model, feed.element_spec)
    state = trainer.TrainState.create(model, keras.optimizers.SGD(0.1), metrics=objective.metrics)
    step = trainer.gradient_step(objective)
    certificate = trainer.certify(fitted, state, step, feed, num_steps=4, execution=trainer.graph(3))
    assert certificate.first_difference is None
    with pytest.raises(trainer.TrainingError, match=f"the feed gives {type(x).__name__}; use execution=graph"):
        trainer.xla()(state, step, feed)
    choice = trainer.choose(state, step, feed, {"graph": trainer.graph(), "xla": trainer.xla()}, steps=2, repeats=1)
    assert choice.name == "graph"


class Composites:
    """A feed of sparse or ragged batches, from a dataset of one epoch."""

    steps_per_epoch, examples_per_epoch, end = 2, 16, None

    def __init__(self, dataset: tf.data.Dataset) -> None:
        self.dataset, self.element_spec = dataset, dataset.element_spec

    def __call__(self, start_step: int = 0) -> tf.data.Dataset:
        return self.dataset.repeat().skip(start_step)

    def stacked(self, k: int) -> Any:
        raise NotImplementedError
