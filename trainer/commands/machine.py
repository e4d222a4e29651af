"""The machine and the versions for which a measurement or a certificate holds."""

from __future__ import annotations

import os
import pathlib
import platform
from typing import Any

from loopwright.trainer.base import private_tf

#: Instruction sets on which the speed of a CPU, and the order in which it adds up, depend.
_INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def environment() -> dict[str, Any]:
    """Versions, CPU, memory and devices, as a JSON object."""
    import keras
    import numpy
    import tensorflow as tf

    cpu = _cpu()
    return {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": numpy.__version__,
        "platform": platform.platform(),
        "cpu": cpu.get("model name", platform.processor() or platform.machine()),
        "cpus": os.cpu_count(),
        "instruction_sets": [name for name in _INSTRUCTION_SETS if name in cpu.get("flags", "").split()],
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "devices": [f"{device.device_type}: {_device_name(device)}" for device in tf.config.list_physical_devices()],
        "intra_op_threads": tf.config.threading.get_intra_op_parallelism_threads(),
        "inter_op_threads": tf.config.threading.get_inter_op_parallelism_threads(),
        "onednn": onednn(),
    }


def onednn() -> str:
    """Whether TensorFlow runs oneDNN's kernels: `on`, `off` or `unknown`. Imports TensorFlow."""
    return {True: "on", False: "off", None: "unknown"}[private_tf.uses_onednn()]


def _cpu() -> dict[str, str]:
    """What Linux tells about the first CPU; empty on other systems."""
    facts = pathlib.Path("/proc/cpuinfo")
    if not facts.is_file():
        return {}
    pairs = (line.partition(":") for line in facts.read_text(encoding="utf-8").split("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _device_name(device: Any) -> str:
    import tensorflow as tf

    details = tf.config.experimental.get_device_details(device) if device.device_type == "GPU" else {}
    return details.get("device_name", device.name)
