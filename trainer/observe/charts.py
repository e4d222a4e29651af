"""Charts as SVG, drawn with matplotlib (extra `plots`).

An SVG takes its colors from the page around it, so one drawing fits light, dark and print. The page must define the CSS
variables `--ink`, `--line` and `--series-1` to `--series-6`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from loopwright.trainer.observe.axes import short

#: The colors that matplotlib draws with. CSS variables take their place afterwards.
_INK, _LINE = "#010203", "#040506"
_SERIES = tuple(f"#0a0b0{place}" for place in range(1, 7))
_THEME = {_INK: "var(--ink)", _LINE: "var(--line)"} | {
    colour: f"var(--series-{place})" for place, colour in enumerate(_SERIES, start=1)
}
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "loopwright",
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _LINE,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "axes.formatter.useoffset": False,
    "text.parse_math": False,  # a name may contain a dollar sign
}


class Line(NamedTuple):
    """A curve: its name, its points, the number of its color, and whether it is drawn thin and dashed."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    series: int = 0
    faint: bool = False


def line_chart(lines: Sequence[Line], *, x_label: str = "step", y_label: str = "", logarithmic: bool = False) -> str:
    """An SVG of curves over a shared axis."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure()
        drawn = []
        for line in lines:
            style: dict[str, Any] = {"lw": 1, "ls": (0, (4, 2))} if line.faint else {"lw": 1.8}
            marker = "o" if len(line.x) == 1 else None
            colour = _SERIES[line.series % len(_SERIES)]
            drawn += axes.plot(line.x, line.y, color=colour, marker=marker, markersize=4, **style)
        if logarithmic:
            axes.set_yscale("log")
        axes.set(xlabel=x_label, ylabel=y_label)
        if len(lines) > 1:
            axes.legend(drawn, [line.name for line in lines], loc="best", fontsize=8)
        return _svg(figure)


def calibration_chart(confidence: Sequence[float], accuracy: Sequence[float], count: Sequence[int]) -> str:
    """An SVG of accuracy over confidence, with the diagonal of a calibrated model. A point's area shows its samples."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure()
        axes.plot([0, 1], [0, 1], color=_INK, lw=0.8, ls=(0, (4, 3)))
        sizes = [12 + 180 * part / max(count) for part in count]
        axes.plot(confidence, accuracy, color=_SERIES[0], lw=1)
        axes.scatter(confidence, accuracy, s=sizes, color=_SERIES[0], zorder=3)
        axes.set(xlim=(0, 1.03), ylim=(0, 1.03), xlabel="confidence", ylabel="accuracy")
        return _svg(figure)


def scatter_chart(true: Sequence[float], predicted: Sequence[float]) -> str:
    """An SVG of predicted over true numbers, with the diagonal on which they are equal."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure()
        axes.scatter(true, predicted, s=6, color=_SERIES[0], alpha=0.35, linewidths=0)
        ends = [min(true, default=0), max(true, default=1)]
        axes.plot(ends, ends, color=_SERIES[1], lw=1, ls=(0, (4, 3)))
        axes.set(xlabel="true", ylabel="predicted")
        _few_ticks(axes.xaxis, axes.yaxis)
        return _svg(figure)


def histogram_chart(values: Sequence[float], *, x_label: str, bins: int = 41) -> str:
    """An SVG of how many values lie in each of equal intervals, with a line at zero."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure()
        axes.hist(values, bins=bins, color=_SERIES[0], rwidth=0.85)
        axes.axvline(0, color=_SERIES[1], lw=1, ls=(0, (4, 3)))
        axes.set(xlabel=x_label, ylabel="samples")
        _few_ticks(axes.xaxis)
        return _svg(figure)


def _few_ticks(*axes: Any) -> None:
    """Gives axes few enough labels, and short ones, so that large numbers don't overlap."""
    for axis in axes:
        axis.set_major_locator(MaxNLocator(6))
        axis.set_major_formatter(FuncFormatter(lambda value, place: short(value)))


def _figure() -> tuple[Figure, Any]:
    figure = Figure(figsize=(5.2, 3.1), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    axes.patch.set_alpha(0)
    return figure, axes


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r"'DejaVu Sans'[^;\"]*?sans-serif", "system-ui, sans-serif", text)
    for colour, variable in _THEME.items():
        text = text.replace(colour, variable)
    return text
