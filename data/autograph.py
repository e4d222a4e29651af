"""How functions of this package reach tf.data: without AutoGraph."""

import tensorflow as tf

#: Marks a function that AutoGraph must leave alone. The functions of this package hold no Python loops over tensors,
#: and converting them would cost seconds.
no_autograph = tf.autograph.experimental.do_not_convert
