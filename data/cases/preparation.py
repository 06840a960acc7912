"""How a scan becomes a prepared case: the settings that all cases of a store share."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace


@dataclass(frozen=True)
class Preparation:
    """How cases are prepared. Its hash goes into every manifest, so that a store never mixes two ways."""

    format: int = 1
    orientation: str = "LPS"
    image: str = "int16 HU"
    label: str = "uint8 0 background, 1 pancreas, 2 tumour"
    crop: str = "none"  # or "body"
    spacing: tuple[float, float, float] | None = None  # (z, y, x) mm; None: as scanned

    @staticmethod
    def from_json(fields: dict) -> "Preparation":
        """The inverse of ``to_json``. Raises TypeError for what is no preparation."""
        spacing = fields.get("spacing")
        return Preparation(**{**fields, "spacing": tuple(spacing) if spacing else None})

    def to_json(self) -> dict:
        """Without what is neither cropped nor resampled, so that stores made before there was a choice stay valid."""
        return {key: value for key, value in asdict(self).items() if (key, value) not in _NOT_CHANGED}

    @property
    def hash(self) -> str:
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def readable(self) -> bool:
        """Whether this version of the program reads cases prepared so."""
        return replace(self, crop="none", spacing=None) == Preparation()

    def __str__(self) -> str:
        """What ``python -m data.prepare`` is told to prepare so."""
        spacing = f" --spacing {' '.join(f'{s:g}' for s in self.spacing)}" if self.spacing else ""
        return f"--crop {self.crop}{spacing}"


_NOT_CHANGED = (("crop", "none"), ("spacing", None))
