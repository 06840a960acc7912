import numpy as np

from data.phantom.fields import Field, ellipsoid, tubes
from data.synthesis.organ_codes import PANCREAS
from data.synthesis.vessels import distance_at, gland_course, place_cava, place_duodenum, splanchnic_vessels

GLAND = ellipsoid((0, -10, -20), (25, 14, 40), 2.0)


def _width(vessel: Field, height: float) -> tuple[float, float]:
    """Measure a vessel in one slice: depth and width in mm."""
    axes = (np.array([height]), np.arange(-20.0, 50, 0.5), np.arange(-70.0, 30, 0.5))
    inside = distance_at(vessel, axes)[0] < 0
    return 0.5 * inside.any(axis=1).sum(), 0.5 * inside.any(axis=0).sum()


def test_a_vena_cava_is_round_or_flat_and_as_wide_as_in_patients():
    sizes = [_width(place_cava(np.random.default_rng(seed), [GLAND]), -60.0) for seed in range(12)]
    depth, width = np.array(sizes).T
    assert (width > 11).all() and (width < 37).all() and np.ptp(width) > 5
    assert (depth < width + 1).all() and (depth / width).min() < 0.7


def test_a_vena_cava_keeps_away_from_an_organ_in_its_way():
    in_the_way = ellipsoid((-60, 18, -8), (20, 8, 8), 2.0)
    axes = (np.array([-60.0]), np.arange(-20.0, 50), np.arange(-70.0, 30))

    def middle(organs: list[Field]) -> float:
        return np.argwhere(distance_at(place_cava(np.random.default_rng(3), organs), axes)[0] < 0)[:, 1].mean()

    assert middle([GLAND, in_the_way]) < middle([GLAND]) - 3


def test_a_duodenum_runs_down_beside_the_head_and_under_it_to_the_left():
    for seed in range(8):
        samples = place_duodenum(np.random.default_rng(seed), GLAND)
        bowel = tubes(samples, 2.0)
        beside = samples[(np.abs(samples[:, 0]) < 15) & (samples[:, 2] < -40)]
        assert len(beside) and (beside[:, 2] < GLAND.start[2] + 40).all()
        nodes = np.argwhere(GLAND.values < 0) * GLAND.step + GLAND.start
        distance = np.array([distance_at(bowel, tuple(np.array([c]) for c in node)).item() for node in nodes[::7]])
        assert distance.min() < 5  # it touches the head, or nearly so
        assert (distance < 0).mean() < 0.2  # and runs around it, not through it
        assert samples[:, 0].min() < -25 and samples[-1, 2] > 30


def test_the_mesenteric_vessels_pass_in_front_of_the_duodenum():
    organs = {
        PANCREAS: GLAND,
        "liver": ellipsoid((30, -5, -85), (70, 60, 50)),
        "spleen": ellipsoid((30, 28, 110), (45, 40, 26)),
    }
    veins, arteries, *_ = splanchnic_vessels(organs, gland_course(GLAND), -150.0)
    for seed in range(8):
        samples = place_duodenum(np.random.default_rng(seed), GLAND)
        crossing = samples[(np.abs(samples[:, 2] - 4) < 12) & (samples[:, 0] < -25)]
        assert len(crossing)
        for vessels in (veins, arteries):
            for z, y, x, radius in crossing:
                column = (np.array([z]), np.arange(-40.0, 30), np.array([x]))
                inside = column[1][distance_at(vessels, column)[0, :, 0] < 0]
                assert (inside < y - 0.4 * radius).all()
