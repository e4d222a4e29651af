"""The networks of `keras.applications`, by name, with their own preprocessing and a new head. Their weights are random."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras

PREFIX = "keras.applications:"
#: Every network, and the mode in which its own `preprocess_input` scales pixels. `""` means that the network does it inside.
NAMES = {
    **dict.fromkeys(("ConvNeXtTiny", "ConvNeXtSmall", "ConvNeXtBase", "ConvNeXtLarge", "ConvNeXtXLarge"), ""),
    **dict.fromkeys(("DenseNet121", "DenseNet169", "DenseNet201"), "torch"),
    **dict.fromkeys([f"EfficientNetB{size}" for size in range(8)], ""),
    **dict.fromkeys([f"EfficientNetV2{size}" for size in ("B0", "B1", "B2", "B3", "S", "M", "L")], ""),
    **dict.fromkeys(("InceptionResNetV2", "InceptionV3"), "tf"),
    **dict.fromkeys(("MobileNet", "MobileNetV2"), "tf"),
    **dict.fromkeys(("MobileNetV3Large", "MobileNetV3Small"), ""),
    **dict.fromkeys(("NASNetLarge", "NASNetMobile"), "tf"),
    **dict.fromkeys(("ResNet50", "ResNet101", "ResNet152", "VGG16", "VGG19"), "caffe"),
    **dict.fromkeys(("ResNet50V2", "ResNet101V2", "ResNet152V2", "Xception"), "tf"),
}
#: The least height and width in pixels; 32 for all others.
_LEAST = {"InceptionResNetV2": 75, "InceptionV3": 75, "Xception": 71}
#: Of ImageNet: red, green, blue.
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CAFFE_MEAN = (103.939, 116.779, 123.68)  # blue, green, red


def build(name: str, input_shape: tuple[int, ...], num_classes: Any) -> keras.Model:
    """The network over raw pixels from 0 to 255, ending in logits `[B, num_classes]` float32.

    The network itself is the layer `backbone`, and the paths of its variables begin with `backbone/`. The new layer is
    `head`. An image of one channel is repeated to three.

    Raises ValueError for images that are too small, and for other numbers of channels.
    """
    import keras

    from loopwright.models.head import head

    least = _LEAST.get(name, 32)
    if len(input_shape) != 3 or input_shape[-1] not in (1, 3):
        raise ValueError("it takes images of 1 or 3 channels")
    if min(input_shape[:2]) < least:
        raise ValueError(f"its images have at least {least}x{least} pixels; give image_size={least},{least}")
    inputs = keras.Input(input_shape)
    x = keras.layers.Concatenate()([inputs] * 3) if input_shape[-1] == 1 else inputs
    x = _preprocessed(x, NAMES[name])
    with keras.name_scope("backbone"):
        network = getattr(keras.applications, name)(
            include_top=False, weights=None, input_shape=tuple(x.shape[1:]), pooling="avg"
        )
    network.name = "backbone"  # EfficientNetV2 looks its blocks up by the name that it is given
    return keras.Model(inputs, head(network(x), num_classes), name=name.lower())


def _preprocessed(x: Any, mode: str) -> Any:
    """Pixels `[B, H, W, 3]` as `keras.applications.imagenet_utils.preprocess_input` scales them in a mode."""
    from keras import layers

    if mode == "tf":
        return layers.Rescaling(1 / 127.5, offset=-1.0)(x)
    if mode == "torch":
        factors = [1 / (255 * deviation) for deviation in _DEVIATION]
        shifts = [-mean / deviation for mean, deviation in zip(_MEAN, _DEVIATION, strict=True)]
        return layers.Rescaling(factors, offset=shifts)(x)
    if mode == "caffe":
        return layers.Rescaling(1.0, offset=[-mean for mean in _CAFFE_MEAN])(_swapped(x))
    return x


def _swapped(x: Any) -> Any:
    """The channels red, green, blue as blue, green, red, with plain layers that every export can hold."""
    from keras import layers

    x = layers.Permute((3, 1, 2))(x)
    planes = [layers.Cropping2D(((plane, 2 - plane), (0, 0)))(x) for plane in (2, 1, 0)]
    return layers.Permute((2, 3, 1))(layers.Concatenate(axis=1)(planes))
