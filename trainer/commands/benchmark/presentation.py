"""How the benchmark's numbers are shown: rows, tables, a picture, and TensorBoard runs side by side."""

from __future__ import annotations

import contextlib
import pathlib
import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from loopwright.trainer.base.atomic import replace_path
from loopwright.trainer.base.errors import TrainingError
from loopwright.trainer.commands.benchmark.one_row import Cell
from loopwright.trainer.compare import bootstrap

Key = dict[str, Any]

#: The facts in which cells differ.
KEYS = ("dataset", "model", "batch_size", "precision")
#: Flags that the line about the fastest gives anyway, or that `loopwright train` doesn't take from a benchmark.
SAID_ELSEWHERE = (
    *(*KEYS, "intra_op_threads", "inter_op_threads", "onednn"),
    *("train_steps", "repeats", "curves", "output", "json"),
)
#: Rows that `loopwright train` can be asked for.
EXECUTIONS = ("graph", "xla")
_COLOURS = {
    "fit": "#8c8c8c",
    "fit_tuned": "#b3b3b3",
    "graph": "#1f77b4",
    "xla": "#d95f02",
    "auto": "#1b9e77",
    "floor": "#dddddd",
}


def key_of(cell: Cell) -> Key:
    """The facts in which a cell differs from others."""
    return {
        "dataset": cell.data.dataset,
        "model": cell.model.model,
        "batch_size": cell.data.batch_size,
        "precision": cell.model.precision,
    }


def title_of(key: Mapping[str, Any]) -> str:
    """A cell in words."""
    return f"{key['model']}, batch {key['batch_size']}, {key['precision']}"


def make_rows(key: Key, laps: Mapping[str, list[float]], facts: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a cell, out of the milliseconds a step of each lap, by loop, and other facts about it, by loop."""
    rows = []
    for loop, times in laps.items():
        median = statistics.median(times)
        row = {"loop": loop, **key, "ms_per_step": median, "interval": bootstrap.median_interval(times)}
        row["examples_per_second"] = key["batch_size"] / median * 1e3
        for base in ("fit", "fit_tuned"):
            row[f"ratio_to_{base}"] = bootstrap.median_ratio(*pair(laps[base], times))
            row[f"ratio_to_{base}_interval"] = bootstrap.median_ratio_interval(*pair(laps[base], times))
        rows.append({**row, **facts[loop], "laps_ms": times})
    return rows


def pair(one: Sequence[float], other: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
    """The laps that both rows have. A slow row has fewer."""
    both = min(len(one), len(other))
    return one[:both], other[:both]


def number(milliseconds: float) -> str:
    """Milliseconds with three digits, or with all digits before the point if there are more."""
    return f"{milliseconds:,.0f}" if milliseconds >= 100 else f"{milliseconds:.3g}"


def cells(rows: Iterable[Mapping[str, Any]]) -> dict[tuple, dict[str, Mapping[str, Any]]]:
    """Rows by cell and loop, in the order in which they come."""
    found: dict[tuple, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(_cell(row), {})[row["loop"]] = row
    return found


def fastest(rows: Sequence[Mapping[str, Any]]) -> str:
    """The execution with the smallest median."""
    ours = [row for row in rows if row["loop"] in EXECUTIONS]
    return min(ours, key=lambda row: row["ms_per_step"])["loop"]


def ratio_text(row: Mapping[str, Any], base: str) -> str:
    """`1.23 (1.20–1.26)`, followed by `tie` if the interval holds 1; `1` for the base itself."""
    if row["loop"] == base:
        return "1"
    low, high = row[f"ratio_to_{base}_interval"]
    tie = " tie" if bootstrap.is_tie((low, high)) else ""
    return f"{row[f'ratio_to_{base}']:.2f} ({low:.2f}–{high:.2f}){tie}"


def loop_text(row: Mapping[str, Any]) -> str:
    """The name of a row, with what was tuned or chosen."""
    if "options" in row:
        options = row["options"]
        return f"fit_tuned: {options['steps_per_execution']} steps an execution{', XLA' * options['jit_compile']}"
    return f"auto: took {row['chosen']}" if "chosen" in row else row["loop"]


def print_tables(result: Mapping[str, Any]) -> None:
    """Prints a table for each cell, and after it the flags that were fastest."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    for cell, rows in cells(result["rows"]).items():
        first = next(iter(rows.values()))
        table = Table(
            title=f"{title_of(first)}, {first['dataset']}", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1)
        )
        table.add_column("")
        for column in ("ms/step", "examples/s", "× fit", "× tuned", "start", "memory"):
            table.add_column(column, justify="right", min_width=len(column))
        for row in rows.values():
            table.add_row(
                row["loop"],
                _short(row["ms_per_step"], row["interval"]),
                f"{row['examples_per_second']:,.0f}",
                *(_short_ratio(row, base) for base in ("fit", "fit_tuned")),
                f"{row['time_to_first_step_s']:.1f} s",
                f"{row['peak_memory_mb']:,.0f} MB",
            )
        console.print(table)
        remarks = [f"{row['loop']} failed: {row['reason']}" for row in result["failed"] if _cell(row) == cell]
        remarks += [loop_text(row) for row in rows.values() if "options" in row or "chosen" in row]
        for line in [*remarks, _fastest_flags(list(rows.values()), result)]:
            console.print(line, soft_wrap=True)
        console.print()
    legend = "±: half of the 95% interval; tie: the ratio's interval holds 1; start: to the end of the first step"
    console.print(legend, style="dim")


def _cell(row: Mapping[str, Any]) -> tuple:
    return tuple(row[name] for name in KEYS)


def _short(value: float, interval: Sequence[float]) -> str:
    return number(value) + _spread(value, interval)


def _spread(value: float, interval: Sequence[float]) -> str:
    """Half of the interval in per cent; empty for a single lap, whose interval isn't known."""
    return f" ±{(interval[1] - interval[0]) / 2 / value:.0%}" if interval[0] < interval[1] else ""


def _short_ratio(row: Mapping[str, Any], base: str) -> str:
    if row["loop"] == base:
        return "1"
    interval = row[f"ratio_to_{base}_interval"]
    ratio = row[f"ratio_to_{base}"]
    return f"{ratio:.2f} tie" if bootstrap.is_tie(interval) else f"{ratio:.2f}{_spread(ratio, interval)}"


def _fastest_flags(rows: Sequence[Mapping[str, Any]], result: Mapping[str, Any]) -> str:
    first, best, environment = rows[0], fastest(rows), result["environment"]
    by_loop = {row["loop"]: row for row in rows}
    others = [loop for loop in EXECUTIONS if loop in by_loop and loop != best]
    tied = [
        loop
        for loop in others
        if bootstrap.is_tie(bootstrap.median_ratio_interval(*pair(by_loop[loop]["laps_ms"], by_loop[best]["laps_ms"])))
    ]
    words = [f"--dataset={first['dataset']}", f"--model={first['model']}", f"--batch_size={first['batch_size']}"]
    words += [f"--precision={first['precision']}", f"--execution={best}"]
    words += [f"--{name}={environment[name]}" for name in ("intra_op_threads", "inter_op_threads") if environment[name]]
    words += [f"--onednn={environment['onednn']}", *map(shlex.quote, result["method"]["flags"])]
    sure = f" (a tie with {', '.join(tied)})" if tied else " (by one lap alone)" if len(first["laps_ms"]) == 1 else ""
    return f"fastest{sure}: loopwright train {' '.join(words)}"


def check_plots() -> None:
    """Raises TrainingError (exit 2) if the extra `plots` isn't installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise TrainingError("--output draws benchmark.png: pip install 'loopwright[plots]'", exit_code=2) from None


def draw(result: Mapping[str, Any], path: pathlib.Path) -> None:
    """Draws a PNG: for each cell a panel with a bar and an interval for each row, and below them the curves, if any."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = cells(result["rows"])
    curves: dict[tuple, list[Any]] = {}
    for one in result["curves"]:
        curves.setdefault(_cell(one), []).append(one)
    across = min(len(panels), 4)
    down = -(-len(panels) // across)
    figure = Figure(figsize=(4.2 * max(across, 4 if curves else 1), 2.7 * (down + len(curves))), layout="constrained")
    parts = figure.subfigures(down + len(curves), 1, squeeze=False)[:, 0]
    for place, rows in enumerate(panels.values()):
        if place % across == 0:
            axes = parts[place // across].subplots(1, across, squeeze=False)[0]
            for axis in axes[len(panels) - place :]:
                axis.set_visible(False)
        _draw_bars(axes[place % across], list(rows.values()))
    for part, found in zip(parts[down:], curves.values(), strict=True):
        _draw_curves(part, found)
    FigureCanvasAgg(figure)
    replace_path(path, lambda temporary: figure.savefig(temporary, dpi=130, format="png"))


def _draw_bars(axis: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    best = max((row for row in rows if row["loop"] in EXECUTIONS), key=lambda row: row["ratio_to_fit_tuned"])
    axis.set_title(
        f"{best['ratio_to_fit_tuned']:.2f}× the best-tuned fit\n{title_of(best)}", fontsize=9, loc="left", weight="bold"
    )
    names = [row["loop"] for row in rows]
    times = [row["ms_per_step"] for row in rows]
    errors = [[row["ms_per_step"] - row["interval"][0] for row in rows]]
    errors += [[row["interval"][1] - row["ms_per_step"] for row in rows]]
    axis.barh(names, times, xerr=errors, color=[_COLOURS[name] for name in names], error_kw={"lw": 1})
    # The bar of a row that is far slower would hide the differences of the others. It is cut, and an arrow says so.
    limit = 1.6 * max(row["ms_per_step"] for row in rows if row["loop"] in ("fit", "fit_tuned", "floor", best["loop"]))
    axis.set_xlim(0, limit)
    for place, milliseconds in enumerate(times):
        cut = milliseconds > limit
        text = f"{number(milliseconds)} →" if cut else f" {number(milliseconds)}"
        axis.text(
            limit if cut else rows[place]["interval"][1],
            place,
            text,
            va="center",
            ha="right" if cut else "left",
            fontsize=8,
        )
    axis.invert_yaxis()
    axis.set_xlabel("ms a step", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def _draw_curves(part: Any, curves: Sequence[Mapping[str, Any]]) -> None:
    part.suptitle(title_of(curves[0]), fontsize=9)
    names = _values_of(curves)[:2]
    axes = part.subplots(1, 4)
    for place, (value, over) in enumerate((value, over) for value in names for over in ("step", "seconds")):
        for one in curves:
            points = one["points"]
            axes[place].plot(
                [point[over] for point in points],
                [point[value] for point in points],
                label=one["loop"],
                color=_COLOURS[one["loop"]],
                lw=4 if one["loop"] == "fit" else 1.5,  # so that both are seen if one covers the other
            )
        axes[place].set_xlabel("steps" if over == "step" else "seconds, compiling included", fontsize=8)
        axes[place].set_ylabel(value, fontsize=8)
        axes[place].tick_params(labelsize=8)
        axes[place].spines[["top", "right"]].set_visible(False)
    for axis in axes[2 * len(names) :]:
        axis.set_visible(False)
    axes[0].legend(fontsize=8, frameon=False)


def _values_of(curves: Sequence[Mapping[str, Any]]) -> list[str]:
    """The loss and the metrics that all of the curves hold, the loss first."""
    held = [{name for point in one["points"] for name in point} for one in curves]
    shared = set.intersection(*held) - {"step", "seconds"}
    return sorted(shared, key=lambda name: (name != "loss", name))


def write_tensorboard(result: Mapping[str, Any], folder: pathlib.Path) -> None:
    """Writes a run `<model>-<batch>-<precision>/<loop>` for each row: ms a step by lap, and the curves over their seconds.

    It replaces what an earlier benchmark wrote about the same rows and curves.
    """
    from tensorboard.summary import Writer

    for part in (*result["rows"], *result["curves"]):
        for path in _run_folder(folder, part).glob("*tfevents*"):
            path.unlink()
    for row in result["rows"]:
        with contextlib.closing(Writer(str(_run_folder(folder, row)))) as writer:
            for lap, milliseconds in enumerate(row["laps_ms"], 1):
                writer.add_scalar("ms_per_step", milliseconds, lap)
    for one in result["curves"]:
        with contextlib.closing(Writer(str(_run_folder(folder, one)))) as writer:
            for point in one["points"]:
                for name in _values_of([one]):
                    writer.add_scalar(name, point[name], int(point["step"]), wall_time=point["seconds"])


def _run_folder(folder: pathlib.Path, row: Mapping[str, Any]) -> pathlib.Path:
    cell = f"{row['model']}-{row['batch_size']}-{row['precision']}".replace(":", "_")
    return folder / cell / row["loop"]
