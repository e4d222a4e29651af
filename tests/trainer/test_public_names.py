"""The package's public names: they load when they are used, and only they are there."""

import pytest

from loopwright import trainer


@pytest.mark.parametrize("name", trainer.__all__)
def test_public_name_loads(name: str) -> None:
    assert getattr(trainer, name).__name__ == name


def test_unknown_name_raises() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = trainer.no_such_name
