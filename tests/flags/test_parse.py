"""From words to dataclasses, and one line for every mistake."""

import dataclasses
import pathlib
import re
from collections.abc import Sequence

import pytest
from absl import flags as absl_flags

from loopwright import flags

COMMAND_GROUPS = [flags.TRAIN_GROUPS, (flags.Evaluation,), (flags.Benchmark,), (flags.Parity,), (flags.Listing,)]


def parse(*words: str, groups: Sequence[type] = flags.TRAIN_GROUPS) -> flags.Config:
    return flags.config_from_groups(flags.parse(words, groups, usage="usage", help_text="help")[0])


@pytest.mark.parametrize("groups", COMMAND_GROUPS, ids=lambda groups: groups[-1].__name__)
def test_define_flags_defines_every_field_on_a_fresh_flag_values(groups: Sequence[type]) -> None:
    flag_values = absl_flags.FlagValues()
    flags.define_flags(flag_values, groups)
    flag_values(["program"])
    for group in groups:
        for field in dataclasses.fields(group):
            assert flag_values[field.name].value == field.default
            assert flag_values[field.name].help == field.metadata["help"]
    assert not {field.name for group in groups for field in dataclasses.fields(group)} & set(absl_flags.FLAGS)


def test_define_flags_twice_raises() -> None:
    flag_values = absl_flags.FlagValues()
    flags.define_flags(flag_values)
    with pytest.raises(absl_flags.DuplicateFlagError):
        flags.define_flags(flag_values)


def test_parse_of_nothing_gives_the_defaults() -> None:
    assert parse() == flags.Config()


def test_parse_gives_values_of_the_fields_types() -> None:
    config = parse("--batch_size=64", "--weight_decay", "1", "--nodownload", "--workdir=x", "--epochs=3")
    assert (config.data.batch_size, config.data.download) == (64, False)
    assert isinstance(config.optimization.weight_decay, float)
    assert (config.run.workdir, config.run.epochs, config.run.train_steps) == ("x", 3, None)


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("--optimizer=adm", ["did you mean 'adam'?"]),
        ("--schedule=cosin", ["did you mean 'cosine'?"]),
        ("--precision=mixed_bf16", ["did you mean 'mixed_bfloat16'?"]),
        ("--execution=grpah", ["did you mean 'graph'?"]),
        ("--execution=zzz", ["(graph, xla, eager, auto)"]),
        ("--batch_size=0", ["at least 1"]),
        ("--batch_size=-4", ["at least 1"]),
        ("--batch_size=3.5", ["not a whole number"]),
        ("--batch_size=many", ["not a whole number"]),
        ("--learning_rate=0", ["greater than 0"]),
        ("--learning_rate=-0.1", ["greater than 0"]),
        ("--learning_rate=nan", ["greater than 0"]),
        ("--learning_rate=inf", ["greater than 0"]),
        ("--learning_rate=fast", ["'fast' is unknown", "exponential_decay"]),
        ("--clip_norm=nan", ["not a number"]),
        ("--clip_norm=inf", ["not a number"]),
        ("--clip_norm=fast", ["not a number"]),
        ("--momentum=1", ["less than 1"]),
        ("--weight_decay=-1", ["at least 0"]),
        ("--warmup_steps=-1", ["at least 0"]),
        ("--epochs=0", ["at least 1"]),
        ("--train_steps=0", ["at least 1"]),
        ("--seed=-1", ["at least 0"]),
        ("--seed=4294967296", ["less than 4294967296"]),
        ("--log_every=0", ["at least 1"]),
        ("--eval_every=0", ["at least 1"]),
        ("--checkpoint_every=0", ["at least 1"]),
        ("--steps_per_call=0", ["at least 1"]),
        ("--keep=0", ["at least 1"]),
        ("--download=maybe", ["--download or --nodownload"]),
    ],
)
def test_bad_value_is_told_in_a_line_that_names_flag_value_and_choice(word: str, parts: list[str]) -> None:
    with pytest.raises(flags.UsageError) as error:
        parse(word)
    message = str(error.value)
    assert "\n" not in message
    assert word in message
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--optimiser=adam"], ["optimiser", "optimizer"]),
        (["--learning_rat=1"], ["--learning_rat: unknown flag", "did you mean --learning_rate?"]),
        (["--zzz"], ["--zzz: unknown flag", "--helpfull"]),
        (["--batch_size"], ["--batch_size: has no value", "--batch_size=VALUE"]),
        (["cnn"], ["'cnn'", "--name=value"]),
        (["--model=cnn", "fast"], ["'fast'"]),
        (["--epochs=2", "--train_steps=30"], ["--epochs=2", "--train_steps=30", "one of them"]),
        (["--flagfile=nowhere.txt"], ["--flagfile=nowhere.txt: No such file", "a flag on each line"]),
    ],
    ids=" ".join,
)
def test_wrong_word_is_told_in_one_line(words: list[str], parts: list[str]) -> None:
    with pytest.raises(flags.UsageError) as error:
        parse(*words)
    message = str(error.value)
    assert "\n" not in message
    assert all(part in message for part in parts), message


def test_flagfile_gives_flags_and_later_words_win(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "flags.txt"
    path.write_text("# a comment\n--batch_size=64\n\n--model=mlp\n--nodownload\n", encoding="utf-8")
    config = parse(f"--flagfile={path}", "--model=cnn_subclass")
    assert config.data == flags.Data(batch_size=64, download=False)
    assert config.model.model == "cnn_subclass"


def test_bad_value_in_a_flagfile_is_a_usage_error(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "flags.txt"
    path.write_text("--batch_size=none\n", encoding="utf-8")
    with pytest.raises(flags.UsageError, match="--batch_size=none"):
        parse(f"--flagfile={path}")


def test_flagfile_that_is_not_text_is_a_usage_error(tmp_path: pathlib.Path) -> None:
    (tmp_path / "model.h5").write_bytes(bytes(range(256)))
    with pytest.raises(flags.UsageError, match=r"^--flagfile=.*model\.h5: isn't a text file"):
        parse(f"--flagfile={tmp_path / 'model.h5'}")


def test_typed_length_takes_the_place_of_the_one_in_a_flagfile(tmp_path: pathlib.Path) -> None:
    (tmp_path / "flags.txt").write_text("--train_steps=120\n")
    words = [f"--flagfile={tmp_path / 'flags.txt'}", "--epochs", "2"]
    groups, _ = flags.parse(words, flags.TRAIN_GROUPS, usage="", help_text="")
    run = flags.config_from_groups(groups, words).run
    assert (run.epochs, run.train_steps) == (2, None)
    with pytest.raises(flags.UsageError, match="exclude each other"):
        flags.config_from_groups(groups, [*words, "--train_steps=120"])


def test_paths_begin_at_home_and_text_has_no_blanks_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    config = parse("--workdir=~/runs/a", "--freeze= dense/kernel|x ", "--train_split=a-b ")
    assert (config.run.workdir, config.model.freeze) == ("/home/me/runs/a", "dense/kernel|x")
    assert config.data.train_split == "a-b"
    with pytest.raises(flags.UsageError, match="--freeze: holds a line break"):
        parse("--freeze=a\nb")


def test_positional_word_is_returned_where_it_is_asked_for() -> None:
    _, words = flags.parse(["cnn", "--json"], (flags.Listing,), usage="", help_text="", positional="NAME")
    assert words == ["cnn"]
    with pytest.raises(flags.UsageError, match="'mlp'"):
        flags.parse(["cnn", "mlp"], (flags.Listing,), usage="", help_text="", positional="NAME")


@pytest.mark.parametrize("groups", COMMAND_GROUPS, ids=lambda groups: groups[-1].__name__)
def test_help_shows_common_flags_and_helpfull_all(groups: Sequence[type]) -> None:
    fields = [field for group in groups for field in dataclasses.fields(group)]
    for word, shown in (
        ("--help", {f.name for f in fields if f.metadata["common"]}),
        ("--helpfull", {f.name for f in fields}),
    ):
        with pytest.raises(flags.HelpRequested) as help_text:
            flags.parse([word, "--batch_size=0"], groups, usage="usage: x", help_text="What it does.")
        text = str(help_text.value)
        assert text.startswith("usage: x")
        assert "What it does." in text
        assert shown == {f.name for f in fields if re.search(rf"^  --(\[no\])?{f.name}\s", text, re.MULTILINE)}


def test_help_of_train_shows_fifteen_flags_at_most() -> None:
    assert sum(f.metadata["common"] for group in flags.TRAIN_GROUPS for f in dataclasses.fields(group)) <= 15


@pytest.mark.parametrize(("value", "choice"), [("adm", "'adam'"), ("tarin", "'train'"), ("xyz", None)])
def test_nearest_names_the_nearest_choice_and_all(value: str, choice: str | None) -> None:
    phrase = flags.nearest(value, ["adam", "train", "sgd"])
    assert phrase.endswith("(adam, train, sgd)")
    assert ("did you mean" in phrase) == (choice is not None)
    assert (choice or "") in phrase


def matrix(*words: str) -> list[list[object]]:
    groups, lists = (flags.Data, flags.Model), ("model", "precision", "batch_size")
    return flags.parse_matrix(words, groups, lists=lists, usage="usage", help_text="help")


def test_parse_matrix_gives_each_combination_once_the_last_changing_fastest() -> None:
    cells = matrix("--batch_size=32,128", "--model=mlp,pathlib:Path", "--precision", "float32")
    found = [(model.model, model.precision, data.batch_size) for data, model in cells]  # type: ignore[attr-defined]
    assert found == [(model, "float32", size) for model in ("mlp", "pathlib:Path") for size in (32, 128)]


def test_parse_matrix_of_nothing_gives_the_defaults_once() -> None:
    assert matrix() == [[flags.Data(), flags.Model()]]


@pytest.mark.parametrize(
    ("word", "part"),
    [("--batch_size=8,x", "--batch_size=x: not a whole number"), ("--precision=float32,", "--precision=:")],
)
def test_parse_matrix_checks_every_value(word: str, part: str) -> None:
    with pytest.raises(flags.UsageError, match=part):
        matrix(word)


def test_flagfile_of_a_run_is_read_without_looking_for_what_it_names(tmp_path: pathlib.Path) -> None:
    words = [
        "--dataset=folder:/gone",
        "--model=gone:net",
        "--restore_from=gone",
        "--augment=gone:f",
        "--init_from=gone",
    ]
    (tmp_path / "flags.txt").write_text("\n".join(words))
    config = flags.read_flagfile(tmp_path / "flags.txt")
    assert (config.data.dataset, config.run.restore_from) == ("folder:/gone", "gone")
    (tmp_path / "flags.txt").write_text("--batch_size=0")
    with pytest.raises(flags.UsageError, match="--batch_size=0: must be at least 1"):
        flags.read_flagfile(tmp_path / "flags.txt")


def test_length_that_takes_the_place_of_another_is_checked(tmp_path: pathlib.Path) -> None:
    (tmp_path / "flags.txt").write_text("--epochs=3\n--profile_steps=20:30\n")
    words = [f"--flagfile={tmp_path / 'flags.txt'}", "--train_steps=20"]
    groups, _ = flags.parse(words, flags.TRAIN_GROUPS, usage="", help_text="")
    with pytest.raises(flags.UsageError, match="--profile_steps=20:30: the run ends at step 20"):
        flags.config_from_groups(groups, words)


def test_parse_matrix_checks_every_combination() -> None:
    groups = (flags.Model, flags.Optimization, flags.Benchmark)
    with pytest.raises(flags.UsageError, match="--model=my models:net: write module:function"):
        flags.parse_matrix(["--model=cnn,my models:net"], groups, lists=("model",), usage="", help_text="")
