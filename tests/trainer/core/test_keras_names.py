"""Losses, metrics, optimizers and schedules by Keras's names: what is made, and that `fit` computes the same with it."""

import pathlib
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from loopwright import trainer
from loopwright.data.feed import array_feed
from loopwright.trainer.base.monitor import STANDARD, direction_of
from loopwright.trainer.core import keras_names
from loopwright.trainer.core.keras_names import make_loss, make_metrics, parse, parse_class_weight, split

RNG = np.random.default_rng(3)
SAMPLES, BATCH = 24, 8
X = RNG.normal(size=(SAMPLES, 5)).astype(np.float32)
CLASSES = np.concatenate([[0, 1, 2], RNG.integers(0, 3, SAMPLES - 3)])
MULTI_HOT = RNG.integers(0, 2, (SAMPLES, 3)).astype(np.float32)
NUMBERS = RNG.random(SAMPLES).astype(np.float32)
#: For each kind of job: the activation of its outputs, labels as datasets give them, and the number of outputs.
JOBS: dict[str, tuple[str, Any, int]] = {
    "classes": ("softmax", CLASSES, 3),
    "two_classes": ("sigmoid", CLASSES % 2, 1),
    "multi_hot": ("sigmoid", MULTI_HOT, 3),
    "number": ("", NUMBERS, 1),
    "numbers": ("", MULTI_HOT + X[:, :3], 3),
}
LOSSES = [keras_names.spelled("loss", name) for name in keras_names.keras_classes("loss")]
METRICS = [keras_names.spelled("metrics", name) for name in keras_names.keras_classes("metrics")]
OPTIMIZERS = [keras_names.spelled("optimizer", name) for name in keras_names.keras_classes("optimizer")]
#: Arguments that a metric must be given here.
NEEDED = {
    "sparse_top_k_categorical_accuracy": ":k=2",
    "top_k_categorical_accuracy": ":k=2",
    "top_5": ":k=2",
    "iou": ":target_class_ids=0,2",
    "one_hot_iou": ":target_class_ids=0,2",
    "precision_at_recall": ":recall=0.5",
    "recall_at_precision": ":precision=0.5",
    "sensitivity_at_specificity": ":specificity=0.5",
    "specificity_at_sensitivity": ":sensitivity=0.5",
}


def model_of(outputs: int, *, positions: int = 0, activation: str = "linear") -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5,))
    x = keras.layers.Dense(6, activation="tanh")(inputs)
    if positions:
        x = keras.layers.Reshape((positions, -1))(x)
    return keras.Model(inputs, keras.layers.Dense(outputs, activation=activation, name="head")(x))


def by_fit(model: keras.Model, y: Any, optimizer: Any, loss: Any, metrics: Any = None) -> dict[str, Any]:
    feed = array_feed(X, y, batch_size=BATCH, shuffle=True)
    model.compile(optimizer, loss, metrics=metrics, jit_compile=False)
    history = model.fit(feed().map(lambda b: (b["x"], b["y"])), steps_per_epoch=3, epochs=1, verbose=0).history
    return {name: values[-1] for name, values in history.items()}


def by_loop(model: keras.Model, y: Any, optimizer: Any, loss: Any, metrics: Any = None) -> dict[str, Any]:
    feed = array_feed(X, y, batch_size=BATCH, shuffle=True)
    objective = trainer.objective_from_keras(loss, metrics).build(model, feed.element_spec)
    state = trainer.TrainState.create(model, optimizer, metrics=objective.metrics)
    seen: dict[str, Any] = {}
    step = trainer.gradient_step(objective)
    log = trainer.every(3, lambda state, metrics: seen.update(metrics))
    trainer.train(state, feed, step, num_steps=3, execution="graph", hooks=[log])
    return seen


def assert_same_weights(one: keras.Model, other: keras.Model) -> None:
    for a, b in zip(one.variables, other.variables, strict=True):
        np.testing.assert_array_equal(np.array(a), np.array(b), err_msg=a.path)


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("huber", "huber", {}),
        ("huber:delta=2", "huber", {"delta": 2}),
        (" huber:delta=2.5 ", "huber", {"delta": 2.5}),
        ("rmsprop:rho=0.95:centered=true", "rmsprop", {"rho": 0.95, "centered": True}),
        ("x:a=None:b=false:c=1e-3:d=word:e=-2", "x", {"a": None, "b": False, "c": 1e-3, "d": "word", "e": -2}),
        ("auc:thresholds=0.2,0.5", "auc", {"thresholds": [0.2, 0.5]}),
        ("iou:target_class_ids=1", "iou", {"target_class_ids": [1]}),
        ("muon:exclude_layers=head,embedding", "muon", {"exclude_layers": ["head", "embedding"]}),
        ("my.module:make", "my.module:make", {}),
        ("my.module:make:gamma=2", "my.module:make", {"gamma": 2}),
    ],
)
def test_text_is_taken_apart(text: str, name: str, options: dict[str, Any]) -> None:
    found = parse("loss", text)
    assert found == (name, options)
    assert [type(value) for value in found.options.values()] == [type(value) for value in options.values()]


@pytest.mark.parametrize("text", ["huber:delta=2:x", "huber:=2", "m:f:2"])
def test_what_is_no_argument_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"^loss={text}: .* is no argument; write NAME:key=value"):
        parse("loss", text)


def test_commas_part_names_and_the_elements_of_lists() -> None:
    text = "mae, auc:thresholds=0.2,.5,r2_score,one_hot_iou:target_class_ids=1,,my:f"
    assert split(text) == ["mae", "auc:thresholds=0.2,.5", "r2_score", "one_hot_iou:target_class_ids=1,", "my:f"]


@pytest.mark.parametrize("parameter", ["loss", "metrics"])
def test_every_spelling_of_keras_names_the_same(parameter: str) -> None:
    module = {"loss": keras.losses, "metrics": keras.metrics}[parameter]
    table = __import__(f"keras.src.{module.__name__.split('.')[-1]}", fromlist=["x"]).ALL_OBJECTS_DICT
    unnamed = {keras_names.simple(name) for name in (*keras_names.UNNAMED, "LossFunctionWrapper")}
    for name, found in table.items():
        if keras_names.simple(name) not in unnamed:
            made = keras_names.keras_class(parameter, name, name)
            assert keras_names.simple(made.__name__) == keras_names.simple(found.__name__), name


def test_every_optimizer_of_keras_can_be_named() -> None:
    from keras.src.optimizers import ALL_OBJECTS_DICT

    known = {name for name in ALL_OBJECTS_DICT if name not in {n.lower() for n in keras_names.UNNAMED}}
    assert known - {"optimizermap"} <= set(OPTIMIZERS)
    assert keras_names.keras_class("optimizer", "", "ScheduleFreeAdamW") is keras.optimizers.ScheduleFreeAdamW
    assert keras_names.keras_class("optimizer", "", "RMSprop") is keras.optimizers.RMSprop


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_loss("hubr"), "^loss=hubr: 'hubr' is unknown; did you mean 'huber'[?]$"),
        (lambda: make_loss("xyzzy"), "^loss=xyzzy: 'xyzzy' is unknown; Keras has binary_crossentropy, "),
        (lambda: make_loss("Loss"), "^loss=Loss: 'Loss' is unknown"),
        (lambda: make_loss("huber:delt=2"), "^loss=huber:delt=2: takes no argument 'delt'; did you mean 'delta'[?]$"),
        (lambda: make_loss("huber:delta=big"), "^loss=huber:delta=big: delta is a number, not big$"),
        (lambda: make_loss("bce:from_logits=1"), "from_logits is true or false, not 1$"),
        (lambda: make_loss("mse:reduction=most"), "^loss=mse:reduction=most: Invalid value for argument `reduction`"),
        (lambda: make_loss("huber", label_smoothing=0.1), "^loss=huber: takes no label_smoothing; leave out"),
        (lambda: make_loss("no_module_here:f"), "^loss=no_module_here:f: can't be imported: No module named"),
        (lambda: make_metrics(["precison"]), "^metrics=precison: 'precison' is unknown; did you mean 'precision'[?]$"),
        (lambda: make_metrics(["recall_at_precision"]), "needs precision; write recall_at_precision:precision=VALUE$"),
        (
            lambda: make_metrics(["auc", "auc:curve=PR"], activation="softmax"),
            "give this one a name: auc:curve=PR:name=",
        ),
        (
            lambda: make_metrics(["accuracy"], activation=""),
            "^metrics=accuracy: compares classes, but the outputs are ",
        ),
        (
            lambda: make_metrics(["precision"], activation=""),
            "^metrics=precision: compares classes, but the outputs are",
        ),
        (lambda: make_metrics(["accuracy:x=1"]), "accuracy takes no arguments; name binary_accuracy or"),
        (lambda: make_metrics(["f1"], from_logits=True), "needs probabilities of logits; give activation="),
    ],
)
def test_mistakes_are_told_with_the_remedy(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_logits_are_told_to_a_loss_unless_the_text_says_it() -> None:
    y, logits = tf.constant([[1.0], [0.0]]), tf.constant([[2.0], [-1.0]])
    expected = float(tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(y, logits)))
    assert float(make_loss("bce", from_logits=True)(y, logits)) == pytest.approx(expected)
    assert float(make_loss("bce")(y, tf.sigmoid(logits))) == pytest.approx(expected, rel=1e-5)
    text = "BinaryCrossentropy:from_logits=false"
    assert float(make_loss(text, from_logits=True)(y, tf.sigmoid(logits))) == pytest.approx(expected, rel=1e-5)


def test_loss_of_vectors_gets_one_hot_labels_and_probabilities() -> None:
    logits = tf.constant(RNG.normal(size=(SAMPLES, 3)), tf.float32)
    probabilities, one_hot = np.array(tf.nn.softmax(logits)), np.eye(3)[CLASSES]
    of = {
        "mse": np.mean((one_hot - probabilities) ** 2),
        "kld": np.mean(-np.log(probabilities[np.arange(SAMPLES), CLASSES])),
        "categorical_generalized_cross_entropy:q=0.5": np.mean(
            2 - 2 * probabilities[np.arange(SAMPLES), CLASSES] ** 0.5
        ),
        "categorical_crossentropy": np.mean(-np.log(probabilities[np.arange(SAMPLES), CLASSES])),
        "categorical_hinge": np.mean(
            np.maximum(0, np.max(np.where(one_hot, -np.inf, logits), 1, initial=0) - np.sum(one_hot * logits, 1) + 1)
        ),
    }
    for name, expected in of.items():
        for labels in (CLASSES, CLASSES[:, None], one_hot):
            loss = make_loss(name, from_logits=True, activation="softmax")
            assert float(loss(labels, logits)) == pytest.approx(expected, rel=1e-4), name
        # The same for positions, with weights.
        loss = make_loss(name, from_logits=True, activation="softmax")
        assert float(loss(CLASSES.reshape(4, 6), tf.reshape(logits, [4, 6, 3]))) == pytest.approx(expected, rel=1e-4)


def test_mask_of_an_output_counts_in_a_prepared_loss_and_in_metrics() -> None:
    logits = tf.constant(RNG.normal(size=(2, 3, 3)), tf.float32)
    labels, mask = np.array([[0, 1, 2], [2, 1, 0]]), np.array([[True, True, False], [True, False, False]])
    logits._keras_mask = tf.constant(mask)
    loss = make_loss("mse", from_logits=True, activation="softmax")(labels, logits)
    kept = np.array(tf.nn.softmax(logits))[mask]
    assert float(loss) == pytest.approx(np.mean((kept - np.eye(3)[labels[mask]]) ** 2), rel=1e-5)
    plain = keras.metrics.F1Score(average="macro")
    plain.update_state(np.eye(3)[labels[mask]], kept)
    (metric,) = make_metrics(["f1"], from_logits=True, activation="softmax")
    metric.update_state(labels, logits)
    assert float(metric.result()) == pytest.approx(float(plain.result()))


def own_texts(job: str) -> list[str]:
    """Every metric that means something for a job, with the arguments that it needs."""
    activation, _, outputs = JOBS[job]
    found = []
    for name in [*METRICS, "f1", "top_5", "accuracy"]:
        text = f"{name}{NEEDED.get(name, '')}"
        try:
            (metric,) = make_metrics([text], from_logits=True, activation=activation, num_classes=max(outputs, 2))
            if not isinstance(metric, str):
                labels = tf.constant(JOBS[job][1][:2])
                metric.update_state(labels, tf.zeros([2, outputs]))
        except ValueError:
            continue
        found.append(text)
    return list(dict.fromkeys(found))


OF_ONE_CLASS = {
    "categorical_accuracy", "iou", "mean_iou", "one_hot_iou", "one_hot_mean_iou", "sparse_categorical_accuracy",
    "sparse_categorical_crossentropy", "sparse_top_k_categorical_accuracy", "top_k_categorical_accuracy", "top_5",
}  # fmt: skip
OF_VECTORS = {
    "categorical_crossentropy", "categorical_hinge", "concordance_correlation", "cosine_similarity", "pearson_correlation",
}  # fmt: skip
OF_CLASSES = OF_ONE_CLASS | {
    "accuracy", "auc", "binary_accuracy", "binary_iou", "f1", "f1_score", "f_beta_score", "false_negatives",
    "false_positives", "precision", "precision_at_recall", "recall", "recall_at_precision", "sensitivity_at_specificity",
    "specificity_at_sensitivity", "true_negatives", "true_positives",
}  # fmt: skip
#: The metrics that say nothing about a job, and are refused.
REFUSED: dict[str, set[str]] = {
    "classes": set(),
    "two_classes": OF_ONE_CLASS | OF_VECTORS,
    "multi_hot": OF_ONE_CLASS,
    "number": OF_CLASSES | OF_VECTORS,
    "numbers": OF_CLASSES,
}


@pytest.mark.parametrize("job", JOBS)
def test_metric_is_what_keras_gives_for_labels_and_probabilities_in_its_form(job: str) -> None:
    activation, y, outputs = JOBS[job]
    logits = RNG.normal(size=(SAMPLES, outputs)).astype(np.float32)
    texts = own_texts(job)
    assert {*METRICS, "top_5", "f1"} - {text.partition(":")[0] for text in texts} == REFUSED[job]
    for text in texts:
        (metric,) = make_metrics([text], from_logits=True, activation=activation, num_classes=max(outputs, 2))
        if isinstance(metric, str):
            continue
        inner = metric.inner
        plain = type(inner).from_config({**inner.get_config(), "name": "plain"})
        scores = "hinge" in text or plain.get_config().get("from_logits", False)
        act = {"softmax": tf.nn.softmax, "sigmoid": tf.nn.sigmoid, "": tf.identity}[activation]
        given = logits if scores else np.array(act(logits))
        labels = y.reshape(-1, 1) if outputs == 1 else y
        if activation == "softmax" and not text.startswith(("sparse", "iou", "mean_iou")):
            labels = np.eye(3, dtype=np.float32)[y]
        for start in (0, 10):
            part = slice(start, start + 10 if start == 0 else SAMPLES)
            metric.update_state(tf.constant(y[part]), tf.constant(logits[part]))
            plain.update_state(tf.constant(labels[part]), tf.constant(given[part]))
        np.testing.assert_allclose(np.array(metric.result()), np.array(plain.result()), rtol=1e-5, err_msg=text)
        assert direction_of(metric) == direction_of(plain) is not None
        metric.reset_state()
        plain.reset_state()
        assert [np.array(v).tolist() for v in metric.variables] == [np.array(v).tolist() for v in plain.variables]


def test_accuracy_and_f1_of_one_unit_are_taken_at_one_half() -> None:
    logits = tf.constant([[3.0], [0.2], [-0.4], [-3.0]])
    for labels in (np.array([1, 0, 0, 0]), np.array([[1], [0], [0], [0]])):
        accuracy, f1 = make_metrics("accuracy,f1", from_logits=True, activation="sigmoid")
        for metric in (accuracy, f1):
            metric.update_state(labels, logits)
        assert float(accuracy.result()) == 0.75
        assert float(f1.result()) == pytest.approx(2 / 3)
    (accuracy,) = make_metrics(["acc"], from_logits=True, activation="sigmoid")
    assert accuracy.name == "acc"


def test_metric_is_recorded_under_its_typed_or_given_name() -> None:
    texts = ["MeanAbsoluteError", "mse", "r2_score:class_aggregation=none", "mae:name=error"]
    assert [metric.name for metric in make_metrics(texts, activation="")] == [
        "MeanAbsoluteError", "mse", "r2_score", "error",
    ]  # fmt: skip


def test_standard_directions_are_those_of_keras() -> None:
    for kind in keras_names.keras_classes("metrics").values():
        name = keras_names.spelled("metrics", kind.__name__)
        text = f"{name}{NEEDED.get(name, '')}"
        if name != "accuracy":
            (metric,) = make_metrics([text], num_classes=3)
            assert STANDARD[name] == direction_of(metric), name
    for short in keras_names.SHORT:
        assert STANDARD[short] == "min"


OWN_MODULE = """
import keras
import tensorflow as tf

class Cubed(keras.losses.Loss):
    def __init__(self, power=3, name="cubed"):
        super().__init__(name=name)
        self.power = power
    def call(self, y_true, y_pred):
        return tf.reduce_mean(tf.abs(y_true - y_pred) ** self.power, -1)

def plain(y_true, y_pred):
    return tf.reduce_mean(tf.abs(y_true - y_pred), -1)

def scaled(y_true, y_pred, factor=1.0):
    return factor * plain(y_true, y_pred)

def made(gamma=2.0):
    return keras.losses.Huber(delta=gamma)

def logits(from_logits=False):
    return keras.losses.BinaryCrossentropy(from_logits)

def wrong():
    return 3

def of_one(y):
    return y

ready = keras.losses.Huber(delta=5.0)
counted = keras.metrics.MeanSquaredError(name="counted")
rmsprop = keras.optimizers.RMSprop(0.5, rho=0.7)
RATE = 0.25

def optimizer(learning_rate, weight_decay=None):
    return keras.optimizers.SGD(learning_rate, weight_decay=weight_decay)

def alone():
    return keras.optimizers.SGD(0.125)

class Lazy(keras.optimizers.SGD):
    pass

def rate():
    return keras.optimizers.schedules.ExponentialDecay(0.5, 10, 0.5)

def by_step(step):
    return 0.1
"""


@pytest.fixture
def own(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the user's own."""
    name = f"own_words_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(OWN_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_loss_of_ones_own_is_taken_or_made(own: str) -> None:
    y, outputs = tf.constant([[1.0], [0.0]]), tf.constant([[3.0], [0.0]])
    expected = {
        "Cubed": 4,
        "Cubed:power=2": 2,
        "made": 1.0 * 2 - 0 - 1 + 0,
        "ready": 1,
        "plain": 1,
        "scaled:factor=4": 4,
    }
    for name, value in expected.items():
        loss = make_loss(f"{own}:{name}")
        found = loss(y, outputs)
        assert float(tf.reduce_mean(found)) == pytest.approx(value), name
    assert make_loss(f"{own}:scaled:factor=4").__name__ == "scaled"
    assert make_loss(f"{own}:logits", from_logits=True).get_config()["from_logits"]
    for name, words in {
        "wrong": "gives 3",
        "nothing": "can't be imported",
        "RATE": "names 0.25",
        "of_one": "needs y",
    }.items():
        with pytest.raises(ValueError, match=f"^loss={own}:{name}: .*{words}"):
            make_loss(f"{own}:{name}")


def test_metric_of_ones_own_is_taken_or_made(own: str) -> None:
    one, function = make_metrics(f"{own}:counted,{own}:plain", activation="")
    (again,) = make_metrics(f"{own}:counted", activation="")
    assert one is not again  # a metric belongs to one model
    assert isinstance(one.inner, keras.metrics.MeanSquaredError)
    assert function.__name__ == "plain"


def test_optimizer_of_ones_own_is_taken_or_made(own: str) -> None:
    taken = trainer.make_optimizer(f"{own}:rmsprop", 0.1)
    assert taken is not trainer.make_optimizer(f"{own}:rmsprop", 0.1)
    assert (taken.rho, float(taken.learning_rate)) == (0.7, 0.5)
    made = trainer.make_optimizer(f"{own}:optimizer", 0.1, weight_decay=0.5)
    assert (float(made.learning_rate), made.weight_decay) == (pytest.approx(0.1), 0.5)
    assert float(trainer.make_optimizer(f"{own}:alone", 0.1).learning_rate) == 0.125
    lazy = trainer.make_optimizer(f"{own}:Lazy:momentum=0.5", 0.1, clip_norm=2.0)
    assert (type(lazy).__name__, lazy.momentum, lazy.global_clipnorm) == ("Lazy", 0.5, 2.0)
    with pytest.raises(ValueError, match=r"can't be given clip_norm=1\.0; leave it out"):
        trainer.make_optimizer(f"{own}:optimizer", 0.1, clip_norm=1.0)
    with pytest.raises(ValueError, match="gives 3; let it return an optimizer"):
        trainer.make_optimizer(f"{own}:wrong", 0.1)


def test_learning_rate_of_ones_own_is_taken_or_made(own: str) -> None:
    assert trainer.make_schedule("constant", f"{own}:RATE") == 0.25
    assert float(trainer.make_schedule("constant", f"{own}:rate")(10)) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="by_step: needs step"):
        trainer.make_schedule("constant", f"{own}:by_step")
    with pytest.raises(ValueError, match=r"gives an? .*, which is neither a schedule nor a number"):
        trainer.make_schedule("constant", f"{own}:made")


NAMES = ("ham", "spam")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("balanced", {0: 1000 / (2 * 870), 1: 1000 / (2 * 130)}),
        ("0:1,1:6.5", {0: 1.0, 1: 6.5}),
        ("spam:6.5,ham:1", {1: 6.5, 0: 1.0}),
        (" spam:6.5 ", {1: 6.5}),
    ],
)
def test_class_weight_is_read(text: str, expected: dict[int, float]) -> None:
    assert parse_class_weight(text, NAMES, lambda: [870, 130]) == pytest.approx(expected)


def test_class_weights_by_the_names_of_numbered_classes() -> None:
    assert parse_class_weight("7:2", ("3", "7"), list) == {1: 2.0}  # the class named 7, not a class number
    assert parse_class_weight("0:2", ("3", "7"), list) == {0: 2.0}
    assert parse_class_weight("a:b:2", ("a:b", "c"), list) == {0: 2.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("spa:1", "^class_weight=spa:1: there is no class 'spa'; did you mean 'spam'[?]$"),
        ("2:1", "there is no class '2'; the classes are ham, spam$"),
        ("spam", "write balanced, or CLASS:WEIGHT for each class"),
        ("spam:x", "'spam:x' gives no positive number"),
        ("spam:0", "'spam:0' gives no positive number"),
        ("spam:nan", "'spam:nan' gives no positive number"),
        ("", "write balanced, or CLASS:WEIGHT"),
        ("balanced", "^class_weight=balanced: the class 'spam' has no sample"),
    ],
)
def test_bad_class_weight_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_class_weight(text, NAMES, lambda: [5, 0])


#: Losses that say nothing about a single output.
OF_SEVERAL = (
    "categorical_crossentropy", "categorical_focal_crossentropy", "categorical_generalized_cross_entropy",
    "categorical_hinge", "cosine_similarity", "sparse_categorical_crossentropy",
)  # fmt: skip
#: Losses that compare one class out of several.
OF_CLASS_NUMBERS = ("sparse_categorical_crossentropy", "categorical_generalized_cross_entropy")
#: Losses of outputs of another form: of sequences, of embeddings.
OF_ANOTHER_FORM = ("ctc", "circle")


@pytest.mark.parametrize("name", [name for name in OF_SEVERAL if name not in OF_CLASS_NUMBERS])
@pytest.mark.parametrize("job", ["two_classes", "number"])
def test_loss_of_several_outputs_is_refused_for_one(name: str, job: str) -> None:
    activation, y, outputs = JOBS[job]
    with pytest.raises(ValueError, match="compares several outputs of a sample, but the model gives one"):
        make_loss(name, from_logits=bool(activation), activation=activation)(y, tf.zeros([SAMPLES, outputs]))


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("name", [name for name in LOSSES if name not in OF_ANOTHER_FORM])
def test_loss_trains_as_in_fit(name: str, job: str) -> None:
    activation, y, outputs = JOBS[job]
    if (outputs == 1 and name in OF_SEVERAL) or (name in OF_CLASS_NUMBERS and job != "classes"):
        with pytest.raises(ValueError, match=r"compares (several outputs|one class|classes)"):
            make_loss(name, from_logits=True, activation=activation)(y, tf.zeros([SAMPLES, outputs]))
        return
    head = "softplus" if (name, activation) == ("poisson", "") else "linear"  # Poisson is about numbers above 0
    found = []
    for run in (by_fit, by_loop):
        model = model_of(outputs, activation=head)
        loss = make_loss(name, from_logits=bool(activation), activation=activation)
        found.append((model, run(model, y, keras.optimizers.SGD(0.1), loss)))
    assert_same_weights(found[0][0], found[1][0])
    assert float(found[1][1]["loss"]) == pytest.approx(found[0][1]["loss"], rel=1e-6)
    assert np.isfinite(found[0][1]["loss"])
    assert any(
        np.any(np.array(a) != np.array(b)) for a, b in zip(found[0][0].weights, model_of(outputs).weights, strict=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_ANOTHER_FORM)
def test_loss_of_another_form_trains_as_in_fit(name: str) -> None:
    y = np.stack([CLASSES % 2 + 1, CLASSES % 2], 1).astype(np.int32) if name == "ctc" else CLASSES
    found = []
    for run in (by_fit, by_loop):
        model = model_of(3, positions=3 if name == "ctc" else 0, activation="softmax" if name == "ctc" else "linear")
        found.append((model, run(model, y, keras.optimizers.SGD(0.1), make_loss(name, activation="softmax"))))
    assert_same_weights(found[0][0], found[1][0])


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_metrics_are_those_of_fit(job: str) -> None:
    activation, y, outputs = JOBS[job]
    texts, found = own_texts(job), []
    for run in (by_fit, by_loop):
        metrics = make_metrics(texts, from_logits=bool(activation), activation=activation, num_classes=max(outputs, 2))
        loss = make_loss("mse", from_logits=bool(activation), activation=activation)
        model = model_of(outputs)
        found.append((model, run(model, y, keras.optimizers.SGD(0.1), loss, metrics)))
    (fitted, history), (model, seen) = found
    assert_same_weights(fitted, model)
    for name, value in history.items():
        parts = [float(seen[key]) for key in seen if key == name or key.startswith(f"{name}/")]
        np.testing.assert_allclose(parts, np.ravel(value), rtol=1e-6, err_msg=name)
    assert {key.partition("/")[0] for key in seen} == set(history)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_trains_as_in_fit(name: str, precision: str) -> None:
    found = []
    for run in (by_fit, by_loop):
        model = model_of(3)
        options = {"weight_decay": 0.01} if precision == "float32" else {"clip_norm": 1.0}
        optimizer = trainer.make_optimizer(name, 0.01, model=model, precision=precision, **options)
        if (
            name == "schedulefreeadamw"
        ):  # `fit` builds it inside a trace, where its averages begin at 0, not at the weights
            optimizer.build(model.trainable_variables)
        run(model, CLASSES, optimizer, make_loss("sparse_categorical_crossentropy", from_logits=True))
        found.append((model, optimizer))
    (fitted, one), (model, other) = found
    assert_same_weights(fitted, model)
    for a, b in zip(one.variables, other.variables, strict=True):
        np.testing.assert_array_equal(np.array(a), np.array(b), err_msg=a.path)
    assert any(np.any(np.array(a) != np.array(b)) for a, b in zip(model.weights, model_of(3).weights, strict=True))


SCHEDULES = {
    "cosine_decay:decay_steps=3": "CosineDecay",
    "CosineDecayRestarts:first_decay_steps=2": "CosineDecayRestarts",
    "exponential_decay:decay_steps=1000:decay_rate=0.9": "ExponentialDecay",
    "inverse_time_decay:decay_steps=2:decay_rate=0.5:staircase=true": "InverseTimeDecay",
    "piecewise_constant_decay:boundaries=1,2:values=0.1,0.01,0.001": "PiecewiseConstantDecay",
    "polynomial_decay:decay_steps=3:initial_learning_rate=0.5": "PolynomialDecay",
}


@pytest.mark.slow
@pytest.mark.parametrize("text", SCHEDULES)
def test_schedule_trains_as_in_fit(text: str) -> None:
    found = []
    for run in (by_fit, by_loop):
        model = model_of(3)
        optimizer = trainer.make_optimizer("sgd", text)
        run(model, CLASSES, optimizer, make_loss("sparse_categorical_crossentropy", from_logits=True))
        found.append(model)
    assert_same_weights(*found)


def test_schedules_are_all_those_of_keras() -> None:
    assert set(SCHEDULES.values()) == set(keras_names.keras_classes("learning_rate"))
    for text, name in SCHEDULES.items():
        assert type(trainer.make_schedule("constant", text)).__name__ == name


class SquaredLoss(keras.losses.Loss):
    """A loss as users write it, which knows nothing of ranks."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return tf.reduce_mean((tf.cast(y_true, y_pred.dtype) - y_pred) ** 2)


class AbsoluteError(keras.metrics.Metric):
    """A metric as users write it."""

    def __init__(self) -> None:
        super().__init__(name="absolute")
        self.total, self.seen = (self.add_weight(initializer="zeros", name=name) for name in ("total", "seen"))

    def update_state(self, y_true: Any, y_pred: Any) -> None:
        errors = tf.abs(tf.cast(y_true, y_pred.dtype) - y_pred)
        self.total.assign_add(tf.reduce_sum(errors))
        self.seen.assign_add(tf.cast(tf.size(errors), tf.float32))

    def result(self) -> Any:
        return self.total / self.seen


def test_own_loss_and_metric_get_targets_of_the_outputs_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "own_of_test", sys.modules[__name__])
    y, outputs = np.array([1.0, 5.0, 9.0], np.float32), tf.constant([[2.0], [3.0], [4.0]])
    loss = make_loss("own_of_test:SquaredLoss", activation="")
    assert float(loss(y, outputs)) == pytest.approx((1 + 4 + 25) / 3)
    (metric,) = make_metrics("own_of_test:AbsoluteError", activation="")
    metric.update_state(y, outputs)
    assert float(metric.result()) == pytest.approx((1 + 2 + 5) / 3)
    assert metric.name == "absolute"
