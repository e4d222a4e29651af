"""How a language model continues texts: token after token, each seen from a window over the last ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from loopwright.data.text import TextPreprocessing


def continued(
    call: Callable[[np.ndarray], np.ndarray],
    preprocessing: TextPreprocessing,
    texts: Sequence[str],
    *,
    length: int,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[str]:
    """What follows each text, `length` tokens of it, or fewer where the model ends the text.

    Args:
      call: the logarithms of probabilities `[N, T, V]`, up to a constant, for token ids `[N, T]` int32 padded at their end.
      temperature: 0 takes the likeliest token; above it, tokens are drawn with a probability proportional to
        `p ** (1 / temperature)`. The same seed draws the same tokens.
    """
    import numpy as np
    import tensorflow as tf

    from loopwright.data.text import token_ids

    window = preprocessing.sequence_length
    never = [0] if preprocessing.tokens == "byte" else [0, 1]  # padding, and the token for all that is unknown
    end = len(preprocessing.vocabulary) - 1 if preprocessing.separator else None
    rng = np.random.default_rng(seed)
    rows = [ids.tolist() or [never[-1]] for ids in token_ids(preprocessing, tf.constant([*texts]))]
    starts, open_rows = [len(row) for row in rows], set(range(len(rows)))
    for _ in range(length):
        if not open_rows:
            break
        ids = np.zeros([len(rows), window], np.int32)
        for place, row in enumerate(rows):
            ids[place, : min(len(row), window)] = row[-window:]
        outputs = call(ids)
        for place in sorted(open_rows):
            scores = outputs[place, min(len(rows[place]), window) - 1].astype(np.float64)
            scores[never] = -np.inf
            token = _drawn(scores, temperature, rng)
            if token == end:
                open_rows.remove(place)
            else:
                rows[place].append(token)
    return [preprocessing.text(row[start:]) for row, start in zip(rows, starts, strict=True)]


def _drawn(scores: Any, temperature: float, rng: np.random.Generator) -> int:
    """The number of a token. Gumbel's trick draws it from the softmax of the scores."""
    if temperature:
        scores = scores / temperature + rng.gumbel(size=scores.shape)
    return int(scores.argmax())
