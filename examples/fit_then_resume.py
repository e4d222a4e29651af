"""For those who stay with `fit`: an .h5 from which training goes on exactly, where `model.save` loses the optimizer."""

import tempfile

import keras
import numpy as np

from loopwright import trainer

rng = np.random.default_rng(0)
x = rng.normal(size=(3_000, 20)).astype("float32")
y = (x[:, :3].sum(axis=1) > 0).astype("int64")


def new_model():
    keras.utils.set_random_seed(0)
    layers = [keras.Input((20,)), keras.layers.Dense(64, "relu"), keras.layers.Dropout(0.2), keras.layers.Dense(2)]
    model = keras.Sequential(layers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer="adam", loss=loss, metrics=["accuracy"])
    return model


def fit(model, epochs):
    model.fit(x, y, epochs=epochs, shuffle=False, verbose=0)


straight = new_model()
fit(straight, epochs=3)

model = new_model()
fit(model, epochs=2)
with tempfile.TemporaryDirectory() as folder:
    trainer.export_h5(model, f"{folder}/model.h5")  # instead of model.save
    resumed = trainer.load_h5(f"{folder}/model.h5").model  # instead of keras.models.load_model
    fit(resumed, epochs=1)

    model.save(f"{folder}/plain.h5")  # a file that you have already; plain Keras can't go on from it
    repaired = trainer.repair_h5(f"{folder}/plain.h5").model
    fit(repaired, epochs=1)

same = all(np.array_equal(a, b) for a, b in zip(resumed.get_weights(), straight.get_weights(), strict=True))
print(f"accuracy {resumed.evaluate(x, y, verbose=0)[1]:.3f}, repaired {repaired.evaluate(x, y, verbose=0)[1]:.3f}")
print("2 epochs, a file, 1 epoch:", "the weights of 3 epochs, to the bit" if same else "other weights")
