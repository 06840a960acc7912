"""The wheel is built, installed into an environment of its own, and used from a folder that is not the repository."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from data.common.files import REPOSITORY
from tests.tiny_cascade import write_runs, write_scan

FOLDERS = ("data", "models", "engine", "pancreas_dual_task")
FILES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", *(p.name for p in REPOSITORY.glob("requirements*.txt")))

# A command where the packages that are named first are not installed.
WITHOUT = """
import sys
packages, *words = sys.argv[1:]
sys.modules.update(dict.fromkeys(packages.split(",")))
from pancreas_dual_task.command import main
sys.exit(main(words))
"""
# What a user may write whose own modules are called like the folders of the repository.
USE = """
import sys
import data
from pancreas_dual_task import load_cascade
from pancreas_dual_task.engine.stages import STAGES

result = load_cascade("runs", device="cpu").segment("scan.nii.gz")
print(data.OWN, result.mask.shape, result.tumour_ml > 0, "models" in sys.modules, "engine" in sys.modules)
print(STAGES["tumor_fine"].script("evaluate"), *STAGES["tumor_fine"].words("train")[1:])
"""


def run(command: list[str | Path], folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command as on a machine where nothing is known of the repository."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | more
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Build the wheel from a copy of the code, because setuptools leaves its work beside it."""
    root = tmp_path_factory.mktemp("build")
    for name in FOLDERS:  # without the data sets of a user
        ignored = shutil.ignore_patterns("__pycache__", "prepared", "raw")
        shutil.copytree(REPOSITORY / name, root / "source" / name, ignore=ignored)
    for name in FILES:
        shutil.copyfile(REPOSITORY / name, root / "source" / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    ended = run([*pip, "--wheel-dir", root / "dist", root / "source"], root)
    assert ended.returncode == 0, ended.stderr
    (built,) = (root / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def scripts(wheel, tmp_path_factory) -> Path:
    """Install the wheel into a fresh environment that has the dependencies; return the folder of its programs."""
    root = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", root], check=True)
    packages = sysconfig.get_path("purelib", vars={"base": str(root), "platbase": str(root)})
    Path(packages, "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    pip = [root / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--ignore-installed"]
    ended = run([*pip, wheel], root)
    assert ended.returncode == 0, ended.stderr
    return root / "bin"


def test_the_wheel_holds_one_package_whose_modules_import_each_other_by_their_new_names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        sources = {name: archive.read(name).decode() for name in names if name.endswith(".py")}
    assert {name.split("/")[0] for name in names} == {"pancreas_dual_task"} and "pancreas_dual_task/py.typed" in names
    ours = [path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*.py")]
    assets = [path for path in (REPOSITORY / "engine").rglob("*") if path.is_file() and path.suffix[:3] != ".py"]
    assert len(sources) == len(ours) and len(names) == len(ours) + len(assets) + 1
    for name, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {module.split(".")[0] for module in modules} & {"data", "models", "engine"}, (name, modules)


def test_the_command_works_from_any_folder_and_keeps_data_and_runs_there(scripts, tmp_path):
    command = scripts / "pancreas-dual-task"
    listed = run([command, "--help"], tmp_path)
    assert listed.returncode == 0 and "predict        segment new scans" in listed.stdout
    assert run([command, "--version"], tmp_path).stdout.startswith("pancreas-dual-task 0")
    help_text = run([command, "train", "tumor_coarse", "--help"], tmp_path).stdout
    assert help_text.startswith("usage: pancreas-dual-task train tumor_coarse ")
    assert "(default: data/prepared)" in help_text and "(default: checkpoints)" in help_text
    refused = run([command, "splits"], tmp_path)
    advice = "Prepare your centres into it; how is shown by: pancreas-dual-task prepare --help"
    assert refused.returncode == 2
    assert refused.stderr == f"error: data/prepared: no centre is prepared here. {advice}\n"


def test_the_extras_are_those_that_messages_name_and_the_core_has_none_of_their_packages(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = [line.partition(": ") for line in archive.read(name).decode().splitlines()]
    extras = {value for key, _, value in lines if key == "Provides-Extra"}
    assert extras == {"report", "dicom", "onnx", "monai", "wandb", "mlflow", "dev"}
    needed = [value for key, _, value in lines if key == "Requires-Dist"]
    optional = ("highdicom", "onnx", "onnxscript", "onnxruntime", "monai", "fire", "nibabel", "wandb", "mlflow")
    for package in optional:
        found = [value for value in needed if re.match(rf"{package}\b(?!-)", value)]
        assert found and all("extra ==" in value for value in found), package


@pytest.mark.parametrize(
    ("packages", "extra", "words"),
    [
        ("highdicom", "dicom", "predict scan.nii.gz -o out --dicom-seg"),
        ("onnx,onnxscript,onnxruntime", "onnx", "export runs -o model.zip --onnx"),
        ("onnxscript", "onnx", "export runs -o model.zip --onnx"),
        ("monai", "monai", "export runs -o model.zip --monai tumor_fine"),
        ("wandb", "wandb", "train tumor_fine --tracker wandb"),
        ("mlflow", "mlflow", "train tumor_fine --tracker mlflow"),
    ],
)
def test_an_optional_package_that_is_absent_gives_one_line_that_names_its_extra(
    scripts, tmp_path, packages, extra, words
):
    ended = run([scripts / "python", "-c", WITHOUT, packages, *words.split()], tmp_path)
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr.endswith(f"nstall it: pip install 'pancreas-dual-task[{extra}]'\n")
    assert ended.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_model_can_be_exported(scripts, tmp_path):
    """Its card quotes the licence, which lies elsewhere in a wheel than in the repository."""
    write_runs(tmp_path / "runs")
    ended = run([scripts / "pancreas-dual-task", "export", "runs", "-o", "model.zip"], tmp_path)
    assert ended.returncode == 0, ended.stderr
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        assert "MIT License" in archive.read("MODEL_CARD.md").decode()


def test_the_library_leaves_the_names_of_the_user_alone(scripts, tmp_path):
    write_runs(tmp_path / "runs")
    write_scan(tmp_path / "scan.nii.gz")
    (tmp_path / "data.py").write_text("OWN = 'my own module'\n")
    (tmp_path / "use.py").write_text(USE)
    ended = run([scripts / "python", "use.py"], tmp_path)
    assert ended.stdout.splitlines() == [
        "my own module (14, 28, 30) True False False",
        "pancreas-dual-task evaluate tumor_fine -m pancreas_dual_task train tumor_fine",  # a study runs the latter
    ], ended.stderr
