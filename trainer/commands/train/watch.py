"""What watches a training run: the writers of its records, and the hooks that show more than numbers."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from loopwright import flags, models

if TYPE_CHECKING:
    from loopwright.data import Dataset, Feed
    from loopwright.trainer.base.clock import Clock
    from loopwright.trainer.commands.train.build import Job
    from loopwright.trainer.observe.records import Writer

PREDICTIONS = "predictions.npz"
_PICTURES_A_RUN = 5


def profile_steps(text: str | None) -> tuple[int, int] | None:
    """`FIRST:LAST` as two steps. Raises UsageError for anything else."""
    if text is None:
        return None
    first, colon, last = text.partition(":")
    if not (colon and first.isdecimal() and last.isdecimal() and 0 < int(first) < int(last)):
        raise flags.UsageError(f"--profile_steps={text}: write FIRST:LAST, such as --profile_steps=100:110")
    return int(first), int(last)


class Watch:
    """The writers and hooks of one process of a run; as a context manager it keeps the seconds of the block.

    Args:
      config: of the run, everything resolved.
      folder: its workdir.
      num_steps: the absolute last step.
    """

    def __init__(
        self, config: flags.Config, folder: pathlib.Path, job: Job, dataset: Dataset, clock: Clock, num_steps: int
    ) -> None:
        from loopwright import trainer
        from loopwright.trainer.observe.goodput import Goodput

        self.config, self.folder, self.job, self.dataset, self.num_steps = config, folder, job, dataset, num_steps
        self.jsonl = trainer.JsonLines(folder / "metrics.jsonl")
        self.tensorboard = trainer.TensorBoard(folder / "tensorboard")
        self.goodput = Goodput(folder / "goodput.json", clock, tell=self.tensorboard.goodput)
        self.writers: list[Writer] = [self.jsonl, self.tensorboard]

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Writes goodput also of a process that is stopped or fails; what it fails of then is told, and nothing else."""
        with contextlib.suppress(*([OSError] if exc_info[0] is not None else [])):
            self.goodput.save()

    def start(self, step: int, inputs: Any) -> None:
        """Cuts what the run takes back when it goes on from a step, and tells TensorBoard what is trained.

        `inputs` is the spec of a batch's `x`.
        """
        from loopwright.trainer.observe.tensorboard import model_graph

        self.goodput.start(max((record["wall_time"] for record in self.jsonl.read()), default=None))
        self.jsonl.cut(step)
        self.tensorboard.cut(step)
        typed = {**flags.identity(self.config), "train_steps": self.num_steps}
        facts = json.loads((self.folder / "run.json").read_text(encoding="utf-8"))
        texts = {
            "flags": _table(flags.flag_values(self.config)),
            "run": _table({k: v for k, v in facts.items() if k != "layers"}),
        }
        graph = model_graph(self.job.state.model, inputs)
        self.tensorboard.describe("/".join(self.folder.resolve().parts[-2:]), typed, texts, graph)
        self.goodput.save()  # so that what this process loses, if it dies before its first checkpoint, is its own

    def hooks(self, feed: Feed, eval_feed: Feed, *, eval_every: int, checkpoint_every: int) -> list[Any]:
        """What is called after evaluation and before a checkpoint."""
        from loopwright import trainer
        from loopwright.trainer.hooks.board import Histograms, Pictures, Profile

        run, state = self.config.run, self.job.state
        found: list[Any] = []
        timed = self.goodput.clock.timed
        if importlib.util.find_spec("PIL") is None:
            say = "loopwright: no pictures on TensorBoard without the extra 'plots': pip install 'loopwright[plots]'"
            print(say, file=sys.stderr)
        else:
            from_logits = not models.ends_in_probabilities(self.config.model.model, state.model)
            predict = trainer.predictor(state, eval_feed, from_logits=from_logits)
            pictures = Pictures(predict, self.tensorboard, self.dataset.class_names, self.folder / PREDICTIONS)
            often = -(-self.num_steps // (_PICTURES_A_RUN * eval_every)) * eval_every
            found.append(trainer.every(run.pictures_every or often, timed("pictures", pictures)))
        if run.histograms_every is not None:
            histograms = Histograms(self.tensorboard, self.job.objective, feed)
            found.append(trainer.every(run.histograms_every, timed("pictures", histograms)))
        steps = profile_steps(run.profile_steps)
        if steps is not None:
            profile = Profile(self.folder / "tensorboard" / "train", *steps)
            found += [profile, trainer.at_end(profile.stop)]
            if importlib.util.find_spec("xprof") is None:
                print("loopwright: to see the profile, install the extra 'profile'", file=sys.stderr)
        return [*found, trainer.every(checkpoint_every, self.goodput)]


def layers(model: Any) -> list[dict[str, Any]]:
    """The layers of a model as run.json holds them: name, kind, shape of the output where it is known, parameters."""
    found = []
    for layer in model.layers:
        try:
            shape = str(layer.output.shape).replace("None", "batch")
        except (AttributeError, ValueError):  # a layer of a subclassed model, or one with several outputs
            shape = ""
        parameters = sum(math.prod(weight.shape) for weight in layer.weights)
        found.append({"name": layer.name, "kind": type(layer).__name__, "output": shape, "parameters": parameters})
    return found


def _table(values: dict[str, Any]) -> str:
    """Names and values as Markdown; what has no value is left out."""
    rows = [f"| {name} | `{value}` |" for name, value in values.items() if value not in (None, "")]
    return "\n".join(["| name | value |", "| --- | --- |", *rows])
