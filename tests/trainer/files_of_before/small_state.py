"""A small model, a small state and a small run. Only public names are used, so both versions build the same."""

from typing import Any

import keras
import numpy as np
from keras import layers

from loopwright import data, trainer

#: Steps up to the saved state, and steps that are trained from there.
SAVED_STEP, MORE_STEPS = 20, 5
CLASSES = 3

#: The flags of the run, without those that name its folders and its length.
RUN_FLAGS = (
    *("train", "--model=small_state:small_model", "--dataset=mnist_5k", "--batch_size=32", "--seed=3"),
    *("--log_every=10", "--eval_every=15", "--checkpoint_every=15", "--keep=1", "--log_samples", "--early_stop=100"),
    *("--pictures_every=1000", "--execution=graph", "--progress=none"),
)

RNG = np.random.default_rng(0)
FEED = data.array_feed(
    RNG.integers(0, 256, (70, 4, 4, 1), np.uint8), RNG.integers(0, CLASSES, 70), batch_size=16, seed=5
)
FEED_IN_ORDER = data.array_feed(
    RNG.integers(0, 256, (30, 4, 4, 1), np.uint8), RNG.integers(0, CLASSES, 30), batch_size=15, shuffle=False
)


def small_model(input_shape: Any, num_classes: int) -> keras.Model:
    """About 800 weights for images of MNIST, with batch norm and dropout.

    No bias comes before the batch norm: its gradient would be noise, which Adam would turn into whole steps.
    """
    stack = [
        layers.AveragePooling2D(max(1, input_shape[0] // 8), name="pool"),
        layers.Flatten(name="flatten"),
        layers.Dense(8, use_bias=False, name="hidden"),
        layers.BatchNormalization(name="norm"),
        layers.Activation("relu", name="relu"),
        layers.Dropout(0.3, name="dropout"),
        layers.Dense(num_classes, name="logits"),
    ]
    return keras.Sequential([keras.Input(input_shape), *stack], name="small")


def loss() -> keras.losses.Loss:
    """What plain Keras compiles the exported model with."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Job:
    """A state with Adam, a schedule, an AUC and an early stop among its extras, and what trains it."""

    def __init__(self) -> None:
        keras.utils.clear_session(free_memory=False)
        keras.utils.set_random_seed(3)
        model = small_model((4, 4, 1), CLASSES)
        schedule = trainer.make_schedule("cosine", 1e-2, warmup_steps=5, total_steps=40)
        self.metrics = [keras.metrics.AUC(num_thresholds=5, multi_label=True, num_labels=CLASSES, name="auc")]
        self.objective = trainer.classification(from_logits=True, metrics=self.metrics)
        self.evaluate = trainer.Evaluate(FEED_IN_ORDER, self.objective)
        self.early_stop = trainer.early_stop(self.evaluate, "auc", 100)
        self.state = trainer.TrainState.create(
            model,
            trainer.make_optimizer("adam", schedule),
            metrics=self.metrics,
            extras={"early_stop": self.early_stop},
        )

    def train(self, num_steps: int) -> None:
        """Trains up to a step, with an evaluation every 3 steps."""
        hooks = [trainer.every(3, self.evaluate), trainer.every(3, self.early_stop, at_last=False)]
        step = trainer.gradient_step(self.objective)
        trainer.train(self.state, FEED, step, num_steps=num_steps, execution=trainer.graph(), hooks=hooks)
