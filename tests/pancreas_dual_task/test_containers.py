"""What the recipes of the containers copy and start exists; building them needs a container runtime."""

import fnmatch
import json
import re

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
