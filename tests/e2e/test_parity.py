"""`loopwright parity`: exit codes, parity.json, a user's own model, and loops that were broken on purpose."""

import json
import pathlib
import re
import shutil
from typing import Any

import pytest

from loopwright.trainer.commands.train import build


def test_certificate_is_written_and_printed(loopwright: Any, mnist_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    words = ["--model=cnn", "--train_steps=10", "--output=proof", f"--data_dir={mnist_dir}"]
    result = loopwright("parity", *words)
    assert result.code == 0
    assert "identical: weights, slots and seeds are equal to the last bit after each of 10 steps" in result.out
    written = json.loads((tmp_path / "proof" / "parity.json").read_text())
    assert (written["steps"], written["identical"], written["holds"]) == (10, True, True)
    assert written["max_abs_difference"] == 0
    assert written["first_difference"] is None
    assert written["compared"]["seeds"]["tensors"] == 1
    assert written["job"]["model"] == "cnn"
    assert written["environment"]["tensorflow"]


def test_users_model_of_two_inputs_is_certified(loopwright: Any, tmp_path: pathlib.Path) -> None:
    shutil.copy(pathlib.Path(__file__).with_name("two_inputs.py"), tmp_path / "mine.py")
    words = ["--dataset=mine:samples", "--model=mine:model", "--train_steps=7", "--batch_size=16", "--optimizer=adamw"]
    result = loopwright("parity", *words, "--json")
    assert result.code == 0, result.err
    assert result.json["identical"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "identical"), [(["--execution=eager"], True), (["--execution=xla"], None)], ids=["eager", "xla"]
)
def test_every_execution_is_held_against_its_like(
    loopwright: Any, mnist_dir: pathlib.Path, flags: list[str], identical: bool | None
) -> None:
    result = loopwright("parity", f"--data_dir={mnist_dir}", "--model=mlp", "--train_steps=8", *flags, "--json")
    assert result.code == 0
    assert result.json["holds"]
    assert identical in (None, result.json["identical"])
    assert result.json["bound"]["reason"]


def test_broken_loop_exits_1(loopwright: Any, mnist_dir: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = build.make_execution

    def broken(name: str, steps_per_call: int) -> Any:
        def bind(state: Any, step: Any, feed: Any) -> Any:
            return make(name, steps_per_call)(state, step, lambda start: feed(start + 1))

        return bind

    monkeypatch.setattr(build, "make_execution", broken)
    words = ["--model=mlp", "--train_steps=5", f"--data_dir={mnist_dir}", "--output=proof"]
    result = loopwright("parity", *words)
    assert result.code == 1
    assert "different (first at step 1, weights/" in result.out
    written = json.loads(pathlib.Path("proof/parity.json").read_text())
    assert not written["identical"]
    assert written["first_difference"]["step"] == 1


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--gradient_accumulation=4"], "--gradient_accumulation=4"),
        (["--metrics=auc"], "--metrics=auc"),
        (["--init_from=model.h5"], "--init_from=model.h5"),
        (["--model=cnm"], "'cnn'"),
        (["--execution=auto"], "graph, xla, eager"),
    ],
)
def test_what_fit_does_otherwise_is_refused(loopwright: Any, words: list[str], part: str) -> None:
    result = loopwright("parity", *words)
    assert (result.code, result.out) == (2, "")
    assert part in result.err


def test_program_of_the_guide_certifies(
    repository: pathlib.Path, mnist_dir: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (source,) = re.findall(r"```python\n(.*?)```", (repository / "docs" / "parity.md").read_text(), re.DOTALL)
    assert 'data.load("mnist_5k")' in source
    source = source.replace('"mnist_5k"', f'"mnist_5k", data_dir="{mnist_dir}"').replace("num_steps=50", "num_steps=5")
    exec(compile(source, "docs/parity.md", "exec"), {})
    assert capsys.readouterr().out == "True None\n"


@pytest.mark.slow
@pytest.mark.parametrize("model", ["cnn_subclass", "resnet20"])
def test_models_that_make_it_hard_are_certified(loopwright: Any, mnist_dir: pathlib.Path, model: str) -> None:
    """A subclass has its layers in another order, and batch norm at depth multiplies what differs."""
    result = loopwright("parity", f"--data_dir={mnist_dir}", f"--model={model}", "--train_steps=10", "--json")
    assert (result.code, result.json["identical"]) == (0, True)


@pytest.mark.slow
def test_broken_xla_loop_is_outside_its_bound(
    loopwright: Any, mnist_dir: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = build.make_execution

    def broken(name: str, steps_per_call: int) -> Any:
        def bind(state: Any, step: Any, feed: Any) -> Any:
            brighter = lambda state, batch: step(state, {**batch, "x": batch["x"] * 1.01})  # noqa: E731
            return make(name, steps_per_call)(state, brighter, feed)

        return bind

    monkeypatch.setattr(build, "make_execution", broken)
    words = ["--model=mlp", "--train_steps=5", "--execution=xla", f"--data_dir={mnist_dir}"]
    result = loopwright("parity", *words, "--json")
    assert (result.code, result.json["holds"], result.json["first_difference"]["step"]) == (1, False, 1)
