"""A model as one file: the checkpoints of all stages in a zip archive, with a record of what they are.

    model.json           what the members are, with their hashes
    MODEL_CARD.md        the same to read, with intended use, limits and licence
    pancreas_coarse.pt   best.pt of the stage, byte for byte; one for each stage

``python -m engine.export`` writes such a file. It is read in memory, member by member: nothing is unpacked to the disk,
and nothing in it is executed.
"""

import errno
import hashlib
import json
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZIP_STORED, ZipFile, ZipInfo, is_zipfile

from data.common.errors import InputError
from data.common.files import ARCHIVE_ERRORS, replacing
from data.common.program import command_name
from data.common.records import CHECKSUM, checksum, verify_checksum
from engine.checkpoint import Checkpoint, parse_checkpoint
from engine.stages import STAGES
from engine.training_centres import TrainingCentres

RECORD, CARD = "model.json", "MODEL_CARD.md"
KIND, FORMAT = "dual-task pancreas model", 1  # FORMAT: to be raised when an older version could not read the file
MOST_RECORD_BYTES = 1 << 24
_TIME = (1980, 1, 1, 0, 0, 0)  # of every member: the same models give the same bytes
_REMEDY = f"give a file that {command_name('python -m engine.export', 'export')} wrote, or copy it again"


class StageFile(NamedTuple):
    """A stage in a model file.

    Attributes:
        checkpoint: What ``best.pt`` of its run held.
        sha256: Of the member, and of that ``best.pt``.
        centres: Of the cases of the run.
    """

    checkpoint: Checkpoint
    sha256: str
    centres: TrainingCentres


class ModelFile(NamedTuple):
    """What a model file holds.

    Attributes:
        record: The fields of ``model.json``.
        stages: The stages that were asked for by name, in the order of the cascade.
    """

    record: Mapping[str, Any]
    stages: Mapping[str, StageFile]


def member_of(stage: str) -> str:
    """Return the name of the member that holds the checkpoint of a stage."""
    return f"{stage}.pt"


def is_model_file(path: Path) -> bool:
    """Return whether a file is a zip archive with the record of a model; torch's own files are archives, too."""
    if not path.is_file() or not is_zipfile(path):
        return False
    try:
        with ZipFile(path) as archive:
            return RECORD in archive.namelist()
    except ARCHIVE_ERRORS:
        return False


def write_model_file(path: Path, checkpoints: Mapping[str, Path], record: Mapping[str, Any], card: str) -> None:
    """Write a model file, whole or not at all. The same contents give the same bytes.

    Args:
        path: To write.
        checkpoints: ``best.pt`` of each stage.
        record: What to say of them in ``model.json``, besides their hashes.
        card: Text of the model card.

    Raises:
        InputError: If the folder of ``path`` cannot be created.
        OSError: If a checkpoint cannot be read, or the file not be written.
    """
    hashes = {}
    with replacing(path) as unfinished, ZipFile(unfinished, "w", ZIP_STORED) as archive:

        def add(name: str, content: bytes) -> None:
            hashes[name] = hashlib.sha256(content).hexdigest()
            archive.writestr(ZipInfo(name, _TIME), content)

        for stage, checkpoint in checkpoints.items():
            add(member_of(stage), checkpoint.read_bytes())
        add(CARD, card.encode())
        whole = {"kind": KIND, "format": FORMAT, "files": hashes, **record}
        whole[CHECKSUM] = checksum(whole)
        archive.writestr(ZipInfo(RECORD, _TIME), json.dumps(whole, indent=1))


def read_model_file(path: Path, stages: Iterable[str] = STAGES) -> ModelFile:
    """Read stages of a model file onto the CPU; nothing in it is executed.

    Args:
        path: The file.
        stages: Names of the stages to read.

    Raises:
        InputError: If the file is missing, damaged, no model of this project or one of another format, or lacks a
            stage.
    """
    if not path.is_file():
        raise InputError(path, "no such file", _REMEDY)
    if not is_model_file(path):
        raise InputError(path, "not a model file, or one that is truncated or damaged", _REMEDY)
    try:
        with ZipFile(path) as archive:
            record = _read_record(archive, path)
            contents = {stage: BytesIO(_read_member(archive, member_of(stage), record, path)) for stage in stages}
            _read_member(archive, CARD, record, path)
            described = record.get("stages", {})
            centres = {stage: TrainingCentres.from_record(described.get(stage, {})) for stage in stages}
    except ARCHIVE_ERRORS as error:
        # EINVAL: a position before the beginning of the file, which a damaged archive names.
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)):
            raise
        raise InputError(path, f"truncated or damaged ({' '.join(str(error).split())})", _REMEDY) from error
    read = {}
    for stage, content in contents.items():
        checkpoint = parse_checkpoint(content, f"{path}, {member_of(stage)}", stage, _REMEDY)
        read[stage] = StageFile(checkpoint, record["files"][member_of(stage)], centres[stage])
    return ModelFile(record, read)


def _read_record(archive: ZipFile, path: Path) -> dict[str, Any]:
    """Read ``model.json``.

    Raises:
        InputError: If it is not that of a model that can be read.
        ValueError: If it is damaged.
    """
    if archive.getinfo(RECORD).file_size > MOST_RECORD_BYTES:
        raise ValueError(f"{RECORD} is too large")
    record = json.loads(archive.read(RECORD).decode())
    if not isinstance(record, dict) or record.get("kind") != KIND:
        raise InputError(path, "not a model of this project", _REMEDY)
    if record.get("format") != FORMAT:
        problem = f"a model file of format {record.get('format')}, where format {FORMAT} is read"
        raise InputError(path, problem, "export the runs again with this version")
    verify_checksum(record)
    files = record.get("files")
    if CHECKSUM not in record or not isinstance(files, dict):
        raise ValueError(f"{RECORD} lacks fields")
    if {*files, RECORD} != {*archive.namelist()} or len(archive.namelist()) != len(files) + 1:
        raise ValueError(f"its members are not those that {RECORD} names")
    return record


def _read_member(archive: ZipFile, name: str, record: Mapping[str, Any], path: Path) -> bytes:
    """Read a member and compare it with its hash.

    Raises:
        InputError: If there is none.
        ValueError: If it is not what was written.
    """
    if name not in record["files"]:
        raise InputError(path, f"holds no {name}", "give a model with this stage")
    if archive.getinfo(name).compress_type != ZIP_STORED:  # what is written here is not; it could unpack to anything
        raise ValueError(f"{name} is compressed")
    content = archive.read(name)
    if hashlib.sha256(content).hexdigest() != record["files"][name]:
        raise ValueError(f"{name} is not what was exported")
    return content
