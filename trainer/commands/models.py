"""`loopwright models [NAME]`: the list of models, or the summary of one."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import Any

from loopwright import flags, models
from loopwright.trainer.base.errors import TrainingError
from loopwright.trainer.base.say import say
from loopwright.trainer.commands import setup

USAGE = "usage: loopwright models [NAME] [--flags]"
HELP = "Lists the models, or prints the summary of NAME (a listed model, or module:function), built with real shapes."


def run(argv: Sequence[str]) -> int:
    """Parses the flags, and lists or summarises."""
    (listing,), names = flags.parse(argv, [flags.Listing], usage=USAGE, help_text=HELP, positional="NAME")
    if names:
        return _summarise(names[0], listing)
    if listing.json:
        print(json.dumps({name: entry._asdict() for name, entry in models.MODELS.items()}))
        return 0
    for name, entry in models.MODELS.items():
        print(
            f"{name:<16}{entry.outputs:<15}{entry.summary} Takes {' or '.join(models.KINDS[k] for k in entry.takes)}."
        )
    print(
        f"{'keras.applications:NAME':<31}Any network of keras.applications, such as MobileNetV3Small, with a new head."
    )
    print(f"{'module:function':<16}{'':<15}Your own: a function of (input_shape, num_classes), or of nothing.")
    return 0


def _summarise(name: str, listing: flags.Listing) -> int:
    models.check_name(name)
    flags.check([flags.Model(model=name)])
    arguments: dict[str, Any] = {
        "input_shape": flags.checks.input_shape(listing.input_shape),
        "num_classes": listing.num_classes,
    }
    if name in models.MODELS and "images" not in models.MODELS[name].takes:
        arguments = models.example(name)
    setup.start_tensorflow()
    from loopwright.trainer.export.h5_writer import functional_twin

    model = models.create(name, **arguments)
    try:
        outputs = "probabilities" if models.ends_in_probabilities(name, model) else "logits"
    except models.ModelError as error:
        say(flags.as_flags(str(error)))
        outputs = "logits or probabilities"
    if listing.json:
        print(json.dumps({"model": name, "outputs": outputs, "parameters": model.count_params()}))
        return 0
    with contextlib.suppress(TrainingError):  # If `call` uses raw operations, the summary has no shapes.
        model = functional_twin(model, arguments["input_shape"])
    model.summary()
    print(f"ends in {outputs}")
    return 0
