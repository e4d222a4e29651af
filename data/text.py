"""Texts as token ids: Keras's `TextVectorization`, with a vocabulary that is made from the training split."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from loopwright.data.errors import DataError

TOKENS = ("word", "character", "byte")
#: The number of tokens to which texts are cut or padded unless another is given.
SEQUENCE_LENGTH = 256
#: The id of padding, which is also that of an empty string, and its place in the vocabulary.
PADDING = ""
_SEPARATOR = "[SEP]"


class TextPreprocessing(tf.Module):
    """From strings `[B]`, or words `[B, T]`, to token ids `[B, T]` int32, padded with 0 and cut at T.

    - `word`: in small letters, without punctuation, split at white space;
    - `character`: every Unicode character as it is;
    - `byte`: every byte; the id is the byte plus 1.

    For words and characters, the id 1 stands for everything that is not in the vocabulary. Bytes that aren't UTF-8 become
    U+FFFD.

    Args:
      tokens: `word`, `character` or `byte`.
      vocabulary: the tokens by id, beginning with the padding. None for bytes.
      sequence_length: T.
      words: whether the inputs are words already. They are then taken as they are.
      separator: whether a token that separates texts follows the vocabulary; see `data.language`.
    """

    kind = "tokens"

    def __init__(
        self,
        tokens: str,
        vocabulary: Sequence[str] | None,
        sequence_length: int,
        *,
        words: bool = False,
        separator: bool = False,
    ) -> None:
        super().__init__(name="text")
        self.tokens, self.sequence_length, self.words, self.separator = tokens, sequence_length, words, separator
        own = [PADDING, *(_name_of_byte(byte) for byte in range(256))] if vocabulary is None else [*vocabulary]
        self.vocabulary = (*own, *([_SEPARATOR] if separator else []))
        self._stated = None if vocabulary is None else own
        self._layer = None if vocabulary is None else _layer(tokens, words, vocabulary=own)

    def __str__(self) -> str:
        return f"{len(self.vocabulary):,} different {self.tokens} tokens, {self.sequence_length} of them in each sample"

    @property
    def raw_specs(self) -> Any:
        """What a batch of raw inputs is."""
        return tf.TensorSpec([None, self.sequence_length] if self.words else [None], tf.string)

    @property
    def spec(self) -> tf.TensorSpec:
        """The shape and type of one sample of the model's inputs."""
        return tf.TensorSpec([self.sequence_length], tf.int32)

    @property
    def facts(self) -> dict[str, Any]:
        """What a model may want to know."""
        return {"vocabulary_size": len(self.vocabulary), "sequence_length": self.sequence_length}

    def state(self) -> dict[str, Any]:
        """All that `from_state` needs, ready for JSON."""
        return {
            "kind": self.kind,
            "tokens": self.tokens,
            "vocabulary": self._stated,
            "sequence_length": self.sequence_length,
            "words": self.words,
            "separator": self.separator,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> TextPreprocessing:
        options = {key: state[key] for key in ("words", "separator")}
        return cls(state["tokens"], state["vocabulary"], state["sequence_length"], **options)

    def __call__(self, raw: tf.Tensor) -> tf.Tensor:
        """Token ids `[B, T]` int32."""
        return tf.cast(self.ids(raw).to_tensor(0, shape=[None, self.sequence_length]), tf.int32)

    def ids(self, raw: tf.Tensor) -> tf.RaggedTensor:
        """All token ids of each text, `[B, None]` int64, neither cut nor padded."""
        if self._layer is None:
            letters = tf.strings.bytes_split(raw)
            return letters.with_flat_values(
                tf.cast(tf.io.decode_raw(letters.flat_values, tf.uint8)[:, 0], tf.int64) + 1
            )
        ids = self._layer(_as_utf8(raw))
        return tf.RaggedTensor.from_tensor(ids) if self.words else ids

    @property
    def never(self) -> tuple[int, ...]:
        """Tokens that a language model never writes: padding, and the one for all that is unknown."""
        return (0,) if self.tokens == "byte" else (0, 1)

    @property
    def end(self) -> int | None:
        """The token that ends a text; None where texts have no end."""
        return len(self.vocabulary) - 1 if self.separator else None

    def text(self, ids: Iterable[int]) -> str:
        """The text of token ids, without padding."""
        kept = [int(number) for number in ids if number]
        if self._layer is None:
            return bytes(number - 1 for number in kept if number <= 256).decode("utf-8", "replace")
        return (" " if self.tokens == "word" else "").join(self.vocabulary[number] for number in kept)

    def batch(self, rows: Sequence[str]) -> tf.Tensor:
        """Raw inputs from texts. Where the inputs are words, a text is split at white space."""
        if not self.words:
            return tf.constant([*rows], tf.string, shape=[len(rows)])
        words = [row.split()[: self.sequence_length] for row in rows]
        return tf.constant([line + [PADDING] * (self.sequence_length - len(line)) for line in words], tf.string)


def adapt_text(
    batches: Iterable[tf.Tensor], tokens: str, vocabulary: int, sequence_length: int, *, words: bool = False
) -> TextPreprocessing:
    """Text preprocessing whose vocabulary holds the most frequent tokens of batches of raw inputs.

    `vocabulary` is the most tokens that there may be, with the padding and the token for all others. Tokens that are equally
    frequent come in falling order, so that the vocabulary is a function of the texts. Bytes need no vocabulary.

    Raises DataError if the texts hold no token.
    """
    if tokens == "byte" and not words:
        return TextPreprocessing(tokens, None, sequence_length)
    layer = _layer(tokens, words, max_tokens=vocabulary)
    for batch in batches:
        layer.update_state(_as_utf8(batch))
    layer.finalize_state()
    found = [str(token) for token in layer.get_vocabulary()]
    if len(found) <= 2:
        raise DataError(f"the texts of the training split hold no token (tokens={tokens!r}); choose another input_key")
    return TextPreprocessing(tokens, found, sequence_length, words=words)


def check_text(tokens: str, vocabulary: int, sequence_length: int) -> None:
    """Raises DataError (exit 2) for parameters out of range."""
    if tokens not in TOKENS:
        raise DataError(f"tokens={tokens!r}: no such kind of tokens; choose from {', '.join(TOKENS)}", exit_code=2)
    if vocabulary < 3:
        raise DataError(
            f"vocabulary={vocabulary} is too small: it counts the padding and the token for unknown ones; choose at least 3",
            exit_code=2,
        )
    if sequence_length < 1:
        raise DataError(f"sequence_length={sequence_length} is too small; choose at least 1", exit_code=2)


def _layer(tokens: str, words: bool, **options: Any) -> keras.layers.TextVectorization:
    how = {"word": ("lower_and_strip_punctuation", "whitespace"), "character": (None, "character")}
    standardize, split = (None, None) if words else how[tokens]
    return keras.layers.TextVectorization(standardize=standardize, split=split, ragged=True, dtype="string", **options)


def _as_utf8(texts: tf.Tensor) -> tf.Tensor:
    return tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace")


def _name_of_byte(byte: int) -> str:
    """A byte as it is shown: the ASCII character, or `\\xNN`."""
    return chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}"


def token_ids(preprocessing: TextPreprocessing, texts: tf.Tensor) -> list[np.ndarray]:
    """All token ids of each text, int32."""
    ids = preprocessing.ids(texts)
    flat, edges = ids.flat_values.numpy().astype(np.int32), ids.row_splits.numpy()
    return [flat[start:stop] for start, stop in itertools.pairwise(edges)]
