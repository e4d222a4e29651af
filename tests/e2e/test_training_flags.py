"""What `loopwright train` makes of the flags for executions, precision, gradients and metrics."""

import json
import pathlib
import re
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest

from loopwright import flags

BASE = ("train", "--model=mlp", "--train_split=train[:200]", "--eval_split=test[:100]", "--batch_size=20")


def records(run: pathlib.Path, split: str) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["split"] == split]


@pytest.mark.slow
def test_gradient_tools_work_together(loopwright: Any, mnist_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    words = [
        "--train_steps=16",
        "--gradient_accumulation=2",
        "--ema_decay=0.9",
        "--label_smoothing=0.1",
        "--clip_norm=1",
    ]
    words += [
        "--optimizer=adamw",
        "--weight_decay=0.01",
        "--schedule=piecewise",
        "--boundaries=2,4",
        "--decay_factor=0.5",
    ]
    words += ["--log_norms", "--metrics=accuracy,top_5,auc,f1", "--log_every=4", "--monitor=auc", "--workdir=run"]
    result = loopwright(*BASE, f"--data_dir={mnist_dir}", *words)
    assert result.code == 0, result.err
    run = tmp_path / "run"
    train, evals = records(run, "train"), records(run, "eval")
    assert [record["learning_rate"] for record in train] == pytest.approx([5e-4, 2.5e-4, 2.5e-4, 2.5e-4])
    for record in train:
        assert 0 < record["update_norm"] < record["parameter_norm"]
        assert record["gradient_norm"] > 0
    newest = evals[-1]
    assert 0.5 < newest["auc"] <= 1
    assert newest["accuracy"] < newest["top_5"] <= 1
    assert 0 < newest["f1"] < 1

    # The averaged weights are what was evaluated, and what is exported.
    again = loopwright("evaluate", f"--data_dir={mnist_dir}", "--workdir=run", "--json").json
    assert again["metrics"] == {name: newest[name] for name in again["metrics"]}
    file = ["--restore_from=run/exports/model.h5", "--eval_split=test[:100]"]
    exported = loopwright("evaluate", f"--data_dir={mnist_dir}", *file, "--json").json
    assert exported["metrics"]["accuracy"] == newest["accuracy"]
    assert exported["metrics"]["loss"] != newest["loss"]  # a file holds no label smoothing


STARTS = """
import sys
from loopwright.trainer.commands import machine, setup
setup.start_tensorflow(onednn=sys.argv[1])
print(machine.onednn())
"""


@pytest.mark.parametrize("choice", ["on", "off"])
def test_onednn_is_what_the_flag_says(choice: str) -> None:
    done = subprocess.run([sys.executable, "-c", STARTS, choice], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == [choice], done.stderr


CHOOSES = """
import json, sys
from loopwright.trainer.__main__ import main
code = main(sys.argv[1:])
import tensorflow as tf
threads = tf.config.threading
print(json.dumps([code, threads.get_intra_op_parallelism_threads(), threads.get_inter_op_parallelism_threads()]))
"""


@pytest.mark.slow
def test_auto_writes_down_what_it_chose_and_a_run_that_goes_on_keeps_it(
    mnist_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    def train(*words: str) -> tuple[list[int], str]:
        """Exit code and threads of a new process, and its stderr; TensorFlow reads --onednn only when it is imported."""
        argv = [*BASE, f"--data_dir={mnist_dir}", "--execution=auto", "--steps_per_call=5", *words]
        command = [sys.executable, "-c", CHOOSES, *argv]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        return json.loads(done.stdout.splitlines()[-1]), done.stderr

    threads = ["--intra_op_threads=1", "--inter_op_threads=2", "--onednn=on"]
    facts, said = train("--train_steps=10", *threads)
    assert facts == [0, 1, 2], said
    table = dict(re.findall(r"^execution (graph|xla): ([\d.]+) ms a step$", said, re.MULTILINE))
    (chosen,) = re.findall(r"^execution (\w+) is chosen$", said, re.MULTILINE)
    assert chosen == min(table, key=lambda name: float(table[name]))
    (run,) = (tmp_path / "runs").iterdir()
    kept = json.loads((run / "run.json").read_text())
    assert (kept["execution"], kept["onednn"]) == (chosen, "on")
    assert set(kept["execution_measured_ms"]) == set(table) == {"graph", "xla"}
    assert f"--execution={chosen}" in (run / "flags.txt").read_text().splitlines()

    facts, said = train("--train_steps=20", "--onednn=off")
    assert (facts[0], "ms a step" in said) == (0, False)
    told = r"may not equal .* \(.*intra_op_threads: 1 before, 0 now; .*onednn: on before, off now"
    assert re.search(told, " ".join(said.split())), said
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [run.name]
    assert json.loads((run / "summary.json").read_text())["step"] == 20
    kept = json.loads((run / "run.json").read_text())
    assert (kept["execution"], kept["onednn"]) == (chosen, "off")


@pytest.mark.slow
def test_early_stop_ends_a_run_and_more_patience_goes_on(
    loopwright: Any, mnist_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    words = [*BASE, f"--data_dir={mnist_dir}", "--learning_rate=1e-30", "--eval_every=2", "--train_steps=50"]
    words += ["--workdir=run", "--monitor=loss", "--reduce_on_plateau=1", "--log_every=2", "--log_norms"]
    result = loopwright(*words, "--early_stop=2")
    assert result.code == 0, result.err
    assert "loss has not improved for 2 evaluations" in result.err
    train = records(tmp_path / "run", "train")
    assert [record["step"] for record in train] == [2, 4, 6]
    rates = [record["learning_rate"] for record in train]
    assert rates[1] / rates[0] == pytest.approx(1)
    assert rates[2] / rates[1] == pytest.approx(0.1)
    again = loopwright(*words, "--early_stop=2")
    assert "This run is finished: it took 6 steps" in again.out
    # A run that ended before its export goes no step further.
    kept = (tmp_path / "run" / "metrics.jsonl").read_text()
    (tmp_path / "run" / "summary.json").unlink()
    (tmp_path / "run" / "exports" / "model.h5").unlink()
    again = loopwright(*words, "--early_stop=2")
    assert (again.code, (tmp_path / "run" / "metrics.jsonl").read_text()) == (0, kept)
    assert "after step 6" in again.out
    assert (tmp_path / "run" / "exports" / "model.h5").exists()
    # Without norms from here on: a window may hold other metrics than before.
    longer = loopwright(*words, "--early_stop=4", "--nolog_norms")
    assert (longer.code, records(tmp_path / "run", "train")[-1]["step"]) == (0, 10)


OVERFLOWING = """
import keras


def net(input_shape, num_classes):
    layers = [keras.Input(input_shape), keras.layers.Flatten(), keras.layers.Dense(num_classes, name="first")]
    return keras.Sequential([*layers, keras.layers.Rescaling(1e4), keras.layers.Activation("linear", dtype="float32")])
"""


@pytest.mark.slow
def test_float16_tells_of_the_updates_that_it_skips(
    loopwright: Any, mnist_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "overflowing.py").write_text(OVERFLOWING)
    words = [
        *BASE,
        f"--data_dir={mnist_dir}",
        "--model=overflowing:net",
        "--precision=mixed_float16",
        "--train_steps=20",
    ]
    result = loopwright(*words, "--log_every=10", "--workdir=run")
    assert result.code == 0, result.err
    first, last = records(tmp_path / "run", "train")
    skipped = int(first["skipped_steps"])
    assert 3 < skipped <= last["skipped_steps"] < 20
    for record in (first, last):
        assert record["loss_scale"] == 2.0 ** (15 - record["skipped_steps"])
    where = f"the gradient of sequential/first/kernel is not finite, loss scale {2 ** (15 - skipped)}"
    assert f"step 10: {skipped} updates skipped so far; {where}" in " ".join(result.err.split())
    assert result.err.count("skipped so far") == 1 + (last["skipped_steps"] > skipped)
    failed = loopwright(*words, "--max_skipped_steps=3", "--workdir=other")
    assert failed.code == 1
    assert "updates in a row were skipped" in failed.err.splitlines()[-1]
    assert "--max_skipped_steps" in failed.err.splitlines()[-1]


def test_freeze_leaves_variables_as_they_were(loopwright: Any, mnist_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    words = [*BASE, f"--data_dir={mnist_dir}", "--model=mlp", "--optimizer=adamw"]
    assert loopwright(*words, "--freeze=dense/", "--train_steps=2", "--workdir=run").code == 0
    keras.utils.set_random_seed(0)
    from loopwright import models

    fresh = models.create("mlp", (28, 28, 1), 10)
    model = keras.models.load_model(tmp_path / "run" / "exports" / "model.h5")
    equal = [np.array_equal(a.numpy(), b.numpy()) for a, b in zip(fresh.weights, model.weights, strict=True)]
    assert equal == [True, True, False, False]


def test_frozen_variables_are_trained_from_a_step_on(
    loopwright: Any, mnist_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    words = [*BASE, f"--data_dir={mnist_dir}", "--freeze=dense/", "--unfreeze_at=4", "--histograms_every=3"]
    assert loopwright(*words, "--train_steps=9", "--workdir=straight").code == 0
    for steps in (5, 9):
        stopped = loopwright(*words, f"--train_steps={steps}", "--workdir=run")
        assert stopped.code == 0, stopped.err
    models = [keras.models.load_model(tmp_path / run / "exports" / "model.h5") for run in ("straight", "run")]
    for one, other in zip(*(model.weights for model in models), strict=True):
        np.testing.assert_array_equal(one, other)
    refused = loopwright(*words, "--optimizer=adam:use_ema=true", "--train_steps=9", "--workdir=average")
    assert refused.code == 2
    assert "an average of weights has to begin with all of them" in refused.err.splitlines()[-1]


def test_optimizer_with_its_own_average_begins_with_the_weights_that_are_given(
    loopwright: Any, mnist_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    words = [*BASE, f"--data_dir={mnist_dir}"]
    assert loopwright(*words, "--train_steps=30", "--workdir=first").code == 0
    given = ["--init_from=first", "--optimizer=schedulefreeadamw", "--learning_rate=1e-7", "--train_steps=2"]
    assert loopwright(*words, *given, "--workdir=second").code == 0
    first, second = (keras.models.load_model(tmp_path / run / "exports" / "model.h5") for run in ("first", "second"))
    for one, other in zip(first.weights, second.weights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


FEW_CLASSES = """
import tensorflow as tf


def samples(split):
    return tf.data.Dataset.from_tensor_slices((tf.zeros([30, 4, 4, 1]), tf.range(30) % 3))
"""


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--freeze=no_such"], ["--freeze=no_such", "none of the 4 variables", "dense/kernel"]),
        (["--freeze=."], ["--freeze=.", "all of the 4 variables"]),
        (["--schedule=cosine", "--warmup_steps=10"], ["--warmup_steps=10"]),
        (["--profile_steps=10:12"], ["--profile_steps=10:12", "the run ends at step 10"]),
        (["--dataset=few_classes:samples", "--eval_split=test", "--metrics=top_5"], ["--metrics=", "top_5", "3"]),
    ],
    ids=lambda part: " ".join(part),
)
def test_flags_that_do_not_fit_the_data_or_the_model_exit_2(
    loopwright: Any, mnist_dir: pathlib.Path, tmp_path: pathlib.Path, words: list[str], parts: list[str]
) -> None:
    (tmp_path / "few_classes.py").write_text(FEW_CLASSES)
    result = loopwright(*BASE, f"--data_dir={mnist_dir}", "--epochs=1", "--progress=none", "--workdir=run", *words)
    assert result.code == 2, result.err
    *promises, said = result.err.splitlines()
    assert all("makes its own stream" in promise for promise in promises)
    assert said.startswith("loopwright: ")
    assert all(part in said for part in parts), result.err
    assert not (tmp_path / "run").exists()


def test_guide_names_flags_that_are_there(repository: pathlib.Path) -> None:
    guide = (repository / "docs" / "training.md").read_text()
    known = set(flags.flag_values(flags.Config()))
    named = set(re.findall(r"--([a-z_]{3,})", guide)) - {"helpfull"}
    assert named
    assert named <= known
