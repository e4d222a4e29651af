"""The package's public names: each loads when it is used, and there are no others."""

import types

import pytest

from loopwright import trainer


@pytest.mark.parametrize("name", trainer.__all__)
def test_public_name_loads(name: str) -> None:
    for _ in range(2):  # the first use imports its module, which mustn't replace the name
        assert getattr(trainer, name).__name__ == name
        assert not isinstance(getattr(trainer, name), types.ModuleType)


def test_unknown_name_raises() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = trainer.no_such_name
