"""The plan of the house: imports go one way only, make no circle, and a file is a thought that can be read."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from data.common.files import REPOSITORY

# Each room may import those to its right and itself. What stands in one tuple are modules of one floor.
FLOORS = ("pancreas_dual_task", "engine", "models", "data")
ROOMS = {
    "data": (
        ("data.export",),
        ("data.phantom.command", "data.phantom.__main__"),
        ("data.synthesis",),
        ("data.phantom",),
        ("data.augment",),
        ("data.warp",),
        ("data.samples",),
        ("data.verify",),
        ("data.contact_sheet",),
        ("data.prepare",),
        ("data.duplicates",),
        ("data.splits",),
        ("data.sources",),
        ("data.cases",),
        ("data.scans",),
        ("data.common",),
    ),
    "engine": (
        ("engine.study",),
        ("engine.evaluate",),
        ("engine.train", "engine.published", "engine.export"),
        ("engine.infer",),
        ("engine.report",),
        ("engine.options",),
        ("engine.detection", "engine.metrics", "engine.statistics", "engine.model_file", "engine.checkpoint"),
        ("engine.training_centres",),
        ("engine.memory",),
        ("engine.recipe",),
        ("engine.stages",),
        ("engine.method", "engine.processes"),
        ("engine.device",),
    ),
}
MOST_LINES = 400


@cache
def modules() -> dict[str, Path]:
    """Every module of the library by its dotted name; a package has the name of its folder."""
    files = [path for floor in FLOORS for path in (REPOSITORY / floor).rglob("*.py")]
    return {".".join(f.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"): f for f in files}


@cache
def imports() -> dict[str, set[str]]:
    """The modules of the library that each module imports, at its top or inside a function."""
    return {name: set(imported_by(path)) - {name} for name, path in modules().items()}


def imported_by(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in modules() else node.module for name in whole]
        else:
            continue
        yield from (name for name in names if name in modules())


def room_of(module: str, rooms: tuple[tuple[str, ...], ...]) -> int | None:
    """The position of the room that a module is in."""
    for position, room in enumerate(rooms):
        if any(module == name or module.startswith(f"{name}.") for name in room):
            return position
    return None


def test_no_floor_imports_the_one_above():
    for module, imported in imports().items():
        floor = FLOORS.index(module.split(".")[0])
        above = [name for name in imported if FLOORS.index(name.split(".")[0]) < floor]
        assert not above, f"{module} imports {above}"
    assert not any(
        name.startswith("data") for module in imports() if module.startswith("models") for name in imports()[module]
    )


@pytest.mark.parametrize("floor", ROOMS)
def test_rooms_import_only_those_to_their_right(floor):
    for module, imported in imports().items():
        if module.split(".")[0] != floor or module == floor:
            continue
        own = room_of(module, ROOMS[floor])
        assert own is not None, f"{module} is in no room of the plan"
        for name in imported:
            other = room_of(name, ROOMS[floor])
            assert other is None or other >= own, f"{module} imports {name}"


def test_imports_make_no_circle():
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path[path.index(module) :], module))
        if module not in done:
            for name in sorted(imports()[module]):
                visit(name, (*path, module))
            done.add(module)

    for module in imports():
        visit(module, ())


def test_no_file_is_too_long_to_read():
    files = [
        f
        for top in ("pancreas_dual_task", "data", "engine", "models", "tests", "experiments", "benchmarks")
        for f in (REPOSITORY / top).rglob("*.py")
    ]
    long = {str(f.relative_to(REPOSITORY)): n for f in files if (n := len(f.read_text().splitlines())) > MOST_LINES}
    assert not long


def test_entry_points_are_doors():
    doors = [*REPOSITORY.glob("train_*/*.py"), *REPOSITORY.glob("evaluate_*/*.py"), REPOSITORY / "predict.py"]
    # The command of the package sets up the process only when it knows its sub-command.
    doors += [f for name, f in modules().items() if name.endswith("__main__") and name.split(".")[0] in ROOMS]
    assert len(doors) >= 15
    for door in doors:
        text = door.read_text()
        assert len(text.splitlines()) <= 40 and text.index("set_up_process(") < text.index("import main")
