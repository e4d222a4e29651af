"""The network `cnn` under Orbit: its controller's inner loop, 50 steps a call.

A line with a number of steps is answered with their seconds, as JSON.
"""

import importlib.metadata
import json
import os
import sys
import time

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

import numpy as np
import orbit
import tensorflow as tf
import tf_keras

batch_size, steps = (int(word) for word in sys.argv[1:])
tf_keras.utils.set_random_seed(0)
layers = tf_keras.layers
model = tf_keras.Sequential(
    [
        tf_keras.Input((32, 32, 3)),
        *(layers.Conv2D(32, 3, activation="relu"), layers.MaxPooling2D(), layers.Dropout(0.2)),
        *(layers.Conv2D(64, 3, activation="relu"), layers.MaxPooling2D(), layers.Conv2D(64, 3, activation="relu")),
        *(layers.Flatten(), layers.Dense(64, activation="relu"), layers.Dense(10)),
    ]
)
rng = np.random.default_rng(0)
images, labels = rng.integers(0, 256, (10_000, 32, 32, 3), np.uint8), rng.integers(0, 10, 10_000)
dataset = tf.data.Dataset.from_tensor_slices((images, labels)).cache().shuffle(10_000).repeat().batch(batch_size)
dataset = dataset.map(lambda x, y: (tf.cast(x, tf.float32) * (1 / 255), y), num_parallel_calls=tf.data.AUTOTUNE)


class Trainer(orbit.StandardTrainer):
    """Loss and accuracy as Orbit's users keep them: metrics, read at the end of a loop."""

    def __init__(self) -> None:
        self.optimizer = tf_keras.optimizers.Adam()
        self.loss = tf_keras.metrics.Mean("loss")
        self.accuracy = tf_keras.metrics.SparseCategoricalAccuracy("accuracy")
        super().__init__(dataset.prefetch(tf.data.AUTOTUNE))

    def train_loop_begin(self) -> None:
        self.loss.reset_state()
        self.accuracy.reset_state()

    def train_step(self, iterator) -> None:
        x, y = next(iterator)
        with tf.GradientTape() as tape:
            predictions = model(x, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, predictions))
        variables = model.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        self.loss.update_state(loss)
        self.accuracy.update_state(y, predictions)

    def train_loop_end(self) -> dict:
        return {"loss": self.loss.result(), "accuracy": self.accuracy.result()}


trainer = Trainer()


def lap(steps: int) -> float:
    """Trains for some steps, in calls of up to 50."""
    start = time.perf_counter()
    for done in range(0, steps, 50):
        result = trainer.train(tf.constant(min(50, steps - done)))
    print({name: float(value) for name, value in result.items()}, file=sys.stderr)
    return time.perf_counter() - start


lap(steps)
print(json.dumps({"version": importlib.metadata.version("tf-models-official")}), flush=True)
for line in sys.stdin:
    if line.strip() == "end":
        break
    print(json.dumps({"seconds": lap(int(line))}), flush=True)
