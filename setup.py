"""Packaging: the folders at the top of the repository are imported as `loopwright.<folder>` (see BUILD.md)."""

from pathlib import Path

from setuptools import setup

PACKAGES = {
    "loopwright.flags": "flags",
    "loopwright.data": "data",
    "loopwright.models": "models",
    "loopwright.trainer": "trainer",
    "loopwright.trainer.base": "trainer/base",
    "loopwright.trainer.core": "trainer/core",
    "loopwright.trainer.checkpoint": "trainer/checkpoint",
    "loopwright.trainer.export": "trainer/export",
    "loopwright.trainer.observe": "trainer/observe",
    "loopwright.trainer.hooks": "trainer/hooks",
    "loopwright.trainer.compare": "trainer/compare",
    "loopwright.trainer.tasks": "trainer/tasks",
    "loopwright.trainer.commands": "trainer/commands",
    "loopwright.trainer.commands.train": "trainer/commands/train",
    "loopwright.trainer.commands.benchmark": "trainer/commands/benchmark",
}

DEMO = ["mlxtend>=0.23"]
PLOTS = ["matplotlib>=3.8", "jinja2>=3.1", "pillow>=10.1"]
BROWSER = ["selenium>=4.48"]
TEST = ["pytest>=8", "pytest-xdist>=3.6", "hypothesis>=6.100"]

setup(
    name="loopwright",
    version="0.1.0",
    description="Custom training loops for Keras 3 models on TensorFlow",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=list(PACKAGES),
    package_dir=PACKAGES,
    package_data={name: ["py.typed", "*.jinja"] for name in PACKAGES},
    install_requires=[
        "absl-py>=2.1",
        "importlib_resources>=6",  # TFDS imports it, but does not declare it
        "keras>=3.15.1",  # older versions open malicious model files
        "numpy>=1.26",
        "rich>=13",
        "tensorboard>=2.20",  # tf.summary needs it, and TensorFlow 2.21 no longer brings it
        "tensorflow>=2.21",
        "tensorflow-datasets>=4.9.10",
    ],
    extras_require={
        "demo": DEMO,
        "plots": PLOTS,
        "profile": ["xprof>=2.20"],
        "browser": BROWSER,
        "gpu": ["tensorflow[and-cuda]>=2.21"],
        "test": TEST + DEMO + PLOTS,
        "dev": TEST + DEMO + PLOTS + BROWSER + ["ruff>=0.9", "mypy>=1.13", "build>=1.2"],
    },
    entry_points={"console_scripts": ["loopwright = loopwright.trainer.__main__:main"]},
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
