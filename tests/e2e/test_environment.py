"""What the environment sets besides flags: a run works as without it, or one line says what to do."""

import json
import os
import pathlib
import subprocess
import sys
import threading
from typing import Any

import pytest

from loopwright.trainer.__main__ import main
from loopwright.trainer.commands import doctor, setup

JOB = ("train", "--model=mlp", "--train_steps=3", "--workdir=run", "--progress=none", "--json")
#: A C locale in which Python doesn't change to UTF-8 by itself, as it doesn't in a Latin-1 locale.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
#: `main` for a user without HOME and without an entry in the system's list of users.
HOMELESS = """
import os, pwd, sys
def no_entry(number): raise KeyError(number)
os.environ.pop("HOME", None)
pwd.getpwuid = no_entry
from loopwright.trainer.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def command(*words: str, cwd: pathlib.Path, code: str | None = None, **environment: str) -> Any:
    """Runs the command in a new process, whose environment has changes."""
    start = [sys.executable, "-c", code] if code else [sys.executable, "-m", "loopwright.trainer"]
    changed = {**os.environ, **environment}
    return subprocess.run([*start, *words], cwd=cwd, env=changed, capture_output=True, text=True, check=False)


def keras_home(folder: pathlib.Path, **settings: Any) -> str:
    (folder / "home" / ".keras").mkdir(parents=True)
    (folder / "home" / ".keras" / "keras.json").write_text(json.dumps(settings))
    return str(folder / "home")


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory, mnist_dir: pathlib.Path) -> dict[str, float]:
    """What the job measures in a plain environment."""
    done = command(*JOB, f"--data_dir={mnist_dir}", cwd=tmp_path_factory.mktemp("usual"))
    return measured(done)


def measured(done: Any) -> dict[str, float]:
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    result = json.loads(done.stdout)
    return {name: result[split][name] for split in ("train", "eval") for name in ("loss", "accuracy")}


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"backend": "jax"},
        {"backend": "torch", "floatx": "float64", "epsilon": 0.5, "image_data_format": "channels_first"},
    ],
    ids=["jax", "all"],
)
def test_keras_json_changes_no_number(
    tmp_path: pathlib.Path, mnist_dir: pathlib.Path, usual: Any, settings: dict[str, Any]
) -> None:
    home = keras_home(tmp_path, **settings)
    assert measured(command(*JOB, f"--data_dir={mnist_dir}", cwd=tmp_path, HOME=home)) == usual


@pytest.mark.slow
def test_variables_of_a_notebook_change_no_number(tmp_path: pathlib.Path, mnist_dir: pathlib.Path, usual: Any) -> None:
    environment = {"MPLBACKEND": "module://no_such.backend", "TF_USE_LEGACY_KERAS": "1", "KERAS_MAX_EPOCHS": "1"}
    assert measured(command(*JOB, f"--data_dir={mnist_dir}", cwd=tmp_path, **environment)) == usual


@pytest.mark.slow
def test_user_without_a_home_folder_trains_with_a_data_dir(
    tmp_path: pathlib.Path, mnist_dir: pathlib.Path, usual: Any
) -> None:
    assert measured(command(*JOB, f"--data_dir={mnist_dir}", cwd=tmp_path, code=HOMELESS)) == usual
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("words", [[], ["--data_dir=~/data"]], ids=["default", "tilde"])
def test_user_without_a_home_folder_is_told_what_to_give(tmp_path: pathlib.Path, words: list[str]) -> None:
    done = command(*JOB, *words, cwd=tmp_path, code=HOMELESS)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("loopwright: --data_dir")
    assert "no home folder is known for ~" in done.stderr
    assert "set HOME" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_locale_without_utf_8_works_or_is_told(tmp_path: pathlib.Path, mnist_dir: pathlib.Path, usual: Any) -> None:
    (tmp_path / "job.txt").write_text("# für Latin-1\n" + "\n".join(JOB[1:]), encoding="utf-8")
    words = ("train", "--flagfile=job.txt", f"--data_dir={mnist_dir}")
    assert measured(command(*words, cwd=tmp_path, **ASCII)) == usual
    assert command("datasets", f"--data_dir={mnist_dir}", cwd=tmp_path, **ASCII).returncode == 0
    refused = command(*words, "--workdir=très", cwd=tmp_path, **ASCII)
    assert refused.returncode == 2
    assert "PYTHONUTF8=1" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.txt", "run"]


@pytest.mark.slow
def test_main_runs_in_a_thread_and_twice(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, mnist_dir: pathlib.Path, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    codes, path = [], list(sys.path)
    for name in ("a", "b"):
        words = [*JOB, f"--data_dir={mnist_dir}", f"--workdir={name}"]
        thread = threading.Thread(target=lambda words=words: codes.append(main(words)))
        thread.start()
        thread.join()
    assert codes == [0, 0]
    assert sys.path.count(str(tmp_path)) == path.count(str(tmp_path)) + 1
    losses = [json.loads(line)["eval"]["loss"] for line in capsys.readouterr().out.splitlines()]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("flag", ["intra_op_threads=3", "inter_op_threads=3", "onednn=off"])
def test_setting_that_a_running_tensorflow_cannot_take_exits_2(
    loopwright: Any, mnist_dir: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    monkeypatch.setattr(setup.machine, "onednn", lambda: "on")
    result = loopwright(*JOB, f"--data_dir={mnist_dir}", f"--{flag}")
    assert (result.code, len(result.err.splitlines())) == (2, 1)
    assert f"--{flag}: TensorFlow already runs in this process" in result.err
    assert not list(tmp_path.iterdir())


def test_library_says_that_keras_runs_on_another_backend(tmp_path: pathlib.Path) -> None:
    code = "import keras; keras.config.backend = lambda: 'torch'; from loopwright.trainer import TrainState"
    done = command(cwd=tmp_path, code=code)
    assert "ImportError: Keras runs on torch" in done.stderr
    assert "set KERAS_BACKEND=tensorflow" in done.stderr


def test_doctor_finds_what_commands_do_not_follow(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setenv("HOME", keras_home(tmp_path, backend="jax", floatx="float64", epsilon=1e-7))
    monkeypatch.delenv("KERAS_HOME", raising=False)
    settings = setup.keras_settings()
    assert settings == {"backend": "jax", "floatx": "float64"}
    environ = {"MPLBACKEND": "module://no_such.backend", "TF_USE_LEGACY_KERAS": "1", "KERAS_MAX_EPOCHS": "1"}
    found = list(doctor.surroundings(environ, "iso8859-1", settings))
    assert [finding.what for finding in found] == ["keras.json", "Keras 2", "Keras", "matplotlib", "encoding"]
    assert all(finding.state in ("note", "warn") and finding.remedy for finding in found)
    assert "backend=jax, floatx=float64" in found[0].found
    assert not list(doctor.surroundings({"MPLBACKEND": "agg"}, "utf-8", {}))


def test_doctor_works_where_it_finds_something(tmp_path: pathlib.Path, mnist_dir: pathlib.Path) -> None:
    done = command("doctor", "--json", cwd=tmp_path, code=HOMELESS, TF_USE_LEGACY_KERAS="1", **ASCII)
    found = {finding["what"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert done.returncode == 0
    assert found["TensorFlow"]["state"] == "ok"
    assert {name: found[name]["state"] for name in ("Keras 2", "encoding", "home")} == {
        "Keras 2": "note",
        "encoding": "warn",
        "home": "warn",
    }
