"""Writes the measured parts of docs/performance.md and README.md from the results in benchmarks/results/.

    python benchmarks/tables.py            # writes
    python benchmarks/tables.py --check    # exits 1 if the pages differ from the results

Each part stands between `<!-- measured: name -->` and `<!-- end -->`. The rest of the pages is written by hand.
"""

from __future__ import annotations

import json
import pathlib
import re
import statistics
import sys
from collections.abc import Mapping
from typing import Any

from loopwright.trainer.commands.benchmark import presentation
from loopwright.trainer.compare import bootstrap

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PICTURE = ROOT / "docs" / "performance.png"
PAGES = (ROOT / "docs" / "performance.md", ROOT / "README.md")
#: The folders whose results make up the matrix, in order. A folder without results is left out.
MATRIX = ("mlp", "cnn")

GPU_PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")

#: On a quiet machine, half the width of an interval is at most this part of the median.
QUIET = 0.1
#: What the project set out to reach: model, batch size, precision, loop, what it is compared with, and the aim. The aim
#: is the least ratio of speeds; for the floor it is the largest ratio of times, and for memory the largest ratio of
#: peaks. XLA's memory is compared with that of `fit`, and with that of the `fit_tuned` that XLA compiles.
AIMS = (
    ("cnn", 32, "float32", "graph", "fit", 1.15),
    ("cnn", 32, "float32", "graph", "fit_tuned", 1.1),
    ("cnn", 32, "float32", "graph", "floor", 1.08),
    ("mlp", 32, "float32", "xla", "fit", 5.0),
    ("mlp", 32, "float32", "xla", "fit_tuned", 1.9),
    ("mlp", 32, "float32", "graph", "fit", 1.8),
    ("cnn", 32, "float32", "graph", "memory of fit", 1.05),
    ("mlp", 32, "float32", "graph", "memory of fit", 1.05),
    ("mlp", 32, "float32", "xla", "memory of fit", 1.05),
    ("mlp", 32, "float32", "xla", "memory of fit_tuned", 1.05),
)
#: The speed of `graph` in bfloat16 divided by its speed in float32 that was aimed at, on a CPU with AMX: model, batch
#: size, aim. Both are measured with TensorFlow's own numbers of threads.
BFLOAT16_AIMS = (("cnn", 32, 1.3), ("cnn", 256, 1.6))


def load(results: pathlib.Path = RESULTS) -> dict[str, Any]:
    """All results: the matrix in the form of one benchmark.json, and what peers.py, precisions.py and gpu.py wrote.

    These are added under the names `peers`, `precisions` and `gpu`. Each is empty if it was not measured.
    """
    paths = [results / name / "benchmark.json" for name in MATRIX]
    parts = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]
    merged = {**parts[0]}
    for name in ("rows", "failed", "curves"):
        merged[name] = [entry for part in parts for entry in part[name]]
    merged["method"] = {**parts[0]["method"], "fit_grid": [g for part in parts for g in part["method"]["fit_grid"]]}
    peers = [results / name / "peers.json" for name in MATRIX]
    merged["peers"] = [json.loads(path.read_text(encoding="utf-8")) for path in peers if path.is_file()]
    precisions = results / "cnn" / "precisions.json"
    merged["precisions"] = []
    if precisions.is_file():
        written = json.loads(precisions.read_text(encoding="utf-8"))
        if written["environment"]["cpu"] == merged["environment"]["cpu"]:  # otherwise it is from another machine
            merged["precisions"] = written["rows"]
    merged["gpu"] = {"rows": [], "parity": {}}
    for path in sorted((results / "gpu").glob("*/*.json")):
        written = json.loads(path.read_text(encoding="utf-8"))
        if path.name == "parity.json":
            merged["gpu"]["parity"][path.parent.name] = written
        else:
            merged["gpu"]["rows"] += written["rows"]
    return merged


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table. All columns except the first are aligned to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine(result: Mapping[str, Any]) -> str:
    """One sentence with the machine and the versions."""
    facts = result["environment"]
    sets = ", ".join(facts["instruction_sets"]) or "no vector extensions that matter here"
    gpus = [device for device in facts["devices"] if device.startswith("GPU")]
    text = (
        f"{facts['cpu']}, {facts['cpus']} CPUs ({sets}), {facts['memory_gb']:.0f} GB, "
        f"{', '.join(gpus) or 'no GPU'}; TensorFlow {facts['tensorflow']}, Keras {facts['keras']}, Python {facts['python']}."
    )
    if widest(result) > QUIET:
        text += (
            f"\n\n**The machine was not quiet: intervals of `fit` reach ±{widest(result):.0%}. Read each ratio with its "
            "interval.**"
        )
    return text


def widest(result: Mapping[str, Any]) -> float:
    """Half the width of the widest interval among the rows `fit`, as a part of the median."""
    fits = [row for row in result["rows"] if row["loop"] == "fit"]
    return max((row["interval"][1] - row["interval"][0]) / 2 / row["ms_per_step"] for row in fits)


def matrix(result: Mapping[str, Any]) -> str:
    """One table for each combination of model, batch size and precision, and the rows that failed."""
    parts = []
    header = ["loop", "ms a step", "examples/s", "× fit", "× fit_tuned", "first step", "peak memory"]
    for rows in presentation.cells(result["rows"]).values():
        first = next(iter(rows.values()))
        lines = []
        for row in rows.values():
            low, high = row["interval"]
            lines.append(
                [
                    presentation.loop_text(row),
                    f"{presentation.number(row['ms_per_step'])} ({presentation.number(low)}–{presentation.number(high)})",
                    f"{row['examples_per_second']:,.0f}",
                    presentation.ratio_text(row, "fit"),
                    presentation.ratio_text(row, "fit_tuned"),
                    f"{row['time_to_first_step_s']:.1f} s",
                    f"{row['peak_memory_mb']:,.0f} MB",
                ]
            )
        parts.append(f"### {presentation.title_of(first)}\n\n{table(header, lines)}")
        parts += [
            f"`{failure['loop']}`: {failure['reason']}"
            for failure in result["failed"]
            if all(failure[name] == first[name] for name in presentation.KEYS)
        ]
    return "\n\n".join(parts)


def outcome(result: Mapping[str, Any]) -> str:
    """How the fastest execution compares with the best-tuned `fit` for each model, batch size and precision."""
    lines = []
    for rows in presentation.cells(result["rows"]).values():
        best = rows[presentation.fastest(list(rows.values()))]
        low, high = best["ratio_to_fit_tuned_interval"]
        verdict = "tie" if bootstrap.is_tie((low, high)) else "win" if low > 1 else "loss"
        memory = best["peak_memory_mb"] / rows["fit"]["peak_memory_mb"]
        lines.append(
            [
                presentation.title_of(best),
                best["loop"],
                presentation.ratio_text(best, "fit_tuned"),
                verdict,
                f"{memory:.2f}",
            ]
        )
    return table(["job", "fastest", "× fit_tuned", "result", "memory ÷ fit"], lines)


def aims(result: Mapping[str, Any]) -> str:
    """What the project set out to reach, and what was measured."""
    rows = {(row["model"], row["batch_size"], row["precision"], row["loop"]): row for row in result["rows"]}
    lines = []
    for model, batch_size, precision, loop, base, aim in AIMS:
        row = rows.get((model, batch_size, precision, loop))
        held_against = base.removeprefix("memory of ")
        other = rows.get((model, batch_size, precision, held_against))
        if row is None or other is None:
            continue
        if base != held_against:
            measured = row["peak_memory_mb"] / other["peak_memory_mb"]
            text, reached = f"{measured:.2f}", measured <= aim
            what = f"`{loop}` takes at most {aim}× the memory of `{held_against}`"
        else:
            pair = (row, other) if base == "floor" else (other, row)
            laps = presentation.pair(*(one["laps_ms"] for one in pair))
            measured, (low, high) = bootstrap.median_ratio(*laps), bootstrap.median_ratio_interval(*laps)
            text = f"{measured:.2f} ({low:.2f}–{high:.2f})"
            at_most = f"`{loop}` takes at most {aim}× the floor"
            what = at_most if base == "floor" else f"`{loop}` is {aim}× as fast as `{base}`"
            reached = measured <= aim if base == "floor" else measured >= aim
        lines.append([f"{model}, batch {batch_size}, {precision}: {what}", text, "yes" if reached else "no"])
    for model, batch_size, aim in BFLOAT16_AIMS:
        laps = _by_threads(result, model, batch_size).get((0, 0))
        if laps is not None:
            measured, (low, high) = (
                bootstrap.median_ratio(*laps.values()),
                bootstrap.median_ratio_interval(*laps.values()),
            )
            what = f"{model}, batch {batch_size}: `graph` is {aim}× as fast in bfloat16 as in float32"
            lines.append([what, f"{measured:.2f} ({low:.2f}–{high:.2f})", "yes" if measured >= aim else "no"])
    return table(["aim", "measured", "reached"], lines)


def bfloat16(result: Mapping[str, Any]) -> str:
    """The times of the loop in both precisions, with both numbers of threads."""
    if not result["precisions"]:
        return "Not measured on this machine. `make benchmark` measures it on a CPU with AMX or AVX-512 BF16."
    lines = []
    for model, batch_size in dict.fromkeys((row["model"], row["batch_size"]) for row in result["precisions"]):
        for threads, laps in _by_threads(result, model, batch_size).items():
            texts = []
            for times in laps.values():
                low, high = bootstrap.median_interval(times)
                median, low, high = map(presentation.number, (statistics.median(times), low, high))
                texts.append(f"{median} ({low}–{high})")
            low, high = bootstrap.median_ratio_interval(*laps.values())
            ratio = f"{bootstrap.median_ratio(*laps.values()):.2f} ({low:.2f}–{high:.2f})"
            lines.append([f"{model}, batch {batch_size}, {_threads_text(threads)}", *texts, ratio])
    return table(["job", "float32, ms a step", "bfloat16, ms a step", "float32 ÷ bfloat16"], lines)


def _by_threads(
    result: Mapping[str, Any], model: str, batch_size: int
) -> dict[tuple[int, int], dict[str, list[float]]]:
    """The laps in float32 and in bfloat16, by the threads in an op and the ops at a time."""
    found: dict[tuple[int, int], dict[str, list[float]]] = {}
    for row in result["precisions"]:
        if (row["model"], row["batch_size"]) == (model, batch_size):
            laps = found.setdefault((row["intra_op_threads"], row["inter_op_threads"]), {})
            laps[row["precision"]] = row["laps_ms"]
    return found


def _threads_text(threads: tuple[int, int]) -> str:
    intra, inter = threads
    return f"`--intra_op_threads={intra} --inter_op_threads={inter}`" if intra else "TensorFlow's own threads"


def grid(result: Mapping[str, Any]) -> str:
    """The milliseconds a step of each setting in the grid from which `fit_tuned` is the best."""
    entries = result["method"]["fit_grid"]
    columns = [(entry["steps_per_execution"], entry["jit_compile"]) for entry in entries[0]["grid"]]
    header = ["job", *(f"{k}{', XLA' if jit else ''}" for k, jit in columns)]
    lines = []
    for cell in entries:
        found = {(entry["steps_per_execution"], entry["jit_compile"]): entry["ms_per_step"] for entry in cell["grid"]}
        texts = ["–" if found.get(column) is None else presentation.number(found[column]) for column in columns]
        lines.append([presentation.title_of(cell), *texts])
    return table(header, lines)


def peers(result: Mapping[str, Any]) -> str:
    """The times of the same job in other frameworks."""
    if not result["peers"]:
        return "Not measured on this machine. `make benchmark` measures it."
    header = ["", "version", "ms a step", "time ÷ the loop's"]
    parts = []
    for one in result["peers"]:
        lines = []
        for peer in one["rows"]:
            if peer.get("absent"):
                lines.append([peer["peer"], "absent", peer["absent"], ""])
                continue
            low, high = peer["interval"]
            least, most = peer["ratio_to_ours_interval"]
            tie = " tie" if bootstrap.is_tie((least, most)) else ""
            lines.append(
                [
                    peer["peer"],
                    peer["version"],
                    f"{peer['ms_per_step']:.3g} ({low:.3g}–{high:.3g})",
                    f"{peer['ratio_to_ours']:.2f} ({least:.2f}–{most:.2f}){tie}" if least != most else "1",
                ]
            )
        parts.append(f"{presentation.title_of(one)}:\n\n{table(header, lines)}")
    return "\n\n".join(parts)


def alone(result: Mapping[str, Any]) -> str:
    """The row `fit` against the script that only calls `fit`. Both were measured in the same turns."""
    lines = []
    for one in result["peers"]:
        laps = {row["peer"]: row["laps_ms"] for row in one["rows"] if "laps_ms" in row}
        row, script = (laps.get(name) for name in ("fit, the benchmark's row", "fit, called by fit_alone.py"))
        if row is None or script is None:
            continue
        low, high = bootstrap.median_ratio_interval(row, script)
        lines.append([presentation.title_of(one), f"{bootstrap.median_ratio(row, script):.3f} ({low:.3f}–{high:.3f})"])
    return table(["job", "time of the row `fit` ÷ time of `fit_alone.py`"], lines)


def headline(result: Mapping[str, Any]) -> str:
    """The speed against the best-tuned `fit`, and the picture."""
    cells = presentation.cells(result["rows"])
    phrases = []
    for rows in cells.values():
        first = next(iter(rows.values()))
        if first["batch_size"] == 32 and first["precision"] == "float32":
            best = rows[presentation.fastest(list(rows.values()))]
            tie = ", a tie" if bootstrap.is_tie(best["ratio_to_fit_tuned_interval"]) else ""
            phrases.append(
                f"{best['ratio_to_fit_tuned']:.2f} times as fast on `{best['model']}` (`{best['loop']}`{tie})"
            )
    facts = result["environment"]
    busy = ", on a machine that was not quiet" if widest(result) > QUIET else ""
    return (
        f"**Against the best-tuned `model.fit`, the loop is {' and '.join(phrases)}**, with batches of 32 in float32 "
        f"on {facts['cpus']} CPU cores{busy}. "
        "[How it was measured, and where it doesn't win](docs/performance.md).\n\n"
        "![milliseconds a step, by model, batch size and precision](docs/performance.png)"
    )


def gpu(result: Mapping[str, Any]) -> str:
    """What `make gpu` found on a GPU: the speed against `fit` at the largest batch size, and the verdict of parity."""
    found = {
        (row["precision"], row["loop"]): row for row in result["gpu"]["rows"]
    }  # the last batch size is the largest
    lines = []
    for loop in ("graph", "xla"):
        rows = [found.get((precision, loop)) for precision in GPU_PRECISIONS]
        texts = ["unmeasured" if row is None else presentation.ratio_text(row, "fit") for row in rows]
        lines.append([f"`{loop}` against `fit`, {rows[0]['model']}" if rows[0] else f"`{loop}` against `fit`", *texts])
    for loop in ("graph", "xla"):
        texts = []
        for precision in GPU_PRECISIONS:
            certificate = result["gpu"]["parity"].get(f"parity-{loop}-{precision}")
            if certificate is None:
                texts.append("unmeasured")
            else:
                difference = "identical" if certificate["identical"] else f"{certificate['max_abs_difference']:.1e}"
                texts.append(difference if certificate["holds"] else f"fails: {difference}")
        lines.append([f"parity of `{loop}`", *texts])
    return table(["on a GPU", *GPU_PRECISIONS], lines)


PARTS = {part.__name__: part for part in (machine, matrix, outcome, aims, bfloat16, grid, alone, peers, gpu, headline)}


def render(page: str, result: Mapping[str, Any]) -> str:
    """A page with its measured parts written again. Raises KeyError for a part that isn't in `PARTS`."""

    def part(match: re.Match[str]) -> str:
        return f"<!-- measured: {match[1]} -->\n{PARTS[match[1]](result)}\n<!-- end -->"

    return re.sub(r"<!-- measured: (\w+) -->\n.*?<!-- end -->", part, page, flags=re.DOTALL)


def main() -> int:
    result, stale = load(), []
    for path in PAGES:
        page = path.read_text(encoding="utf-8")
        new = render(page, result)
        if new != page:
            stale.append(path.relative_to(ROOT))
            if "--check" not in sys.argv:
                path.write_text(new, encoding="utf-8")
    if "--check" in sys.argv:
        print(
            *(f"{path}: differs from the results in benchmarks/results/" for path in stale),
            sep="\n",
            end="\n" if stale else "",
        )
        return 1 if stale else 0
    presentation.draw({**result, "curves": []}, PICTURE)
    print(*(f"wrote {path}" for path in [*stale, PICTURE.relative_to(ROOT)]), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
