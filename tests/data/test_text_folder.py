"""Folders of texts: which files are texts, which folders are classes, and which files are refused."""

import pathlib
from typing import Any

import pytest
import tensorflow_datasets as tfds

from loopwright.data.errors import DataError
from loopwright.data.file_builder import open_files
from loopwright.data.options import Options
from loopwright.data.prepare import ensure_prepared


def write(root: pathlib.Path, *places: str, text: str | bytes | None = None) -> None:
    for place in places:
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        content = f"the text of {place}, with é" if text is None else text
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def said(given: dict[str, Any], lines: list[str]) -> dict[str, Any]:
    """The parameters of `open_files`. What is said goes into `lines`."""
    limit = given.pop("max_bad_records", 0)
    return {**given, "options": Options(max_bad_records=limit, say=lines.append)}


def opened(root: pathlib.Path, **options: Any) -> tuple[Any, list[str]]:
    lines: list[str] = []
    builder = open_files(f"text:{root}", str(root.parent / "data"), **said(options, lines))
    ensure_prepared(builder, manual_dir=None, download=False)
    return builder, [line.split(": ", 1)[1] for line in lines]


def texts(builder: Any, split: str) -> dict[str, str]:
    """The class of each text."""
    names = builder.info.features["label"].names
    return {
        sample["text"].decode(): names[sample["label"]] for sample in tfds.as_numpy(builder.as_dataset(split=split))
    }


def test_splits_hold_classes(tmp_path: pathlib.Path) -> None:
    root = tmp_path / "reviews"
    write(root, "train/pos/0.txt", "train/pos/deep/1.TXT", "train/neg/0.txt", "test/pos/0.txt", "test/neg/0.txt")
    write(
        root,
        "train/urls.txt",
        "README.md",
        "train/pos/notes.md",
        "train/.hidden/0.txt",
        "train/pos/.0.txt",
        "other/a/0.txt",
    )
    builder, lines = opened(root)
    assert lines == ["2 classes (neg, pos), train 3, test 2 texts"]
    assert texts(builder, "train") == {
        f"the text of train/{name}, with é": name.split("/")[0] for name in ("pos/0.txt", "pos/deep/1.TXT", "neg/0.txt")
    }
    assert len(texts(builder, "test")) == 2
    assert builder.name.startswith("text_reviews_")


def test_classes_alone_are_divided(tmp_path: pathlib.Path) -> None:
    root = tmp_path / "t"
    write(root, *(f"{name}/{i}.txt" for name in ("ham", "spam") for i in range(10)))
    builder, lines = opened(root)
    assert lines == ["2 classes (ham, spam), train 16, test 4 texts, divided 80/20 by the order of their names"]
    train, test = texts(builder, "train"), texts(builder, "test")
    assert len(train | test) == 20
    assert opened(root)[1] == lines


def test_byte_order_mark_is_left_out_and_empty_texts_are_told(tmp_path: pathlib.Path) -> None:
    root = tmp_path / "t"
    write(root, *(f"{name}/{i}.txt" for name in "ab" for i in range(5)))
    write(root, "a/marked.txt", text="\ufeffmarked")
    write(root, "a/empty.txt", text=" \n")
    builder, lines = opened(root)
    assert "marked" in {**texts(builder, "train"), **texts(builder, "test")}
    assert lines[-1] == "1 texts are empty"


def test_class_that_a_split_lacks_is_told_or_refused(tmp_path: pathlib.Path) -> None:
    root = tmp_path / "t"
    write(root, "train/a/0.txt", "train/b/0.txt", "test/a/0.txt")
    assert opened(root)[1][1] == "the split 'test' holds no text of b"
    write(root, "test/c/0.txt")
    with pytest.raises(
        DataError, match=r"the class 'c' of 'label' is in the split 'test' \(1 samples\), but not in 'train'"
    ):
        opened(root)


def test_file_that_is_not_utf_8_is_named_or_left_out(tmp_path: pathlib.Path) -> None:
    root = tmp_path / "t"
    write(root, *(f"{name}/{i}.txt" for name in "ab" for i in range(5)))
    write(root, "a/latin.txt", text=b"caf\xe9")
    with pytest.raises(
        DataError, match=r"a/latin\.txt is not UTF-8 \(.* at byte 3\); repair it, or leave out up to N"
    ) as caught:
        opened(root)
    assert caught.value.exit_code == 2
    builder, lines = opened(root, max_bad_records=1)
    assert sum(info.num_examples for info in builder.info.splits.values()) == 10
    assert lines[-1].startswith("left out: ")
    with pytest.raises(DataError, match=r"a/latin\.txt is not UTF-8"):  # It is prepared now, but not for this run.
        opened(root)


def test_place_is_not_part_of_the_name_but_classes_are(tmp_path: pathlib.Path) -> None:
    for root, name in (("one/t", "a/0.txt"), ("two/t", "a/0.txt"), ("three/t", "c/0.txt")):
        write(tmp_path / root, name, "b/0.txt", "b/1.txt", "b/2.txt", "b/3.txt", text="same")
    names = [
        open_files(f"text:{tmp_path / root}", str(tmp_path / "data")).name for root in ("one/t", "two/t", "three/t")
    ]
    assert names[0] == names[1] != names[2]


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ([], r"no texts found; put them into .*/train/CLASS/ and .*/test/CLASS/, or into .*/CLASS/"),
        (["0.txt", "a/0.md"], r"no texts found"),
        (["test/a/0.txt", "test/b/0.txt"], r"there is no folder train beside test"),
        (["train/a/0.txt", "train/a/1.txt"], r"there is only one class \('a'\); a classifier needs two or more"),
        (["val/a/0.txt", "dev/a/0.txt", "train/a/0.txt"], r"two folders are the split 'validation'; rename one"),
    ],
)
def test_bad_folders_are_refused(tmp_path: pathlib.Path, places: list[str], message: str) -> None:
    root = tmp_path / "t"
    root.mkdir()
    write(root, *places)
    with pytest.raises(DataError, match=message) as caught:
        opened(root)
    assert caught.value.exit_code == 2


def test_folder_that_is_not_there_is_refused_with_the_nearest_name(tmp_path: pathlib.Path) -> None:
    (tmp_path / "reviews").mkdir()
    with pytest.raises(DataError, match=r"review': no such folder; did you mean 'reviews'\?"):
        open_files(f"text:{tmp_path}/review", None)
