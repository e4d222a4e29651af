"""Thirty lines that train your own Keras model on your own arrays. Give a folder, and the same command resumes there.

python examples/train_your_model.py [FOLDER]
"""

import sys
import tempfile

import keras
import numpy as np

from loopwright import trainer
from loopwright.data import array_feed

folder = sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()
rng = np.random.default_rng(0)
x = rng.normal(size=(4_000, 20)).astype("float32")
y = (x[:, :3].sum(axis=1) > 0).astype("int64")

keras.utils.set_random_seed(0)
model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(64, "relu"), keras.layers.Dense(2)])
state = trainer.TrainState.create(model, keras.optimizers.Adam(1e-3))
objective = trainer.classification(from_logits=True)
feed = array_feed(x[:3_000], y[:3_000], batch_size=32, seed=0)
eval_feed = array_feed(x[3_000:], y[3_000:], batch_size=250, shuffle=False)
evaluate = trainer.Evaluate(eval_feed, objective)

with trainer.Run(folder, state, monitor="accuracy") as run:
    trainer.train(
        state,
        feed,
        trainer.gradient_step(objective),
        num_steps=500,
        execution=trainer.graph(clock=run.clock),
        hooks=run.hooks(evaluate, feed=feed, num_steps=500, eval_every=100, checkpoint_every=100),
    )
# The same in one call: trainer.fit(model, "adam", objective, feed, eval_feed, epochs=5, workdir=folder)
print(f"accuracy {trainer.evaluate(state, eval_feed, objective)['accuracy']:.3f}")
