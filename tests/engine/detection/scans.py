"""Scans with lesions and candidates, for the tests of detection."""

import numpy as np

from engine.detection.match import Lesion, ScanDetection


def scan(name: str, lesions: dict[float, float] | None = None, false: tuple[float, ...] = (), **changes):
    """A scan with lesions, as diameter: confidence, and false positives; it is a patient of its own."""
    found = tuple(
        Lesion(diameter, confidence, 0.5 if confidence else 0.0) for diameter, confidence in (lesions or {}).items()
    )
    score = max([lesion.confidence for lesion in found] + list(false), default=0.0)
    facts = {"centre": "west", "patient": name, "score": score} | changes
    return ScanDetection(case=name, lesions=found, false_positives=tuple(false), **facts)


def random_scans(seed: int, count: int) -> list[ScanDetection]:
    """Scans with up to two lesions, some of them missed, and up to two false positives; some confidences are tied."""
    rng = np.random.default_rng(seed)
    scans = []
    for n in range(count):
        lesions = {
            float(rng.uniform(5, 60)): float(np.round(rng.uniform(0.1, 1), 2)) * bool(rng.random() < 0.7)
            for _ in range(rng.integers(0, 3))
        }
        scans.append(scan(f"s{n:03d}", lesions, tuple(np.round(rng.uniform(0.1, 0.8, rng.integers(0, 3)), 2).tolist())))
    return scans
