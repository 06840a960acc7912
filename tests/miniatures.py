"""The public data sets in miniature: their layout, file names, types, orientations and known defects, with tiny scans.

Each builder fills a folder and returns, for every case, what must be found in it once it is prepared.
"""

import json
from pathlib import Path

import nibabel as nib
import numpy as np

from tests.miniature_scan import MACOS_FILE, Known, Scan, dicom, save, scan, table, write


def msd(root: Path) -> dict[str, Known]:
    """Numbers with gaps, paths that start with ``./``, files of macOS, a case without tumour, images without labels."""
    known = {}
    for number in (1, 4, 10):
        name, made = f"pancreas_{number:03d}", scan(number, tumour=number != 4)
        save(root / "imagesTr" / f"{name}.nii.gz", made.hu.astype(np.float32 if number == 1 else np.int16), "RAS")
        save(root / "labelsTr" / f"{name}.nii.gz", made.label, "RAS")
        write(root / "imagesTr" / f"._{name}.nii.gz", MACOS_FILE)
        known[name] = made.known(name)
    save(root / "imagesTs" / "pancreas_002.nii.gz", scan(2).hu, "RAS")
    training = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in sorted(known)]
    labels = {"0": "background", "1": "pancreas", "2": "cancer"}
    listing = {"name": "Pancreas", "labels": labels, "training": training[::-1]}
    write(root / "dataset.json", json.dumps(listing | {"test": ["./imagesTs/pancreas_002.nii.gz"]}))
    return known


def nih(root: Path, flips: tuple[bool, bool] = (True, False)) -> dict[str, Known]:
    """DICOM scans; labels that match by index with these flips (z, y) and a wrong header; 0025 and 0070 lack scans."""
    known = {}
    for number in ("0001", "0002", "0024", "0069"):
        name, made = f"PANCREAS_{number}", scan(int(number), tumour=False)
        study = root / "Pancreas-CT" / name / f"11-24-2015-PANCREAS{number}-Pancreas-18957"
        dicom(study / "Pancreas-63502", made, f"1.2.{int(number)}")
        nih_label(root, number, made.label, flips)
        known[name] = made.known(name)
    for number in ("0025", "0070"):
        nih_label(root, number, scan(3).label, flips)
    return known


def nih_label(root: Path, number: str, label: np.ndarray, flips: tuple[bool, bool]) -> Path:
    """Write a label as the archive stores it: with these flips, and a header that does not place it on the scan."""
    stored = label[:: -1 if flips[0] else 1, :: -1 if flips[1] else 1]
    path = root / "TCIA_pancreas_labels-02-05-2017" / f"label{number}.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.ascontiguousarray(stored.T), np.diag([-1.6, 1.6, 2.5, 1.0])), path)
    return path


PANORAMA_ROWS = (  # study, diagnosis, level, folder of the label, orientation, data type of the label
    ("100000_00001", "non-PDAC", "radiology", "automatic", "LPS", np.float64),
    ("100002_00001", "PDAC", "histopathology", "manual", "RAS", np.float64),
    ("100003_00001", "PDAC", "cytology", "automatic", "LAI", np.uint16),
    ("100003_00002", "PDAC", "cytology", "automatic", "LPS", np.float64),
    ("100006_00001", "non-PDAC", "pathology", "automatic", "LPS", np.float64),
    ("100009_00001", "PDAC", "MSD_dataset", "manual", "RAS", np.float64),
    ("100015_00001", "non-PDAC", "NIH_dataset", "automatic", "LPS", np.float64),
)


def panorama(root: Path) -> dict[str, Known]:
    """Batches with and without a subfolder, both label folders, a patient with two studies, a scan of finer pixels."""
    known, rows = {}, []
    labels = root / "panorama_labels"
    for number, (study, label, level, annotation, orientation, dtype) in enumerate(PANORAMA_ROWS):
        made = scan(number, tumour=label == "PDAC", finer=2 if study == "100003_00002" else 1)
        batch = root / ("batch_1" if number % 2 else "batch_3/batch_3")
        save(batch / f"{study}_0000.nii.gz", made.hu, orientation, made.spacing)
        codes = panorama_codes(made)
        save(labels / f"{annotation}_labels" / f"{study}.nii.gz", codes.astype(dtype), orientation, made.spacing)
        patient = study.partition("_")[0]
        row = {"PANORAMA_patient_id": patient, "PANORAMA_study_id": study, "patient_age": "63", "patient_sex": "F"}
        rows.append(row | {"scanner": "Siemens" if number % 2 else "Toshiba", "label": label, "level": level})
        known[study] = made.known(patient)
    # A study with a manual label has an automatic one too, here one without the lesion.
    without = np.where(panorama_codes(scan(1)) == 1, 4, panorama_codes(scan(1)))
    save(labels / "automatic_labels" / "100002_00001.nii.gz", without.astype(np.float64), "RAS")
    table(labels / "clinical_information.csv", rows)
    return known


def panorama_codes(made: Scan) -> np.ndarray:
    """Parenchyma (4) with a duct (5), PDAC (1), and around them veins (2), arteries (3) and the bile duct (6)."""
    codes = np.select([made.label == 2, made.label == 1], [1, 4], 0).astype(np.uint8)
    gland = np.argwhere(made.label == 1)
    codes[tuple(gland[len(gland) // 2])] = 5
    codes[2, 20, 20:23] = (2, 3, 6)
    return codes


# Number, whether the label shows a tumour, and the column ``tumor?``.
PANTS_CASES = ((1, True, 1), (2, False, 0), (3, False, 1), (4, True, 2), (5, True, 1), (9001, True, 1))


def pants(root: Path) -> dict[str, Known]:
    """One mask per class.

    The lesion is in the mask of the pancreas (case 1) or not; masks hold 1.00000006 (4); a tumour is flagged but its
    mask is empty (3); a scan is missing (5).
    """
    known, rows = {}, []
    for number, tumour, flag in PANTS_CASES:
        name, made, part = f"PanTS_{number:08d}", scan(number, tumour), "Te" if number > 9000 else "Tr"
        if number != 5:
            save(root / f"Image{part}" / name / "ct.nii.gz", made.hu, "RAS")
        one = np.float32(1.00000006) if number == 4 else np.uint8(1)
        pancreas = made.label > 0 if number == 1 else made.label == 1
        masks = {"pancreas": pancreas, "pancreatic_lesion": made.label == 2, "aorta": made.hu > 300}
        for kind, mask in masks.items():
            save(root / f"Label{part}" / name / "segmentations" / f"{kind}.nii.gz", mask * one, "RAS")
        site = "NIH" if number == 2 else "MSD"
        rows.append({"PanTS ID": name, "manufacturer": "GE", "site": site, "tumor?": str(flag)})
        known[name] = made.known(name)
    table(root / "metadata.csv", rows)
    return known


def organ_codes(made: Scan, pancreas: int, others: tuple[int, ...]) -> np.ndarray:
    """The pancreas with its tumour under the data set's code, and a voxel of each of the other organs."""
    codes = np.where(made.label > 0, pancreas, 0).astype(np.uint8)
    codes[1, 10 : 10 + len(others), 20] = others
    return codes


def amos(root: Path) -> dict[str, Known]:
    """Training and validation parts with an MRI scan (0507), test images without labels, a table one level up."""
    known, rows = {}, []
    for number, part in ((1, "Tr"), (4, "Tr"), (13, "Va"), (507, "Tr")):
        name, made = f"amos_{number:04d}", scan(number)
        save(root / f"images{part}" / f"{name}.nii.gz", made.hu, "LAS")
        save(root / f"labels{part}" / f"{name}.nii.gz", organ_codes(made, 10, (1, 6, 13, 15)), "LAS")
        rows.append({"amos_id": str(number), "Manufacturer's Model Name": "Aquilion ONE", "Site": "2"})
        known[name] = made.known(name, tumour=False)
    save(root / "imagesTs" / "amos_0002.nii.gz", scan(2).hu)
    table(root.parent / "labeled_data_meta_0000_0599.csv", rows)
    return known


def btcv(root: Path) -> dict[str, Known]:
    """Two scans; image and label share only their number."""
    known = {}
    for number in (1, 22):
        made = scan(number)
        save(root / "img" / f"img{number:04d}.nii.gz", made.hu, "LAS")
        save(root / "label" / f"label{number:04d}.nii.gz", organ_codes(made, 11, (1, 6, 10, 13)), "LAS")
        known[f"{number:04d}"] = made.known(f"{number:04d}", tumour=False)
    return known


def word(root: Path) -> dict[str, Known]:
    """One scan in each of the three parts."""
    known = {}
    for number, part in ((2, "Tr"), (1, "Val"), (14, "Ts")):
        name, made = f"word_{number:04d}", scan(number)
        save(root / f"images{part}" / f"{name}.nii.gz", made.hu, "LPS")
        save(root / f"labels{part}" / f"{name}.nii.gz", organ_codes(made, 8, (1, 7, 9, 16)), "LPS")
        known[name] = made.known(name, tumour=False)
    return known


def totalsegmentator(root: Path) -> dict[str, Known]:
    """One folder per case, and a table that is separated by semicolons."""
    known, rows = {}, []
    for number in (0, 11, 1429):
        name, made = f"s{number:04d}", scan(number)
        save(root / name / "ct.nii.gz", made.hu, "RAS")
        for kind, mask in (("pancreas", made.label > 0), ("liver", made.hu > 150)):
            save(root / name / "segmentations" / f"{kind}.nii.gz", mask.astype(np.uint8), "RAS")
        rows.append({"image_id": name, "age": "70", "institute": "A" if number else "B", "split": "train"})
        known[name] = made.known(name, tumour=False)
    table(root / "meta.csv", rows, delimiter=";")
    return known


BUILDERS = {f.__name__: f for f in (msd, nih, panorama, pants, amos, btcv, word, totalsegmentator)}
