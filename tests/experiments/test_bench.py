"""The bench: the same patients in every domain, twins that differ in the lesion only, and splits by patient."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.cases.store import read_store
from data.duplicates.patients import find_same_patients
from data.phantom.anatomy import Tissue
from data.splits.frozen import frozen_splits
from data.splits.split import Split
from experiments import bench
from experiments.bench import PARTS, Job, find_anatomies, make_splits
from experiments.bench_anatomy import LUMP_OVER, SHORTEST_DUCT_MM, Patient, draw_patient, scan
from experiments.bench_domains import DOMAINS, HELD_OUT, TRAINING, Domain, materials_in, random_constitution

BY_NAME = {domain.name: domain for domain in DOMAINS}


def write_label_map(path: Path, lesion: bool) -> Path:
    """A label map: a gland along x, 80 mm long, with an artery behind it, and a lesion of 14 mm in its middle."""
    labels = np.zeros((20, 20, 50), np.uint8)
    labels[6:14, 4:12, 4:44] = 4
    labels[:, 15:18, 22:26] = 3
    if lesion:
        labels[7:13, 4:11, 20:27] = 1
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        path,
        labels=labels,
        box_start=np.array([20, 60, 50]),
        scan_shape=np.array([60, 150, 170]),
        spacing=np.array([2.5, 2.0, 2.0]),
    )
    return path


@pytest.fixture(scope="module")
def patient(tmp_path_factory) -> Patient:
    path = write_label_map(tmp_path_factory.mktemp("maps") / "healthy.npz", lesion=False)
    return draw_patient(np.random.default_rng(3), path)


def lesion_contrast(patient: Patient, domain: Domain) -> float:
    """HU of the lesion less those of the same voxels in the twin, where they are gland."""
    image, label, _ = scan(patient, domain, [1], lesion=True)
    twin, _, _ = scan(patient, domain, [1], lesion=False)
    return float((image.astype(float) - twin)[label == 2].mean())


def test_a_held_out_domain_differs_from_its_base_in_one_thing():
    assert len(TRAINING) == 4 and len(HELD_OUT) == 6 and {d.base for d in HELD_OUT} <= {d.name for d in TRAINING}
    for domain in HELD_OUT:
        base = BY_NAME[domain.base]
        lesion = (domain.lesion_hu, domain.cystic, domain.duct_only) != (base.lesion_hu, False, False)
        phase = domain.seconds != base.seconds
        scanner = (domain.spacing, domain.acquisition) != (base.spacing, base.acquisition)
        # Without contrast agent a lesion differs less from the gland, which is the same thing.
        assert (phase or lesion) + scanner == 1


@pytest.mark.parametrize("name", ["portal_soft", "non_contrast", "hyper", "cystic", "iso_duct"])
def test_lesions_are_as_their_domain_says(name):
    domain, patient = BY_NAME[name], random_constitution(np.random.default_rng(0))
    mean = materials_in(domain, patient).mean
    relative = mean[Tissue.LESION] - (0 if domain.cystic else mean[Tissue.PARENCHYMA])
    assert domain.lesion_hu[0] <= relative <= domain.lesion_hu[1]
    brightest = mean[Tissue.ARTERY]
    assert brightest < 60 if name == "non_contrast" else brightest > 100


def test_a_twin_differs_in_the_lesion_only(patient):
    for name, low, high in (("portal_soft", -60, -15), ("hyper", 10, 50)):
        assert low < lesion_contrast(patient, BY_NAME[name]) < high
    undilated = replace(patient, obstructed=False)
    image, label, _ = scan(undilated, BY_NAME["portal_soft"], [1], lesion=True)
    twin, twin_label, _ = scan(undilated, BY_NAME["portal_soft"], [1], lesion=False)
    assert not (twin_label == 2).any() and ((twin_label > 0) == (label > 0)).all()
    where = np.argwhere(image != twin)
    lesion = np.argwhere(label == 2)
    assert (where.min(axis=0) >= lesion.min(axis=0) - 4).all() and (where.max(axis=0) <= lesion.max(axis=0) + 4).all()


def test_the_bulge_has_the_shape_of_the_lesion_and_is_gland_in_both_versions(patient):
    assert np.array_equal(patient.bulge.field.values, patient.lesion.field.values)
    with_lesion, twin = patient.paint(lesion=True, dilated=False), patient.paint(lesion=False, dilated=False)
    inside = patient.bulge.field.sample(patient.scene.axes) < 0
    inside &= np.isin(patient.tissues, LUMP_OVER)  # vessels and solid organs stay
    assert (twin[inside] == Tissue.PARENCHYMA).all() and (patient.tissues[inside] != Tissue.PARENCHYMA).any()
    assert (with_lesion[inside] != Tissue.LESION).mean() > 0.8  # they hardly overlap


def test_a_dilated_duct_leads_from_the_lesion_to_the_tail(patient):
    assert patient.duct is not None
    duct = np.argwhere(patient.paint(lesion=True, dilated=True) == Tissue.DUCT)
    lesion = np.argwhere(patient.paint(lesion=True, dilated=True) == Tissue.LESION)
    assert np.ptp(duct, axis=0).max() > SHORTEST_DUCT_MM / 2  # what of it the lesion does not cover
    assert duct[:, 2].mean() > lesion[:, 2].mean()
    assert not (patient.paint(lesion=False, dilated=True) == Tissue.DUCT).any()
    shown = scan(patient, BY_NAME["iso_duct"], [1], lesion=True)[0]
    assert (shown != scan(replace(patient, duct=None), BY_NAME["iso_duct"], [1], lesion=True)[0]).any()


def test_places_of_lesions_spread_over_the_whole_gland(tmp_path):
    path = write_label_map(tmp_path / "healthy.npz", lesion=False)
    found = []
    for seed in range(12):
        drawn = draw_patient(np.random.default_rng(seed), path)
        field = drawn.lesion.field
        found.append((field.start + field.stop)[2] / 2)
    assert np.ptp(found) > 45  # of a gland that is 80 mm long


def test_a_drawn_lesion_stays_where_it_was_drawn(tmp_path):
    path = write_label_map(tmp_path / "drawn.npz", lesion=True)
    patient = draw_patient(np.random.default_rng(0), path)
    _, label, spacing = scan(patient, BY_NAME["portal_soft"], [1], lesion=True)
    drawn_ml = 6 * 7 * 7 * 2.5 * 2 * 2 / 1000
    assert patient.drawn
    assert np.count_nonzero(label == 2) * np.prod(spacing) / 1000 == pytest.approx(drawn_ml, rel=0.2)


def test_every_domain_sees_the_same_gland(patient):
    volumes, middles = [], []
    for domain in (BY_NAME["portal_soft"], BY_NAME["thick_soft"], BY_NAME["matrix"]):
        image, label, spacing = scan(patient, domain, [1], lesion=True)
        assert image.dtype == np.int16 and spacing == domain.spacing
        volumes.append(np.count_nonzero(label) * np.prod(spacing))
        middles.append((np.argwhere(label > 0).mean(axis=0) + 0.5) * spacing)
        # An end of the gland may round to the next slice.
        assert (np.abs(middles[-1] - middles[0]) <= 0.35 * np.array(spacing)).all()
    np.testing.assert_allclose(volumes, volumes[0], rtol=0.1)


def test_the_command_makes_centres_and_splits_by_patient_and_the_same_voxels_again(tmp_path, monkeypatch, capsys):
    few = [BY_NAME[name] for name in ("portal_soft", "hyper")]
    monkeypatch.setattr(bench, "DOMAINS", few)
    monkeypatch.setattr(bench, "TRAINING", few[:1])
    monkeypatch.setattr(bench, "HELD_OUT", few[1:])
    monkeypatch.setattr(bench, "PARTS", ("train", "validation", "test"))
    for index in range(3):
        write_label_map(tmp_path / "maps" / "a" / f"map_{index}.npz", lesion=index == 1)
    stores = [tmp_path / "one", tmp_path / "two"]
    for store in stores:
        argv = [str(store), "--anatomy", str(tmp_path / "maps"), "--patients", "3"]
        assert bench.main(argv) == 0
    centres = read_store(stores[0])
    assert {name: len(cases) for name, cases in centres.items()} == {"hyper": 6, "portal_soft": 6}
    for case in centres["hyper"]:
        other = stores[1] / case.centre / case.name / "image.npy"
        assert np.array_equal(case.image(), np.load(other))
    splits = frozen_splits(stores[0], centres, save=False)
    assert splits["to_hyper"].train == splits["bench"].train and splits["to_hyper"].test != splits["bench"].test
    assert sorted(key.split("/")[0] for key in splits["to_hyper"].test) == ["hyper"] * 2 + ["portal_soft"] * 2
    part_of = {key: part for part, keys in splits["to_hyper"].parts.items() for key in keys}
    pairs = find_same_patients([case for cases in centres.values() for case in cases])
    assert pairs and all(part_of[a] == part_of[b] for a, b, _ in pairs if a in part_of and b in part_of)
    assert bench.main([str(stores[0]), "--anatomy", str(tmp_path / "maps"), "--patients", "3", "--seed", "1"]) == 2
    assert "other settings" in capsys.readouterr().err


def test_each_validation_patient_counts_once(tmp_path):
    jobs = [Job(index, 0, None, tmp_path) for index in range(4 * len(PARTS))]
    for job in jobs:
        job.mark.parent.mkdir(exist_ok=True)
        job.mark.write_text(json.dumps([f"{d.name}/{job.patient}_{v}" for d in DOMAINS for v in ("lesion", "free")]))
    split: Split = make_splits(jobs)["to_cystic"]
    assert (len(split.train), len(split.validation), len(split.test)) == (16 * 4 * 2, 8, 12 * 2 * 2)
    assert {key.split("/")[0] for key in split.validation} == {domain.name for domain in TRAINING}
    assert len({key.split("/")[1].rpartition("_")[0] for key in split.validation}) == 8
    assert sum(key.endswith("_free") for key in split.validation) == 4
    assert {key.split("/")[0] for key in split.test} == {"cystic", "portal_soft"}


def test_healthy_and_drawn_maps_come_in_turn_and_too_few_are_said(tmp_path, capsys):
    for name in ("a", "b", "c"):
        write_label_map(tmp_path / f"drawn_{name}.npz", lesion=True)
    write_label_map(tmp_path / "x" / "healthy.npz", lesion=False)
    assert [path.stem for path in find_anatomies(tmp_path, 3)] == ["healthy", "drawn_a", "drawn_b"]
    assert bench.main([str(tmp_path / "out"), "--anatomy", str(tmp_path), "--patients", "9"]) == 2
    assert "holds 4 label maps" in capsys.readouterr().err and not (tmp_path / "out").exists()
