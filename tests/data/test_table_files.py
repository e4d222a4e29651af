"""Tables in CSV files: what is inferred, how rows are divided, and what is refused."""

import csv
import gzip
import io
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from loopwright.data.csv_columns import Column
from loopwright.data.csv_rows import CsvFile
from loopwright.data.errors import DataError
from loopwright.data.file_builder import open_files
from loopwright.data.options import Options
from loopwright.data.prepare import ensure_prepared

TOWNS = ("Bonn", "Köln", "Ulm")


def said(given: dict[str, Any], lines: list[str]) -> dict[str, Any]:
    """The parameters of `open_files`. What is said goes into `lines`."""
    limit = given.pop("max_bad_records", 0)
    return {**given, "options": Options(max_bad_records=limit, say=lines.append)}


@pytest.fixture
def opened(tmp_path: pathlib.Path) -> Callable[..., Any]:
    """`opened(text, name, …)` writes a file and gives its builder, prepared, and what was said."""

    def open_text(text: str | bytes | dict[str, str], name: str = "table.csv", **options: Any) -> tuple[Any, list[str]]:
        for part, content in (text if isinstance(text, dict) else {name: text}).items():
            path = tmp_path / "files" / part
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        lines: list[str] = []
        place = tmp_path / "files" / ("" if isinstance(text, dict) else name)
        builder = open_files(f"csv:{place}", str(tmp_path / "data"), **said(options, lines))
        ensure_prepared(builder, manual_dir=None, download=False)
        return builder, [line.split(": ", 1)[1] for line in lines]

    return open_text


def table(rows: int = 50, *, delimiter: str = ",", header: bool = True) -> str:
    """Number `i`, a fraction with a missing value, a town, text, and the label 3 i."""
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter)
    if header:
        writer.writerow(["number", "part", "town", "note", "target"])
    for i in range(rows):
        note = f"note {i}, with {delimiter} and a\nline of its own"
        writer.writerow([i, "" if i == 3 else i / 8, TOWNS[i % 3], note, 3 * i])
    return file.getvalue()


def samples(builder: Any, split: str) -> list[dict[str, Any]]:
    return list(tfds.as_numpy(builder.as_dataset(split=split)))


def test_rows_come_as_they_are_written(opened: Callable[..., Any]) -> None:
    builder, lines = opened(table())
    assert lines == [
        "number number, part number, town category (3), note text, label target number, 1 values of part missing",
        "train 40, test 10 rows, divided 80/20 by the numbers of the rows",
    ]
    assert builder.info.supervised_keys == (("number", "part", "town", "note"), "target")
    features = builder.info.features
    assert (features["part"].np_dtype, features["town"].doc.desc, features["note"].doc.desc) == (
        np.float32,
        "category",
        "text",
    )
    found = sorted([*samples(builder, "train"), *samples(builder, "test")], key=lambda sample: sample["number"])
    assert [sample["number"] for sample in found] == [*range(50)]
    for i, sample in enumerate(found):
        assert (sample["town"].decode(), sample["target"]) == (TOWNS[i % 3], 3 * i)
        assert sample["note"].decode() == f"note {i}, with , and a\nline of its own"
        assert np.isnan(sample["part"]) if i == 3 else sample["part"] == i / 8


@pytest.mark.parametrize("name", ["t.tsv", "t.csv", "t.tsv.gz", "t.csv.gz", "t.txt"])
@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
def test_delimiter_is_found_and_told_if_it_is_unusual(opened: Callable[..., Any], name: str, delimiter: str) -> None:
    text = ("\ufeff" + table(10, delimiter=delimiter)).encode()
    builder, lines = opened(gzip.compress(text) if name.endswith(".gz") else text, name)
    assert [*builder.info.features] == sorted(["number", "part", "town", "note", "target"])
    assert any("delimiter" in line for line in lines) == (delimiter != ("\t" if ".tsv" in name else ","))


def test_quotes_inside_text_do_not_swallow_lines(opened: Callable[..., Any]) -> None:
    lines = [f'{("ham", "spam")[i % 2]}\ta "word" in {i}' for i in range(20)]
    lines[6:9] = ['ham\t"This one never ends', "spam\tplain", 'ham\tnor does this"']
    builder, said = opened("\n".join(lines) + "\n", "sms.tsv", columns="label,text")
    assert "quotes are part of the text, they don't enclose values" in said
    texts = {sample["text"].decode() for split in ("train", "test") for sample in samples(builder, split)}
    assert texts == {line.split("\t")[1] for line in lines}
    assert builder.info.supervised_keys == ("text", "label")


@pytest.mark.parametrize(
    ("values", "task", "names"),
    [
        ("no yes", "auto", ("no", "yes")),
        ("0 1", "auto", ("0", "1")),
        ("0.0 1.0", "auto", ("0", "1")),
        ("-1 1", "auto", ("-1", "1")),
        ("2 0 1", "auto", ("0", "1", "2")),
        ("3 5 4", "auto", ()),
        ("3 5 10", "classification", ("3", "5", "10")),
        ("0 1", "regression", ()),
        ("0.5 1.5 2", "auto", ()),
        ("true FALSE", "auto", ("FALSE", "true")),
    ],
)
def test_label_is_classes_or_numbers(
    opened: Callable[..., Any], values: str, task: str, names: tuple[str, ...]
) -> None:
    words = values.split()
    rows = [f"{i},{words[i % len(words)]}" for i in range(30)]
    builder, lines = opened("\n".join(["a,label", *rows]), task=task)
    label = builder.info.features["label"]
    assert tuple(getattr(label, "names", ())) == names
    assert (f"label label classes ({len(names)}: {', '.join(names)})" if names else "label label number") in lines[0]
    for sample in samples(builder, "train"):
        value = words[int(sample["a"]) % len(words)]
        said = names[sample["label"]] if names else sample["label"]
        assert said == value or float(said) == float(value)


def test_several_labels_are_each_typed(opened: Callable[..., Any]) -> None:
    rows = [f"{i},{i / 2},{i % 2}" for i in range(20)]
    builder, _ = opened("\n".join(["a,b,c", *rows]), label_key="b,c")
    assert builder.info.supervised_keys == ("a", ("b", "c"))
    assert builder.info.features["c"].num_classes == 2


def test_folder_gives_splits_that_share_their_classes(opened: Callable[..., Any]) -> None:
    part = "".join(f"{i},{'abc'[i % 3]}\n" for i in range(12))
    builder, lines = opened(
        {"train.csv": f"x,label\n{part}", "val.csv": "x,label\n7,b\n", "test.csv.gz": gzip.compress(b"x,label\n8,c\n")}
    )
    assert {split: info.num_examples for split, info in builder.info.splits.items()} == {
        "train": 12,
        "validation": 1,
        "test": 1,
    }
    assert (samples(builder, "test")[0]["label"], samples(builder, "validation")[0]["label"]) == (2, 1)
    assert "train 12, test 1, validation 1 rows" in lines[-1]


def test_class_of_a_single_row_is_for_training(opened: Callable[..., Any]) -> None:
    for rare in range(10):
        rows = [f"{i},{'rare' if i == rare else 'ab'[i % 2]}" for i in range(10)]
        builder, _ = opened("\n".join(["x,label", *rows]), f"rare{rare}.csv")
        assert 2 in {sample["label"] for sample in samples(builder, "train")}


def test_header_is_told_from_data_where_names_are_given(opened: Callable[..., Any]) -> None:
    part = "".join(f"{('ham', 'spam')[i % 2]},{i} is the text of {i * 7}\n" for i in range(20))
    for name, text in (("bare.csv", part), ("named.csv", "v1,v2\n" + part), ("same.csv", "Label,Text\n" + part)):
        builder, _ = opened(text, name, columns="label,text")
        assert sum(info.num_examples for info in builder.info.splits.values()) == 20
        assert builder.info.features["label"].names == ["ham", "spam"]


def test_first_row_of_numbers_is_no_header_where_names_are_given(opened: Callable[..., Any]) -> None:
    rows = "".join(f"{20 + i % 10},{i / 2},{('yes', 'no')[i % 2]}\n" for i in range(200))
    builder, _ = opened("37,1.5,yes\n" + rows, columns="age,size,label")
    assert sum(info.num_examples for info in builder.info.splits.values()) == 201


def test_whole_numbers_that_float32_rounds_are_told(opened: Callable[..., Any]) -> None:
    _, lines = opened("when,label\n" + "".join(f"{1_700_000_000 + i},{i % 2}\n" for i in range(40)))
    assert "when: float32 rounds '1700000001' (line 3) and its like; subtract a constant in the file" in lines


def test_what_may_surprise_is_told(opened: Callable[..., Any]) -> None:
    rows = [f"{i},{i},,{'1,5' if i == 7 else i},{i}" if i != 7 else f'{i},{i},,"1,5",{i}' for i in range(40)]
    builder, lines = opened("\n".join([",a,empty,nearly,target", *rows]))
    assert lines[1:4] == [
        "column 1 has no name and is left out",
        "empty: no value in any row, left out",
        "nearly: 39 of 40 values are numbers, but '1,5' (line 9) isn't, so the column is category",
    ]
    assert {*builder.info.features} == {"a", "nearly", "target"}


def test_missing_values_have_several_spellings_in_numbers_only(opened: Callable[..., Any]) -> None:
    rows = [f"{('NA', '?', 'nan', i)[i % 4]},{('None', 'Low')[i % 2]},{i}" for i in range(40)]
    builder, lines = opened("\n".join(["a,b,target", *rows]))
    assert lines[0] == "a number, b category (2), label target number, 30 values of a missing"
    assert {sample["b"] for sample in samples(builder, "train")} == {b"None", b"Low"}


def test_bad_rows_are_left_out_where_that_is_allowed(opened: Callable[..., Any]) -> None:
    text = (
        b"a,label\n" + b"".join(b"%d,%s\n" % (i, b"xy"[i % 2 : i % 2 + 1]) for i in range(20)) + b"1,\n1,2,3\n\xe9,x\n"
    )
    builder, lines = opened(text, max_bad_records=3)
    assert sum(info.num_examples for info in builder.info.splits.values()) == 20
    assert [line for line in lines if line.startswith("left out")] == [
        "left out: table.csv, line 22: the label (column 2) is missing",
        "left out: table.csv, line 23: this row holds 3 values, not 2",
        "left out: table.csv, line 24: the byte 0xe9 is not UTF-8; convert the file, such as with iconv -f latin1 -t utf-8",
    ]
    _, again = opened(text, max_bad_records=3)
    assert again == lines
    with pytest.raises(
        DataError, match=r"line 24: the byte 0xe9 is not UTF-8.*; repair it, or leave out up to N of them"
    ):
        opened(text, max_bad_records=2)


GOOD = "".join(f"{i},{'xy'[i % 2]}\n" for i in range(20))


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, r"table\.csv: the file is empty"),
        ("\n\n", {}, r"table\.csv: the file is empty"),
        ("a,label\n", {}, r"table\.csv holds no rows beside its header"),
        (
            f"a,label\n{GOOD}",
            {"label_key": "lable"},
            r"label_key='lable': no such column of csv:.* \(a, label\); did you mean 'label'\?",
        ),
        (f"a,b\n{GOOD}", {}, r"name the column that is the label with label_key, out of a, b"),
        (f"label,target\n{GOOD}", {}, r"name the column that is the label with label_key, out of label, target"),
        (f"a,label\n{GOOD}1,x,2\n", {}, r"table\.csv, line 22: this row holds 3 values, not 2"),
        (f"a,label\n{GOOD}5,\n", {}, r"table\.csv, line 22: the label \(column 2\) is missing"),
        ("a,label\n1,2.5\n2,NA\n3,3.5\n", {}, r"line 3: the label 'label' is missing \('NA'\)"),
        ("a,label\n" + "1,x\n" * 9, {}, r"the label 'label' has only one value \('x'\); it needs two or more"),
        (
            "a,label\n" + "".join(f"{i},words of {i} alone\n" for i in range(60)),
            {},
            r"too many different values for classes \('words of 0 alone', ",
        ),
        (f"a,label\n{GOOD}", {"task": "regression"}, r"line 2: the label 'label' is 'x', and the task needs numbers"),
        ("a,label\n1,0.5\n2,1.5\n3,0.5\n", {"task": "classification"}, r"the label 'label' holds fractions"),
        ("a,label\n1,0.5\n1e39,1.5\n3,2\n", {}, r"line 3: 'a' holds '1e39', which float32 can't hold"),
        ("a,label\n1,0.5\ninf,1.5\n3,2\n", {}, r"line 3: 'a' holds 'inf', which float32 can't hold"),
        (f"a,a\n{GOOD}", {"label_key": "a"}, r"two columns are called 'a'"),
        ("label\nx\ny\n", {}, r"there is no column beside the label"),
        (
            GOOD.replace("x", "1").replace("y", "2"),
            {},
            r"begins with '0', which is no name of a column; .* give columns",
        ),
        (
            GOOD,
            {"columns": "a,b,label"},
            r"columns='a,b,label' names 3 columns, and line 1 of table\.csv holds 2 values",
        ),
        ('a,label\n"1","x"\n2,"y\n', {}, r"table\.csv, line 3: unexpected end of data"),
        ("a,label\n1,x\n2,y\n", {}, r"2 samples are too few"),
        (f"a,label\n{GOOD}".encode("utf-16"), {}, r"line 1: .*0xff is not UTF-8|null characters|no name|label_key"),
        (b"\x1f\x8bno gzip", {"name": "t.csv.gz"}, r"t\.csv\.gz can't be read"),
        (f"a,label\n{'w' * 140_000},x\n", {}, r"line 2: field larger than field limit.*text:FOLDER"),
    ],
)
def test_bad_tables_are_refused_in_one_line(
    opened: Callable[..., Any], text: str | bytes, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        opened(text, **options)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"train.csv": f"a,label\n{GOOD}", "test.csv": "a,label\n1,z\n"},
            r"the class 'z' of 'label' is in the split 'test' \(1 samples\), but not in 'train'",
        ),
        (
            {"train.csv": f"a,label\n{GOOD}", "test.csv": "a\n1\n"},
            r"test\.csv doesn't begin with the header of train\.csv \(a, label\), but with a",
        ),
        (
            {"houses.csv": f"a,label\n{GOOD}"},
            r"there is no train\.csv in this folder, and it holds houses\.csv; give the path of one",
        ),
        ({"notes.md": ""}, r"there is no train\.csv in this folder, and it holds no CSV file"),
        (
            {"train.csv": f"a,label\n{GOOD}", "val.csv": "", "dev.csv": ""},
            r"both dev\.csv and val\.csv are 'validation'",
        ),
    ],
)
def test_bad_folders_are_refused(opened: Callable[..., Any], files: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        opened(files)
    assert caught.value.exit_code == 2


def test_file_that_is_not_there_is_refused_with_the_nearest_name(tmp_path: pathlib.Path) -> None:
    (tmp_path / "houses.csv").write_text("a,label\n")
    with pytest.raises(DataError, match=r"house\.csv': no such file; did you mean 'houses\.csv'\?") as caught:
        open_files(f"csv:{tmp_path}/house.csv", None)
    assert caught.value.exit_code == 2


def test_table_without_a_label_is_for_a_task_that_needs_none(opened: Callable[..., Any]) -> None:
    builder, _ = opened("text\n" + "".join(f"line {i}\n" for i in range(60)), task="language_model")
    assert builder.info.supervised_keys is None
    assert [*builder.info.features] == ["text"]


@pytest.mark.parametrize("odd", ["5", "2.5", "", "NA", "1e39", "inf", "-inf", "nan", "1_0", "١٢", "word", " 7"])
def test_column_of_many_values_is_known_as_well_in_blocks(odd: str) -> None:
    values = [*map(str, range(1500)), odd, *map(str, range(600)), odd]
    lines = [*range(len(values))]
    whole, single = Column("a"), Column("a")
    for start in range(0, len(values), 512):
        whole.add(lines[start : start + 512], values[start : start + 512])
    for line, value in zip(lines, values, strict=True):
        single.add([line], [value])
    facts = ("kind", "rows", "numbers", "missing", "whole", "first_other", "first_endless", "first_marked", "remark")
    assert [getattr(whole, fact) for fact in facts] == [getattr(single, fact) for fact in facts]
    assert (single.first_endless is not None) == (odd in ("1e39", "inf", "-inf"))
    assert (single.kind == "number") == (odd not in ("1_0", "١٢", "word"))


def test_rows_are_read_as_pythons_csv_module_reads_them(tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(3)
    letters = list('ab,"\n\té ')
    rows = [["".join(rng.choice(letters, rng.integers(0, 6))) + "z" for _ in range(3)] for _ in range(200)]
    path = tmp_path / "t.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    assert [row for _, row in CsvFile.of(path).rows()] == [[value.strip() for value in row] for row in rows]
