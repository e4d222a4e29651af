"""The package's public names: they load when they are used, and only they are there."""

import types

import pytest

from loopwright import trainer


@pytest.mark.parametrize("name", trainer.__all__)
def test_public_name_loads(name: str) -> None:
    for _ in range(2):  # the first time imports its module, which mustn't take the name's place
        assert getattr(trainer, name).__name__ == name
        assert not isinstance(getattr(trainer, name), types.ModuleType)


def test_unknown_name_raises() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = trainer.no_such_name
