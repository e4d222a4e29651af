"""Every library function that takes a path refuses what is no path on this machine, before anything is written."""

import os
import pathlib
import pwd
import subprocess
import sys
from typing import Any

import pytest

from loopwright import trainer
from loopwright.trainer.base.errors import TrainingError
from loopwright.trainer.base.paths import local_path
from loopwright.trainer.checkpoint.checkpoint import load_weights, newest_good, restore_folder, verified_manifest
from loopwright.trainer.observe.event_files import EventFile

TAKERS: dict[str, Any] = {
    "Checkpoint": lambda path, state: trainer.Checkpoint(path),
    "JsonLines": lambda path, state: trainer.JsonLines(path),
    "export_h5": lambda path, state: trainer.export_h5(state, f"{path}/model.h5"),
    "export_weights": lambda path, state: trainer.export_weights(state.model, f"{path}/model.weights.h5"),
    "load_h5": lambda path, state: trainer.load_h5(f"{path}/model.h5"),
    "restore_h5": lambda path, state: trainer.restore_h5(f"{path}/model.h5", state),
    "restore_folder": lambda path, state: restore_folder(path, state),
    "load_weights": lambda path, state: load_weights(path, state.model),
    "EventFile": lambda path, state: EventFile(path),
    "Run": trainer.Run,
    "TensorBoard": lambda path, state: trainer.TensorBoard(path),
    "newest_good": lambda path, state: newest_good(path),
    "verified_manifest": lambda path, state: verified_manifest(path),
}


@pytest.mark.parametrize("name", TAKERS)
@pytest.mark.parametrize("address", ["gs://bucket/run", "s3://b/r", "file:///tmp/run", pathlib.Path("hdfs://name/run")])
def test_address_is_refused_and_nothing_is_written(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, make_state: Any, name: str, address: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        TrainingError, match=f"^{address}[^ ]* is an address, not a path on this machine; give a local"
    ) as error:
        TAKERS[name](address, make_state())
    assert error.value.exit_code == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["runs/a", "/tmp/a:b", "a:b", "1:/x", "C", "", "x/gs:/y"])
def test_path_on_this_machine_stays_as_it_is(path: str) -> None:
    assert local_path(path) == pathlib.Path(path)


def test_tilde_is_the_home_folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_path("~/run") == tmp_path / "run"
    assert trainer.Checkpoint("~/run").directory == tmp_path / "run"


def test_tilde_without_a_home_folder_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_entry(number: int) -> Any:
        raise KeyError(number)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    with pytest.raises(TrainingError, match=r"^~/run: no home folder is known for ~; set HOME"):
        local_path("~/run")


def test_name_with_two_encodings_is_refused(tmp_path: pathlib.Path) -> None:
    assert local_path("d\u00e9j\u00e0").name == "d\u00e9j\u00e0"
    with pytest.raises(TrainingError, match="PYTHONUTF8=1"):
        local_path("d\udce9")
    code = "import sys; from loopwright.trainer.base.paths import local_path; print(local_path(sys.argv[1]))"
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", code, "d\u00e9j\u00e0"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "TrainingError: 'd\\udcc3\\udca9j\\udcc3\\udca0': Python and TensorFlow write this name" in done.stderr


def test_paths_import_no_tensorflow() -> None:
    script = "import sys; import loopwright.trainer.base.paths; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
