"""A step with a replay memory: it learns from earlier samples again while the classes arrive one after another.

Run it again with the same folder, and it goes on where it stopped.

python examples/replay_memory.py [FOLDER] [STEPS]
"""

import sys

import keras
import numpy as np
import tensorflow as tf

from loopwright import trainer
from loopwright.data import array_feed

folder = sys.argv[1] if len(sys.argv) > 1 else "runs/replay"
num_steps = int(sys.argv[2]) if len(sys.argv) > 2 else 300

# Three classes. All samples of one class come before those of the next. Without a memory, the model forgets the others.
rng = np.random.default_rng(0)
y = np.repeat(np.arange(3), 3_200)
x = (rng.normal(size=(len(y), 2)) * 0.5 + np.array([[0, 0], [2, 0], [0, 2]])[y]).astype("float32")
feed = array_feed(x, y, batch_size=32, shuffle=False)
eval_feed = array_feed(x[::8], y[::8], batch_size=400, shuffle=False)


class Memory(tf.Module):
    """Earlier samples, one from each of the newest batches. They are variables, so a checkpoint holds them.

    Attributes:
      x, y: the inputs and labels of the samples.
      seen: the number of samples that were stored so far. The newest sample replaces the oldest one.
    """

    def __init__(self, size):
        super().__init__()
        self.x = tf.Variable(tf.zeros([size, 2]), trainable=False)
        self.y = tf.Variable(tf.zeros([size], tf.int64), trainable=False)
        self.seen = tf.Variable(0, dtype=tf.int64, trainable=False)


keras.utils.set_random_seed(0)
model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(3)])
state = trainer.TrainState.create(model, keras.optimizers.Adam(1e-2), extras={"memory": Memory(300)})
objective = trainer.classification(from_logits=True)
update = trainer.gradient_step(objective)


def step(state, batch):
    """One update on the batch and 32 samples from memory. Then the first sample of the batch goes into the memory."""
    memory = state.extras["memory"]
    seed = tf.stack([0, state.step])  # the step decides what is drawn, so a resumed run draws the same samples
    filled = tf.clip_by_value(memory.seen, 1, 300)
    drawn = tf.random.stateless_uniform([32], seed, maxval=filled, dtype=tf.int64)
    old = {"x": tf.gather(memory.x, drawn), "y": tf.gather(memory.y, drawn)}
    both = {key: tf.concat([batch[key], old[key]], axis=0) for key in ("x", "y")}
    metrics = update(state, both)
    place = memory.seen % 300
    memory.x.scatter_nd_update([[place]], batch["x"][:1])
    memory.y.scatter_nd_update([[place]], batch["y"][:1])
    memory.seen.assign_add(1)
    return metrics


evaluate = trainer.Evaluate(eval_feed, objective)
with trainer.Run(folder, state, monitor="accuracy") as run:
    trainer.train(
        state,
        feed,
        step,
        num_steps=num_steps,
        execution=trainer.graph(clock=run.clock),
        hooks=run.hooks(evaluate, feed=feed, num_steps=num_steps, eval_every=100, checkpoint_every=100),
    )
print(f"accuracy {trainer.evaluate(state, eval_feed, objective)['accuracy']:.3f}")
