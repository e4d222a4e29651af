"""What can't be trained on is refused before anything is downloaded."""

import pathlib
from typing import Any

import pytest

from loopwright import data
from loopwright.data import prepare
from loopwright.data.errors import DataError


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cifar10", {"label_key": "id"}, r"cifar10: the label 'id' \(Text\) is a text, which no task learns"),
        ("cifar10", {"input_key": "imag"}, r"input_key='imag': no such feature of cifar10 .*did you mean 'image'"),
        ("cifar10", {"input_key": "image,id"}, r"the feature 'id' \(Text\) is not an array of numbers"),
        ("imagenette", {}, r"the feature 'image' has no fixed shape, .*give image_size"),
        ("coco", {}, r"coco doesn't say what its input and its label are; name them with input_key and label_key"),
    ],
)
def test_unsuitable_features_are_refused_before_a_download(
    name: str, options: Any, message: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads: list[Any] = []
    monkeypatch.setattr(prepare, "ensure_prepared", lambda *args, **kwargs: downloads.append(args))
    with pytest.raises(DataError, match=message) as caught:
        data.load(name, data_dir=str(tmp_path), **options)
    assert (caught.value.exit_code, downloads) == (2, [])
