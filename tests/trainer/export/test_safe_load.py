"""Hostile and damaged model files are refused with one line, before Keras or HDF5 reads them."""

import base64
import json
import marshal
import math
import pathlib
import pickle
import resource
import shutil
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from loopwright import trainer
from loopwright.trainer.export import safe_load

#: The code of a hostile file: it leaves a mark.
MARK = "mark"


def payload(folder: pathlib.Path) -> str:
    code = compile(f"lambda x: (open({str(folder / MARK)!r}, 'w').close(), x)[1]", "payload", "eval")
    inner = next(part for part in code.co_consts if hasattr(part, "co_code"))
    return base64.b64encode(marshal.dumps(inner)).decode()


def small() -> keras.Model:
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="dense")], name="small")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with a harmless model.h5 and model.keras, and a file that no model file may read."""
    folder = tmp_path_factory.mktemp("good")
    model = small()
    trainer.export_h5(model, folder / "model.h5")
    model.save(folder / "model.keras")
    with h5py.File(folder / "secret.h5", "w") as file:
        file["kernel"] = np.full((4, 3), 7, np.float32)
    (folder / "secret.bin").write_bytes(np.full(12, 7, np.float32).tobytes())
    return folder


KERNEL = {"model.h5": "model_weights/dense/small/dense/kernel", "model.weights.h5": "layers/dense/vars/0"}


def layers(config: dict[str, Any]) -> list[Any]:
    return config["config"]["layers"]


def layer(name: str, module: str | None = "keras.layers", **config: Any) -> Callable[..., None]:
    """Appends a layer."""

    def change(config_of_model: dict[str, Any], folder: pathlib.Path) -> None:
        filled = json.loads(json.dumps(config).replace("PAYLOAD", payload(folder)))
        layers(config_of_model).append(
            {"class_name": name, "module": module, "registered_name": None, "config": {"name": "extra", **filled}}
        )

    return change


def dense(**config: Any) -> Callable[..., None]:
    """Changes the configuration of the Dense layer."""

    def change(config_of_model: dict[str, Any], folder: pathlib.Path) -> None:
        layers(config_of_model)[1]["config"] |= json.loads(json.dumps(config).replace("PAYLOAD", payload(folder)))

    return change


LAMBDA = {"class_name": "__lambda__", "config": {"code": "PAYLOAD", "defaults": None, "closure": None}}
CONFIGS = {
    "lambda": (layer("Lambda", function=LAMBDA), "holds code"),
    "lambda-of-keras-2": (layer("Lambda", None, function=["PAYLOAD", None, None]), "holds code"),
    "lambda-as-activation": (dense(activation=LAMBDA), "holds code"),
    "saved-model-layer": (layer("TFSMLayer", filepath="/elsewhere", call_endpoint="serve"), "holds code"),
    "torch-module": (layer("TorchModuleWrapper", module="PAYLOAD"), "holds code"),
    "foreign-module": (layer("Popen", "subprocess", args=["true"]), "isn't Keras's"),
    "foreign-function": (
        dense(activation={"class_name": "function", "module": "os", "config": "system", "registered_name": "system"}),
        "isn't Keras's",
    ),
    "vocabulary-of-another-file": (layer("StringLookup", vocabulary="/etc/hostname"), "reads another file"),
    "layer-bomb": (dense(units=1 << 33), "asks for"),
    "small-layer-bomb": (dense(units=30_000_000, kernel_initializer="zeros"), "asks for"),
}


@pytest.fixture
def guarded(tmp_path: pathlib.Path) -> Iterator[None]:
    """Fails a test in which a file left its mark, or needed more than a gigabyte or half a minute."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    yield
    assert time.process_time() - start < 30
    assert not (tmp_path / MARK).exists()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB


def forbid(monkeypatch: pytest.MonkeyPatch, *, hdf5: bool) -> None:
    def reached(*args: Any, **options: Any) -> None:
        raise AssertionError("the file got through")

    monkeypatch.setattr(keras.models, "load_model", reached)
    if hdf5:
        monkeypatch.setattr(h5py, "File", reached)


def assert_refused(path: pathlib.Path, part: str) -> None:
    with pytest.raises(safe_load.Refused) as error:
        safe_load.load_model(path)
    assert part in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def rewrite(source: pathlib.Path, target: pathlib.Path, members: dict[str, Any]) -> None:
    """An archive with different members. A pair is the data and its compression."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name, data in {**{info.filename: old.read(info) for info in old.infolist()}, **members}.items():
            if data is not None:
                new.writestr(name, *(data if isinstance(data, tuple) else (data,)))


@pytest.mark.parametrize("kind", ["h5", "keras"])
@pytest.mark.parametrize("name", CONFIGS)
def test_architecture_that_does_harm_is_refused(
    good: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, guarded: None, kind: str, name: str
) -> None:
    change, part = CONFIGS[name]
    path = tmp_path / f"evil.{kind}"
    if kind == "h5":
        shutil.copy(good / "model.h5", path)
        with h5py.File(path, "r+") as file:
            config = json.loads(file.attrs["model_config"])
            change(config, tmp_path)
            file.attrs["model_config"] = json.dumps(config)
    else:
        with zipfile.ZipFile(good / "model.keras") as archive:
            config = json.loads(archive.read("config.json"))
        change(config, tmp_path)
        rewrite(good / "model.keras", path, {"config.json": json.dumps(config)})
    if "bomb" not in name:
        forbid(monkeypatch, hdf5=False)
    assert_refused(path, part)


def test_code_in_what_compiles_is_refused(
    good: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, guarded: None
) -> None:
    path = pathlib.Path(shutil.copy(good / "model.h5", tmp_path / "evil.h5"))
    with h5py.File(path, "r+") as file:
        loss = {"class_name": "__lambda__", "config": {"value": [payload(tmp_path), None, None]}}
        file.attrs["training_config"] = json.dumps({"loss": loss, "loss_weights": None})
    forbid(monkeypatch, hdf5=False)
    assert_refused(path, "holds code")


def replace_kernel(make: Callable[[h5py.File, str, pathlib.Path], None]) -> Callable[..., None]:
    def change(file: h5py.File, kernel: str, folder: pathlib.Path) -> None:
        del file[kernel]
        make(file, kernel, folder)

    return change


def soft(file: h5py.File, kernel: str, folder: pathlib.Path) -> None:
    file["elsewhere"] = np.zeros((4, 3), np.float32)
    file[kernel] = h5py.SoftLink("/elsewhere")


def external(file: h5py.File, kernel: str, folder: pathlib.Path) -> None:
    file[kernel] = h5py.ExternalLink(str(folder / "secret.h5"), "kernel")


def storage(file: h5py.File, kernel: str, folder: pathlib.Path) -> None:
    file.create_dataset(kernel, (4, 3), "f4", external=[(str(folder / "secret.bin"), 0, 48)])


def virtual(file: h5py.File, kernel: str, folder: pathlib.Path) -> None:
    layout = h5py.VirtualLayout((4, 3), "f4")
    layout[:] = h5py.VirtualSource(str(folder / "secret.h5"), "kernel", (4, 3))
    file.create_virtual_dataset(kernel, layout)


def bomb(file: h5py.File, kernel: str, folder: pathlib.Path) -> None:
    file.create_dataset(kernel, (3 << 28,), "f4", chunks=(1 << 20,), compression="gzip")  # 3 GB: under Keras's limit


def chunk_bomb(file: h5py.File, kernel: str, folder: pathlib.Path) -> None:
    shape = file[kernel].shape if kernel in file else (4, 3)
    file.pop(kernel, None)
    chunks = (*shape[:-1], (3 << 28) // math.prod(shape[:-1]))  # HDF5 unpacks a chunk as a whole
    file.create_dataset(kernel, shape, "f4", chunks=chunks, maxshape=(*shape[:-1], None), compression="gzip")


def group_link(file: h5py.File, kernel: str, folder: pathlib.Path) -> None:
    top = kernel.split("/", 1)[0]
    file.move(top, "real")
    file[top] = h5py.SoftLink("/real")


def loop(file: h5py.File, kernel: str, folder: pathlib.Path) -> None:
    file["loop"] = file[kernel.split("/", 1)[0]]


HDF5 = {
    "soft-link": (replace_kernel(soft), "link to another place"),
    "external-link": (replace_kernel(external), "link to another place"),
    "external-storage": (replace_kernel(storage), "external storage"),
    "virtual-dataset": (replace_kernel(virtual), "virtual dataset"),
    "shape-bomb": (replace_kernel(bomb), "asks for 3.2 GB"),
    "chunk-bomb": (replace_kernel(chunk_bomb), "asks for"),
    "group-link": (group_link, "link to another place"),
    "loop": (loop, "loop"),
}


@pytest.mark.parametrize("trust", [False, True], ids=["", "trusted"])
@pytest.mark.parametrize("kind", ["h5", "keras"])
@pytest.mark.parametrize("name", HDF5)
def test_links_and_bombs_are_refused_even_of_a_trusted_file(
    good: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    guarded: None,
    kind: str,
    name: str,
    trust: bool,
) -> None:
    change, part = HDF5[name]
    path, inner = tmp_path / f"evil.{kind}", tmp_path / "inner.h5"
    if kind == "h5":
        inner.write_bytes((good / "model.h5").read_bytes())
    else:
        with zipfile.ZipFile(good / "model.keras") as archive:
            inner.write_bytes(archive.read("model.weights.h5"))
    with h5py.File(inner, "r+") as file:
        change(file, KERNEL["model.h5" if kind == "h5" else "model.weights.h5"], good)
    if kind == "h5":
        inner.rename(path)
    else:
        rewrite(good / "model.keras", path, {"model.weights.h5": inner.read_bytes()})
    forbid(monkeypatch, hdf5=False)
    with pytest.raises(safe_load.Refused, match=part):
        safe_load.load_model(path, trust=trust)


def cut(path: pathlib.Path, size: int) -> bytes:
    return path.read_bytes()[:size]


BYTES = {
    "empty.h5": (lambda good: b"", "no HDF5 file"),
    "text.h5": (lambda good: b"hello\n" * 99, "no HDF5 file"),
    "pickle.h5": (lambda good: pickle.dumps({"a": 1}), "no HDF5 file"),
    "archive.h5": (lambda good: (good / "model.keras").read_bytes(), "no HDF5 file"),
    "head.h5": (lambda good: cut(good / "model.h5", 30), "known version"),
    "half.h5": (lambda good: cut(good / "model.h5", 9_000), "cut off"),
    "version.h5": (lambda good: cut(good / "model.h5", 8) + b"\x09" + bytes(99), "known version"),
    "long.h5": (lambda good: cut(good / "model.h5", 40) + struct.pack("<Q", 1 << 60) + bytes(9_000), "cut off"),
    "text.keras": (lambda good: b"hello\n" * 99, "no whole .keras archive"),
    "half.keras": (lambda good: cut(good / "model.keras", 9_000), "no whole .keras archive"),
    "hdf5.keras": (lambda good: (good / "model.h5").read_bytes(), "no whole .keras archive"),
    "pickle.pkl": (lambda good: pickle.dumps({"a": 1}), "neither an .h5 file nor a .keras"),
}


@pytest.mark.parametrize("name", BYTES)
def test_what_is_no_model_file_is_refused_before_hdf5_opens_it(
    good: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, guarded: None, name: str
) -> None:
    make, part = BYTES[name]
    (tmp_path / name).write_bytes(make(good))
    forbid(monkeypatch, hdf5=True)
    assert_refused(tmp_path / name, part)


ZEROS = (bytes(300 << 20), zipfile.ZIP_DEFLATED)
MEMBERS = {
    "traversal": ({"../outside": b"x"}, "outside its folder"),
    "traversal-in-assets": ({"assets/../../outside": b"x"}, "outside its folder"),
    "absolute": ({"/tmp/outside": b"x"}, "outside its folder"),
    "backslash": ({"assets\\..\\outside": b"x"}, "outside its folder"),
    "zip-bomb": ({"assets/zeros": ZEROS}, "asks for"),
    "config-bomb": ({"config.json": (b" " * (300 << 20), zipfile.ZIP_DEFLATED)}, "asks for"),
    "many-members": ({f"assets/{i}": b"" for i in range(10_001)}, "too many members"),
    "no-config": ({"config.json": None}, "no config.json"),
    "pickled-weights": ({"model.weights.h5": None, "model.weights.npz": pickle.dumps(1)}, "no model.weights.h5"),
    "text-for-weights": ({"model.weights.h5": b"hello\n" * 99}, "no HDF5 file"),
    "config-is-no-json": ({"config.json": b"{"}, "not JSON"),
}


@pytest.mark.parametrize("name", MEMBERS)
def test_archive_that_does_harm_is_refused_before_hdf5_opens_it(
    good: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, guarded: None, name: str
) -> None:
    members, part = MEMBERS[name]
    rewrite(good / "model.keras", tmp_path / "evil.keras", members)
    forbid(monkeypatch, hdf5=name != "config-is-no-json")
    assert_refused(tmp_path / "evil.keras", part)


def test_link_in_an_archive_is_refused(good: pathlib.Path, tmp_path: pathlib.Path) -> None:
    rewrite(good / "model.keras", tmp_path / "evil.keras", {})
    link = zipfile.ZipInfo("assets/link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "evil.keras", "a") as archive:
        archive.writestr(link, "/etc/passwd")
    assert_refused(tmp_path / "evil.keras", "holds a link")


@pytest.mark.parametrize(
    ("value", "part"),
    [("{", "not JSON"), ("[1]", "is a list"), ("[" * 100_000, "not JSON"), (3, "not text"), (None, "no Keras model")],
)
def test_damaged_configuration_is_refused(good: pathlib.Path, tmp_path: pathlib.Path, value: Any, part: str) -> None:
    path = pathlib.Path(shutil.copy(good / "model.h5", tmp_path / "evil.h5"))
    with h5py.File(path, "r+") as file:
        del file.attrs["model_config"]
        if value is not None:
            file.attrs["model_config"] = value
    assert_refused(path, part)


@pytest.mark.parametrize("read", [trainer.load_h5, trainer.repair_h5, lambda path: trainer.restore_h5(path, None)])
def test_every_reader_checks_the_file_first(
    good: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, read: Any
) -> None:
    (tmp_path / "evil.h5").write_bytes(b"hello")
    forbid(monkeypatch, hdf5=True)
    with pytest.raises(safe_load.Refused, match="no HDF5 file"):
        read(tmp_path / "evil.h5")


@pytest.mark.parametrize("kind", ["h5", "keras"])
def test_harmless_file_gets_through(good: pathlib.Path, kind: str) -> None:
    x = np.ones((2, 4), np.float32)
    plain = keras.models.load_model(good / f"model.{kind}")
    assert np.array_equal(safe_load.load_model(good / f"model.{kind}")(x), plain(x))


def test_trusted_file_may_bring_code(tmp_path: pathlib.Path) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x * 2)])
    model.save(tmp_path / "model.keras")
    assert_refused(tmp_path / "model.keras", "trust=True")
    loaded = safe_load.load_model(tmp_path / "model.keras", trust=True)
    assert np.array_equal(loaded(np.ones((1, 4), np.float32)), np.full((1, 4), 2, np.float32))


class Doubled(keras.layers.Layer):
    def call(self, inputs: Any) -> Any:
        return inputs * 2


def test_class_that_is_given_may_be_named(tmp_path: pathlib.Path) -> None:
    keras.Sequential([keras.Input((4,)), Doubled()]).save(tmp_path / "model.keras")
    assert_refused(tmp_path / "model.keras", "Doubled")
    loaded = safe_load.load_model(tmp_path / "model.keras", custom_objects={"Doubled": Doubled})
    assert np.array_equal(loaded(np.ones((1, 4), np.float32)), np.full((1, 4), 2, np.float32))
