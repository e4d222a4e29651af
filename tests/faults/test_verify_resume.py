"""`verify_resume` passes a sound run, and names what is wrong with each mutant."""

import json
import os
import pathlib
import shutil
from typing import Any

import pytest

from loopwright.trainer.__main__ import main

HERE = pathlib.Path(__file__).resolve().parent
pytestmark = pytest.mark.skipif(
    os.environ.get("FAULTS", "quick") == "quick", reason="each takes three runs; make faults tries them"
)


@pytest.fixture
def verify(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, mnist_dir: pathlib.Path, capsys: Any) -> Any:
    """`verify(words)`: the exit code and the result of a small job."""
    shutil.copy(HERE / "mutants.py", tmp_path)
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, dict[str, Any]]:
        small = [f"--data_dir={mnist_dir}", "--train_split=train[:160]", "--eval_split=test[:64]", "--train_steps=16"]
        small += ["--checkpoint_every=3", "--eval_every=8", "--log_every=4", "--steps_per_call=2"]
        code = main(["verify_resume", *small, *words, "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run


def test_verify_resume_passes_a_sound_run(verify: Any, survived: Any) -> None:
    code, result = verify("--model=mutants:net", "--async_checkpoints", "--kill_at=5,11")
    assert result["differences"] == []
    assert (code, result["equal"], result["compared"]["steps"]) == (0, True, 16)
    assert result["kills"]["done"] == result["kills"]["asked"]
    assert result["damage"].startswith("000000")
    survived("verify_resume of a sound run")


@pytest.mark.parametrize(
    ("mutant", "named"),
    [
        ("seed_not_saved", "not to the bit: seeds/0"),
        ("feed_shifted_by_a_batch", "samples: step "),
        ("loss_scale_reset", "dynamic_scale"),
        ("hash_not_checked", "hash: "),
        ("ends_before_its_kill", "kills: 0 of 1 came before the run's end"),
    ],
)
def test_verify_resume_names_the_mutant(
    verify: Any, survived: Any, monkeypatch: pytest.MonkeyPatch, mutant: str, named: str
) -> None:
    monkeypatch.setenv("MUTANT", mutant)
    code, result = verify("--model=mutants:net", "--precision=mixed_float16", "--kill_at=8")
    assert (code, result["equal"]) == (1, False)
    assert any(named in line for line in result["differences"]), result["differences"]
    survived(f"mutant caught by verify_resume: {mutant}")
