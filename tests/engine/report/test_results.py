"""What the summary explains about the voxels of the cases."""

from types import SimpleNamespace

from engine.report.results import explain_surface_dice
from tests.study_parts import case


def explain(*spacings: tuple[float, float, float], **more: float) -> tuple[str, ...]:
    rows = [case(f"w/{i}", 0.5, **more) for i in range(len(spacings))] + [{"case": "w/x", "error": "unreadable"}]
    cases = {f"w/{i}": SimpleNamespace(scan_spacing=spacing) for i, spacing in enumerate(spacings)}
    return explain_surface_dice(rows, cases)


def test_the_tolerances_of_the_surface_dice_are_explained_where_the_voxels_cannot_tell_them_apart():
    (sentence,) = explain((3.0, 2.7, 2.7), (3.0, 0.8, 0.8), (5.0, 2.7, 2.7))
    assert sentence.startswith("nsd_1mm equals nsd_2mm in 2 of 3 cases")
    assert max(map(len, sentence.splitlines())) < 120
    assert explain((3.0, 0.8, 0.8), (3.0, 2.0, 3.0), (3.0, 2.00005, 3.0)) == ()
    assert explain((3.0, 2.7, 2.7), reference_ml=0.0) == ()
