"""A small GAN: one step trains two models with two optimizers.

Run it again with the same folder, and it goes on where it stopped.

python examples/train_gan.py [FOLDER] [STEPS]
"""

import sys

import keras
import numpy as np
import tensorflow as tf

from loopwright import trainer
from loopwright.data import array_feed

folder = sys.argv[1] if len(sys.argv) > 1 else "runs/gan"
num_steps = int(sys.argv[2]) if len(sys.argv) > 2 else 1_500

# The real data: points around (2, -1).
rng = np.random.default_rng(0)
points = rng.normal((2.0, -1.0), (0.5, 0.2), size=(4_000, 2)).astype("float32")
feed = array_feed(points, np.zeros(len(points)), batch_size=64, seed=0)

keras.utils.set_random_seed(0)
dense, dropout = keras.layers.Dense, keras.layers.Dropout
generator = keras.Sequential([keras.Input((4,)), dense(32, "relu"), dense(2)])
discriminator = keras.Sequential([keras.Input((2,)), dense(32, "relu"), dropout(0.1), dense(1)])
discriminator_optimizer = keras.optimizers.Adam(1e-3, beta_1=0.5)
discriminator_optimizer.build(discriminator.trainable_variables)
state = trainer.TrainState.create(
    generator,
    keras.optimizers.Adam(1e-3, beta_1=0.5),
    extras={"discriminator": discriminator, "discriminator_optimizer": discriminator_optimizer},
)
cross_entropy = keras.losses.BinaryCrossentropy(from_logits=True)


def step(state, batch):
    """One update of the discriminator and one of the generator. All variables that it changes are in the state."""
    rows = tf.shape(batch["x"])[0]
    noise = tf.random.stateless_normal([rows, 4], tf.stack([0, state.step]))  # the step is the seed
    with tf.GradientTape(persistent=True) as tape:
        fake = generator(noise, training=True)
        on_real, on_fake = discriminator(batch["x"], training=True), discriminator(fake, training=True)
        yes, no = tf.ones_like(on_real), tf.zeros_like(on_real)
        discriminator_loss = cross_entropy(yes, on_real) + cross_entropy(no, on_fake)
        generator_loss = cross_entropy(yes, on_fake)
    for model, optimizer, loss in (
        (discriminator, discriminator_optimizer, discriminator_loss),
        (generator, state.optimizer, generator_loss),
    ):
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
    one = tf.constant(1.0)
    return {"discriminator_loss": (discriminator_loss, one), "generator_loss": (generator_loss, one)}


with trainer.Run(folder, state) as run:
    trainer.train(
        state,
        feed,
        step,
        num_steps=num_steps,
        execution=trainer.graph(clock=run.clock),
        hooks=run.hooks(None, feed=feed, num_steps=num_steps, log_every=250, checkpoint_every=500),
    )
points_made = generator(tf.random.stateless_normal([1_000, 4], [0, 0])).numpy()
centre = points_made.mean(axis=0)
print(f"made points around ({centre[0]:.2f}, {centre[1]:.2f}); the real points lie around (2.00, -1.00)")
