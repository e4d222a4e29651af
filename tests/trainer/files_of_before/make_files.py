"""Makes the files in this folder, with the version before. Not a test: run it by hand.

    git clone --branch COMMIT REPOSITORY /tmp/before && cd /tmp/before && make test   # the version before, installed
    .venv/bin/python TODAY/tests/trainer/files_of_before/make_files.py DATA_DIR

DATA_DIR holds `mnist_5k`, or gets it. The files are committed; `tests/trainer/test_files_of_before.py` reads them with
today's version. Make them again when a release changes what it writes, from the release before, and keep them small.

- `checkpoints/00000020/` is a whole checkpoint with the hash of every tensor.
- `model.h5` is `export_h5` of the same state, and `model.weights.h5` is `export_weights` of its model.
- `expected.npz` holds every tensor of that state (`saved/NAME`), the weights after 5 more steps (`after/NAME`), inputs
  (`inputs`) and the model's outputs for them (`outputs`).
- `run/` is a folder of `loopwright train`, stopped at step 30, without what its next start doesn't read.
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import small_state
import tensorflow as tf

from loopwright import trainer

HERE = pathlib.Path(__file__).resolve().parent
#: Bytes of an event with a picture in it.
LARGE_EVENT = 5000


def make_state_files() -> None:
    """A checkpoint, the `.h5` files, and what they must hold."""
    job = small_state.Job()
    state = job.state
    job.train(small_state.SAVED_STEP)
    trainer.Checkpoint(HERE / "checkpoints", hash_tensors=True, evaluation=lambda: job.evaluate.last).save(state)
    trainer.export_h5(state, HERE / "model.h5", loss=small_state.loss(), metrics=["accuracy"], facts={"note": "before"})
    trainer.export_weights(state.model, HERE / "model.weights.h5")
    saved = state.tensors()
    inputs = np.random.default_rng(1).random((5, 4, 4, 1), np.float32)
    outputs = np.asarray(state.model(inputs, training=False))
    job.train(small_state.SAVED_STEP + small_state.MORE_STEPS)
    expected = {f"saved/{name}": value for name, value in saved.items()}
    expected |= {f"after/{name}": value for name, value in state.tensors().items() if name.startswith("model/")}
    np.savez_compressed(HERE / "expected.npz", inputs=inputs, outputs=outputs, **expected)


def make_run(data_dir: str) -> None:
    """A run's folder, with paths and names of this machine taken out."""
    command = str(pathlib.Path(sys.executable).with_name("loopwright"))
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(HERE / "small_state.py", folder)
        pathlib.Path(folder, "data").symlink_to(pathlib.Path(data_dir).resolve())
        flags = [*small_state.RUN_FLAGS, "--train_steps=30", "--data_dir=data", "--workdir=run"]
        subprocess.run([command, *flags], cwd=folder, check=True)
        run = pathlib.Path(folder) / "run"
        for name in ("predictions.npz", "lock", "exports", "tensorboard/events.out.tfevents.0000000000.about"):
            path = run / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in list((run / "tensorboard").rglob("*tfevents*")):
            without_pictures(path)
        facts = json.loads((run / "run.json").read_text()) | {"host": "host", "platform": "Linux"}
        (run / "run.json").write_text(json.dumps(facts, indent=1) + "\n")
        shutil.copytree(run, HERE / "run")


def without_pictures(path: pathlib.Path) -> None:
    """Writes an event file again without its large events, under a name without this machine's."""
    records = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
    seconds, process = path.name.split(".")[3], path.name.rpartition(".")[2]
    path.unlink()
    with tf.io.TFRecordWriter(str(path.with_name(f"events.out.tfevents.{seconds}.host.{process}"))) as writer:
        for record in records:
            if len(record) < LARGE_EVENT:
                writer.write(record)


if __name__ == "__main__":
    for made in ("checkpoints", "run"):
        shutil.rmtree(HERE / made, ignore_errors=True)
    make_state_files()
    make_run(sys.argv[1])
