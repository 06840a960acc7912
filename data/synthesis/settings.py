"""What of a randomised patient varies, and how widely."""

from dataclasses import dataclass, field

VERSION = 2  # of the renderer; to be raised when the same seed gives another patient


@dataclass(frozen=True)
class Synthesis:
    """The settings of the randomised patients. A checkpoint keeps those that its network was trained with."""

    intensity: float = field(
        default=1.0,
        metadata={"help": "how widely phase, grey values and texture vary; 0 for the same portal-venous phase always"},
    )
    shape: float = field(
        default=1.0,
        metadata={
            "help": "how widely bodies and organs vary, and how far they are deformed; 0 for none; from 1 to 2, only "
            "the deformation grows"
        },
    )
    resolution: float = field(
        default=1.0,
        metadata={"help": "how widely kernel, noise, slice thickness and artefacts vary; 0 for one good scanner"},
    )
    labels: str = field(
        default="",
        metadata={
            "help": "label maps of organs, as DIR:TABLE, or painted torsos, as DIR:torsos (docs/data.md, Synthetic "
            "torsos); empty for neither"
        },
    )
    # An even round mass that counts as pancreas looks like a vena cava or bowel in unenhanced scans. If most patients
    # have one, a network may take those for pancreas, too.
    tumours: float = field(default=0.25, metadata={"help": "share of the patients with a tumour"})

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: If a setting is out of its range.
        """
        if not all(0 <= amount <= 1 for amount in (self.intensity, self.resolution)):
            raise ValueError("intensity and resolution must be between 0 and 1")
        if not 0 <= self.shape <= 2:
            raise ValueError("shape must be between 0 and 2")
        if not 0 <= self.tumours <= 1:
            raise ValueError("tumours is a share between 0 and 1")
