"""Images with the shapes of CIFAR-10, for timing on a machine that can't download it: 10,000 random images.

    loopwright benchmark --dataset=benchmarks.images:cifar_shaped --model=cnn

The time of a step depends on shapes and types, not on what the pictures show. These are uint8 `[32, 32, 3]` of ten
classes, in memory, in the same feed that `--dataset=cifar10` would get. Each class shifts the colours, so a model can
learn something. The accuracy says nothing about the model; use a real dataset for that.
"""

from __future__ import annotations

import numpy as np

from loopwright.data.feed import Feed, array_feed


def cifar_shaped(split: str, batch_size: int, seed: int) -> Feed:
    """The feed over 10,000 images for training, or 1,000 images for any other split."""
    train = split == "train"
    rng = np.random.default_rng(0 if train else 1)
    labels = rng.integers(0, 10, 10_000 if train else 1_000)
    # Bytes from the start. Images in int64 would be the peak of a process's memory, whatever it trains afterwards.
    colours = np.random.default_rng(2).integers(0, 64, (10, 1, 1, 3), np.uint8)
    images = rng.integers(0, 192, (len(labels), 32, 32, 3), np.uint8)
    for image, label in zip(images, labels, strict=True):
        image += colours[label]
    return array_feed(images, labels, batch_size, seed=seed, shuffle=train, drop_remainder=train)


cifar_shaped.class_names = tuple("0123456789")  # type: ignore[attr-defined]
