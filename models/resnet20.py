"""ResNet-20 for CIFAR (He et al. 2016, section 4.2): 3 stages of 3 blocks, identity shortcuts without parameters."""

from typing import Any

import keras
from keras import layers


def resnet20(input_shape: tuple[int, ...], num_classes: int) -> keras.Model:
    """The 20-layer residual network with batch norm, ending in logits `[B, num_classes]` float32.

    It has 0.27 million parameters. L2 regularisation of 1e-4 on kernels is part of the model, as in the paper.
    """
    inputs = keras.Input(input_shape)
    x = _conv(inputs, 16)
    for stage, filters in enumerate((16, 32, 64)):
        for block in range(3):
            stride = 2 if stage > 0 and block == 0 else 1
            y = _conv(x, filters, stride)
            y = _conv(y, filters, activation=False)
            if stride > 1:
                x = layers.AveragePooling2D(1, strides=stride)(x)
                x = _pad_channels(x, filters)
            x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    outputs = layers.Dense(num_classes, dtype="float32")(x)
    return keras.Model(inputs, outputs, name="resnet20")


def _conv(x: Any, filters: int, stride: int = 1, *, activation: bool = True) -> Any:
    x = layers.Conv2D(
        filters,
        3,
        strides=stride,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        kernel_regularizer=keras.regularizers.L2(1e-4),
    )(x)
    x = layers.BatchNormalization()(x)
    return layers.ReLU()(x) if activation else x


def _pad_channels(x: Any, filters: int) -> Any:
    """Adds zero channels on both sides (shortcut A of the paper), with plain layers that every export can hold."""
    missing = filters - x.shape[-1]
    x = layers.Permute((3, 1, 2))(x)
    height, width = x.shape[2], x.shape[3]
    x = layers.Reshape((x.shape[1], height * width))(x)
    x = layers.ZeroPadding1D((missing // 2, missing - missing // 2))(x)
    x = layers.Reshape((filters, height, width))(x)
    return layers.Permute((2, 3, 1))(x)
