"""Bad input ends in one line and exit code 2 or 1, without a traceback, and with nothing lost or half-written."""

import pathlib
import shutil
from typing import Any

import pytest

from loopwright import models
from loopwright.trainer.core import loop

QUICK = ("--model=mlp", "--train_steps=4", "--batch_size=64")


def snapshot(folder: pathlib.Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_one_line(result: Any, code: int, *parts: str) -> None:
    assert result.code == code, result.err
    assert result.out == ""
    assert result.err.startswith("loopwright: ")
    assert len(result.err.splitlines()) == 1
    assert all(part in result.err for part in parts), result.err


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--dataset=mnist_5"], ["--dataset=mnist_5", "'mnist_5k'"]),
        (["--dataset=mnist_5k/large"], ["--dataset=mnist_5k/large"]),
        (["--train_split=trian"], ["--train_split=trian", "train, test"]),
        (["--eval_split=validation"], ["--eval_split=validation", "train, test"]),
        (["--train_split=train[:0%]"], ["--train_split=train[:0%]", "empty"]),
        (["--batch_size=4001"], ["--batch_size=4001", "4000"]),
        (["--train_split=train[:10]", "--batch_size=11"], ["--batch_size=11", "10"]),
        (["--dataset=folder:nowhere"], ["--dataset=folder:nowhere"]),
        (["--feed=streaming", "--weight_key=wieght"], ["--weight_key=wieght"]),
        (["--augment=pathlib:no_such"], ["--augment=pathlib:no_such"]),
        (["--model=pathlib:no_such"], ["--model=pathlib:no_such", "can't be imported"]),
        (["--model=pathlib:Path.cwd"], ["--model=pathlib:Path.cwd", "not a keras.Model"]),
    ],
    ids=lambda part: " ".join(part),
)
def test_wrong_name_or_number_exits_2(
    loopwright: Any, mnist_dir: pathlib.Path, tmp_path: pathlib.Path, words: list[str], parts: list[str]
) -> None:
    assert_one_line(loopwright("train", f"--data_dir={mnist_dir}", *QUICK, *words), 2, *parts)
    assert not list(tmp_path.iterdir())


def test_dataset_that_may_not_be_downloaded_exits_1(loopwright: Any, tmp_path: pathlib.Path) -> None:
    result = loopwright("train", "--dataset=cifar10", "--nodownload", f"--data_dir={tmp_path}")
    assert_one_line(result, 1, "--nodownload", "Three ways out", "--manual_dir", "--data_dir", str(tmp_path))
    assert not snapshot(tmp_path)


@pytest.mark.parametrize("workdir", ["a_file", "a_file/below", "/proc/nowhere"])
def test_workdir_that_cannot_be_written_exits_2(
    loopwright: Any, mnist_dir: pathlib.Path, tmp_path: pathlib.Path, workdir: str
) -> None:
    (tmp_path / "a_file").write_text("mine")
    result = loopwright("train", f"--data_dir={mnist_dir}", *QUICK, f"--workdir={workdir}")
    assert_one_line(result, 2, f"--workdir={workdir}")
    assert snapshot(tmp_path) == {"a_file": b"mine"}


def test_workdir_of_another_run_exits_2_and_names_the_differences(
    loopwright: Any, mnist_dir: pathlib.Path, run_folder: pathlib.Path
) -> None:
    before = snapshot(run_folder)
    words = ["--model=cnn", "--batch_size=16", "--train_steps=99", "--workdir=run"]
    result = loopwright("train", f"--data_dir={mnist_dir}", *words)
    assert_one_line(result, 2, "--model=mlp there, cnn here", "--batch_size=32 there, 16 here", "--overwrite")
    assert "train_steps=" not in result.err
    assert snapshot(run_folder) == before


ADDRESSES = [
    (["train", "--workdir=gs://bucket/run"], "--workdir=gs://bucket/run"),
    (["train", "--data_dir=s3://bucket/data"], "--data_dir=s3://bucket/data"),
    (["train", "--manual_dir=gs:/bucket/data"], "--manual_dir=gs:/bucket/data"),
    (["train", "--init_from=gs://b/run/checkpoints/00000100"], "--init_from=gs://b/run"),
    (["train", "--restore_from=hdfs://b/model.h5"], "--restore_from=hdfs://b/model.h5"),
    (["train", "--dataset=folder:gs://b/pets"], "--dataset=gs://b/pets"),
    (["train", "--flagfile=gs://b/run/flags.txt"], "--flagfile=gs://b/run/flags.txt"),
    (["evaluate", "--workdir=gs://bucket/run"], "--workdir=gs://bucket/run"),
    (["predict", "--restore_from=file:///model.h5"], "--restore_from=file:///model.h5"),
    (["export", "--workdir=run", "--output=gs://b/x"], "--output=gs://b/x"),
    (["report", "--workdir=gs://bucket/run"], "gs://bucket/run is an address"),
    (["benchmark", "--output=gs://b/x"], "--output=gs://b/x"),
    (["parity", "--output=gs://b/x"], "--output=gs://b/x"),
    (["verify_resume", "--workdir=abfs://b/x"], "--workdir=abfs://b/x"),
    (["datasets", "--sheet=gs://b/x.png"], "--sheet=gs://b/x.png"),
    (["doctor", "--data_dir=gs://b/x"], "--data_dir=gs://b/x"),
]


@pytest.mark.parametrize(
    ("words", "part"), ADDRESSES, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_address_of_another_place_exits_2_and_leaves_nothing(
    loopwright: Any, tmp_path: pathlib.Path, words: list[str], part: str
) -> None:
    assert_one_line(loopwright(*words), 2, part, "not a path on this machine", "give a local or mounted folder")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def other_checkpoint(loopwright: Any, run_folder: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """The checkpoint of an `mlp`, which no other model fits, beside a folder for a new run."""
    run_folder.rename(tmp_path / "before")
    return tmp_path / "before" / "checkpoints" / "00000030"


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["init_from", "restore_from"])
@pytest.mark.parametrize("empty", [False, True])
def test_refused_run_leaves_nothing_and_the_corrected_one_trains(
    loopwright: Any, mnist_dir: pathlib.Path, tmp_path: pathlib.Path, other_checkpoint: Any, flag: str, empty: bool
) -> None:
    if empty:
        (tmp_path / "runs" / "new").mkdir(parents=True)
    words = [
        "train",
        f"--data_dir={mnist_dir}",
        "--model=cnn",
        "--train_steps=2",
        "--workdir=runs/new",
        "--progress=none",
    ]
    refused = loopwright(*words, f"--{flag}={other_checkpoint}")
    assert refused.code in (1, 2)
    assert refused.err.splitlines()[-1].startswith("loopwright: ")
    left = ["before", "runs", "runs/new"] if empty else ["before"]
    assert [str(path.relative_to(tmp_path)) for path in sorted([*tmp_path.glob("*"), *tmp_path.glob("runs/*")])] == left
    assert not empty or not list((tmp_path / "runs" / "new").iterdir())
    assert loopwright(*words, "--batch_size=16").code == 0


def test_refused_overwrite_brings_the_run_back(
    loopwright: Any, mnist_dir: pathlib.Path, tmp_path: pathlib.Path, run_folder: pathlib.Path
) -> None:
    shutil.copytree(run_folder, tmp_path / "before")
    before = snapshot(tmp_path / "before")
    words = [f"--data_dir={mnist_dir}", "--model=cnn", "--train_steps=2", "--workdir=run", "--overwrite"]
    refused = loopwright("train", *words, "--init_from=before/checkpoints/00000030")
    assert refused.code in (1, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["before", "run"]
    after = snapshot(run_folder)
    assert {name: data for name, data in after.items() if name != "lock"} == {
        name: data for name, data in before.items() if name != "lock"
    }


def test_run_that_crashes_before_its_first_result_leaves_nothing(
    loopwright: Any, mnist_dir: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("refused by the trace")

    monkeypatch.setattr(loop, "train", crash)
    with pytest.raises(RuntimeError):
        loopwright("train", f"--data_dir={mnist_dir}", *QUICK, "--workdir=run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["parity", "benchmark"])
def test_refused_command_leaves_no_folder_for_its_output(loopwright: Any, tmp_path: pathlib.Path, command: str) -> None:
    result = loopwright(command, "--dataset=mnist_5k:9.9.9", f"--data_dir={tmp_path}", "--output=a/b", "--nodownload")
    assert result.code != 0
    assert not list(tmp_path.iterdir())


def cut(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize("name", ["train", "evaluate"])
@pytest.mark.parametrize("file", ["state.index", "manifest.json"])
def test_no_whole_checkpoint_exits_1(
    loopwright: Any, mnist_dir: pathlib.Path, run_folder: pathlib.Path, name: str, file: str
) -> None:
    for checkpoint in (run_folder / "checkpoints").glob("0*"):
        cut(checkpoint / file)
    before = snapshot(run_folder)
    words = [f"--flagfile={run_folder / 'flags.txt'}"] if name == "train" else []
    result = loopwright(name, *words, "--workdir=run")
    assert (result.code, result.out) == (1, "")
    assert file in result.err
    assert ("--allow_fresh_start" if name == "train" else "no checkpoint that is whole") in result.err.splitlines()[-1]
    changed = {name for name, data in snapshot(run_folder).items() if before.get(name) != data}
    assert changed <= {"run.json", "flags.txt", "lock", "checkpoints/lock"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_damaged_checkpoint_is_named_and_the_one_before_taken(
    loopwright: Any, mnist_dir: pathlib.Path, run_folder: pathlib.Path, name: str
) -> None:
    cut(run_folder / "checkpoints/00000030/state.index")
    words = [f"--flagfile={run_folder / 'flags.txt'}"] if name == "train" else []
    result = loopwright(name, *words, "--workdir=run", "--json")
    assert result.code == 0
    assert "checkpoints/00000030: state.index has" in result.err.splitlines()[0]
    if name == "train":
        assert result.json["step"] == 30
        assert (run_folder / "checkpoints" / "damaged-00000030").is_dir()
    else:
        assert result.json["from"].endswith("00000015")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--restore_from=nowhere.h5"], 2),
        (["--restore_from=nowhere"], 2),
        (["--restore_from=run"], 2),
        (["--restore_from=run/flags.h5"], 1),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else "",
)
def test_evaluate_of_what_is_no_model_is_one_line(
    loopwright: Any, mnist_dir: pathlib.Path, run_folder: pathlib.Path, words: list[str], code: int
) -> None:
    shutil.copy(run_folder / "flags.txt", run_folder / "flags.h5")
    assert_one_line(loopwright("evaluate", f"--data_dir={mnist_dir}", *words), code, words[0].partition("=")[2])


@pytest.mark.parametrize(("shape", "classes"), [((8, 8, 1), 10), ((28, 28, 1), 3)])
def test_evaluate_of_a_model_for_other_data_exits_2(
    loopwright: Any, mnist_dir: pathlib.Path, shape: tuple[int, ...], classes: int
) -> None:
    models.create("mlp", shape, classes).save("other.h5")
    assert_one_line(loopwright("evaluate", f"--data_dir={mnist_dir}", "--restore_from=other.h5"), 2, "other.h5", "(")
