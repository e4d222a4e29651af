"""Paths that Python's users give: an address of another place is refused in one line, whatever the parameter."""

import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from loopwright import data
from loopwright.data.paths import local_path

ADDRESSES = ["gs://bucket/data", "s3://bucket/data", "gs:/bucket/data", "file:///data"]
TAKES_A_PATH: dict[str, Callable[[str], Any]] = {
    "data_dir": lambda path: data.load("mnist_5k", data_dir=path),
    "manual_dir": lambda path: data.load("mnist", manual_dir=path, download=False),
    "dataset": lambda path: data.load(f"folder:{path}"),
    "prepared": data.prepared,
}


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("name", TAKES_A_PATH)
def test_address_of_another_place_is_refused(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, name: str, address: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(data.DataError, match=f"='{address}' is an address, not a path on this machine; give") as error:
        TAKES_A_PATH[name](address)
    assert error.value.exit_code == 2
    assert not list(tmp_path.iterdir())


def test_home_folder_that_is_not_known_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(data.DataError, match="data_dir='~/data': no home folder is known for ~; set HOME"):
        local_path("data_dir", "~/data")
    assert data.prepared(None) == []


def test_path_on_this_machine_is_taken(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_path("data_dir", "~/data") == tmp_path / "data"
    assert local_path("data_dir", tmp_path) == tmp_path
    assert local_path("data_dir", "a:b/c") == pathlib.Path("a:b/c")


def test_prepared_looks_where_tfds_looks(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine" / "1.0.0").mkdir(parents=True)
    (tmp_path / "mine" / "1.0.0" / "dataset_info.json").write_text("{}", encoding="utf-8")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert [found.name for found in data.prepared(None)] == ["mine:1.0.0"]


def test_catalog_imports_no_tensorflow() -> None:
    program = "import sys, loopwright.data.catalog; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
