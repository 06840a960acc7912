"""Connected components of masks."""

import cc3d
import numpy as np


def label_components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Number the 26-connected components of a mask.

    Args:
        mask: Boolean, shape (D, H, W).

    Returns:
        The number of each voxel's component, from 1 on, and 0 in the background; uint16 or uint32, shape (D, H, W).
        And how many components there are.
    """
    # As bytes, because cc3d 4.1.1 fails for boolean masks of a single row of voxels.
    return cc3d.connected_components(np.ascontiguousarray(mask).view(np.uint8), connectivity=26, return_N=True)
