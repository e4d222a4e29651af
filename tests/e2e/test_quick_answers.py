"""Help, lists and usage errors answer without TensorFlow, whose import alone takes seconds."""

import json
import subprocess
import sys
from typing import Any

import pytest

HEAVY = ("tensorflow", "keras", "tensorflow_datasets", "numpy", "pandas", "matplotlib", "rich")

#: Runs a command; its last line on stdout says which of the heavy packages were imported.
PROBE = f"""
import json, sys
from loopwright.trainer.__main__ import main
code = main(sys.argv[1:])
print(json.dumps([name for name in {HEAVY} if name in sys.modules]))
sys.exit(code)
"""


def probe(*argv: str) -> tuple[int, str, str, list[str]]:
    done = subprocess.run([sys.executable, "-c", PROBE, *argv], capture_output=True, text=True, check=False)
    *out, heavy = done.stdout.splitlines()
    return done.returncode, "\n".join(out), done.stderr, json.loads(heavy)


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        ([], "usage: loopwright <command>"),
        (["--help"], "usage: loopwright <command>"),
        (["--version"], "loopwright 0."),
        (["train", "--help"], "--batch_size"),
        (["train", "--helpfull"], "--checkpoint_every"),
        (["evaluate", "--help"], "--restore_from"),
        (["benchmark", "--help"], "--repeats"),
        (["models", "--help"], "--input_shape"),
        (["models"], "cnn_subclass"),
        (["models", "--json"], '"cnn"'),
    ],
    ids=" ".join,
)
def test_answer_needs_no_tensorflow(argv: list[str], part: str) -> None:
    code, out, err, heavy = probe(*argv)
    assert (code, err, heavy) == (0, "", [])
    assert part in out


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["trian"], ["'trian'", "did you mean 'train'?"]),
        (["train", "--optimizer=adm"], ["--optimizer=adm", "'adam'"]),
        (["train", "--optimiser=adam"], ["optimiser", "optimizer"]),
        (["train", "--batch_size=0"], ["--batch_size=0", "at least 1"]),
        (["train", "--model=cnm"], ["--model=cnm", "'cnn'"]),
        (["train", "--epochs=1", "--train_steps=5"], ["--epochs=1", "--train_steps=5"]),
        (["evaluate"], ["--workdir", "--restore_from"]),
        (["evaluate", "--workdir=nowhere"], ["--workdir=nowhere"]),
        (["benchmark", "--repeats=0"], ["--repeats=0"]),
        (["models", "cnm"], ["cnm", "'cnn'"]),
        (["models", "cnn", "--input_shape=28x28"], ["--input_shape=28x28", "28,28,1"]),
        (["models", "cnn", "--input_shape=0,28,1"], ["--input_shape=0,28,1"]),
    ],
    ids=" ".join,
)
def test_usage_error_is_one_line_and_needs_no_tensorflow(argv: list[str], parts: list[str]) -> None:
    code, out, err, heavy = probe(*argv)
    assert (code, out, heavy) == (2, "", [])
    assert err.startswith("loopwright: ")
    assert len(err.splitlines()) == 1
    assert all(part in err for part in parts), err


def test_installed_command_and_module_answer_alike(installed: Any) -> None:
    ways = [[installed[0]], [sys.executable, "-m", "loopwright.trainer"]]
    first, second = [subprocess.run([*way, "--help"], capture_output=True, text=True, check=True) for way in ways]
    assert first.stdout == second.stdout
    assert "train" in first.stdout


def test_importing_the_packages_loads_nothing_heavy() -> None:
    code = "import json, sys, loopwright.flags, loopwright.models, loopwright.data, loopwright.trainer\n"
    code += f"print(json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_public_names_of_trainer_load_no_datasets() -> None:
    code = "import sys; from loopwright import trainer; [getattr(trainer, name) for name in trainer.__all__]\n"
    code += "print([name for name in ('tensorflow_datasets', 'mlxtend', 'jinja2', 'xprof') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
