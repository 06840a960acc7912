"""Loading of checkpoints of the published release, so that its users' weights keep their meaning in this project."""

import re
from collections.abc import Mapping

from torch import Tensor

from models.dual_task_net import HEADS, DualTaskNet

# Start of a parameter's name in the release (a regular expression) -> start of its name here.
_MODULES = (
    (r"conv_4_32\.0", "stem"),
    (r"conv_32_64\.0", "down2.0"),
    (r"conv_32_64\.2", "down2.2"),
    (r"conv_64_128\.0", "down4.0"),
    (r"conv_64_128\.2", "down4.2"),
    (r"conv_128_256\.0", "down8.0"),
    (r"conv_128_256\.2", "down8.2"),
    (r"layer0\.0", "encoder1"),
    (r"layer1", "encoder2"),
    (r"layer2", "encoder4"),
    (r"layer3", "encoder8"),
    (r"layer4", "bottom"),
    (r"fusionConv", "fusion"),
    (r"seg_x4\.0", "decoder4"),
    (r"seg_x2\.0", "decoder2"),
    (r"seg_x1\.0", "decoder1"),
    (r"seg_cls\.0", "seg"),
    (r"dt_cls\.0", "sdf"),
    (r"proj", "embedding"),
    (r"gn", "slice.norm"),
    (r"fc1", "slice.hidden"),
    (r"fc2", "slice.logit"),
)
# Parts of a residual block, anywhere in the rest of the name.
_BLOCK_PARTS = ((".gn1.", ".norm1."), (".gn2.", ".norm2."), (".downsample.", ".shortcut."))


def load_published(state_dict: Mapping[str, Tensor]) -> DualTaskNet:
    """Build the network of a published checkpoint.

    The width and the heads are inferred from the parameters. The network gives the outputs of the release's own
    network with the same weights, to rounding.

    Args:
        state_dict: Parameters under the release's names, of any of its three variants (pancreas, tumour coarse, tumour
            fine). A ``module.`` prefix, which multi-GPU training adds, is ignored.

    Returns:
        The network on the CPU, in evaluation mode.

    Raises:
        ValueError: If a parameter is unknown, missing or of the wrong shape; the message names it.
    """
    renamed = {_our_name(name.removeprefix("module.")): value for name, value in state_dict.items()}
    if not {"stem.weight", "seg.weight"} <= set(renamed):
        raise ValueError("not a checkpoint of the published release: conv_4_32.0.weight or seg_cls.0.weight is missing")
    heads = [head for head in HEADS if any(name.startswith(f"{head}.") for name in renamed)]
    net = DualTaskNet(width=renamed["stem.weight"].shape[0], heads=heads, head_input="raw")
    try:
        net.load_state_dict(renamed)
    except RuntimeError as error:
        raise ValueError(f"not a checkpoint of the published release: {error}") from error
    return net.eval()


def _our_name(name: str) -> str:
    for theirs, ours in _MODULES:
        renamed, found = re.subn(rf"^{theirs}(?=\.)", ours, name)
        if found:
            for part, our_part in _BLOCK_PARTS:
                renamed = renamed.replace(part, our_part)
            return renamed
    raise ValueError(f"not a checkpoint of the published release: unknown parameter {name}")
