"""Which functions AutoGraph leaves as they are."""

from __future__ import annotations

import tensorflow as tf

#: A decorator for functions that a trace runs, and that neither loop over tensors nor call the code of a user. AutoGraph
#: would take tens of milliseconds to convert each of them.
no_autograph = tf.autograph.experimental.do_not_convert
