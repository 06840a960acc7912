"""Arrays are read in threads, and whoever collects garbage meanwhile may hand over to another one."""

import gc
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from data.common.files import read_array


@pytest.fixture
def collections_that_change_threads():
    """Every few allocations; hypothesis, for one, has such a callback."""

    def yield_to_another(*_):
        time.sleep(0)

    threshold = gc.get_threshold()
    gc.callbacks.append(yield_to_another)
    gc.set_threshold(10)
    yield
    gc.set_threshold(*threshold)
    gc.callbacks.remove(yield_to_another)


def test_threads_may_read_headers_at_once(tmp_path, collections_that_change_threads):
    record = np.zeros((), [("a", "u1", 32), ("b", "f4", 3), ("c", "i1", (2, 2))])
    np.save(tmp_path / "record.npy", record)
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(read_array, [tmp_path / "record.npy"] * 400))
    assert all(one == record for one in read)


def test_an_array_can_stay_on_disk(tmp_path):
    np.save(tmp_path / "image.npy", np.arange(6, dtype=np.int16).reshape(1, 2, 3))
    image = read_array(tmp_path / "image.npy", mmap_mode="r")
    assert isinstance(image, np.memmap)
    np.testing.assert_array_equal(image, [[[0, 1, 2], [3, 4, 5]]])
