"""Short descriptions of the errors of libraries."""

import errno

import pytest
import tensorflow as tf

from loopwright.trainer.base.errors import first_line, reason

GRAPH = """Graph execution error:

Detected at node SaveV2 defined at (most recent call last):
  File "/x/save.py", line 63, in write

/x/state_temp; No space left on device
\t [[{{node SaveV2}}]] [Op:__inference_write_167]"""
EAGER = "{{function_node __wrapped__SaveV2}} /x/state.tempstate5; No space left on device [Op:SaveV2]"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EROFS, "Read-only file system", "/x"), "Read-only file system"),
        (tf.errors.ResourceExhaustedError(None, None, GRAPH), "No space left on device"),
        (tf.errors.ResourceExhaustedError(None, None, EAGER), "No space left on device"),
        (tf.errors.ResourceExhaustedError(None, None, f"{EAGER} name: "), "No space left on device"),
        (tf.errors.InternalError(None, None, "a sentence without a path"), "a sentence without a path"),
        (OSError(), "OSError"),
    ],
)
def test_reason_is_what_the_system_says(error: Exception, words: str) -> None:
    assert reason(error) == words


def test_first_line_is_the_first_with_words() -> None:
    assert first_line(ValueError("\n  one\ntwo")) == "one"
    assert first_line(ValueError("x" * 500)) == "x" * 300
    assert first_line(KeyError()) == "KeyError"
