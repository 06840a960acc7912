"""Segment the pancreas and its tumours in CT scans from Python; docs/package.md has an example.

The names below are imported when they are first used, because torch takes seconds to import and the command
``pancreas-dual-task`` has to set up its process before.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data.common.errors import InputError
    from pancreas_dual_task.api import Cascade, Detection, Segmentation, load_cascade

__all__ = ["Cascade", "Detection", "InputError", "Segmentation", "load_cascade"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pancreas_dual_task import api

    return getattr(api, name)
