"""`report` and `doctor`, and the flags that say what a run shows."""

import json
import pathlib
import re
import shutil
import subprocess
import sys
from typing import Any

import pytest

from loopwright.trainer.commands import doctor


def test_report_is_one_page_without_a_script_or_an_address(loopwright: Any, run_folder: pathlib.Path) -> None:
    result = loopwright("report", "--workdir=run", "--json")
    assert result.json == {"report": "run/report.html"}
    text = (run_folder / "report.html").read_text(encoding="utf-8")
    assert "<script" not in text
    addresses = set(re.findall(r"https?://[^\"'\s<)]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names, never asked for
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text.replace("xlink:href", "href"))
    for part in (
        "finished after step 30",
        "Confusion",
        "Surest mistakes",
        "Calibration",
        "--learning_rate",
        "model.h5",
    ):
        assert part in text
    assert text.count("<svg") >= 4


def test_report_of_a_run_that_has_only_begun(loopwright: Any, run_folder: pathlib.Path) -> None:
    for name in ("summary.json", "predictions.npz", "goodput.json", "metrics.jsonl", "exports/model.h5"):
        (run_folder / name).unlink()
    assert loopwright("report", "--workdir=run").code == 0
    text = (run_folder / "report.html").read_text(encoding="utf-8")
    assert "not finished" in text
    assert "No record yet." in text


def test_report_shows_differences_of_exports(loopwright: Any, run_folder: pathlib.Path) -> None:
    manifest = {"files": {"model.h5": {"largest_difference": 1.5e-07}}}
    (run_folder / "exports" / "manifest.json").write_text(json.dumps(manifest))
    assert loopwright("report", "--workdir=run").code == 0
    assert "largest difference of outputs 1.5e-07" in (run_folder / "report.html").read_text(encoding="utf-8")


def test_runs_of_one_name_are_told_apart(
    loopwright: Any, run_folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(run_folder.parent))
    for place in ("a", "_b $x$"):
        shutil.copytree(run_folder, run_folder.parent / place / "p$\\frac$")
    words = ["--workdir=~/a/p$\\frac$,~/_b $x$/p$\\frac$", "--output=both.html"]
    assert loopwright("report", *words).code == 0
    text = (run_folder.parent / "both.html").read_text(encoding="utf-8")
    for place in ("a", "_b $x$"):
        assert f"{run_folder.parent / place / 'p$'}\\frac$, eval" in text


def test_names_in_a_report_are_no_html(loopwright: Any, run_folder: pathlib.Path) -> None:
    facts = json.loads((run_folder / "run.json").read_text())
    facts["class_names"][3] = "<img src=x onerror=alert(1)>"
    (run_folder / "run.json").write_text(json.dumps(facts))
    assert loopwright("report", "--workdir=run").code == 0
    text = (run_folder / "report.html").read_text(encoding="utf-8")
    assert "<img src=x" not in text
    assert "&lt;img src=x" in text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(("metrics.jsonl", "{\n"), ("predictions.npz", "?"), ("goodput.json", '{"processes": 3}')),
        *(("run.json", "[]"), ("metrics.jsonl", '{"step": 3}\n')),
    ],
)
def test_damaged_file_of_a_run_is_told_in_a_line(
    loopwright: Any, run_folder: pathlib.Path, name: str, content: str
) -> None:
    (run_folder / name).write_text(content)
    result = loopwright("report", "--workdir=run")
    assert (result.code, len(result.err.splitlines())) == (1, 1)
    assert "run holds a damaged file" in result.err
    assert not (run_folder / "report.html").exists()


def test_report_of_a_run_that_was_killed_while_it_wrote(loopwright: Any, run_folder: pathlib.Path) -> None:
    with (run_folder / "metrics.jsonl").open("a") as log:
        log.write('{"step": 3')
    (run_folder / "exports" / ".tmp-1-staging").mkdir()
    assert loopwright("report", "--workdir=run").code == 0
    assert ".tmp-1" not in (run_folder / "report.html").read_text(encoding="utf-8")


def test_report_needs_no_tensorflow(run_folder: pathlib.Path) -> None:
    code = "import sys; from loopwright.trainer.__main__ import main; main(['report', '--workdir=run']); "
    code += "print('tensorflow' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=run_folder.parent, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["run/report.html", "False"]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["report"], "--workdir"),
        (["report", "--workdir=nowhere"], "--workdir=nowhere"),
        (["train", "--profile_steps=100"], "--profile_steps=100"),
        (["train", "--profile_steps=9:3"], "--profile_steps=9:3"),
        (["train", "--progress=loud"], "--progress=loud"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistake_is_told_in_a_line(loopwright: Any, words: list[str], part: str) -> None:
    result = loopwright(*words)
    assert (result.code, len(result.err.splitlines())) == (2, 1)
    assert part.replace("--progress=", "") in result.err


def test_quiet_run_says_nothing_on_stderr(loopwright: Any, mnist_dir: pathlib.Path) -> None:
    words = ["--model=mlp", "--train_steps=2", "--progress=none", "--workdir=run", "--json"]
    result = loopwright("train", f"--data_dir={mnist_dir}", *words)
    assert (result.code, result.err) == (0, "")
    assert result.json["step"] == 2


def test_doctor_finds_this_machine_ready(loopwright: Any, mnist_dir: pathlib.Path) -> None:
    result = loopwright("doctor", f"--data_dir={mnist_dir}", "--json")
    assert (result.code, result.json["ready"]) == (0, True)
    found = {finding["what"]: finding for finding in result.json["findings"]}
    assert "CPU:0" in found["TensorFlow"]["found"]
    assert "mnist_5k" in found["datasets"]["found"]
    assert found["extra demo"]["state"] == "ok"
    assert all(finding["remedy"] for finding in found.values() if finding["state"] != "ok")


@pytest.mark.slow
def test_doctor_says_when_training_cannot_work(loopwright: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "no_such_backend")
    result = loopwright("doctor")
    assert result.code == 1
    assert "fail" in result.out
    assert "→" in result.out
    assert result.out.splitlines()[-1].startswith("Training can't work yet")


def test_tested_versions_are_the_pinned_ones(repository: pathlib.Path) -> None:
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", (repository / "constraints.txt").read_text(), re.MULTILINE))
    assert {name: pinned[name] for name in doctor.TESTED} == doctor.TESTED


@pytest.mark.parametrize(
    ("finding", "state"),
    [
        (doctor.python_version((3, 10)), "fail"),
        (doctor.python_version((3, 12)), "ok"),
        (doctor.python_version((3, 99)), "warn"),
        (doctor.memory(int(5e8)), "fail"),
        (doctor.memory(int(2e9)), "warn"),
        (doctor.memory(int(2e10)), "ok"),
        (doctor.disk(pathlib.Path.cwd(), int(1e8)), "fail"),
        (doctor.disk(pathlib.Path.cwd(), int(1e9)), "warn"),
        (doctor.processor({"sse4_2"}, onednn=False), "fail"),
        (doctor.processor({"avx"}, onednn=False), "ok"),
        (doctor.processor({"avx", "avx2"}, onednn=False), "note"),
        (doctor.processor({"avx", "avx2"}, onednn=True), "ok"),
        (doctor.gpu({"devices": [["GPU", "GPU:0"]], "cuda": "12.5"}, driver=True), "ok"),
        (doctor.gpu({"devices": [], "cuda": "12.5"}, driver=True), "warn"),
        (doctor.gpu({"devices": [], "cuda": None}, driver=False), "ok"),
        (doctor.tensorflow_works({"error": "killed by signal 4"}), "fail"),
        (next(doctor.versions(lambda name: None)), "fail"),
        (next(doctor.versions(lambda name: "2.20.1")), "fail"),
        (next(doctor.versions(lambda name: "2.99.0")), "note"),
        (next(doctor.extras(lambda module: False)), "note"),
    ],
    ids=str,
)
def test_doctor_judges(finding: doctor.Finding, state: str) -> None:
    assert finding.state == state
    assert bool(finding.remedy) == (state != "ok")
