"""A run's folder: what run.json says of the machine, and what it tells a run that goes on elsewhere."""

import json
import pathlib
from typing import Any

import pytest

from loopwright.trainer.base.run_folder import RunFolder
from loopwright.trainer.commands.train import facts

FACTS = {"dataset_fingerprint": "f", "execution": "graph"}


def test_what_the_last_bits_depend_on_is_compared_with_the_process_before(tmp_path: pathlib.Path) -> None:
    assert facts.write_run_json(RunFolder.at(tmp_path), FACTS) == []
    assert facts.write_run_json(RunFolder.at(tmp_path), FACTS) == []
    path = tmp_path / "run.json"
    run: dict[str, Any] = json.loads(path.read_text())
    now, threads = run["versions"]["keras"], run["inter_op_threads"]
    run["versions"]["keras"], run["inter_op_threads"], run["host"], run["cpu"] = "3.0", 99, "elsewhere", "Z80"
    del run["onednn"]  # a run.json of an older version
    path.write_text(json.dumps(run))
    changed = facts.write_run_json(RunFolder.at(tmp_path), FACTS)
    assert changed[0] == f"keras: 3.0 before, {now} now"
    assert changed[1].startswith("cpu: Z80 before, ")
    assert changed[2:] == [f"inter_op_threads: 99 before, {threads} now"]
    assert facts.write_run_json(RunFolder.at(tmp_path), FACTS) == []


def test_finished_run_stays_as_it_was(loopwright: Any, run_folder: pathlib.Path) -> None:
    before = {name: (run_folder / name).read_bytes() for name in ("flags.txt", "summary.json")}
    shorter = [f"--flagfile={run_folder / 'flags.txt'}", "--workdir=run", "--train_steps=20", "--monitor=loss"]
    said = loopwright("train", *shorter)
    assert said.code == 0, said.err
    assert "This run is finished: it took 30 steps" in said.out
    assert "--train_steps=60" in said.out
    assert before == {name: (run_folder / name).read_bytes() for name in before}


def test_folder_of_another_run_is_moved_aside_from_within(
    loopwright: Any, run_folder: pathlib.Path, mnist_dir: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run_folder)
    words = ["train", "--model=mlp", "--seed=4", "--train_steps=2", f"--data_dir={mnist_dir}", "--workdir=."]
    assert loopwright(*words).code == 2
    assert loopwright(*words, "--overwrite").code == 0
    (aside,) = run_folder.parent.glob("run.*")
    assert (aside / "checkpoints" / "00000030").is_dir()
    assert (run_folder / "checkpoints" / "00000002").is_dir()


def test_profile_past_the_end_is_refused(loopwright: Any, mnist_dir: pathlib.Path) -> None:
    said = loopwright("train", "--model=mlp", "--train_steps=20", "--profile_steps=20:30", f"--data_dir={mnist_dir}")
    assert said.code == 2
    assert "--profile_steps=20:30: the run ends at step 20" in said.err
