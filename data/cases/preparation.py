"""How scans become prepared cases: the settings that all cases of a store share."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace


@dataclass(frozen=True)
class Preparation:
    """The settings of a preparation. Every manifest records them with their hash, so that a store never mixes two.

    Attributes:
        format: Version of the layout on disk.
        orientation: Anatomical orientation of the arrays.
        image: Type and unit of the image.
        label: Type and meaning of the label.
        crop: "body" crops the scan to the body and the label, "none" keeps all of it.
        spacing: Voxel spacing (z, y, x) in mm after resampling, or None for the scan's own.
    """

    format: int = 1
    orientation: str = "LPS"
    image: str = "int16 HU"
    label: str = "uint8 0 background, 1 pancreas, 2 tumour"
    crop: str = "none"
    spacing: tuple[float, float, float] | None = None

    @staticmethod
    def from_json(fields: dict) -> "Preparation":
        """Invert ``to_json``.

        Raises:
            TypeError: If the fields are not those of a preparation.
        """
        spacing = fields.get("spacing")
        return Preparation(**{**fields, "spacing": tuple(spacing) if spacing else None})

    def to_json(self) -> dict:
        """Convert to the fields of a manifest.

        ``crop`` and ``spacing`` are left out where they change nothing: stores that were prepared before these two
        settings existed then have the same hash and stay valid.
        """
        unchanged = (("crop", "none"), ("spacing", None))
        return {key: value for key, value in asdict(self).items() if (key, value) not in unchanged}

    @property
    def hash(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of the settings."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def readable(self) -> bool:
        """Whether this version of the program can read cases that were prepared in this way."""
        return replace(self, crop="none", spacing=None) == Preparation()

    def __str__(self) -> str:
        """The options with which ``python -m data.prepare`` prepares cases in this way."""
        spacing = f" --spacing {' '.join(f'{s:g}' for s in self.spacing)}" if self.spacing else ""
        return f"--crop {self.crop}{spacing}"
