"""Loading datasets by name: keys, kinds of feeds, fingerprints, image folders, users' functions, and mistakes."""

import pathlib
import shutil
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath

from loopwright import data
from loopwright.data import mnist_5k
from loopwright.data.errors import DataError
from loopwright.data.loading import find_builder
from loopwright.data.prepare import ensure_prepared


class FourFeatures(tfds.core.GeneratorBasedBuilder):
    """Forty samples with an image, numbers, a class, a target and a weight."""

    name = "four_features"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Made up."}  # noqa: RUF012
    pkg_dir_path = epath.Path(__file__).parent

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(6, 5, 1), dtype=np.uint8),
                "numbers": tfds.features.Tensor(shape=(2,), dtype=np.float32),
                "label": tfds.features.ClassLabel(names=["low", "high"]),
                "target": tfds.features.Scalar(np.float32),
                "weight": tfds.features.Scalar(np.float32),
                "text": tfds.features.Text(),
            }
        )
        return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=("image", "label"))

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, Any]]]:
        return {"train": self._examples(40), "test": self._examples(9)}

    def _examples(self, count: int) -> Iterator[tuple[int, Any]]:
        rng = np.random.default_rng(count)
        for number in range(count):
            yield (
                number,
                {
                    "image": rng.integers(0, 256, (6, 5, 1), np.uint8),
                    "numbers": np.array([number, -number], np.float32),
                    "label": number % 2,
                    "target": number / 2,
                    "weight": 1 + number % 3,
                    "text": "x",
                },
            )

    def _generate_examples(self) -> Iterator[tuple[int, Any]]:
        return iter(())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("prepared"))
    data.load("four_features", data_dir=path)
    return path


def first(feed: Any) -> dict[str, Any]:
    return next(iter(feed()))


def test_default_is_the_builders_input_and_label(folder: str) -> None:
    dataset = data.load("four_features", data_dir=folder)
    assert (dataset.input_key, dataset.label_key, dataset.class_names) == ("image", "label", ("low", "high"))
    assert dataset.input_shape == (6, 5, 1)
    batch = first(dataset.train_feed(4))
    assert set(batch) == {"x", "y", "index"}
    assert batch["y"].dtype == tf.int64
    np.testing.assert_array_equal(np.bincount(dataset.labels("train")), [20, 20])


@pytest.mark.parametrize("feed", ["memory", "streaming", "sequential"])
def test_several_inputs_a_target_and_weights(folder: str, feed: str, same: Callable[..., None]) -> None:
    dataset = data.load(
        "four_features",
        data_dir=folder,
        input_key="image,numbers",
        label_key="target",
        weight_key="weight",
        feed=feed,
    )
    assert dataset.num_classes == 0
    assert dataset.input_shape == {"image": (6, 5, 1), "numbers": (2,)}
    batch = first(dataset.train_feed(8, augment="flip"))
    np.testing.assert_array_equal(batch["x"]["numbers"][:, 0] / 2, batch["y"])
    np.testing.assert_array_equal(1 + batch["y"].numpy() * 2 % 3, batch["sample_weight"])
    same(batch, first(dataset.train_feed(8, augment="flip")))


def test_fingerprint_is_free_of_format_and_feed(folder: str, tmp_path: pathlib.Path) -> None:
    prints = {data.load("four_features", data_dir=folder, feed=feed).fingerprint for feed in data.FEEDS}
    fresh = data.load("four_features", data_dir=str(tmp_path), feed="streaming")
    assert list(tmp_path.glob("**/*.array_record*"))
    assert not list(tmp_path.glob("**/*.tfrecord*"))
    assert prints == {fresh.fingerprint}
    other = data.load("four_features", data_dir=folder, train_split="train[:39]").fingerprint
    assert other not in prints


@pytest.mark.parametrize(
    ("options", "fingerprint"),
    [
        ({}, "b4643a873c9f744b"),
        ({"input_key": "image,numbers", "label_key": "target", "weight_key": "weight"}, "e3fce21b17c081c7"),
    ],
)
def test_fingerprints_of_runs_stay_what_they_are(folder: str, options: dict[str, Any], fingerprint: str) -> None:
    """A run goes on only with data of the same fingerprint, so a change here ends all runs that exist."""
    assert data.load("four_features", data_dir=folder, **options).fingerprint == fingerprint


def test_array_record_alone_feeds_all_kinds(folder: str, tmp_path: pathlib.Path, same: Callable[..., None]) -> None:
    data.load("four_features", data_dir=str(tmp_path), feed="streaming")
    for feed in ("memory", "streaming", "sequential"):
        here = data.load("four_features", data_dir=folder, feed=feed).train_feed(8, seed=2)
        there = data.load("four_features", data_dir=str(tmp_path), feed=feed).train_feed(8, seed=2)
        same(first(here), first(there))


def test_budget_decides_between_memory_and_streaming(folder: str) -> None:
    said: list[str] = []
    dataset = data.load("four_features", data_dir=folder, memory_budget=1000, say=said.append)
    assert (dataset.kind("train"), dataset.kind("test")) == ("streaming", "streaming")
    assert "over the budget" in said[0]
    assert data.load("four_features", data_dir=folder, memory_budget=10_000).kind("train") == "memory"


def test_without_copies_over_budget_is_sequential_and_says_so(tmp_path: pathlib.Path) -> None:
    said: list[str] = []
    load = {"data_dir": str(tmp_path), "memory_budget": 1000, "prepare_array_record": False, "say": said.append}
    assert data.load("four_features", **load).kind("train") == "sequential"
    assert "prepare_array_record=False" in said[0]
    with pytest.raises(DataError, match="prepare_array_record=False forbids") as caught:
        data.load("four_features", **load, feed="streaming").train_feed(4)
    assert caught.value.exit_code == 2
    assert not list(tmp_path.glob("**/*.array_record*"))


def test_eval_feed_is_in_fixed_order_and_can_be_padded(folder: str) -> None:
    dataset = data.load("four_features", data_dir=folder)
    index = np.concatenate([batch["index"].numpy() for batch in dataset.eval_feed(4)()])
    np.testing.assert_array_equal(index, np.arange(9))
    batches = list(dataset.eval_feed(4, pad=True)())
    assert [int(tf.reduce_sum(tf.cast(batch["mask"], tf.int32))) for batch in batches] == [4, 4, 1]
    assert len(first(dataset.eval_feed(16, pad=True))["index"]) == 16
    assert len(first(dataset.eval_feed(16))["index"]) == 9


def test_progress_is_reported(folder: str) -> None:
    calls: list[tuple[str, int, int]] = []
    data.load("four_features", data_dir=folder, progress=lambda *call: calls.append(call)).train_feed(4)
    assert calls[-1] == ("decoding train", 40, 40)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"input_key": "imag"}, "^input_key='imag': no such feature of four_features .* did you mean 'image'"),
        ({"label_key": "text"}, r"the label 'text' \(Text\) is a text, which no task learns; choose another label_key"),
        ({"weight_key": "w"}, "^weight_key='w': no such feature"),
        ({"feed": "stream"}, "^feed='stream': .* did you mean 'streaming'"),
        ({"train_split": "nope"}, "^train_split='nope': no such split of four_features; it has train, test"),
        ({"eval_split": "test[:0]"}, r"^eval_split='test\[:0\]': .* is empty"),
    ],
)
def test_mistakes_are_told(folder: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        data.load("four_features", data_dir=folder, **options)
    assert caught.value.exit_code == 2


def test_folder_that_is_a_file_is_told(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"is not on this machine: .*file"):
        data.load("four_features", data_dir=str(tmp_path / "file"))


def test_another_process_may_prepare_it_first(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builder = find_builder("four_features", str(tmp_path))

    def too_late(**options: Any) -> None:
        data.load("four_features", data_dir=str(tmp_path))
        pathlib.Path(tmp_path / "new").mkdir()
        (tmp_path / "new").rename(builder.data_path)

    monkeypatch.setattr(builder, "download_and_prepare", too_late)
    ensure_prepared(builder, manual_dir=None, download=True)
    assert builder.info.splits["train"].num_examples == 40


def test_package_that_a_builder_lacks_is_named(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist_5k.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"mnist_5k/1\.0\.0 can't be prepared: .*pip install 'loopwright\[demo\]'"):
        data.load("mnist_5k", data_dir=str(tmp_path))


def test_too_large_a_batch_is_refused(folder: str) -> None:
    with pytest.raises(DataError, match=r"^batch_size=41 is larger than the split 'train'"):
        data.load("four_features", data_dir=folder).train_feed(41)


def test_one_class_only_is_refused(folder: str) -> None:
    with pytest.raises(DataError, match="samples are of one class"):
        data.load("four_features", data_dir=folder, train_split="train[:1]").train_feed(1)


@pytest.fixture
def images(tmp_path: pathlib.Path) -> pathlib.Path:
    """Two classes of pictures, in two splits."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 7), ("test", 3)):
        for label in ("cat", "dog"):
            (tmp_path / split / label).mkdir(parents=True)
            for number in range(count):
                png = tf.io.encode_png(rng.integers(0, 256, (6, 5, 3), np.uint8))
                (tmp_path / split / label / f"{number}.png").write_bytes(png.numpy())
    return tmp_path


def test_folder_of_images_feeds(images: pathlib.Path, same: Callable[..., None]) -> None:
    dataset = data.load(f"folder:{images}")
    assert dataset.class_names == ("cat", "dog")
    assert dataset.input_shape == (6, 5, 3)
    memory = dataset.train_feed(4, seed=1, augment="flip")
    streaming = data.load(f"folder:{images}", feed="streaming").train_feed(4, seed=1, augment="flip")
    for one, other in zip(memory().take(5), streaming().take(5), strict=True):
        same(one, other)
    assert len(np.unique(dataset.labels("train"))) == 2


def test_fingerprint_of_a_folder_of_images_knows_every_file(images: pathlib.Path) -> None:
    copy = pathlib.Path(shutil.copytree(images, images.with_name("copy")))
    before = data.load(f"folder:{copy}").fingerprint
    assert data.load(f"folder:{copy}").fingerprint == before
    path = copy / "test" / "dog" / "2.png"
    path.write_bytes(tf.io.encode_png(np.zeros((6, 5, 3), np.uint8)).numpy())
    changed = data.load(f"folder:{copy}").fingerprint
    assert changed != before
    (copy / "train" / "dog" / "6.png").rename(
        copy / "train" / "dog" / "7.png"
    )  # The pictures and their order stay the same.
    assert data.load(f"folder:{copy}").fingerprint not in (before, changed)


def test_flat_folder_is_one_split(images: pathlib.Path) -> None:
    with pytest.raises(
        DataError, match=r"eval_split, such as train_split='train\[:90%\]' and eval_split='train\[90%:\]'"
    ):
        data.load(f"folder:{images / 'train'}")
    dataset = data.load(f"folder:{images / 'train'}", train_split="train[:10]", eval_split="train[10:]")
    assert (dataset.train_feed(10).examples_per_epoch, dataset.eval_feed(10).examples_per_epoch) == (10, 4)


def test_images_of_other_sizes_are_named_or_resized(images: pathlib.Path) -> None:
    odd = images / "train" / "dog" / "3.png"
    odd.write_bytes(tf.io.encode_png(np.zeros((9, 9, 3), np.uint8)).numpy())
    with pytest.raises(DataError, match=rf"{odd}: not 6x5x3 like the first image \(give image_size\)"):
        data.load(f"folder:{images}").train_feed(4)
    feed = data.load(f"folder:{images}", image_size=(4, 4)).train_feed(4)
    assert first(feed)["x"].shape == (4, 4, 4, 3)


def test_undecodable_image_is_named_and_can_be_left_out(images: pathlib.Path) -> None:
    broken = images / "train" / "cat" / "2.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(DataError, match=rf"sample \d+ is bad: {broken}"):
        data.load(f"folder:{images}").train_feed(4)
    said: list[str] = []
    for feed in ("memory", "streaming"):
        kept = data.load(f"folder:{images}", feed=feed, max_bad_records=1, say=said.append).train_feed(4)
        assert kept.examples_per_epoch == 13
    assert "left out" in said[0]


def test_explaining_passes_over_what_is_left_out_already(images: pathlib.Path) -> None:
    broken = [images / split / "cat" / "2.png" for split in ("train", "test")]
    for path in broken:
        path.write_bytes(b"no picture")
    dataset = data.load(f"folder:{images}", feed="streaming", max_bad_records=1)
    feed = dataset.train_feed(4)
    assert dataset.eval_feed(4).examples_per_epoch == 5
    assert dataset.explain(feed, 0) is None
    (spoilt := images / "test" / "dog" / "1.png").write_bytes(b"no picture")
    assert str(spoilt) in str(dataset.explain(feed, 0))


def test_empty_folders_are_refused(images: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match="no images found"):
        data.load(f"folder:{tmp_path / 'nothing'}")
    with pytest.raises(DataError, match="no such folder"):
        data.load(f"folder:{tmp_path / 'nowhere'}")
    for path in (images / "test" / "dog").iterdir():
        path.unlink()
    assert "dog" in data.load(f"folder:{images}").class_names  # those of the training split


@pytest.fixture
def users(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    def samples(split: str) -> tf.data.Dataset:
        count = 20 if split == "train" else 5
        return tf.data.Dataset.range(count).map(lambda i: (tf.fill([3], tf.cast(i, tf.float32)), i % 4))

    def feed(split: str, batch_size: int, seed: int) -> Any:
        return data.array_feed(np.zeros((9, 2), np.float32), np.zeros(9, np.int64), batch_size, seed=seed)

    feed.class_names = ("a", "b")  # type: ignore[attr-defined]
    module = types.SimpleNamespace(samples=samples, feed=feed, nothing=lambda: 3)
    monkeypatch.setitem(sys.modules, "users_data", module)
    return module


def test_users_function_returns_samples(users: Any, same: Callable[..., None]) -> None:
    said: list[str] = []
    dataset = data.load("users_data:samples", say=said.append)
    assert "exact only as far" in said[0]
    assert (dataset.input_shape, dataset.num_classes) == ((3,), 4)
    feed = dataset.train_feed(6)
    batches = list(feed().take(9))
    assert [len(batch["y"]) for batch in batches[:4]] == [6, 6, 6, 2]
    np.testing.assert_array_equal(batches[0]["x"][:, 0], batches[0]["index"])
    for expected, batch in zip(batches[5:], feed(5), strict=False):
        same(expected, batch)
    assert sum(len(batch["y"]) for batch in dataset.eval_feed(4)()) == 5
    assert dataset.fingerprint == data.load("users_data:samples").fingerprint


def test_users_function_returns_a_feed(users: Any) -> None:
    dataset = data.load("users_data:feed")
    assert (dataset.input_shape, dataset.class_names) == ((2,), ("a", "b"))
    assert dataset.train_feed(4).steps_per_epoch == 3


@pytest.mark.parametrize("name", ["users_data:missing", "no_such_module:f", "users_data:nothing"])
def test_users_mistakes_are_told(users: Any, name: str) -> None:
    with pytest.raises(DataError, match=f"^dataset='{name}': "):
        data.load(name).train_feed(4)


def test_prepared_datasets_are_listed(folder: str) -> None:
    assert [entry.name for entry in data.prepared(folder)] == ["four_features:1.0.0"]


def test_batch_size_below_1_is_refused(mnist_dir: pathlib.Path) -> None:
    dataset = data.load("mnist_5k", data_dir=str(mnist_dir))
    for make in (dataset.train_feed, dataset.eval_feed):
        with pytest.raises(data.DataError, match="batch_size=0 is too small; choose at least 1"):
            make(0)
