"""Memory is asked for before it is needed, and arrays of zeros take it only where they are filled."""

import resource

import numpy as np
import pytest

from data.common import memory
from data.common.errors import InputError
from data.common.memory import free_memory, require_memory, zeros

MEMINFO = "MemTotal:       16000000 kB\nMemAvailable:    8000000 kB\n"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """``machine(cgroup, files)`` is a machine with 8.2 GB free, on which this process is in these control groups."""
    monkeypatch.setattr(memory, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path / "cgroup")

    def make(cgroup: str, files: dict[str, str]) -> None:
        for name, text in {"proc/meminfo": MEMINFO, "proc/self/cgroup": cgroup}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        for name, text in files.items():
            (tmp_path / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "cgroup" / name).write_text(text)

    return make


def test_without_a_container_the_machine_counts(machine):
    machine("0::/\n", {})
    assert free_memory() == 8_000_000 * 1024


def test_a_container_with_less_counts(machine):
    files = {
        "box/memory.max": "4000000000\n",
        "box/memory.current": "1500000000\n",
        "box/memory.stat": "anon 1\ninactive_file 500000000\n",
    }
    machine("0::/box/inner\n", files)  # the limit of a group binds the groups below it
    assert free_memory() == 3_000_000_000
    machine("0::/box\n", files | {"box/memory.max": "max\n"})
    assert free_memory() == 8_000_000 * 1024


def test_control_groups_of_the_first_version_count(machine):
    files = {
        "memory/docker/a/memory.limit_in_bytes": "2000000000\n",
        "memory/docker/a/memory.usage_in_bytes": "900000000\n",
        "memory/docker/a/memory.stat": "cache 1\ntotal_inactive_file 100000000\n",
    }
    machine("3:cpu:/docker/a\n4:memory:/docker/a\n0::/\n", files)
    assert free_memory() == 1_200_000_000


def test_what_does_not_fit_is_refused_with_both_amounts(machine):
    machine("0::/\n", {})
    require_memory("scan.nii", 8e9)
    with pytest.raises(InputError) as caught:
        require_memory("scan.nii", 9e9, remedy="use fewer --workers")
    assert str(caught.value) == (
        "scan.nii: it needs 9.0 GB of memory, but 8.2 GB are free. "
        "Use fewer --workers, or use a machine with more memory."
    )


@pytest.mark.parametrize("shape", [(2, 3, 4), (300, 512, 512)])
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16])
def test_zeros_are_an_ordinary_array(shape, dtype):
    array = zeros(shape, dtype)
    assert array.shape == shape and array.dtype == dtype and array.flags.writeable and not array[-1].any()
    array[0, 1] = 1
    assert array.sum() == shape[2]


def test_zeros_take_memory_only_where_they_are_filled():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    array = zeros((1000, 1000, 1000), np.uint8)
    array[500, 500] = 1
    assert array.sum(dtype=np.int64) == 1000  # reading takes none
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 100e6
