"""A check on the benchmark's row `fit`: the same job with nothing but `model.fit`, timed by its epochs.

    python benchmarks/fit_alone.py --dataset=mnist_5k --model=mlp --batch_size=32

With `--turns` every epoch waits for a line on stdin, so that peers.py can let this script and the row take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.append(".")  # for --dataset=benchmarks.images:cifar_shaped

import keras
import tensorflow as tf

from loopwright import data, models

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
for name, default in (("dataset", "mnist_5k"), ("model", "mlp"), ("batch_size", 32), ("steps", 200), ("epochs", 10)):
    parser.add_argument(f"--{name}", default=default, type=type(default))
parser.add_argument("--turns", action="store_true")
flags = parser.parse_args()
dataset = data.load(flags.dataset)

# This is all: a compiled model, batches, fit, and a clock at both ends of an epoch.
model = models.create(flags.model, dataset.input_shape, dataset.num_classes)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=not models.ends_in_probabilities(flags.model, model))
model.compile("adam", loss, metrics=["accuracy"])
feed = dataset.train_feed(flags.batch_size, drop_remainder=True)
batches = feed().map(lambda batch: (batch["x"], batch["y"])).prefetch(tf.data.AUTOTUNE)
seconds: list[float] = []


class Mark(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        self.model.stop_training = flags.turns and epoch > 0 and not sys.stdin.readline()[:-1].isdigit()
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        seconds.append(time.perf_counter() - self.start)
        if flags.turns:
            print(json.dumps({"version": keras.__version__, "seconds": seconds[-1]}), flush=True)


model.fit(batches, steps_per_epoch=flags.steps, epochs=flags.epochs + 1, verbose=0, callbacks=[Mark()])

if not flags.turns:
    print(json.dumps({**vars(flags), "ms_per_step": statistics.median(seconds[1:]) / flags.steps * 1e3}))
