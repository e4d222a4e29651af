"""`loopwright datasets`, and training on every source and feed that the guide to data names."""

import json
import pathlib
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from loopwright import data
from loopwright.data import image_folder

QUICK = ("--model=mlp", "--train_steps=6", "--batch_size=8", "--workdir=run", "--json")


@pytest.fixture
def pictures(tmp_path: pathlib.Path) -> pathlib.Path:
    """Class folders with 12 images of two classes, 8 to train on and 4 to evaluate on."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 2)):
        for name in ("cat", "dog"):
            (tmp_path / "pictures" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (9 + number, 9, 3), np.uint8)  # sizes differ
                Image.fromarray(pixels).save(tmp_path / "pictures" / split / name / f"{number}.png")
    return tmp_path / "pictures"


@pytest.fixture
def own_module(tmp_path: pathlib.Path) -> None:
    """A module with a dataset of the user's own, in the folder in which commands run."""
    lines = [
        "import tensorflow as tf",
        "def digits(split):",
        "    x = tf.random.stateless_uniform([40, 28, 28, 1], seed=[1, 2])",
        "    return tf.data.Dataset.from_tensor_slices((x, tf.range(40) % 10))",
    ]
    (tmp_path / "own_digits.py").write_text("\n".join(lines))


def test_list_names_our_own_and_the_prepared(loopwright: Any, mnist_dir: pathlib.Path) -> None:
    result = loopwright("datasets", f"--data_dir={mnist_dir}")
    assert re.search(r"^mnist_5k:1\.0\.0\s+prepared, \d\.\d\d GB", result.out, re.MULTILINE)
    assert "folder:PATH" in result.out
    listed = loopwright("datasets", f"--data_dir={mnist_dir}", "--json").json
    assert "mnist_5k" in listed["own"]
    assert [entry["name"] for entry in listed["prepared"]] == ["mnist_5k:1.0.0"]


def test_description_says_what_a_dataset_holds(loopwright: Any, mnist_dir: pathlib.Path) -> None:
    words = ["datasets", "mnist_5k", f"--data_dir={mnist_dir}"]
    facts = loopwright(*words, "--json").json
    assert facts["splits"] == {"train": 4000, "test": 1000}
    assert facts["features"]["image"] == {"kind": "Image", "shape": [28, 28, 1], "dtype": "uint8"}
    assert facts["class_balance"]["test"] == {str(digit): 100 for digit in range(10)}
    assert facts["read_as"] == {"train": "memory", "test": "memory"}
    out = loopwright(*words).out
    assert "train 4,000, test 1,000" in out
    assert "28×28×1" in out


@pytest.mark.slow
def test_sheet_is_a_picture(loopwright: Any, mnist_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    from PIL import Image

    words = ["--sheet=out/sheet.png", "--augment=flip,translate:2,crop:4,cutout:8"]
    result = loopwright("datasets", "mnist_5k", f"--data_dir={mnist_dir}", *words)
    assert result.code == 0
    with Image.open(tmp_path / "out" / "sheet.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 600
        assert len(picture.convert("L").getcolors()) > 50


def test_sheet_of_few_samples_is_smaller(loopwright: Any, pictures: pathlib.Path, tmp_path: pathlib.Path) -> None:
    words = ["--dataset", f"folder:{pictures}", "--image_size=8,8", "--sheet=sheet.png"]
    result = loopwright("datasets", *words)
    assert (result.code, (tmp_path / "sheet.png").is_file()) == (0, True), result.err


def test_bad_sample_is_named_while_the_feed_is_measured(loopwright: Any, pictures: pathlib.Path) -> None:
    path = pictures / "train" / "cat" / "1.png"
    path.write_bytes(b"no picture")
    words = [f"--dataset=folder:{pictures}", "--image_size=8,8", "--batch_size=4", "--feed=streaming", "--measure"]
    result = loopwright("datasets", *words)
    assert result.code == 1
    assert f"is bad: {path}: Unknown image file format" in result.err.splitlines()[-1]


def test_sheet_that_cannot_be_written_exits_2(loopwright: Any, mnist_dir: pathlib.Path) -> None:
    result = loopwright("datasets", "mnist_5k", f"--data_dir={mnist_dir}", "--sheet=/proc/sheet.png")
    assert result.code == 2
    assert "--sheet=/proc/sheet.png" in result.err


def test_measure_counts_samples_a_second(
    loopwright: Any, mnist_dir: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from loopwright.trainer.commands import datasets

    monkeypatch.setattr(datasets, "_SECONDS_MEASURED", 0.1)
    facts = loopwright("datasets", "mnist_5k", f"--data_dir={mnist_dir}", "--measure", "--json").json
    assert facts["examples_per_second"] > 0


@pytest.mark.parametrize(
    "feed", ["memory", *(pytest.param(name, marks=pytest.mark.slow) for name in ("streaming", "sequential"))]
)
def test_train_takes_every_feed_and_augmentation(
    loopwright: Any, mnist_dir: pathlib.Path, tmp_path: pathlib.Path, feed: str
) -> None:
    words = [f"--feed={feed}", "--augment=flip,translate:2,crop:4,cutout:8", f"--data_dir={mnist_dir}"]
    result = loopwright("train", *QUICK, *words)
    assert result.code == 0, result.err
    assert json.loads((tmp_path / "run" / "run.json").read_text())["feed"] == feed


def test_train_takes_a_folder_of_images(loopwright: Any, pictures: pathlib.Path) -> None:
    result = loopwright("train", *QUICK, f"--dataset=folder:{pictures}", "--image_size=8,8")
    assert result.code == 0, result.err
    assert result.json["step"] == 6


def test_train_takes_a_users_dataset_and_says_what_it_promises(loopwright: Any, own_module: None) -> None:
    result = loopwright("train", *QUICK, "--dataset=own_digits:digits", "--eval_split=all")
    assert result.code == 0, result.err
    assert "exact only as far as" in result.err


def test_flags_of_the_guide_are_flags(repository: pathlib.Path) -> None:
    """Each `--flag` that docs/data.md writes is one of train or of datasets."""
    from loopwright import flags

    guide = (repository / "docs" / "data.md").read_text()
    known = {name for group in (*flags.TRAIN_GROUPS, flags.Description) for name in group.__dataclass_fields__}
    written = {name.removeprefix("no") if name not in known else name for name in re.findall(r"--(\w+)", guide)}
    assert written
    assert written <= known


def test_python_of_the_guide_runs(
    repository: pathlib.Path, mnist_dir: pathlib.Path, once: Callable[..., pathlib.Path]
) -> None:
    guide = (repository / "docs" / "data.md").read_text()
    feeds, brightness = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    exec(feeds.replace('"fashion_mnist"', f'"mnist_5k", data_dir={shlex.quote(str(mnist_dir))!r}'), {})
    names: dict[str, Any] = {}
    exec(brightness, names)
    keys = np.arange(4, dtype=np.uint64)
    changed = names["brightness"](np.zeros((4, 2, 2, 1), np.float32), keys).numpy()
    assert np.ptp(changed) > 0
    assert np.abs(changed).max() <= 0.2


@pytest.mark.slow
def test_bad_image_is_named_while_executions_are_measured(loopwright: Any, tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 700), ("test", 3)):
        for label in ("cat", "dog"):
            folder = tmp_path / "pictures" / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                png = tf.io.encode_png(rng.integers(0, 256, (6, 5, 3), np.uint8))
                (folder / f"{number}.png").write_bytes(png.numpy())
    files = image_folder.ImageFolder(tmp_path / "pictures").files["train"]
    feed = data.load(f"folder:{tmp_path / 'pictures'}", feed="streaming").train_feed(8)
    late = int(feed.places(tf.constant([140], tf.int64))[0].numpy().ravel()[0])
    pathlib.Path(files[late][0]).write_bytes(b"no picture")
    words = [f"--dataset=folder:{tmp_path / 'pictures'}", "--feed=streaming", "--model=mlp", "--batch_size=8"]
    result = loopwright("train", *words, "--execution=auto", "--train_steps=9")
    assert result.code == 1
    assert f"is bad: {files[late][0]}" in result.err.splitlines()[-1]


def test_run_goes_on_with_its_data_elsewhere(
    loopwright: Any, pictures: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["train", "--model=mlp", "--batch_size=8", "--image_size=8,8", "--json"]
    scratch = shutil.copytree(pictures, tmp_path / "job 17" / "scratch")
    texts = [f"folder:{pictures}", "folder:pictures", "folder:pictures/", f"folder:{scratch}", "folder:./pictures"]
    for step, text in enumerate(texts, start=1):
        result = loopwright(*words, f"--dataset={text}", f"--train_steps={2 * step}")
        assert (result.code, result.json["step"]) == (0, 2 * step), result.err
    (run,) = (tmp_path / "runs").iterdir()
    assert f"--dataset={texts[0]}\n" in (run / "flags.txt").read_text()
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert max(record["step"] for record in records) == 10


@pytest.mark.slow
def test_other_data_are_another_run(loopwright: Any, pictures: pathlib.Path, tmp_path: pathlib.Path) -> None:
    words = ["train", "--model=mlp", "--batch_size=4", "--image_size=8,8", "--json", "--train_steps=2"]
    assert loopwright(*words, "--dataset=folder:pictures").code == 0
    other = pathlib.Path(shutil.copytree(pictures, tmp_path / "other" / "pictures"))
    (other / "train" / "cat" / "0.png").unlink()
    assert loopwright(*words, f"--dataset=folder:{other}").code == 0
    runs = sorted((tmp_path / "runs").iterdir())
    assert len(runs) == 2
    result = loopwright(
        *words, f"--dataset=folder:{other}", f"--workdir={next(run for run in runs if 'other' not in run.name)}"
    )
    assert result.code == 2
    assert "holds another run (--dataset=folder:pictures there" in result.err


@pytest.mark.slow
def test_run_in_a_named_folder_goes_on_by_another_path(
    loopwright: Any, pictures: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    words = [*QUICK, "--image_size=8,8"]
    assert loopwright("train", *words, f"--dataset=folder:{pictures}").code == 0
    result = loopwright(
        "train", f"--flagfile={tmp_path / 'run' / 'flags.txt'}", *words, "--dataset=folder:pictures/", "--train_steps=9"
    )
    assert (result.code, result.json["step"]) == (0, 9), result.err


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ("batch(8)", "leave out batch()"),
        ("map(lambda x, y: (x, tf.one_hot(y, 10)))", "the labels are one-hot"),
        ("map(lambda x, y: (x, tf.where(y == 3, -1, y)))", "sample 3 has the label -1"),
        ("map(lambda x, y: (tf.py_function(tf.identity, [x], tf.float32), y))", "x has no fixed shape"),
        ("repeat()", "leave out repeat()"),
    ],
)
def test_users_dataset_that_gives_no_samples_exits_2_with_the_remedy(
    loopwright: Any, own_module: None, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, change: str, part: str
) -> None:
    monkeypatch.delitem(sys.modules, "own_digits", raising=False)
    path = tmp_path / "own_digits.py"
    path.write_text(f"{path.read_text()}.{change}\n")
    result = loopwright("train", *QUICK, "--dataset=own_digits:digits")
    assert (result.code, result.out) == (2, "")
    assert result.err.splitlines()[-1].startswith("loopwright: --dataset=own_digits:digits, split 'train': ")
    assert part in result.err.splitlines()[-1]
    assert not (tmp_path / "run").exists()
