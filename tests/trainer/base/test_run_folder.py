"""The names of a run's files: README, the docstring, the table of names and a real run agree."""

import dataclasses
import inspect
import pathlib
import re
import subprocess
import sys
from typing import Any

import pytest

from loopwright import trainer
from loopwright.trainer.base.run_folder import NAMES, RunFolder


@pytest.fixture(scope="module")
def described() -> list[str]:
    """The lines of the docstring after its first paragraph."""
    _, block = inspect.cleandoc(RunFolder.__doc__ or "").split("\n\n", 1)
    return block.splitlines()


def test_readme_describes_the_folder_as_the_docstring_does(repository: pathlib.Path, described: list[str]) -> None:
    readme = (repository / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## A run's folder\n")[2].partition("\n## ")[0]
    (block,) = re.findall(r"```\n(.*?)```", section, re.DOTALL)
    assert block.splitlines() == described


def test_every_name_is_described_once(described: list[str]) -> None:
    names = [line.split()[0].removesuffix("/") for line in described]
    assert sorted(names) == sorted(NAMES.values())


def test_every_path_lies_in_the_folder_under_its_name(tmp_path: pathlib.Path) -> None:
    folder = RunFolder.at(tmp_path / "run")
    assert folder.root == tmp_path / "run"
    paths = {field.name: getattr(folder, field.name) for field in dataclasses.fields(folder) if field.name != "root"}
    assert paths == {attribute: tmp_path / "run" / name for attribute, name in NAMES.items()}
    assert RunFolder.at(str(tmp_path / "run")) == folder
    assert not (tmp_path / "run").exists()


def test_run_writes_known_names_only(make_state: Any, make_feed: Any, objective: Any, tmp_path: pathlib.Path) -> None:
    evaluate = trainer.Evaluate(make_feed(shuffle=False), objective)
    with trainer.Run(tmp_path / "run", make_state(), progress="none", asynchronous=True, keep=1) as run:
        hooks = run.hooks(evaluate, feed=make_feed(), log_every=2, eval_every=3, checkpoint_every=2)
        step = trainer.gradient_step(objective)
        trainer.train(run.state, make_feed(), step, num_steps=6, execution=trainer.graph(clock=run.clock), hooks=hooks)
    written = {path.name for path in (tmp_path / "run").iterdir()}
    assert written <= set(NAMES.values())
    assert written == {"lock", "metrics.jsonl", "summary.json", "goodput.json", "tensorboard", "checkpoints"}
    assert {path.name for path in run.files.tensorboard.iterdir()} == {"train", "eval"}
    assert {path.name for path in run.files.checkpoints.iterdir()} >= {"00000006", "latest", "best.json"}


def test_run_folder_imports_no_tensorflow() -> None:
    script = "import sys; import loopwright.trainer.base.run_folder; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
