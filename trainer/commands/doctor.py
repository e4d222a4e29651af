"""`loopwright doctor`: whether this machine is ready, line by line, with a remedy for each problem."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from loopwright import data, flags
from loopwright.trainer.base.errors import TrainingError
from loopwright.trainer.commands import setup

USAGE = "usage: loopwright doctor [--flags]"
HELP = (
    "Checks versions, processor, memory, disk, GPU, prepared datasets and extras. Each line that isn't 'ok' says "
    "what to do. Exits 1 if training can't work."
)

#: The versions with which the tests pass, as in constraints.txt.
TESTED = {
    "tensorflow": "2.21.0",
    "keras": "3.15.1",
    "tensorflow-datasets": "4.9.10",
    "tensorboard": "2.21.0",
    "numpy": "2.4.6",
    "absl-py": "2.5.1",
    "rich": "15.0.0",
}
#: The modules that each extra brings.
EXTRAS = {"demo": ("mlxtend",), "plots": ("matplotlib", "jinja2", "PIL"), "profile": ("xprof",)}
_PYTHONS = ((3, 11), (3, 13))
_IMPORT_SECONDS = 120

#: Runs in a separate process: a TensorFlow that this processor can't run would kill the process.
_PROBE = """
import json, os
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import tensorflow as tf
import keras
from loopwright.trainer.base.private_tf import uses_onednn
build = tf.sysconfig.get_build_info()
print(json.dumps({
    "devices": [[d.device_type, d.name] for d in tf.config.list_physical_devices()],
    "sum": float(tf.reduce_sum(tf.ones([8]))),
    "cuda": build.get("cuda_version") if tf.test.is_built_with_cuda() else None,
    "onednn": uses_onednn(),
}))
"""


class Finding(NamedTuple):
    """A line of the report. `state` is ok, note, warn or fail; all states but ok have a remedy."""

    state: str
    what: str
    found: str
    remedy: str = ""


def run(argv: Sequence[str]) -> int:
    """Parses the flags, checks and prints."""
    (doctor,), _ = flags.parse(argv, [flags.Doctor], usage=USAGE, help_text=HELP)
    findings = list(examine(doctor.data_dir))
    ready = not any(finding.state == "fail" for finding in findings)
    if doctor.json:
        print(json.dumps({"ready": ready, "findings": [finding._asdict() for finding in findings]}))
    else:
        _print(findings, ready=ready)
    return 0 if ready else 1


def examine(data_dir: str | None) -> Iterator[Finding]:
    """The findings of all checks, in the order in which they are shown."""
    yield python_version(sys.version_info[:2])
    yield from versions(_installed)
    yield from surroundings(os.environ, sys.getfilesystemencoding(), setup.keras_settings())
    probed = _probe()
    yield tensorflow_works(probed)
    yield processor(_cpu_flags(), onednn=probed.get("onednn", True))
    yield memory(_meminfo())
    yield disk(pathlib.Path.cwd(), shutil.disk_usage(pathlib.Path.cwd()).free)
    yield gpu(probed, driver=pathlib.Path("/proc/driver/nvidia/version").exists())
    if data_dir is None and not setup.has_home():
        yield Finding("warn", "home", "no home folder is known", "set HOME, or give --data_dir to every command")
    else:
        yield prepared([found.name for found in data.prepared(data_dir)], data_dir)
    yield from extras(lambda module: importlib.util.find_spec(module) is not None)


def python_version(version: tuple[int, ...]) -> Finding:
    """Whether this Python is one of the supported versions."""
    found = ".".join(map(str, version))
    oldest, newest = (".".join(map(str, bound)) for bound in _PYTHONS)
    if version < _PYTHONS[0]:
        return Finding("fail", "Python", found, f"install Python {oldest} to {newest}")
    if version > _PYTHONS[1]:
        return Finding("warn", "Python", found, f"newer than the tested {oldest} to {newest}")
    return Finding("ok", "Python", found)


def versions(installed: Any) -> Iterator[Finding]:
    """Compares each library with the tested version and the oldest allowed one; `installed(name)` is a version or None."""
    for name, tested in TESTED.items():
        found = installed(name)
        install = f"pip install '{name}=={tested}'"
        if found is None:
            yield Finding("fail", name, "not installed", install)
        elif _number(found) < _number(_least(name)):
            yield Finding("fail", name, f"{found}, older than {_least(name)}", install)
        elif found != tested:
            yield Finding("note", name, f"{found}; tested with {tested}", f"if something fails: {install}")
        else:
            yield Finding("ok", name, found)


def surroundings(environ: Mapping[str, str], encoding: str, settings: Mapping[str, Any]) -> Iterator[Finding]:
    """What the environment sets that commands don't follow, or can't work with. `settings` are those of keras.json."""
    if settings:
        found = ", ".join(f"{name}={value}" for name, value in settings.items())
        remedy = "commands don't follow it; for Python of your own, set the usual values in keras.json, or delete it"
        yield Finding("note", "keras.json", found, remedy)
    if environ.get("TF_USE_LEGACY_KERAS", "").lower() in ("1", "true"):
        found, remedy = "TF_USE_LEGACY_KERAS=1", "commands don't follow it; for Python of your own, unset it"
        yield Finding("note", "Keras 2", found, remedy)
    limits = [f"{name}={environ[name]}" for name in setup.KERAS_LIMITS if name in environ]
    if limits:
        found, remedy = ", ".join(limits), "commands don't follow it; for Python of your own, unset it"
        yield Finding("note", "Keras", found, remedy)
    backend = environ.get("MPLBACKEND", "")
    if backend.startswith("module://") and not _importable(backend.removeprefix("module://")):
        found, remedy = (
            f"MPLBACKEND={backend} isn't installed",
            "commands don't follow it; for Python of your own, unset it",
        )
        yield Finding("note", "matplotlib", found, remedy)
    if encoding.lower() != "utf-8":
        remedy = "set PYTHONUTF8=1 or LC_ALL=C.UTF-8; until then, paths need ASCII names"
        yield Finding("warn", "encoding", f"{encoding}, and TensorFlow writes names in UTF-8", remedy)


def tensorflow_works(probed: Mapping[str, Any]) -> Finding:
    """Whether TensorFlow can be imported and computes, and whether Keras runs on it."""
    if "error" in probed:
        remedy = (
            "unset KERAS_BACKEND" if "KERAS_BACKEND" in probed["error"] else "pip install --force-reinstall tensorflow"
        )
        return Finding("fail", "TensorFlow", probed["error"], remedy)
    devices = ", ".join(name.removeprefix("/physical_device:") for _, name in probed["devices"])
    return Finding("ok", "TensorFlow", f"works, devices: {devices}")


def processor(features: set[str], *, onednn: bool | None) -> Finding:
    """Which instructions for dense arithmetic the processor has, and whether TensorFlow runs oneDNN's kernels on it."""
    cores = os.cpu_count() or 1
    names = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "AVX-512 bf16", "amx_bf16": "AMX bf16"}
    have = [name for flag, name in names.items() if flag in features]
    found = f"{cores} cores, {platform.machine()}" + (f", {', '.join(have)}" if have else "")
    if "amx_bf16" in features or "avx512_bf16" in features:
        return Finding("ok", "processor", f"{found}: --precision=mixed_bfloat16 is fast here")
    if features and "avx" not in features and platform.machine() in ("x86_64", "AMD64"):
        return Finding("fail", "processor", f"{found}, no AVX", "TensorFlow's wheels need AVX: use another machine")
    if "avx2" in features and onednn is False:
        remedy = "try --onednn=on: convolutions may be faster"
        return Finding("note", "processor", f"{found}; TensorFlow leaves oneDNN off here", remedy)
    unknown = "; whether TensorFlow uses oneDNN is unknown" if onednn is None else ""
    return Finding("ok", "processor", found + unknown)


def memory(available: int | None) -> Finding:
    """Whether enough bytes of memory are available."""
    if available is None:
        return Finding("note", "memory", "unknown on this system", "nothing to do")
    found = f"{available / 1e9:.1f} GB available"
    if available < 1e9:
        return Finding("fail", "memory", found, "end other programs: TensorFlow alone takes about 0.7 GB")
    if available < 4e9:
        return Finding("warn", "memory", found, "choose a small --batch_size and --memory_budget=0.5")
    return Finding("ok", "memory", found)


def disk(folder: pathlib.Path, free: int) -> Finding:
    """Whether runs can be written in a folder, and whether enough bytes are free there."""
    found = f"{free / 1e9:.1f} GB free in {folder}"
    if not os.access(folder, os.W_OK):
        return Finding("fail", "disk", f"{folder} can't be written", "change to another folder, or give --workdir")
    if free < 2e8:
        return Finding("fail", "disk", found, "make room: checkpoints are written here")
    if free < 5e9:
        return Finding("warn", "disk", found, "make room, or keep fewer checkpoints (--keep=1)")
    return Finding("ok", "disk", found)


def gpu(probed: Mapping[str, Any], *, driver: bool) -> Finding:
    """The GPUs that TensorFlow sees, or why it sees none."""
    seen = [name for kind, name in probed.get("devices", ()) if kind == "GPU"]
    if seen:
        return Finding("ok", "GPU", f"{len(seen)} found, CUDA {probed['cuda']}")
    if not driver:
        return Finding("ok", "GPU", "none: no NVIDIA driver on this machine, training runs on the processor")
    if probed.get("cuda") is None:
        remedy = "install the Linux wheel of tensorflow, which is built with CUDA"
        return Finding("warn", "GPU", "there is a driver, but this TensorFlow is built without CUDA", remedy)
    remedy = "pip install 'loopwright[gpu]', and check that CUDA_VISIBLE_DEVICES doesn't hide the GPU"
    return Finding("warn", "GPU", "there is a driver, but TensorFlow doesn't find a GPU or its CUDA libraries", remedy)


def prepared(names: Sequence[str], data_dir: str | None) -> Finding:
    """The datasets that can be used without a network."""
    where = data_dir or "~/tensorflow_datasets"
    if not names:
        remedy = "nothing to do: the first run prepares its dataset"
        return Finding("note", "datasets", f"none prepared in {where}", remedy)
    shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    return Finding("ok", "datasets", f"{len(names)} prepared in {where}: {shown}")


def extras(has: Any) -> Iterator[Finding]:
    """Which extras are installed, by their modules."""
    for name, modules in EXTRAS.items():
        missing = [module for module in modules if not has(module)]
        if missing:
            found = f"not installed ({', '.join(missing)})"
            yield Finding("note", f"extra {name}", found, f"if you want it: pip install 'loopwright[{name}]'")
        else:
            yield Finding("ok", f"extra {name}", ", ".join(modules))


def _importable(module: str) -> bool:
    """Whether there is such a module; nothing but its packages is imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _least(name: str) -> str:
    """The oldest version that this package allows."""
    for line in importlib.metadata.requires("loopwright") or ():
        requirement, _, condition = line.partition(";")
        if requirement.partition(">=")[0].strip() == name and not condition:
            return requirement.partition(">=")[2].strip()
    return "0"


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:3] if part.isdigit())


def _probe() -> dict[str, Any]:
    """What TensorFlow says about itself, or `error`: why it can't be imported."""
    command, environment = [sys.executable, "-c", _PROBE], dict(os.environ)
    try:
        setup.choose_keras(environment)
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_IMPORT_SECONDS, check=False
        )
    except TrainingError as error:
        return {"error": str(error)}
    except subprocess.TimeoutExpired:
        return {"error": f"can't be imported within {_IMPORT_SECONDS} s"}
    if done.returncode < 0:
        return {"error": f"can't be imported: killed by signal {-done.returncode} (a wheel for another processor?)"}
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return {"error": f"can't be imported: {lines[-1][:200]}"}


def _cpu_flags() -> set[str]:
    path = pathlib.Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next(
        (set(line.partition(":")[2].split()) for line in lines if line.startswith(("flags", "Features"))), set()
    )


def _meminfo() -> int | None:
    path = pathlib.Path("/proc/meminfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _print(findings: Sequence[Finding], *, ready: bool) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console()
    colours = {"ok": "green", "note": "cyan", "warn": "yellow", "fail": "bold red"}
    width = max(len(finding.what) for finding in findings)
    for finding in findings:
        head = Text.assemble(
            (f"{finding.state:<5}", colours[finding.state]), f" {finding.what:<{width}}  {finding.found}"
        )
        console.print(head, soft_wrap=True)
        if finding.remedy:
            console.print(Text(f"{'':<{width + 8}}→ {finding.remedy}", style="dim"), soft_wrap=True)
    said = "This machine is ready to train." if ready else "Training can't work yet: see the lines that say 'fail'."
    console.print(f"\n{said}", highlight=False)
