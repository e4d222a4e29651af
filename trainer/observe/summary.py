"""What a run came to: the last and the best numbers, and where the time went. Imports no TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from loopwright.trainer.base.monitor import Monitor


def summarize(records: Sequence[Mapping[str, Any]], goodput: Mapping[str, Any], monitor: Monitor) -> dict[str, Any]:
    """What summary.json holds.

    `train` and `eval` are the newest records of their splits, `best` is the evaluation with the best value of the monitored
    metric, and `examples_per_second` is the median of training. Each is None where there is no such record.
    """
    train = [record for record in records if record["split"] == "train"]
    evals = [record for record in records if record["split"] == "eval"]
    rates = sorted(record["examples_per_second"] for record in train if record.get("examples_per_second"))
    newest = train[-1] if train else {}
    return {
        "step": newest.get("step"),
        "epoch": newest.get("epoch"),
        "train": newest or None,
        "eval": evals[-1] if evals else None,
        "best": monitor.best(evals),
        "examples_per_second": rates[len(rates) // 2] if rates else None,
        "goodput": goodput,
    }
