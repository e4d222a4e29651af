"""`loopwright report`: one HTML page about a run, or about several side by side."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.util
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from loopwright import flags
from loopwright.trainer.base import json_lines
from loopwright.trainer.base.atomic import MANIFEST, replace_file
from loopwright.trainer.base.errors import TrainingError
from loopwright.trainer.base.monitor import Monitor
from loopwright.trainer.base.paths import local_path
from loopwright.trainer.base.run_folder import RunFolder
from loopwright.trainer.commands import workdir
from loopwright.trainer.commands.train.summary import duration, quote

if TYPE_CHECKING:
    from loopwright.trainer.commands.report_predictions import Section

USAGE = "usage: loopwright report --workdir=DIR[,DIR…] [--flags]"
HELP = (
    "Writes one HTML page about a run, finished or not: what was trained and on what, curves, confusion matrix, surest "
    "mistakes, calibration, where the time went, layers, flags, exports and environment. Several runs stand side by side, "
    "with their differences. The page needs no network, holds no script, and can be printed."
)
TEMPLATE = "report.html.jinja"
_MOST_LAYERS, _MOST_TILES = 400, 4
#: What a record says beside metrics.
_NOT_METRICS = {"step", "epoch", "split", "wall_time"}
#: Metrics whose charts come last, in this order.
_LAST_CHARTS = ("learning_rate", "loss_scale", "skipped_steps", "examples_per_second")


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run's folder tells. Files that don't exist yet count as empty."""

    folder: pathlib.Path
    config: flags.Config
    facts: dict[str, Any]
    records: list[dict[str, Any]]
    summary: dict[str, Any]
    goodput: dict[str, Any]
    exports: dict[str, Any]
    predictions: dict[str, Any]
    name: str

    def split(self, split: str) -> list[dict[str, Any]]:
        """The records of a split, in the order of steps."""
        return [record for record in self.records if record["split"] == split]

    def best(self) -> Mapping[str, Any] | None:
        """The evaluation with the best value of --monitor."""
        return self.monitor.best(self.split("eval"))

    @property
    def monitor(self) -> Monitor:
        """The metric that decides what is best. A run that doesn't say so is one of a classifier, or goes by the loss."""
        evals = self.split("eval")
        usual = "accuracy:max" if evals and "accuracy" in evals[-1] else "loss:min"
        return Monitor.of(self.config.run.monitor or usual)

    def metrics(self) -> list[str]:
        """The names of all metrics that were logged: the monitored one and the loss, the others, and what training logs."""
        found = {name for record in self.records for name in record} - _NOT_METRICS
        ordered = [self.monitor.name, "loss", *sorted(found - set(_LAST_CHARTS)), *_LAST_CHARTS]
        return [name for name in dict.fromkeys(ordered) if name in found]


def run(argv: Sequence[str]) -> int:
    """Parses the flags and writes the page."""
    (report,), _ = flags.parse(argv, [flags.Report], usage=USAGE, help_text=HELP)
    named = [part for part in (report.workdir or "").split(",") if part]
    if not named:
        raise flags.UsageError("give --workdir=DIR of a run, or several, comma separated")
    if importlib.util.find_spec("jinja2") is None or importlib.util.find_spec("matplotlib") is None:
        raise TrainingError("report needs the extra 'plots': pip install 'loopwright[plots]'", exit_code=2)
    if report.output is not None and (
        pathlib.Path(report.output).is_dir() or not pathlib.Path(report.output).parent.is_dir()
    ):
        raise flags.UsageError(f"--output={report.output}: name a file in a folder that exists")
    runs = [read_run(local_path(name)) for name in named]
    if len({run.name for run in runs}) < len(runs):
        runs = [dataclasses.replace(run, name=str(run.folder)) for run in runs]
    path = pathlib.Path(report.output or (runs[0].folder / "report.html" if len(runs) == 1 else "report.html"))
    replace_file(path, page(runs))
    print(json.dumps({"report": str(path)}) if report.json else path)
    return 0


def read_run(folder: pathlib.Path) -> Run:
    """Reads a run's folder. Raises UsageError if it holds no run, and TrainingError for a damaged file."""
    config = workdir.read_config(folder)
    if config is None:
        raise flags.UsageError(f"--workdir={folder}: holds no run ({RunFolder.at(folder).flags} is missing)")
    from loopwright.trainer.observe import prediction_files
    from loopwright.trainer.observe.goodput import total

    try:
        files = RunFolder.at(folder)
        return Run(
            folder=folder,
            config=config,
            facts=_json(files.facts),
            records=_records(files.metrics),
            summary=_json(files.summary),
            goodput=total(_json(files.goodput).get("processes", [])),
            exports=_json(files.exports / MANIFEST),
            predictions=prediction_files.load(files.predictions) if files.predictions.exists() else {},
            name=folder.resolve().name,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(f"{folder} holds a damaged file ({error}); move it away to report without it") from None


def _json(path: pathlib.Path) -> dict[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} holds no object")
    return found


def _records(path: pathlib.Path) -> list[dict[str, Any]]:
    records = json_lines.read(path)
    if not all({"step", "split"} <= record.keys() for record in records):
        raise ValueError(f"{path.name} holds a record without step or split")
    return records


def page(runs: Sequence[Run]) -> str:
    """The HTML of the page."""
    import jinja2

    loader = jinja2.FileSystemLoader(pathlib.Path(__file__).parent)
    template = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True).get_template(
        TEMPLATE
    )
    return template.render(
        title=runs[0].name if len(runs) == 1 else f"{len(runs)} runs side by side",
        runs=[_about(run) for run in runs],
        charts=_charts(runs),
        differences=_flag_differences(runs),
        results=_results(runs),
        written=f"{datetime.datetime.now():%Y-%m-%d %H:%M}",
    )


def _about(run: Run) -> dict[str, Any]:
    """What the page says about one run."""
    defaults = flags.flag_values(flags.Config())
    values = {name: value for name, value in flags.flag_values(run.config).items() if value not in (None, "")}
    versions = run.facts.get("versions", {})
    machine = ("host", "platform", "cpu", "cpus", "devices", "onednn")
    places = (*machine, "git_revision", "execution", "feed", "dataset_fingerprint")
    environment = {name: run.facts[name] for name in places if run.facts.get(name)}
    return {
        "name": run.name,
        "folder": str(run.folder),
        "dataset": run.config.data.dataset,
        "model": run.config.model.model,
        "state": f"finished after step {run.summary['step']:,}" if run.summary else "not finished",
        "tiles": _tiles(run),
        "data": _data(run),
        "predictions": _predictions(run),
        "goodput": run.goodput,
        "layers": run.facts.get("layers", [])[:_MOST_LAYERS],
        "parameters": run.facts.get("parameters"),
        "flags": [
            (name, value, value != defaults[name])
            for name, value in values.items()
            if name not in ("workdir", "overwrite", "json")
        ],
        "exports": _exports(run),
        "environment": {**{f"{name} version": value for name, value in versions.items()}, **environment},
        "command": f"loopwright train --flagfile={quote(RunFolder.at(run.folder).flags)} --workdir={quote(run.folder)}",
    }


def _tiles(run: Run) -> list[tuple[str, str]]:
    """The headline: pairs of a word and a number."""
    from loopwright.trainer.commands.report_predictions import number

    tiles = []
    evals, train, best = run.split("eval"), run.split("train"), run.best()
    known = [name for name in run.metrics() if evals and evals[-1].get(name) is not None]
    tiles += [(f"{in_words(name)}, evaluated", number(evals[-1][name])) for name in known[:_MOST_TILES]]
    if best is not None:
        tiles.append((f"best {in_words(run.monitor.name)}, step {best['step']:,}", number(best[run.monitor.name])))
    if train:
        tiles.append(("steps", f"{train[-1]['step']:,}"))
        tiles.append(("epochs", f"{round(train[-1]['epoch'], 2):g}"))
    if run.facts.get("parameters"):
        tiles.append(("parameters", f"{run.facts['parameters']:,}"))
    if run.summary.get("examples_per_second"):
        tiles.append(("samples a second", f"{run.summary['examples_per_second']:,.0f}"))
    if run.goodput.get("total_seconds"):
        tiles.append(("in all", duration(run.goodput["total_seconds"])))
    return tiles


def _data(run: Run) -> list[tuple[str, str]]:
    data, model, facts = run.config.data, run.config.model, run.facts
    rows = [("dataset", data.dataset), ("trained on", data.train_split)]
    told = {"task": run.facts.get("task"), "label": data.label_key, "loss": model.loss, "metrics": model.metrics}
    rows += [(name, value.replace(",", ", ")) for name, value in told.items() if value]
    if "examples" in facts:
        rows += [(f"samples of {split}", f"{count:,}") for split, count in facts["examples"].items()]
    if facts.get("class_names"):
        names = facts["class_names"]
        rows.append(("classes", f"{len(names)}: {', '.join(names[:20])}{' …' if len(names) > 20 else ''}"))
    optimization = run.config.optimization
    rows.append(("batch size", str(data.batch_size)))
    rows.append(("augmentation", data.augment or "none"))
    rate = f"{optimization.optimizer}, learning rate {optimization.learning_rate}, {optimization.schedule}"
    return [*rows, ("optimizer", rate), ("precision", model.precision), ("seed", str(run.config.run.seed))]


def _predictions(run: Run) -> list[Section]:
    """The sections about the newest predictions, one for each head."""
    if importlib.util.find_spec("PIL") is None:
        return []
    from loopwright.trainer.commands.report_predictions import section

    class_names = run.facts.get("class_names") or []
    names = class_names if len(run.predictions) == 1 else []
    return [section(found, names, head) for head, found in run.predictions.items()]


def _exports(run: Run) -> list[tuple[str, str, str]]:
    """The files in `exports/`: name, size, and how far the outputs differ from those of the model, as the manifest says."""
    folder = run.folder / "exports"
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    files = [path for path in files if path.name != "manifest.json" and not path.name.startswith(".")]
    told = run.exports.get("files", {})
    rows = []
    for path in files:
        parts = path.rglob("*") if path.is_dir() else [path]
        size = sum(part.stat().st_size for part in parts if part.is_file())
        entry = told.get(path.name, {})
        difference, step = entry.get("largest_difference"), entry.get("step")
        said = "" if difference is None else f"largest difference of outputs {difference:.2g}"
        older = "" if step in (None, run.summary.get("step", step)) else f" (of step {step})"
        rows.append((path.name + older, f"{size / 1e6:.2f} MB", said))
    return rows


def _charts(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """A title and an SVG for each metric, with solid lines for evaluation and broken lines for training."""
    from loopwright.trainer.observe.charts import Line, line_chart

    found = dict.fromkeys(name for run in runs for name in run.metrics())
    last = [name for name in _LAST_CHARTS if name in found]
    charts = []
    for name in [*(name for name in found if name not in last), *last]:
        lines = []
        for place, run in enumerate(runs):
            for split in ("train", "eval"):
                points = [(r["step"], r[name]) for r in run.split(split) if r.get(name) is not None]
                if points:
                    label = split if len(runs) == 1 else f"{run.name}, {split}"
                    series = place if len(runs) > 1 else (split == "train")
                    steps, values = zip(*points, strict=True)
                    lines.append(Line(label, steps, values, series, faint=split == "train"))
        if lines:
            if name in _LAST_CHARTS:
                lines = [line._replace(faint=False) for line in lines]
            charts.append((in_words(name), line_chart(lines)))
    return charts


def in_words(name: str) -> str:
    """The name of a metric as the page shows it."""
    return name.replace("_", " ")


def _flag_differences(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """The flags in which runs differ, with the value of each run."""
    values = [flags.flag_values(run.config) for run in runs]
    rows = [(name, ["" if v[name] is None else str(v[name]) for v in values]) for name in values[0]]
    return [(name, row) for name, row in rows if len(set(row)) > 1]


def _results(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """The results of the runs, side by side."""
    tiles = [dict(_tiles(run)) for run in runs]
    names = list(dict.fromkeys(name.split(", step")[0] for tile in tiles for name in tile))
    shortened = [{name.split(", step")[0]: value for name, value in tile.items()} for tile in tiles]
    rows = [(name, [tile.get(name, "") for tile in shortened]) for name in names]
    shares = [run.goodput.get("share", {}).get("step") for run in runs]
    return [*rows, ("share of time in steps", ["" if share is None else f"{share:.0%}" for share in shares])]
