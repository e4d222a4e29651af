"""Runs the certificates and the benchmark in every precision on a GPU (`make gpu`).

The results go to benchmarks/results/gpu/. Exits with 1 if TensorFlow sees no GPU, or if a command fails.
"""

from __future__ import annotations

import subprocess
import sys

RESULTS = "benchmarks/results/gpu"
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


def commands() -> list[list[str]]:
    """The commands, each as the list of the words after `loopwright`."""
    certificates = [
        [
            *("parity", "--dataset=benchmarks.images:cifar_shaped", "--model=cnn", f"--execution={execution}"),
            *(f"--precision={precision}", f"--output={RESULTS}/parity-{execution}-{precision}"),
        ]
        for execution in ("graph", "xla")
        for precision in PRECISIONS
    ]
    matrix = [
        *("benchmark", "--dataset=benchmarks.images:cifar_shaped", "--model=cnn,resnet20", "--batch_size=32,256"),
        *(f"--precision={','.join(PRECISIONS)}", f"--output={RESULTS}/benchmark", "--curves"),
    ]
    return [*certificates, matrix]


def main() -> int:
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
        print("make gpu: TensorFlow sees no GPU on this machine", file=sys.stderr)
        return 1
    failed = []
    for words in commands():
        print(f"loopwright {' '.join(words)}", flush=True)
        if subprocess.run([sys.executable, "-m", "loopwright.trainer", *words], check=False).returncode:
            failed.append(words)
    print(*(f"failed: loopwright {' '.join(words)}" for words in failed), sep="\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
