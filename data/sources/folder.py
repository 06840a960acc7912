"""Your own scans: a folder of images and one of labels, or a table that names the files of each case."""

from collections import Counter
from pathlib import Path

from data.common.errors import InputError
from data.sources.base import About, Entry, case_name, group_by_case, missing_file, pair, sorted_by_name
from data.sources.label_map import LabelMap
from data.sources.tables import TableRow, read_table, require_columns


class Folder:
    """Scans in ROOT/images and ROOT/labels, paired by name, or in a table: ROOT/cases.csv, or a .csv as ROOT.

    The table has the columns ``image`` and ``label``, with paths that are absolute or relative to the table. Optional
    columns are ``case`` (the name; otherwise that of the image's file), ``patient``, ``series`` (which series of a
    DICOM folder is read, as ``--series`` names it) and any others, such as ``centre``, whose values ``--centre-by``
    can turn into centres.
    """

    summary = (
        "images/<case>.<ext> or images/<case>/ (DICOM), labels/<case>.<ext> (or .dcm: SEG); or cases.csv (or ROOT "
        "itself a .csv) with the columns image,label,patient,centre; codes 0/1/2 or by name"
    )
    about = About("your own scans", "yours", "by name in the file; 1 pancreas, 2 tumour; --labels", "-")

    def codes(self, root: Path) -> LabelMap:
        """Return the codes that prepared cases have too: 1 pancreas, 2 tumour."""
        return LabelMap.parse("1=1,2=2")

    def entries(self, root: Path) -> list[Entry]:
        """List the cases of the table, if there is one, or of the folders; see ``Source.entries``."""
        table = root if root.suffix.lower() == ".csv" and not root.is_dir() else root / "cases.csv"
        if table.is_file() or table == root:
            return self._read_cases(table)
        image_folder, label_folder = root / "images", root / "labels"
        images = group_by_case(image_folder, dicom=True)
        return pair(images, group_by_case(label_folder, labels=True), image_folder, label_folder)

    def remarks(self, root: Path) -> list[str]:
        """Return no remarks: nothing is left out."""
        return []

    def _read_cases(self, table: Path) -> list[Entry]:
        rows = read_table(table)
        require_columns(table, rows, "image", "label")
        entries = [self._entry(table, number, row) for number, row in enumerate(rows, start=2)]
        repeated = [name for name, count in Counter(entry.name for entry in entries).items() if count > 1]
        if repeated:
            problem = f"{len(repeated)} case names appear in several rows, such as {repeated[0]}"
            raise InputError(table, problem, "give every row a name of its own in the column 'case'")
        return sorted_by_name(entries)

    def _entry(self, table: Path, number: int, row: TableRow) -> Entry:
        image, label = (table.parent / row[side] if row[side] else None for side in ("image", "label"))
        name = row.get("case") or (image and (case_name(image.name) or image.name)) or f"row_{number}"
        if "/" in name or name.startswith("."):
            problem = f"line {number} names its case {name}, which cannot be the name of a folder"
            raise InputError(table, problem, "choose another name")
        fault = None
        if image is None or label is None:
            empty = "image" if image is None else "label"
            fault = InputError(table, f"line {number} names no {empty}", "fill it in, or remove the row")
        elif not image.exists() or not label.exists():
            fault = missing_file(image if not image.exists() else label)
        columns = tuple((key, value) for key, value in row.items() if key not in ("image", "label", "case", "patient"))
        patient, series = row.get("patient") or name, row.get("series", "")
        return Entry(name, patient, image, label, fault, columns, series=series)
