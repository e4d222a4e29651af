"""`export` and `predict`: every format gives what the run gives, and a failure leaves what was there."""

import json
import pathlib
import shutil
import signal
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from loopwright import data, trainer
from loopwright.trainer.export import formats, open_export

FILES = ["model.h5", "model.keras", "saved_model", "model.tflite"]


def snapshot(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def exported(once: Any, small_run: pathlib.Path) -> pathlib.Path:
    """A run's folder with every export."""

    def fill(folder: pathlib.Path) -> None:
        from loopwright.trainer.__main__ import main

        shutil.copytree(small_run, folder / "run")
        assert main(["export", f"--workdir={folder / 'run'}"]) == 0

    return once("exported", fill) / "run"


def test_every_export_gives_what_the_model_gives(exported: pathlib.Path) -> None:
    manifest = json.loads((exported / "exports" / "manifest.json").read_text())
    assert set(manifest["files"]) == set(FILES)
    assert {path.name for path in (exported / "exports").iterdir()} == {*FILES, "manifest.json"}
    for name, entry in manifest["files"].items():
        limit = 0.0 if entry["format"] in ("h5", "keras") else 1e-5
        assert 0 <= entry["largest_difference"] <= limit, name
        assert (entry["samples"], entry["step"], entry["inputs"]) == (64, 30, "float32")
        assert len(entry["sha256"]) == 64
        assert entry["class_names"] == [str(digit) for digit in range(10)]
        assert entry["outputs"] == "logits"


def test_saved_model_takes_any_batch_by_name_and_carries_the_class_names(exported: pathlib.Path) -> None:
    loaded = tf.saved_model.load(str(exported / "exports" / "saved_model"))
    serve = loaded.signatures["serving_default"]
    assert serve.structured_input_signature[1]["image"].shape.as_list() == [None, 28, 28, 1]
    for rows in (1, 7):
        assert serve(image=tf.zeros([rows, 28, 28, 1]))["logits"].shape == (rows, 10)
    names = pathlib.Path(loaded.class_names.asset_path.numpy().decode()).read_text().split()
    assert names == [str(digit) for digit in range(10)]


def test_exported_h5_trains_on_like_that_of_the_run(exported: pathlib.Path, small_run: pathlib.Path) -> None:
    ours, theirs = (trainer.load_h5(run / "exports" / "model.h5") for run in (exported, small_run))
    assert ours.hashes() == {**theirs.hashes(), "window": ours.hashes()["window"]}
    assert int(ours.step) == 30


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        *(["--model=cnn"], ["--model=cnn_subclass"], ["--model=cnn_sequential"], ["--model=resnet20"]),
        ["--model=cnn", "--precision=mixed_bfloat16"],
        ["--model=cnn_subclass", "--precision=mixed_float16"],
    ],
    ids=" ".join,
)
def test_exports_of_every_model_give_what_it_gives(loopwright: Any, mnist_dir: pathlib.Path, words: list[str]) -> None:
    small = ["--train_split=train[:200]", "--eval_split=test[:100]", "--train_steps=8", f"--data_dir={mnist_dir}"]
    assert loopwright("train", "--workdir=run", *words, *small).code == 0
    result = loopwright("export", "--workdir=run", "--formats=h5,keras,saved_model,litert", "--json")
    assert result.code == 0, result.err
    assert set(result.json["files"]) == set(FILES)
    samples = next(iter(data.load("mnist_5k", data_dir=str(mnist_dir), eval_split="test[:100]").eval_feed(64)()))["x"]
    outputs = keras.models.load_model("run/exports/model.keras")(samples)
    bound = (1e-5 if len(words) == 1 else 5e-2) * max(1.0, float(np.abs(outputs).max()))
    for name, entry in result.json["files"].items():
        assert entry["largest_difference"] <= (0.0 if entry["format"] in ("h5", "keras") else bound), name


@pytest.mark.slow
def test_preprocessing_goes_into_the_formats_for_serving(
    loopwright: Any, exported: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    words = ["--formats=saved_model,litert", "--include_preprocessing", "--output=served", "--json"]
    result = loopwright("export", f"--workdir={exported}", *words)
    assert result.code == 0, result.err
    assert set(result.json["files"]) == {"saved_model", "model.tflite"}
    assert all(entry["inputs"] == "uint8" for entry in result.json["files"].values())
    assert all(entry["largest_difference"] <= 1e-5 for entry in result.json["files"].values())
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), np.uint8)
    plain = keras.models.load_model(exported / "exports" / "model.h5")
    expected = np.asarray(plain(images * np.float32(1 / 255)))
    for name in ("saved_model", "model.tflite"):
        outputs = open_export.open_export(tmp_path / "served" / name, trust=True).call(images)
        assert np.abs(outputs - expected).max() <= 1e-5


KILLED = """
import os, signal, sys
from loopwright.trainer.export import formats
from loopwright.trainer.__main__ import main
formats._compare = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)  # every file is written, none is in place
main(sys.argv[1:])
"""


def test_h5_of_a_run_that_goes_on_is_checked_and_older_exports_are_named_so(
    loopwright: Any, exported: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    run = pathlib.Path(shutil.copytree(exported, tmp_path / "run"))
    before = snapshot(run / "exports")
    longer = loopwright("train", f"--flagfile={run / 'flags.txt'}", f"--workdir={run}", "--train_steps=32")
    assert longer.code == 0, longer.err
    after = snapshot(run / "exports")
    assert {name for name in before if after[name] != before[name]} == {"model.h5", "manifest.json"}
    files = json.loads(after["manifest.json"])["files"]
    assert {name: entry["step"] for name, entry in files.items()} == {**dict.fromkeys(FILES, 30), "model.h5": 32}
    assert "model        " + str(run / "exports" / "model.h5") in longer.out
    assert f"older model  {run / 'exports' / 'model.keras'} (step 30)" in longer.out


@pytest.mark.slow
def test_kill_in_the_middle_leaves_the_former_exports_whole(
    loopwright: Any, exported: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    run = pathlib.Path(shutil.copytree(exported, tmp_path / "run"))
    before = snapshot(run / "exports")
    words = ["export", f"--workdir={run}", "--restore_from", str(run / "checkpoints" / "00000015")]
    done = subprocess.run([sys.executable, "-c", KILLED, *words], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    left = snapshot(run / "exports")
    assert {name: data for name, data in left.items() if not name.startswith(".tmp-")} == before
    assert len(left) > len(before)
    assert loopwright(*words, "--formats=h5,keras").code == 0
    after = snapshot(run / "exports")
    assert set(after) == set(before)
    assert {name for name in before if after[name] != before[name]} == {"model.h5", "model.keras", "manifest.json"}


@pytest.mark.slow
def test_export_that_differs_is_not_put_in_place(
    loopwright: Any, exported: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = pathlib.Path(shutil.copytree(exported, tmp_path / "run"))
    before = snapshot(run / "exports")
    write = formats._write

    def write_another(export: Any, name: str, path: pathlib.Path) -> None:
        variable = export.state.model.trainable_variables[-1]
        value = variable.numpy()
        variable.assign(value + 1e-3)
        write(export, name, path)
        variable.assign(value)

    monkeypatch.setattr(formats, "_write", write_another)
    result = loopwright("export", f"--workdir={run}", "--formats=keras")
    assert result.code == 1
    assert "format keras: its outputs differ by 0.001" in result.err
    assert len(result.err.splitlines()) == 1
    assert snapshot(run / "exports") == before


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([], "--workdir"),
        (["--workdir=nowhere"], "--workdir=nowhere"),
        (["--workdir=run", "--formats=h5,onnx"], "--formats=h5,onnx"),
        (["--workdir=run", "--formats="], "--formats="),
        (["--restore_from=run/exports/model.h5"], "is an export already"),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else "",
)
def test_wrong_export_exits_2(loopwright: Any, run_folder: pathlib.Path, words: list[str], part: str) -> None:
    result = loopwright("export", *words)
    assert result.code == 2
    assert part in result.err


def predictions(result: Any) -> list[dict[str, Any]]:
    assert result.code == 0, result.err
    return result.json["predictions"]


def test_every_export_predicts_what_the_run_predicts(loopwright: Any, exported: pathlib.Path, mnist_dir: Any) -> None:
    words = ["--split=test[:9]", "--top=2", "--json", f"--data_dir={mnist_dir}"]
    expected = predictions(loopwright("predict", f"--workdir={exported}", *words))
    assert [row["input"] for row in expected] == [f"test[:9]#{index}" for index in range(9)]
    for row in expected:
        first, second = (entry["probability"] for entry in row["top"])
        assert 1 >= first >= second >= 0
        assert row["label"] in "0123456789"
    for name in FILES:
        trust = ["--trust_file"] if name == "saved_model" else []
        found = predictions(loopwright("predict", f"--restore_from={exported / 'exports' / name}", *words, *trust))
        for ours, theirs in zip(expected, found, strict=True):
            assert [entry["class"] for entry in ours["top"]] == [entry["class"] for entry in theirs["top"]], name
            for one, other in zip(ours["top"], theirs["top"], strict=True):
                assert one["probability"] == pytest.approx(other["probability"], abs=1e-5)


def test_images_are_read_scaled_and_resized(
    loopwright: Any, exported: pathlib.Path, mnist_dir: Any, tmp_path: pathlib.Path
) -> None:
    from loopwright import data

    images, labels = data.load("mnist_5k", data_dir=str(mnist_dir)).arrays("test")
    (tmp_path / "images").mkdir()
    for index in range(4):
        png = tf.io.encode_png(images[index]).numpy()
        (tmp_path / "images" / f"{index}.png").write_bytes(png)
    (tmp_path / "images" / "folder.png").mkdir()
    (tmp_path / "images" / "._0.png").write_bytes(b"what a Mac leaves behind")
    for name, shape in (("grey", (28, 28, 1)), ("large", (70, 56, 3))):  # the second is resized, and loses its colours
        (tmp_path / f"{name}.png").write_bytes(tf.io.encode_png(np.full(shape, 128, np.uint8)).numpy())
    for suffix in ("bmp", "gif"):
        PIL.Image.fromarray(np.full((28, 28), 128, np.uint8)).convert("RGB").save(tmp_path / f"grey.{suffix}")
    model = f"--restore_from={exported / 'exports' / 'model.h5'}"
    split = predictions(loopwright("predict", model, "--split=test[:4]", f"--data_dir={mnist_dir}", "--json"))
    others = ["grey.png", "large.png", "grey.bmp", "grey.gif"]
    files = predictions(loopwright("predict", "images", *others, model, "--json"))
    assert [row["input"] for row in files] == [*(f"images/{index}.png" for index in range(4)), *others]
    for ours, theirs in zip(files[:4], split, strict=True):
        assert [entry["class"] for entry in ours["top"]] == [entry["class"] for entry in theirs["top"]]
        assert ours["top"][0]["probability"] == pytest.approx(theirs["top"][0]["probability"], abs=1e-5)
    assert [row["label"] for row in split] == [str(label) for label in labels[:4]]
    likeliest = [row["top"][0]["probability"] for row in files]
    assert likeliest[5:] == pytest.approx([likeliest[4]] * 3, abs=1e-5)
    assert likeliest[0] != pytest.approx(likeliest[4], abs=1e-3)
    table = loopwright("predict", "images/0.png", model)
    assert "images/0.png" in table.out
    assert f"{files[0]['top'][0]['class']} {files[0]['top'][0]['probability']:.3f}" in table.out


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (["--restore_from=run/exports/model.h5"], 2, "give image files"),
        (["nothing.png", "--restore_from=run/exports/model.h5"], 2, "nothing.png"),
        (["run/checkpoints", "--restore_from=run/exports/model.h5"], 2, "holds no images"),
        (["run/flags.txt", "--restore_from=run/exports/model.h5"], 1, "no image"),
        (["run/flags.txt", "--restore_from=run/flags.h5"], 1, "no HDF5 file"),
        (["run/flags.txt", "--restore_from=run/flags.tflite"], 1, "can't be loaded"),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else "",
)
def test_wrong_prediction_is_one_line(
    loopwright: Any, run_folder: pathlib.Path, words: list[str], code: int, part: str
) -> None:
    for suffix in (".h5", ".tflite"):
        shutil.copy(run_folder / "flags.txt", run_folder / f"flags{suffix}")
    result = loopwright("predict", *words)
    assert (result.code, len(result.err.splitlines())) == (code, 1)
    assert part in result.err


def test_saved_model_wants_trust(loopwright: Any, exported: pathlib.Path, run_folder: pathlib.Path) -> None:
    result = loopwright("predict", "run/flags.txt", f"--restore_from={exported / 'exports' / 'saved_model'}")
    assert result.code == 1
    assert "--trust_file" in result.err
