"""Models for text, tables and sequences: what each takes, what padding does, and that plain Keras opens their files."""

import pathlib
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from loopwright import models, trainer

TEXT_MODELS = [name for name, entry in models.MODELS.items() if "tokens" in entry.takes]
VOCABULARY, LENGTH = 50, 12
TEXT: dict[str, Any] = {"input_kind": "tokens", "facts": {"vocabulary_size": VOCABULARY}}


def texts(count: int = 4, padded: int = 4) -> np.ndarray:
    """Token ids `[count, LENGTH]`, of which the last ones are padding."""
    ids = np.random.default_rng(0).integers(1, VOCABULARY, (count, LENGTH), np.int32)
    ids[:, LENGTH - padded :] = 0
    return ids


def built(name: str, *, length: int = LENGTH, **options: Any) -> keras.Model:
    keras.utils.set_random_seed(0)
    if name != "gpt":
        return models.create(name, (length,), 2, **TEXT, **options)
    return models.create(name, (length,), VOCABULARY, **TEXT, output_shape=(length, VOCABULARY), **options)


#: Models with samples that they take.
CASES: dict[str, tuple[str, Any, Any, dict[str, Any]]] = {
    "gpt": ("gpt", texts(padded=0), VOCABULARY, {**TEXT, "output_shape": (LENGTH, VOCABULARY)}),
    "lstm": ("lstm", texts(), 2, TEXT),
    "lstm of vectors": ("lstm", np.ones((4, 6, 3), np.float32), 2, {"input_kind": "numbers"}),
    "lstm of positions": ("lstm", texts(), 5, {**TEXT, "output_shape": (LENGTH, 5)}),
    "transformer": ("transformer", texts(), 2, TEXT),
    "transformer of positions": ("transformer", texts(), 5, {**TEXT, "output_shape": (LENGTH, 5)}),
    "tabular": ("tabular", np.ones((4, 7), np.float32), 3, {"input_kind": "table"}),
    "tabular in dollars": (
        "tabular",
        np.ones((4, 7), np.float32),
        1,
        {"input_kind": "table", "facts": {"target_mean": 200_000.0, "target_std": 100_000.0}},
    ),
    "tabular of two inputs and two targets": (
        "tabular",
        {"a": np.ones((4, 7), np.float32), "b": np.ones((4,), np.float32)},
        {"kind": 3, "price": 1},
        {"input_kind": "several", "facts": {"target_mean": {"price": 9.0}, "target_std": {"price": 3.0}}},
    ),
}


def made(case: str, precision: str = "float32") -> tuple[keras.Model, Any]:
    name, x, outputs, options = CASES[case]
    shape = {key: part.shape[1:] for key, part in x.items()} if isinstance(x, dict) else x.shape[1:]
    keras.utils.set_random_seed(0)
    return models.create(name, shape, outputs, precision=precision, **options), x


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("case", CASES)
def test_outputs_are_float32_and_variables_too(case: str, precision: str) -> None:
    model, x = made(case, precision)
    for output in tf.nest.flatten(model(x)):
        assert output.dtype == tf.float32
        assert np.isfinite(output).all()
    assert {weight.dtype for weight in model.weights} == {"float32"}


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("case", CASES)
def test_plain_keras_opens_the_files_of_every_model(
    case: str, precision: str, suffix: str, tmp_path: pathlib.Path
) -> None:
    model, x = made(case, precision)
    write = trainer.export_h5 if suffix == ".h5" else trainer.export_keras
    loaded = keras.models.load_model(write(model, tmp_path / f"model{suffix}"), compile=False)
    for found, expected in zip(tf.nest.flatten(loaded(x)), tf.nest.flatten(model(x)), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", [name for name in models.MODELS if "images" not in models.MODELS[name].takes])
def test_one_step_changes_every_trainable_variable(name: str) -> None:
    model, x = made(name)
    state = trainer.TrainState.create(model, keras.optimizers.Adam())
    y = np.arange(4) if name != "gpt" else texts(padded=0)
    before = [np.array(variable) for variable in model.trainable_variables]
    step = trainer.gradient_step(trainer.classification(from_logits=True))
    step(state, {"x": tf.constant(x), "y": tf.constant(y % 2 if name in ("lstm", "transformer") else y % 3)})
    for variable, old in zip(model.trainable_variables, before, strict=True):
        assert not np.array_equal(variable, old), variable.path


@pytest.mark.parametrize("name", ["lstm", "transformer"])
def test_padding_has_no_part(name: str) -> None:
    """A shorter model with the same weights gives the same outputs for the tokens alone."""
    model, short = built(name), built(name, length=LENGTH - 4)
    for variable, source in zip(short.weights, model.weights, strict=True):
        variable.assign(source[: variable.shape[0]] if variable.shape != source.shape else source)
    ids = texts()
    np.testing.assert_allclose(short(ids[:, :-4]), model(ids), atol=1e-6)


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_an_empty_text_gives_finite_numbers(name: str) -> None:
    model = built(name)
    empty = tf.zeros((2, LENGTH), tf.int32)
    with tf.GradientTape() as tape:
        outputs = model(empty, training=True)
        loss = tf.reduce_sum(outputs)
    assert np.isfinite(outputs).all()
    for gradient in tape.gradient(loss, model.trainable_variables):
        assert gradient is None or np.isfinite(tf.convert_to_tensor(gradient)).all()


def test_gpt_sees_no_later_token() -> None:
    model, ids = built("gpt"), texts(padded=0)
    changed = ids.copy()
    changed[:, 7] = 1 + ids[:, 7] % (VOCABULARY - 1)
    before, after = np.array(model(ids)), np.array(model(changed))
    np.testing.assert_array_equal(before[:, :7], after[:, :7])
    assert (before[:, 7:] != after[:, 7:]).any(axis=(0, 2)).all()


def test_gpt_ties_its_embeddings() -> None:
    assert sum(VOCABULARY in variable.shape for variable in built("gpt").weights) == 1


def test_tabular_outputs_are_in_the_unit_of_the_target() -> None:
    model, x = made("tabular in dollars")
    logits = keras.Model(model.inputs, model.get_layer("head").output)(x)
    np.testing.assert_allclose(model(x), 200_000 + 100_000 * np.array(logits), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "kind", "part"),
    [
        ("cnn", "tokens", "takes images, and the data are text; give model=lstm, transformer, gpt, or module:function"),
        ("resnet20", "table", "takes images, and the data are tables; give model=tabular, or"),
        ("gpt", "images", "takes text, and the data are images; give model=cnn, cnn_sequential"),
        ("keras.applications:VGG16", "tokens", "takes images, and the data are text"),
        ("lstm", "table", "takes text or arrays of numbers, and the data are tables"),
    ],
)
def test_a_model_refuses_inputs_that_it_does_not_take(name: str, kind: str, part: str) -> None:
    with pytest.raises(models.ModelError) as error:
        models.create(name, (8,), 2, input_kind=kind)
    assert str(error.value).startswith(f"model={name!r}: {part}")
    assert "\n" not in str(error.value)


def test_a_model_says_which_fact_it_lacks() -> None:
    with pytest.raises(models.ModelError, match="model='transformer': needs vocabulary_size, which only text has"):
        models.create("transformer", (8,), 2)


USER_MODELS = """
import keras

def of_facts(input_shape, num_classes, *, vocabulary_size, mask=None, other=3):
    assert vocabulary_size == 50 and mask is None and other == 3
    ids = keras.Input(input_shape, dtype="int32")
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(vocabulary_size, 4)(ids))
    return keras.Model(ids, keras.layers.Dense(num_classes)(x))

def two_heads(input_shape, num_classes):
    x = keras.Input(input_shape)
    return keras.Model(x, {name: keras.layers.Dense(size)(x) for name, size in num_classes.items()})
"""


@pytest.fixture
def user_module(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "models_of_facts.py").write_text(USER_MODELS, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return "models_of_facts"


def test_a_users_function_gets_the_facts_that_it_names(user_module: str) -> None:
    facts = {"vocabulary_size": 50, "sequence_length": 8}
    model = models.create(f"{user_module}:of_facts", (8,), 2, input_kind="tokens", facts=facts)
    assert model.output_shape == (None, 2)


def test_outputs_by_name_must_be_those_of_the_targets(user_module: str) -> None:
    models.create(f"{user_module}:two_heads", (8,), {"a": 2, "b": 1}, output_shape={"a": (2,), "b": (1,)})
    model = models.create(f"{user_module}:two_heads", (8,), {"a": 2, "b": 1})
    with pytest.raises(models.ModelError, match=r"it: gives outputs named a, b; the targets need a dict with a, c"):
        models.check_fits("it", model, (8,), {"a": 2, "c": 1})
    with pytest.raises(
        models.ModelError, match=r"it: output 'b': gives outputs of shape \(1,\) for a sample; .* \(4,\)"
    ):
        models.check_fits("it", model, (8,), {"a": 2, "b": 4})
    with pytest.raises(models.ModelError, match="it: gives no dict of outputs; the targets need a dict with a"):
        models.check_fits("it", keras.Sequential([keras.layers.Dense(2)]), (8,), {"a": 2})


def test_outputs_may_have_positions() -> None:
    model = keras.Sequential([keras.layers.Dense(3)])
    models.check_fits("it", model, (5, 2), 3, output_shape=(5, 3))
    with pytest.raises(
        models.ModelError, match=r"gives outputs of shape \(5, 3\) for a sample; the target needs \(5, 4\)"
    ):
        models.check_fits("it", model, (5, 2), 4, output_shape=(5, 4))


def test_inputs_have_their_dtypes() -> None:
    inputs = {"ids": keras.Input((4,), dtype="int32", name="ids"), "x": keras.Input((2,), name="x")}
    parts = [keras.layers.Flatten()(keras.layers.Embedding(9, 2)(inputs["ids"])), inputs["x"]]
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Concatenate()(parts)))
    models.check_fits("it", model, {"ids": (4,), "x": (2,)}, 1, dtype={"ids": "int32", "x": "float32"})


@pytest.mark.parametrize(
    ("kind", "task", "name"),
    [
        ("images", "classification", "cnn"),
        ("tokens", "binary", "transformer"),
        ("tokens", "language_model", "gpt"),
        ("table", "regression", "tabular"),
        ("numbers", "multi_label", "tabular"),
        ("several", "classification", "tabular"),
    ],
)
def test_default_names_a_model_that_takes_the_inputs(kind: str, task: str, name: str) -> None:
    assert models.default(kind, task) == name
    assert kind in models.MODELS[name].takes


@pytest.mark.parametrize("name", models.MODELS)
def test_every_model_has_an_example(name: str) -> None:
    assert models.create(name, **models.example(name)).built
    assert set(models.MODELS[name].takes) <= set(models.KINDS)
