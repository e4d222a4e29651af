"""What saving costs: training with a checkpoint every 100 steps against training without one.

Also measures for how long an asynchronous save of a large state stalls training.

    python benchmarks/checkpoint_cost.py --data_dir=~/tensorflow_datasets

Prints one JSON object. Three ways take turns on the same model and feed: never saving, saving, and saving
asynchronously. A block takes 100 steps. With a checkpoint, it begins with a save and ends when the save is finished.
The figures are medians over the rounds.
"""

import argparse
import json
import pathlib
import statistics
import tempfile
import time

import keras
import numpy as np
import turns

from loopwright import data, trainer

EVERY = 100


def seconds(state, execute, checkpoint) -> float:
    """The seconds of `EVERY` steps and, with a checkpoint, of one save."""
    start = time.perf_counter()
    done = 0
    if checkpoint is not None:
        checkpoint(state, {})
    while done < EVERY:
        done += execute(EVERY - done)
    state.step.numpy()
    if checkpoint is not None:
        checkpoint.wait()
    return time.perf_counter() - start


def cost(name: str, data_dir: str | None, rounds: int) -> dict:
    dataset = data.load(name, data_dir=data_dir)
    state, step = turns.job(dataset, "cnn")
    feed = dataset.train_feed(batch_size=32, seed=0)
    execute = trainer.graph(50)(state, step, feed)
    with tempfile.TemporaryDirectory() as folder:
        ways = {
            "never": None,
            "synchronous": trainer.Checkpoint(pathlib.Path(folder) / "sync"),
            "asynchronous": trainer.Checkpoint(pathlib.Path(folder) / "async", asynchronous=True),
        }
        blocks = {
            name: lambda checkpoint=checkpoint: seconds(state, execute, checkpoint) for name, checkpoint in ways.items()
        }
        times = turns.take_turns(blocks, rounds)
    return {
        "every": EVERY,
        "rounds": rounds,
        "seconds": {name: statistics.median(t) for name, t in times.items()},
        **{name: turns.ratio(times, name, "never") for name in ways if name != "never"},
    }


def stall(parameters: int, repeats: int) -> dict:
    """The stall of an asynchronous save of so many parameters, against a NumPy copy of the same variables."""
    side = int((parameters // 4) ** 0.5)
    inputs = keras.Input((side,))
    outputs = inputs
    for _ in range(4):
        outputs = keras.layers.Dense(side, use_bias=False)(outputs)
    state = trainer.TrainState.create(keras.Model(inputs, outputs), keras.optimizers.SGD(1e-3))
    variables = [variable.value for variable in state.model.weights]
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = trainer.Checkpoint(folder, asynchronous=True, keep=1)
        stalls, copies, whole = [], [], []
        for number in range(repeats + 1):
            state.step.assign(number)
            start = time.perf_counter()
            checkpoint(state, {})
            stalls.append(time.perf_counter() - start)
            checkpoint.wait()
            whole.append(time.perf_counter() - start)
            start = time.perf_counter()
            copied = [np.array(variable) for variable in variables]
            copies.append(time.perf_counter() - start)
            del copied
    return {
        "parameters": state.model.count_params(),
        "stall_seconds": statistics.median(stalls[1:]),
        "first_stall_seconds": stalls[0],
        "copy_seconds": statistics.median(copies[1:]),
        "commit_seconds": statistics.median(whole[1:]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="mnist_5k", help="images:cifar_shaped for images of CIFAR-10's shape")
    parser.add_argument("--data_dir")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--parameters", type=int, default=100_000_000)
    arguments = parser.parse_args()
    result = {
        "cost": cost(arguments.dataset, arguments.data_dir, arguments.rounds),
        "stall": stall(arguments.parameters, 3),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
