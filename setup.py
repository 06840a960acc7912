"""The wheel: the folders data, models and engine become parts of one package, ``pancreas_dual_task``.

In the repository they are packages of their own, which the scripts import as ``data``, ``models`` and ``engine``. In
the environment of a user these names belong to the user, so the import statements are rewritten when the wheel is
built. docs/package.md explains the choice. Everything else about the package is in pyproject.toml.
"""

import re
import sys
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

PACKAGE = "pancreas_dual_task"
FOLDERS = ("data", "models", "engine")
IMPORT = re.compile(rf"^([ ]*)from (?=(?:{'|'.join(FOLDERS)})(?:\.\w+)* import )", re.MULTILINE)
IS_EDITABLE = "editable_wheel" in sys.argv  # pip install -e: the repository as it is, with its own names


class BuildUnderOneName(build_py):
    """Copies modules into the wheel and rewrites ``from data.`` to ``from pancreas_dual_task.data.`` and the like."""

    def build_module(self, module: str, module_file: str, package: str) -> tuple[str, bool]:
        """Copy a module and rewrite its imports; returns its new path and whether it was copied."""
        path, is_copied = super().build_module(module, module_file, package)
        source = Path(path).read_text(encoding="utf-8")
        Path(path).write_text(IMPORT.sub(rf"\1from {PACKAGE}.", source), encoding="utf-8")
        return path, is_copied


def requirements(name: str) -> list[str]:
    """Return the requirements of a file, with those of the files that it includes by ``-r``."""
    found: list[str] = []
    for line in Path(name).read_text(encoding="utf-8").splitlines():
        found += requirements(line.split()[1]) if line.startswith("-r ") else [line]
    return found


def development(*names: str) -> list[str]:
    """Return the requirements of these packages among those of the development."""
    return [line for line in requirements("requirements-dev.txt") if re.split(r"[\W]", line)[0] in names]


packages = find_packages(include=[part for folder in (PACKAGE, *FOLDERS) for part in (folder, f"{folder}.*")])
# What the pages of reports are made of, for instance; data/ may hold the data sets of a user and is not searched.
assets = [str(p.relative_to("engine")) for p in Path("engine").rglob("*") if p.is_file() and p.suffix[:3] != ".py"]
places = {name if name.startswith(PACKAGE) else f"{PACKAGE}.{name}": name.replace(".", "/") for name in packages}

setup(
    packages=packages if IS_EDITABLE else list(places),
    package_dir={} if IS_EDITABLE else places,
    package_data={PACKAGE: ["py.typed"], f"{PACKAGE}.engine": assets},
    install_requires=requirements("requirements.txt"),
    extras_require={
        "report": [],  # reports need nothing more; whoever asks for the extra gets what there is
        "dicom": requirements("requirements-dicom.txt"),
        "onnx": development("onnx", "onnxscript", "onnxruntime"),
        "monai": development("monai", "fire", "nibabel"),
        "wandb": ["wandb>=0.20"],
        "mlflow": ["mlflow>=3"],
        "dev": requirements("requirements-dev.txt"),
    },
    cmdclass={"build_py": BuildUnderOneName},
)
