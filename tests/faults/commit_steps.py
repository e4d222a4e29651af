"""One writer's work on a folder, for strace: what it does lies between two marks. Loads commit.py by its path."""

import importlib.util
import os
import pathlib
import sys


def load(path: str):
    spec = importlib.util.spec_from_file_location("commit", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(folder: pathlib.Path) -> None:
    (folder / "state.index").write_text("new index")
    (folder / "state.data").write_text("new data" * 100)


if __name__ == "__main__":
    commit, parent, job = load(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
    for warm in ("json", "hashlib"):  # Whatever Python loads at first use is loaded before the mark.
        importlib.import_module(warm)
    commit.commit_folder(parent / "warm" / "x", write, {"step": 0})
    commit.verify_folder(parent / "warm" / "x")
    commit.replace_file(parent / "warm" / "latest", "x")
    commit.delete_folder(parent / "warm" / "x")
    os.access("/mark-begin", os.F_OK)
    if job == "save":
        commit.commit_folder(parent / "00000020", write, {"step": 20})
        commit.replace_file(parent / "latest", "00000020\n")
        commit.delete_folder(parent / "00000005")
    else:  # a step that is saved already
        commit.commit_folder(parent / "00000010", write, {"step": 10, "again": True})
        commit.replace_file(parent / "latest", "00000010\n")
    os.access("/mark-end", os.F_OK)
