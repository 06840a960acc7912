"""The written test: its outcomes by domain, the p values after Holm, and what it refuses."""

import numpy as np
import pytest

from engine.study.runs import Run
from experiments import evidence
from tests.study_parts import case, fake_run

PATIENTS = ("a", "b", "c")


def make(folder, domain, seeds, variants, patients=PATIENTS):
    """Studies of a domain: each variant has a Dice in the base and in the held-out domain, and finds ml in twins."""
    for variant, (base, held_out, twin_ml) in variants.items():
        for seed in seeds:
            rows = []
            for n, patient in enumerate(patients):
                for centre, dice in (("portal_soft", base), (domain, held_out)):
                    rows.append(case(f"{centre}/{patient}_lesion", dice + 0.01 * n + 0.002 * seed))
                    free = case(f"{centre}/{patient}_free", 0.0, reference_ml=0.0, found_ml=twin_ml)
                    rows.append(free | {"dice": np.nan, "nsd_2mm": np.nan})
            fake_run(folder / domain, Run(variant, seed, f"to_{domain}"), rows)


ARMS = {"redesigned": (0.7, 0.55, 0.0), "fair-baseline": (0.7, 0.45, 3.0)}


def rows_of(out):
    return {line[:26].strip(): line[26:].split() for line in out.splitlines() if line.strip()}


def test_the_primary_contrast_and_the_secondary_outcomes(tmp_path, capsys):
    make(tmp_path, "hyper", (1, 2, 3), ARMS)
    make(tmp_path, "cystic", (4, 5, 6), ARMS)
    assert evidence.main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    rows = rows_of(out)
    assert "pairs of trainings: hyper 3, cystic 3" in out
    # All six pairs agree, and two of 64 sign patterns are as extreme; the secondary ones are four tests.
    assert rows["Dice, held out"] == ["0.567", "0.467", "+0.100", "+0.100", "to", "+0.100", "0.031"]
    assert rows["gap in Dice"][:3] == ["0.150", "0.250", "-0.100"] and rows["gap in Dice"][-2:] == ["0.031", "0.125"]
    assert rows["false positives in twins"][:3] == ["0.000", "1.000", "-1.000"]
    assert rows["missed lesions"][2] == "+0.000" and rows["missed lesions"][-2:] == ["1.000", "1.000"]
    assert rows["Dice, in-domain"][:3] == ["0.717", "0.717", "+0.000"] and len(rows["Dice, in-domain"]) == 6
    assert "closes by its held-out Dice: 40 %" in out


def test_two_trainings_an_arm_have_neither_interval_nor_p(tmp_path, capsys):
    make(tmp_path, "hyper", (1, 2), ARMS)
    assert evidence.main([str(tmp_path)]) == 0
    assert rows_of(capsys.readouterr().out)["Dice, held out"] == ["0.563", "0.463", "+0.100", "-", "-"]


def test_a_seed_that_serves_two_domains_is_refused(tmp_path, capsys):
    make(tmp_path, "hyper", (1, 2, 3), ARMS)
    make(tmp_path, "cystic", (3, 4, 5), ARMS)
    assert evidence.main([str(tmp_path)]) == 2
    assert "seed 3 was used for hyper already" in capsys.readouterr().err


@pytest.mark.parametrize("lacking", ["seed", "patient", "scan", "everything"])
def test_what_is_incomplete_is_refused(tmp_path, capsys, lacking):
    if lacking != "everything":
        make(tmp_path, "hyper", (1, 2, 3), {"redesigned": ARMS["redesigned"]})
        patients = PATIENTS[:2] if lacking == "patient" else PATIENTS
        seeds = (1, 2) if lacking == "seed" else (1, 2, 3)
        make(tmp_path, "hyper", seeds, {"fair-baseline": ARMS["fair-baseline"]}, patients)
    if lacking == "scan":
        for table in tmp_path.glob("hyper/redesigned/seed_2/**/cases.csv"):
            lines = table.read_text().splitlines()
            table.write_text("\n".join(line for line in lines if not line.startswith("portal_soft/b_free")) + "\n")
    assert evidence.main([str(tmp_path)]) == 2
    said = capsys.readouterr().err
    words = {"scan": "lacks scans of b", "everything": "holds no study"}
    assert words.get(lacking, "differ in their seeds or patients") in said
