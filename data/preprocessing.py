"""What turns raw inputs (texts, the columns of a table) into the numbers that a model takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import tensorflow as tf
import tensorflow_datasets as tfds

from loopwright.data import text
from loopwright.data.errors import DataError
from loopwright.data.keys import Keys, is_text
from loopwright.data.table import TablePreprocessing, adapt_table, is_table

ARRAYS, TEXT, WORDS, TABLE = "arrays", "text", "words", "table"
#: The number of tokens of a language model's windows, unless another is given.
WINDOW = 64


class Preprocessing(Protocol):
    """Turns a batch of raw inputs into a batch of the model's inputs, in TensorFlow ops. It is a `tf.Module`.

    Attributes:
      kind: that of the model's inputs, `tokens` or `table`.
      raw_specs: what a batch of raw inputs is: strings `[B]`, or a dict of columns `[B]`.
      spec: the shape and type of one sample of the model's inputs.
      facts: what a model may want to know, such as `vocabulary_size`.
    """

    kind: str

    @property
    def raw_specs(self) -> Any: ...

    @property
    def spec(self) -> tf.TensorSpec: ...

    @property
    def facts(self) -> dict[str, Any]: ...

    def state(self) -> dict[str, Any]:
        """What was learned from the training split, ready for JSON."""
        ...

    def __call__(self, raw: Any) -> tf.Tensor:
        """The model's inputs: token ids `[B, T]` int32, or vectors `[B, F]` float32."""
        ...

    def batch(self, rows: Any) -> Any:
        """A batch of raw inputs from a list of texts, or a list of dicts from columns to texts (the rows of a file)."""
        ...


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a user says about preprocessing.

    Attributes:
      tokens: `word`, `character` or `byte`; `auto` takes characters for a language model, and words for everything else.
      vocabulary: the most tokens in the vocabulary.
      sequence_length: the length to which sequences are padded or cut. None takes 256 tokens for a text, 64 for a language
        model, and refuses other sequences of differing length.
      state: that of the preprocessing of an earlier run, which is taken as it is; None to learn it.
    """

    tokens: str = "auto"
    vocabulary: int = 20_000
    sequence_length: int | None = None
    state: dict[str, Any] | None = None

    def completed(self, features: Mapping[str, Any], keys: Keys) -> Recipe:
        """The recipe with its defaults for these features. Raises DataError (exit 2) for values out of range."""
        kind = input_form(features, keys)
        length = self.sequence_length
        if length is None and kind in (TEXT, WORDS):
            length = text.SEQUENCE_LENGTH if keys.labels else WINDOW
        if kind == WORDS and self.tokens not in ("auto", "word"):
            raise DataError(
                f"tokens={self.tokens!r}: the input {keys.inputs[0]!r} is a sequence of words already; leave it out",
                exit_code=2,
            )
        tokens = ("word" if keys.labels else "character") if self.tokens == "auto" else self.tokens
        text.check_text(tokens, self.vocabulary, 1 if length is None else length)
        return dataclasses.replace(self, tokens=tokens, sequence_length=length)


def input_form(features: Mapping[str, Any], keys: Keys) -> str:
    """In which form the inputs are stored: `text`, `words` (a sequence of strings), `table`, or `arrays` of numbers."""
    feature = features[keys.inputs[0]]
    if len(keys.inputs) == 1 and is_text(feature):
        return TEXT
    if len(keys.inputs) == 1 and isinstance(feature, tfds.features.Sequence) and is_text(feature.feature):
        return WORDS
    return TABLE if is_table(features, keys.inputs) else ARRAYS


def adapt(
    features: Mapping[str, Any], keys: Keys, recipe: Recipe, batches: Iterable[Mapping[str, Any]]
) -> Preprocessing | None:
    """The preprocessing for these inputs, learned from one pass over raw batches. None for arrays, which need none.

    Raises DataError for inputs that nothing can be learned from.
    """
    form = input_form(features, keys)
    if form == ARRAYS:
        return None
    inputs = (batch["x"] for batch in batches)
    if form == TABLE:
        return adapt_table(features, keys.inputs, (as_columns(keys, x) for x in inputs))
    if recipe.sequence_length is None:
        raise ValueError("sequence_length=None: complete the recipe first")
    return text.adapt_text(inputs, recipe.tokens, recipe.vocabulary, recipe.sequence_length, words=form == WORDS)


def as_columns(keys: Keys, x: Any) -> Mapping[str, Any]:
    """The inputs of a table as a dict, also where there is a single one."""
    return x if len(keys.inputs) > 1 else {keys.inputs[0]: x}


def from_state(
    state: Mapping[str, Any], keys: Keys | None = None, form: str | None = None, sequence_length: int | None = None
) -> Preprocessing:
    """The preprocessing of a state. Raises DataError for a state that isn't one, and for one of other inputs.

    Where `keys` and `form` are given, the state must suit them.
    """
    kinds: dict[str, Any] = {"tokens": text.TextPreprocessing, "table": TablePreprocessing}
    try:
        found = kinds[state["kind"]].from_state(dict(state))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"the state of the preprocessing can't be read: {type(error).__name__} {error}") from error
    if keys is None:
        return found
    if isinstance(found, TablePreprocessing):
        suits = form == TABLE and tuple(column.name for column in found.columns) == keys.inputs
    else:
        suits = form == (WORDS if found.words else TEXT) and found.sequence_length == sequence_length
    if not suits:
        raise DataError(
            f"input_key={','.join(keys.inputs)!r}: the state of the preprocessing was learned for other inputs, or for "
            "another sequence_length; give those of the earlier run"
        )
    return found
