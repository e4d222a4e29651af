"""A run's folder: what run.json says of the machine, and what it tells a run that goes on elsewhere."""

import json
import pathlib
from typing import Any

from loopwright.trainer.commands import workdir

FACTS = {"dataset_fingerprint": "f", "execution": "graph"}


def test_what_the_last_bits_depend_on_is_compared_with_the_process_before(tmp_path: pathlib.Path) -> None:
    assert workdir.write_run_json(tmp_path, FACTS) == []
    assert workdir.write_run_json(tmp_path, FACTS) == []
    path = tmp_path / "run.json"
    run: dict[str, Any] = json.loads(path.read_text())
    now, threads = run["versions"]["keras"], run["inter_op_threads"]
    run["versions"]["keras"], run["inter_op_threads"], run["host"], run["cpu"] = "3.0", 99, "elsewhere", "Z80"
    del run["onednn"]  # a run.json of an older version
    path.write_text(json.dumps(run))
    changed = workdir.write_run_json(tmp_path, FACTS)
    assert changed[0] == f"keras: 3.0 before, {now} now"
    assert changed[1].startswith("cpu: Z80 before, ")
    assert changed[2:] == [f"inter_op_threads: 99 before, {threads} now"]
    assert workdir.write_run_json(tmp_path, FACTS) == []
