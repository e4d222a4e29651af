"""The same network, batch size and precision elsewhere: Orbit and PyTorch, each in an environment of its own.

`make peers` builds the environments; a peer whose environment isn't there, or that fails, is reported absent.

    python benchmarks/peers.py --output=benchmarks/results
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import subprocess
from typing import Any

from loopwright.trainer import timing
from loopwright.trainer.commit import replace_file

ROOT = pathlib.Path(__file__).resolve().parent.parent
#: Name, environment and script of each peer.
PEERS = (("Orbit", ".venv-orbit", "orbit_loop.py"), ("PyTorch", ".venv-torch", "torch_loop.py"))


def measure(name: str, environment: str, script: str, *, batch_size: int, steps: int, laps: int) -> dict[str, Any]:
    """A row, or why there is none."""
    python = ROOT / environment / "bin" / "python"
    if not python.exists():
        return {"peer": name, "absent": f"no {environment}; make peers"}
    words = [str(python), str(ROOT / "benchmarks" / "peers" / script), *map(str, (batch_size, steps, laps))]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "no word")
        return {"peer": name, "absent": f"exit code {done.returncode}: {last.strip()[:200]}"}
    found = json.loads(done.stdout.splitlines()[-1])
    times = [seconds / steps * 1e3 for seconds in found["seconds"]]
    median = statistics.median(times)
    return {
        "peer": name,
        "version": found["version"],
        "ms_per_step": median,
        "interval": timing.interval(times),
        "examples_per_second": batch_size / median * 1e3,
        "laps_ms": times,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, type=pathlib.Path, help="folder for peers.json")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=100, help="steps in a lap")
    parser.add_argument("--laps", type=int, default=9)
    arguments = parser.parse_args()
    sizes = {"batch_size": arguments.batch_size, "steps": arguments.steps, "laps": arguments.laps}
    rows = [measure(*peer, **sizes) for peer in PEERS]
    result = {"model": "cnn", "precision": "float32", **sizes, "rows": rows}
    replace_file(arguments.output / "peers.json", json.dumps(result, indent=1) + "\n")
    for row in rows:
        print(row["peer"], row.get("absent") or f"{row['ms_per_step']:.3g} ms a step")


if __name__ == "__main__":
    main()
