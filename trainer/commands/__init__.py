"""The roots of the program: one module a command, each with `run(argv) -> exit code`. Importing loads no TensorFlow."""

from typing import NamedTuple


class Command(NamedTuple):
    """Where a command lies and what it does, in a line."""

    module: str
    summary: str


COMMANDS = {
    "train": Command("loopwright.trainer.commands.train.command", "train a model, or go on where its run stopped"),
    "evaluate": Command("loopwright.trainer.commands.evaluate", "metrics of a run's checkpoint or of a model file"),
    "predict": Command("loopwright.trainer.commands.predict", "classify images by a run's checkpoint or an export"),
    "export": Command("loopwright.trainer.commands.export", "write .h5, .keras, SavedModel and LiteRT, each checked"),
    "report": Command("loopwright.trainer.commands.report", "one HTML page about a run, or several side by side"),
    "benchmark": Command("loopwright.trainer.commands.benchmark.command", "the loop against model.fit on the same job"),
    "verify_resume": Command(
        "loopwright.trainer.commands.verify_resume", "kill a run, resume it, and compare it to the bit"
    ),
    "parity": Command(
        "loopwright.trainer.commands.parity", "certify that the loop and model.fit reach the same weights"
    ),
    "models": Command("loopwright.trainer.commands.models", "list the models, or summarise one"),
    "datasets": Command("loopwright.trainer.commands.datasets", "list the datasets, or describe one"),
    "doctor": Command("loopwright.trainer.commands.doctor", "whether this machine is ready, and what to do if not"),
}
