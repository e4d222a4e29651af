"""Thirty lines: your own Keras model and arrays, trained by the loop, without a flag."""

import keras
import numpy as np

from loopwright import trainer
from loopwright.data.feed import array_feed

rng = np.random.default_rng(0)
x = rng.normal(size=(4_000, 20)).astype("float32")
y = (x[:, :3].sum(axis=1) > 0).astype("int64")

keras.utils.set_random_seed(0)
model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(64, "relu"), keras.layers.Dense(2)])
state = trainer.TrainState.create(model, keras.optimizers.Adam(1e-3))
objective = trainer.classification(from_logits=True)
train_feed = array_feed(x[:3_000], y[:3_000], batch_size=32, seed=0)
eval_feed = array_feed(x[3_000:], y[3_000:], batch_size=250, shuffle=False)


def show(state, metrics):
    print(f"step {int(state.step)}: loss {float(metrics['loss']):.4f}")


trainer.train(
    state,
    train_feed,
    trainer.gradient_step(objective),
    num_steps=500,
    execution=trainer.graph(),
    hooks=[trainer.every(100, show)],
)
print(f"accuracy {trainer.evaluate(state, eval_feed, objective)['accuracy']:.3f}")
