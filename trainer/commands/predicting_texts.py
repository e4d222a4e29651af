"""How a language model continues texts."""

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
    **drawing: Any,
) -> list[str]:
    """What follows each text, `length` tokens of it, or fewer where the model ends the text.

    `call` and `drawing` are those of `generation.continued`.
    """
    import tensorflow as tf

    from loopwright.data.text import token_ids
    from loopwright.trainer.observe import generation

    never = preprocessing.never
    prompts = [ids.tolist() or [never[-1]] for ids in token_ids(preprocessing, tf.constant([*texts]))]
    found = generation.continued(
        call, prompts, preprocessing.sequence_length, length, never=never, end=preprocessing.end, **drawing
    )
    return [preprocessing.text(row) for row in found]
