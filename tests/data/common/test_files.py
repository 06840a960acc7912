"""Files are written completely or not at all, folders are locked, and arrays are read by several threads."""

import gc
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from data.common.errors import InputError
from data.common.files import (
    REPOSITORY,
    check_replaceable,
    check_writable,
    exclusive_lock,
    make_folder,
    read_array,
    remove_unfinished,
    replacing,
)


@pytest.fixture
def collections_that_switch_threads():
    """Let Python collect garbage every few allocations, and switch threads each time, as a callback of hypothesis does.

    Without the lock in ``read_array`` this raises SystemError.
    """

    def yield_to_another(*_):
        time.sleep(0)

    threshold = gc.get_threshold()
    gc.callbacks.append(yield_to_another)
    gc.set_threshold(10)
    yield
    gc.set_threshold(*threshold)
    gc.callbacks.remove(yield_to_another)


def test_several_threads_can_read_arrays_at_once(tmp_path, collections_that_switch_threads):
    record = np.zeros((), [("a", "u1", 32), ("b", "f4", 3), ("c", "i1", (2, 2))])
    np.save(tmp_path / "record.npy", record)
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(read_array, [tmp_path / "record.npy"] * 400))
    assert all(array == record for array in read)


def test_an_array_can_stay_on_the_disk(tmp_path):
    np.save(tmp_path / "image.npy", np.arange(6, dtype=np.int16).reshape(1, 2, 3))
    image = read_array(tmp_path / "image.npy", mmap_mode="r")
    assert isinstance(image, np.memmap)
    np.testing.assert_array_equal(image, [[[0, 1, 2], [3, 4, 5]]])


def test_a_file_is_replaced_only_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "table.csv"
    with replacing(path) as unfinished:
        unfinished.write_text("first")
        assert not path.exists() and unfinished.suffix == ".csv"
    with pytest.raises(RuntimeError), replacing(path) as unfinished:
        unfinished.write_text("sec")
        raise RuntimeError
    assert path.read_text() == "first" and list(path.parent.iterdir()) == [path]


def test_leftovers_of_killed_processes_are_removed_from_the_given_folders(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    for folder in (tmp_path, inner):
        for name in (".1234.unfinished.mask.nii.gz", "mask.nii.gz"):
            (folder / name).touch()
    remove_unfinished([tmp_path])
    assert {path.name for path in tmp_path.iterdir()} == {"inner", "mask.nii.gz"} and len(list(inner.iterdir())) == 2


def test_a_locked_folder_is_refused_until_the_lock_is_released(tmp_path):
    with exclusive_lock(tmp_path / "store", "wait for the other run"), pytest.raises(InputError) as caught:
        exclusive_lock(tmp_path / "store", "wait for the other run").__enter__()
    assert caught.value.path == tmp_path / "store" and "cannot be locked" in caught.value.problem
    assert caught.value.remedy == "wait for the other run"
    with exclusive_lock(tmp_path / "store", "wait"):
        pass


def test_a_lock_that_outlives_its_killed_holder_in_a_child_is_waited_for(tmp_path):
    """The loader processes of a killed training live a few seconds longer; it can be resumed at once all the same."""
    program = f"""
import os, signal, time
from pathlib import Path
from data.common.files import (
    REPOSITORY,
    check_replaceable,
    check_writable,
    exclusive_lock,
    make_folder,
    read_array,
    remove_unfinished,
    replacing,
)
with exclusive_lock(Path({str(tmp_path)!r}), "wait"):
    if os.fork() == 0:
        os.close(1)
        time.sleep(1)
        os._exit(0)
    print("locked", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert killed.stdout == "locked\n" and killed.returncode == -signal.SIGKILL
    with pytest.raises(InputError, match="cannot be locked, because process"), exclusive_lock(tmp_path, "wait"):
        pass
    with exclusive_lock(tmp_path, "wait", patience_s=30):
        assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} ")


def test_a_file_that_another_process_is_writing_is_not_taken_for_a_leftover(tmp_path):
    dead = tmp_path / ".00000000.unfinished.table.csv"
    dead.touch()
    with replacing(tmp_path / "table.csv") as unfinished:
        unfinished.write_text("whole")
        remove = (
            "from pathlib import Path; from data.common.files import remove_unfinished; remove_unfinished([Path({!r})])"
        )
        subprocess.run([sys.executable, "-c", remove.format(str(tmp_path))], cwd=REPOSITORY, check=True)
        assert unfinished.exists() and not dead.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


NOWHERE = Path("/proc/nowhere")  # nobody can create a folder here, not even root


@pytest.mark.skipif(not NOWHERE.parent.is_dir(), reason="no /proc")
@pytest.mark.parametrize("use", [make_folder, check_writable, lambda f: check_replaceable(f / "table.json")])
def test_a_folder_that_cannot_be_created_is_named(use):
    with pytest.raises(InputError) as caught:
        use(NOWHERE)
    assert str(caught.value) == f"{NOWHERE}: this folder cannot be created or written to. Choose another folder."


@pytest.mark.parametrize("below", ["", "deeper", "deeper/still"])
@pytest.mark.parametrize("use", [make_folder, check_writable])
def test_a_file_in_the_place_of_a_folder_is_called_a_file(tmp_path, use, below):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(InputError) as caught:
        use(tmp_path / "out" / below)
    assert str(caught.value) == f"{tmp_path / 'out'}: it is a file, not a folder. Choose another folder."


def test_checking_a_folder_leaves_nothing_behind(tmp_path):
    check_writable(tmp_path / "new" / "deeper")
    check_replaceable(tmp_path / "new" / "table.json")
    check_writable(tmp_path)
    assert not any(tmp_path.iterdir())
    with pytest.raises(InputError, match="it is a folder, not a file"):
        check_replaceable(tmp_path)


def test_an_error_while_writing_names_the_file_and_not_its_temporary_name(tmp_path):
    path = tmp_path / "table.csv"
    path.mkdir()  # a folder cannot be replaced by a file
    with pytest.raises(IsADirectoryError) as caught, replacing(path) as unfinished:
        unfinished.write_text("x")
    assert caught.value.filename == str(path)
