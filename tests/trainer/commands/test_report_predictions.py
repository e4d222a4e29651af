"""The sections of the report about predictions of each kind, as HTML."""

import pathlib
from typing import Any

import jinja2
import numpy as np

from loopwright.trainer.commands import report, report_predictions
from loopwright.trainer.commands.report_predictions import number, section
from loopwright.trainer.observe.label_predictions import LabelPredictions
from loopwright.trainer.observe.number_predictions import NumberPredictions
from loopwright.trainer.observe.position_predictions import PositionPredictions
from loopwright.trainer.observe.predictions import Predictions
from loopwright.trainer.observe.scores import BINS, binned
from loopwright.trainer.observe.text_predictions import TextPredictions


def html(found: Any, names: Any = (), head: str = "") -> str:
    loader = jinja2.FileSystemLoader(pathlib.Path(report.__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    text = '{% from "report_predictions.html.jinja" import section %}{{ section(part) }}'
    return environment.from_string(text).render(part=section(found, names, head))


def classes(**options: Any) -> Predictions:
    labels, predicted = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 1])
    confidence = np.array([0.9, 0.8, 0.7, 0.9, 0.6], np.float32)
    arrays = (np.arange(5) + 100, labels, predicted, confidence, np.arange(5), np.zeros((5, 3), np.int32))
    return Predictions(*arrays, 2, 30, **options)


def test_classes_have_precision_recall_and_f1() -> None:
    texts = np.array(["a", "b", "win <b>money</b>", "d", "e"])
    text = html(classes(names=np.array(["ham", "spam"]), texts=texts, binary=True))
    for part in ("5 samples, 1 of them wrong", "Precision over recall", "Calibration", "win &lt;b&gt;money"):
        assert part in text
    row = text[text.index("<td>spam</td>") :].partition("</tr>")[0]
    for part in ("0.6667", "1.0000", "0.8000"):
        assert part in row
    assert '<td><span class="wrong">spam</span></td><td>ham</td><td class="number">70%</td>' in text
    assert "102" in text


def test_names_of_the_run_come_before_those_of_the_predictions() -> None:
    text = html(classes(names=np.array(["ham", "spam"])), ["<i>good</i>", "bad"])
    assert "&lt;i&gt;good" in text
    assert ">ham<" not in text
    assert ">sample<" not in text


def test_labels_have_counts_and_what_was_missed() -> None:
    chances = np.array([[0.9, 0.2], [0.7, 0.4]], np.float32)
    labels = np.array([[True, True], [False, False]])
    counts = np.stack([binned(chances[:, k], labels[:, k]) for k in range(2)])
    rows = np.arange(2)
    names, texts = np.array(["new", "big"]), np.array(["one", "two"])
    found = LabelPredictions(counts, 2, 0, rows, rows, np.zeros((2, 3)), labels, chances, names, texts, 7)
    assert counts.shape == (2, 2, BINS)
    text = html(found)
    for part in ("2 samples with 2 labels, 0 samples with all labels right", "average precision", "Labels"):
        assert part in text
    assert '<td>new</td><td>new, <span class="wrong">big</span></td><td>one</td>' in text
    assert '<td><span class="wrong">new</span></td><td>–</td><td>two</td>' in text


def test_numbers_have_errors_in_the_units_of_the_target() -> None:
    labels, predicted = np.array([[1e5], [2e5]], np.float32), np.array([[1.5e5], [2e5]], np.float32)
    error = predicted - labels
    sums = [(error**2).sum(axis=0), np.abs(error).sum(axis=0), ((labels - labels.mean()) ** 2).sum(axis=0)]
    rows, texts = np.arange(2), np.array(["rooms 3", "rooms 4"])
    inputs = np.zeros((2, 3))
    found = NumberPredictions(
        rows, labels, predicted, 2, *sums, rows, inputs, labels, predicted, np.array("value"), texts, 9
    )
    text = html(found, head="price")
    assert "<h2>price: evaluation after step 9</h2>" in text
    assert "R² 0.5000, root mean squared error 35,355, mean absolute error 25,000." in text
    assert '<td class="number">150,000</td><td class="number">100,000</td>' in text
    assert text.index("rooms 3") < text.index("rooms 4")


def test_positions_show_what_was_said_instead() -> None:
    labels, said = np.array([[0, 1, -1]]), np.array([[0, 0, -1]])
    pairs = np.array([[1, 0], [1, 0]])
    found = PositionPredictions(
        *(pairs, np.diag(pairs), pairs.sum(axis=1), pairs.sum(axis=0), np.ones((3, 10)), 1),
        *(np.arange(1), np.arange(1), np.zeros((1, 3), np.int32), labels, said),
        *(np.array(["noun", "verb"]), np.array([["dogs", "bark", ""]]), 3),
    )
    text = html(found)
    assert "1 samples with 2 positions, of which 50.0% are right" in text
    assert 'dogs/noun <span class="wrong">bark/verb → noun</span></td>' in text


def test_written_texts_stand_after_their_prompts() -> None:
    found = TextPredictions(np.arange(1), np.array(["To be\n"]), np.array(["or <not>"]), 0.8, 5)
    assert '<span class="soft">To be\n</span>or &lt;not&gt;</pre>' in html(found)


def test_numbers_fit_their_size() -> None:
    shown = [number(value) for value in (None, float("nan"), 0.0, 0.98765, 1234.5, 68521.5, 4.7e9, 1e-5)]
    assert shown == ["–", "–", "0.0000", "0.9877", "1,234.5", "68,522", "4.7e+09", "1e-05"]


def test_every_kind_has_a_section() -> None:
    from loopwright.trainer.observe.prediction_files import KINDS

    assert {kind.kind for kind in report_predictions._SECTIONS} == set(KINDS)
