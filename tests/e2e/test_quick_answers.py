"""Help, lists and usage errors answer without TensorFlow, whose import alone takes seconds."""

import json
import os
import pathlib
import runpy
import subprocess
import sys
from typing import Any

import pytest

HEAVY = ("tensorflow", "keras", "tensorflow_datasets", "numpy", "pandas", "matplotlib", "rich")

#: Runs each command of a JSON list on stdin, and prints for each: exit code, stdout, stderr, heavy packages imported so far.
PROBE = f"""
import contextlib, io, json, sys
from loopwright.trainer.__main__ import main
answers = []
for argv in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(argv)
    answers.append([code, out.getvalue(), err.getvalue(), [name for name in {HEAVY} if name in sys.modules]])
print(json.dumps(answers))
"""


def probe(commands: list[list[str]], folder: pathlib.Path, **environment: str) -> list[tuple[int, str, str, list[str]]]:
    """What each command answers, all of them run one after another in one new process."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        cwd=folder,
        env={**os.environ, **environment},
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        check=True,
    )
    return [tuple(answer) for answer in json.loads(done.stdout)]


QUICK = [
    ([], "usage: loopwright <command>"),
    (["--help"], "usage: loopwright <command>"),
    (["--version"], "loopwright 0."),
    (["train", "--help"], "--batch_size"),
    (["train", "--helpfull"], "--checkpoint_every"),
    (["evaluate", "--help"], "--restore_from"),
    (["predict", "--help"], "--split"),
    (["export", "--help"], "--formats"),
    (["report", "--help"], "--output"),
    (["benchmark", "--help"], "--repeats"),
    (["parity", "--help"], "--execution"),
    (["verify_resume", "--help"], "--kill_at"),
    (["datasets", "--help"], "--sheet"),
    (["doctor", "--help"], "--data_dir"),
    (["models", "--help"], "--input_shape"),
    (["models"], "cnn_subclass"),
    (["models", "--json"], '"cnn"'),
    (["datasets"], "mnist_5k"),
]


@pytest.fixture(scope="module")
def quick_answers(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return probe([argv for argv, _ in QUICK], tmp_path_factory.mktemp("quick"))


@pytest.mark.parametrize("place", range(len(QUICK)), ids=[" ".join(argv) for argv, _ in QUICK])
def test_answer_needs_no_tensorflow(quick_answers: list[Any], place: int) -> None:
    code, out, err, heavy = quick_answers[place]
    assert (code, err, heavy) == (0, "", [])
    assert QUICK[place][1] in out


FLAGS = runpy.run_path(str(pathlib.Path(__file__).parent.parent / "flags" / "mistakes.py"))
#: Words without which a command has nothing to read.
SOURCES = {"predict": ["--restore_from=model.h5"], "export": ["--workdir=runs/other"]}
#: Commands that are wrong, and what the one line about each says.
MISTAKES = [
    (["trian"], ["'trian'", "did you mean 'train'?"]),
    (["train", "--optimizer=adm"], ["--optimizer=adm", "'adam'"]),
    (["train", "--optimiser=adam"], ["--optimiser", "did you mean --optimizer?"]),
    (["train", "--batch_size=0"], ["--batch_size=0", "at least 1"]),
    (["train", "--model=cnm"], ["--model=cnm", "'cnn'"]),
    (["train", "--epochs=1", "--train_steps=5"], ["--epochs=1", "--train_steps=5"]),
    (["train", "fast"], ["'fast'", "--name=value"]),
    (["evaluate"], ["--workdir", "--restore_from"]),
    (["evaluate", "--workdir=nowhere"], ["--workdir=nowhere"]),
    (["evaluate", "--restore_from=nowhere"], ["--restore_from=nowhere", "no such file"]),
    (["evaluate", "--restore_from=a_file"], ["--restore_from=a_file", ".h5 and .keras"]),
    (["evaluate", "--workdir=runs/other", "--image_size=9"], ["--image_size=9", "HEIGHT,WIDTH"]),
    (["predict", "--restore_from=model.h5"], ["give image files"]),
    (["predict", "nothing.png", "--restore_from=model.h5"], ["nothing.png", "no such file"]),
    (["predict", "runs", "--restore_from=model.h5"], ["runs", "holds no images"]),
    (["export", "--restore_from=model.h5"], ["--restore_from=model.h5", "--workdir"]),
    (["report"], ["--workdir"]),
    (["report", "--workdir=nowhere"], ["--workdir=nowhere"]),
    (["report", "--workdir=runs/other", "--output=runs"], ["--output=runs", "name a file"]),
    (["benchmark", "--repeats=0"], ["--repeats=0"]),
    (["benchmark", "--model=mlp,cnm"], ["--model=cnm", "'cnn'"]),
    (["benchmark", "--model=mlp,my-models:net"], ["--model=my-models:net", "module:function"]),
    (["benchmark", "--batch_size=8,x"], ["--batch_size=x", "not a whole number"]),
    (["parity", "--execution=auto"], ["--execution=auto", "(graph, xla, eager)"]),
    (["verify_resume", "--workdir=runs"], ["--workdir=runs", "new folder"]),
    (["verify_resume", "--kill_at=201"], ["--kill_at=201", "the run ends at step 200"]),
    (["datasets", "no_such_module:f"], ["--dataset=no_such_module:f", "can't be imported"]),
    (["datasets", "folder:nowhere"], ["--dataset=folder:nowhere", "no such folder"]),
    (["datasets", "mnist_5k", "--image_size=64"], ["--image_size=64", "HEIGHT,WIDTH"]),
    (["models", "cnm"], ["cnm", "'cnn'"]),
    (["models", "no_such_module:net"], ["no_such_module:net", "can't be imported"]),
    *(
        ([command, *SOURCES.get(command, []), *words], parts)
        for command, words, parts in [*FLAGS["MISTAKES"], *FLAGS["IMPOSSIBLE"]]
    ),
]


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("mistakes")
    FLAGS["surround"](folder)
    before = sorted(folder.rglob("*"))
    answers = probe([argv for argv, _ in MISTAKES], folder)
    assert sorted(folder.rglob("*")) == before
    return answers


@pytest.mark.parametrize("place", range(len(MISTAKES)), ids=[" ".join(argv)[:80] for argv, _ in MISTAKES])
def test_usage_error_is_one_line_and_needs_no_tensorflow(refusals: list[Any], place: int) -> None:
    code, out, err, heavy = refusals[place]
    assert (code, out, heavy) == (2, "", []), err
    assert err.startswith("loopwright: ")
    assert len(err.splitlines()) == 1
    assert all(part in err for part in MISTAKES[place][1]), err


def test_other_keras_backend_is_refused_before_it_is_imported(tmp_path: pathlib.Path) -> None:
    ((code, out, err, heavy),) = probe([["train"]], tmp_path, KERAS_BACKEND="jax")
    assert (code, out) == (2, "")
    assert err == "loopwright: KERAS_BACKEND=jax: this program needs tensorflow; unset it\n"
    assert "keras" not in heavy


@pytest.mark.parametrize("argv", [["--help"], ["train", "--helpfull"], ["models"]], ids=" ".join)
def test_output_that_nobody_reads_ends_in_a_line(argv: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "loopwright.trainer", *argv]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "loopwright: nobody reads the output (Broken pipe)\n")


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
