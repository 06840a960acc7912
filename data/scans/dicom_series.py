"""Which of the series in a DICOM folder is the scan.

A hospital's folder may hold dose reports, localizers, reformatted views and several phases beside the axial slices.
What certainly is not the scan is passed over and named; between two candidates the user has to choose.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.common.errors import InputError
from data.scans.dicom_headers import OtherObject, Slice, conversion

SAME_DIRECTION = 0.7  # cosine between the normals of slices of one view: axial, coronal or sagittal
COMPARABLE_EXTENT = 0.5  # of the longest series: shorter ones, such as bolus tracking, are no second candidate
SAME_PLACE_MM = 0.01  # slices that are closer than this are two images of one place
REFORMATTED = {"MPR", "MIP", "MINIP", "MIN IP", "REFORMATTED", "CURVED", "VRT", "AVERAGE"}
MODALITIES = {"PT": "PET", "MR": "MR", "NM": "nuclear medicine", "US": "ultrasound", "OT": "other"}
SHOWN_SERIES = 6
SHORTEST_END = 4  # characters of an identifier that can stand for it
SELECT = (
    "choose one with --series (or the column series of a table of scans): its number, a part of its description or "
    "the end of its identifier"
)


@dataclass(frozen=True, eq=False)
class Stack:
    """The slices of one view in one series, in the order of their heights.

    Attributes:
        slices: At least one.
        part: Which part of a series that holds several scans, such as "acquisition 2"; empty for a whole series.
    """

    slices: tuple[Slice, ...]
    part: str = ""

    @property
    def first(self) -> Slice:
        """The lowest slice."""
        return self.slices[0]

    @property
    def identifier(self) -> str:
        """Identifier of the series, with the number of the part if it has parts."""
        return self.first.series + (f"#{self.part.split()[-1]}" if self.part else "")

    @property
    def title(self) -> str:
        """Description of the series and its part."""
        return ", ".join(filter(None, (self.first.description, self.part)))

    @property
    def step_mm(self) -> float:
        """Median distance of two slices; the thickness of a single one."""
        steps = np.diff([s.height for s in self.slices])
        return float(np.median(steps)) if len(steps) else self.first.thickness

    @property
    def extent_mm(self) -> float:
        """Distance of the outermost slices."""
        return self.slices[-1].height - self.first.height

    @property
    def is_axial(self) -> bool:
        """Whether the slices lie across the patient."""
        return abs(self.first.normal[2]) > SAME_DIRECTION

    @property
    def is_localizer(self) -> bool:
        """Whether these are the views on which the scan was planned."""
        return "LOCALIZER" in self.first.image_type

    @property
    def is_derived(self) -> bool:
        """Whether the slices were computed from those of another series."""
        words = set(self.first.image_type)
        return bool(words & {"DERIVED", "SECONDARY"} or words & REFORMATTED)

    def __str__(self) -> str:
        name = " ".join(filter(None, (self.first.series_number, f"'{self.title}'" if self.title else "")))
        count = f"{len(self.slices)} slices of {self.step_mm:.3g} mm"
        return f"{name or 'without number'} ({count}, ...{self.identifier[-8:]})"


def choose_stack(
    folder: Path, files: Sequence[Slice | OtherObject], choice: str, *, any_modality: bool = False
) -> tuple[Stack, list[str]]:
    """Choose the scan among the files of a folder.

    Args:
        folder: The folder, for messages.
        files: The headers of all its DICOM files.
        choice: What the user gave as ``--series``; empty for the one CT series.
        any_modality: Accept slices that are not of a CT, such as those of a label.

    Returns:
        The slices of the scan, not yet checked to be complete, and a note on what was passed over, if anything was.

    Raises:
        InputError: If no series or more than one can be the scan, or the choice names none or several.
    """
    stacks = find_stacks([file for file in files if isinstance(file, Slice)])
    strangers = [file for file in files if isinstance(file, OtherObject)]
    if choice.strip():
        stack = _find_choice(folder, stacks, choice)
        if not any_modality and stack.first.modality != "CT":
            raise InputError(folder, f"--series {choice} is a {_phrase(stack)}, not a CT", SELECT)
        reasons: dict[Stack, str] = {}
    else:
        reasons = {} if any_modality else _reasons_against(stacks)
        candidates = [stack for stack in stacks if stack not in reasons]
        frames = [file for file in strangers if file.frames and (any_modality or file.modality == "CT")]
        if frames and not candidates:
            problem = "an enhanced (multi-frame) DICOM file, which is not read"
            raise InputError(frames[0].path, problem, "convert it to NIfTI", command=conversion(folder))
        if not candidates:
            raise _nothing_to_read(folder, stacks, strangers, reasons)
        if frames:
            problem = f"holds {len(candidates)} series of slices and a multi-frame scan, {frames[0].path.name}"
            raise InputError(folder, problem, f"choose the series with --series {_key(candidates[0], stacks)}")
        if len(candidates) > 1:
            raise _ambiguous(folder, candidates)
        stack = candidates[0]
        _refuse_a_slice_of_another_name(stack, stacks)
    for file in strangers:
        if file.unplaced and file.series in ("", stack.first.series):
            remedy = "export the series again, with position and orientation (ImagePositionPatient)"
            raise InputError(file.path, "a slice that does not say where it lies", remedy)
    others = [reasons.get(other, _phrase(other)) for other in stacks if other is not stack]
    passed = Counter([file.kind for file in strangers] + others)
    notes = [f"read from a folder with other files, passed over: {_count(passed)}"] if passed else []
    return stack, notes


def find_stacks(slices: Iterable[Slice]) -> list[Stack]:
    """Group slices by series and view, and divide a series that shows its places several times by acquisition."""
    views: dict[tuple[str, int], list[Slice]] = {}
    normals: dict[str, list[np.ndarray]] = {}
    for one in slices:
        known = normals.setdefault(one.series, [])
        view = next((i for i, normal in enumerate(known) if abs(normal @ one.normal) > SAME_DIRECTION), len(known))
        if view == len(known):
            known.append(one.normal)
        views.setdefault((one.series, view), []).append(one)
    return [stack for view in views.values() for stack in _divide(view)]


def _divide(view: list[Slice]) -> list[Stack]:
    """Divide the slices of a view by acquisition if that leaves one image of each place; otherwise keep them."""
    if _has_doubled_places(view):
        # Acquisition times differ from slice to slice in some scans, so the other tags come first.
        for index, word in enumerate(("acquisition", "temporal position", "acquisition time")):
            groups: dict[str, list[Slice]] = {}
            for one in view:
                groups.setdefault(one.acquisition[index], []).append(one)
            sound = all(len(group) > 1 and not _has_doubled_places(group) for group in groups.values())
            if len(groups) > 1 and sound:
                return [Stack(_sorted(group), f"{word} {value or 'unnamed'}") for value, group in groups.items()]
    return [Stack(_sorted(view))]


def _sorted(slices: list[Slice]) -> tuple[Slice, ...]:
    normal = slices[0].normal
    return tuple(sorted(slices, key=lambda s: float(s.position @ normal)))


def _has_doubled_places(slices: list[Slice]) -> bool:
    heights = np.sort([s.position @ slices[0].normal for s in slices])
    return bool((np.diff(heights) < SAME_PLACE_MM).any())


def _reasons_against(stacks: Sequence[Stack]) -> dict[Stack, str]:
    """Say what the stacks are that are not the scan; those that may be the scan are missing."""
    reasons: dict[Stack, str] = {}

    def exclude(condition: Callable[[Stack], bool], phrase: Callable[[Stack], str]) -> list[Stack]:
        for stack in stacks:
            if stack not in reasons and condition(stack):
                reasons[stack] = phrase(stack)
        return [stack for stack in stacks if stack not in reasons]

    exclude(lambda s: s.first.modality != "CT", _phrase)
    left = exclude(lambda s: s.is_localizer, _phrase)
    if any(stack.is_axial for stack in left):
        left = exclude(lambda s: not s.is_axial, lambda s: "CT series in another view")
    longest = max((stack.extent_mm for stack in left), default=0.0)
    left = exclude(lambda s: len(s.slices) < 2, _phrase)
    # A short acquisition that goes on where a longer one of its series ends is a part of the scan.
    left = exclude(
        lambda s: s.extent_mm < COMPARABLE_EXTENT * longest and not any(_goes_beyond(s, other) for other in left),
        lambda s: "short CT series",
    )
    if any(not stack.is_derived for stack in left):
        exclude(lambda s: s.is_derived, lambda s: "derived CT series")
    return reasons


def _goes_beyond(stack: Stack, other: Stack) -> bool:
    """Whether an acquisition shows places that another, longer one of the same series does not."""
    if stack.first.series != other.first.series or stack.extent_mm > other.extent_mm or stack is other:
        return False
    heights, step = [s.height for s in other.slices], SAME_PLACE_MM
    return stack.first.height < heights[0] - step or stack.slices[-1].height > heights[-1] + step


def _phrase(stack: Stack) -> str:
    if stack.is_localizer:
        return "localizer"
    modality = stack.first.modality
    name = MODALITIES.get(modality, modality) or "unnamed"
    return f"{name} series" if len(stack.slices) > 1 else f"single {name} slice"


def _count(phrases: Counter[str]) -> str:
    return ", ".join(f"{count} {phrase}" for phrase, count in sorted(phrases.items()))


def _find_choice(folder: Path, stacks: Sequence[Stack], choice: str) -> Stack:
    """Find the stack that ``--series`` names. The first kind of name under which any is known decides.

    A number is that of a series or, if it is long, the end of an identifier: where no series has the number 4, "4" must
    not find "B30f 1.4".
    """
    wanted = choice.strip().casefold()
    kinds: tuple[Callable[[Stack], bool], ...] = (
        lambda s: s.identifier == wanted,
        lambda s: s.first.series_number == wanted,
        lambda s: wanted in s.title.casefold(),
        lambda s: s.identifier.endswith(wanted),
    )
    if wanted.isdecimal():
        kinds = (*kinds[:2], *(kinds[3:] if len(wanted) >= SHORTEST_END else ()))
    for kind in kinds:
        if found := [stack for stack in stacks if kind(stack)]:
            if len({stack.identifier for stack in found}) == 1:  # one series, perhaps with a localizer in it
                reasons = _reasons_against(found)
                found = [stack for stack in found if stack not in reasons] or found
            if len(found) == 1:
                return found[0]
            raise InputError(folder, f"--series {choice} names {len(found)} of its series: {_list(found)}", SELECT)
    if not stacks:
        raise InputError(folder, "holds no series of DICOM slices", "give the folder that holds them")
    raise InputError(folder, f"has no series {choice}; it holds {_list(stacks)}", SELECT)


def _key(stack: Stack, stacks: Sequence[Stack]) -> str:
    """Return a value of --series that names this stack and no other."""
    number = stack.first.series_number
    if number and sum(other.first.series_number == number for other in stacks) == 1:
        return number
    ends = (stack.identifier[-n:] for n in range(SHORTEST_END, len(stack.identifier)))
    return next((end for end in ends if sum(o.identifier.endswith(end) for o in stacks) == 1), stack.identifier)


def _list(stacks: Sequence[Stack]) -> str:
    names = [str(stack) for stack in stacks[:SHOWN_SERIES]]
    return "; ".join(names) + (f"; and {len(stacks) - SHOWN_SERIES} more" if len(stacks) > SHOWN_SERIES else "")


def _ambiguous(folder: Path, candidates: Sequence[Stack]) -> InputError:
    series = {stack.first.series for stack in candidates}
    what = f"{len(series)} CT series" if len(series) > 1 else f"{len(candidates)} scans in one series"
    example = _key(candidates[0], candidates)
    return InputError(folder, f"holds {what}: {_list(candidates)}", f"{SELECT}, such as --series {example}")


def _nothing_to_read(
    folder: Path, stacks: Sequence[Stack], strangers: Sequence[OtherObject], reasons: dict[Stack, str]
) -> InputError:
    single = [stack for stack in stacks if len(stack.slices) == 1 and stack.first.modality == "CT"]
    single = [stack for stack in single if not stack.is_localizer]
    if len(single) == 1 and len(stacks) == 1:
        return InputError(folder, "holds a single slice, which has no thickness", "give the whole series")
    if len(single) > 1:
        problem = f"each of its {len(single)} slices names a series of its own"
        return InputError(folder, problem, "export the scan again, with one SeriesInstanceUID for all its slices")
    unplaced = [file for file in strangers if file.unplaced]
    if unplaced and not stacks:
        remedy = "export the series again, with position and orientation (ImagePositionPatient)"
        return InputError(unplaced[0].path, "a slice that does not say where it lies", remedy)
    modalities = {stack.first.modality for stack in stacks} - {"CT"}
    foreign = ", ".join(sorted(MODALITIES.get(m, m) or "an unnamed modality" for m in modalities))
    found = _count(Counter([file.kind for file in strangers] + list(reasons.values())))
    if foreign and not strangers and len(modalities) == 1:
        problem = f"holds {found} and no CT: the values of {foreign} are not Hounsfield units"
        return InputError(folder, problem, "give the folder of the CT series")
    return InputError(folder, f"holds no CT series, only {found}", "give the folder that holds the CT slices")


def _refuse_a_slice_of_another_name(stack: Stack, stacks: Sequence[Stack]) -> None:
    """Refuse a single slice that continues the stack under another series.

    One damaged byte in the identifier of the outermost slice would otherwise shorten the scan unnoticed.
    """
    for other in stacks:
        one, first = other.first, stack.first
        if len(other.slices) > 1 or one.modality != "CT" or one.size != first.size or other.is_localizer:
            continue
        offset = (one.position - first.position) @ np.column_stack(
            (first.orientation[:3], first.orientation[3:], first.normal)
        )
        steps = offset[2] / stack.step_mm
        beside = np.abs(offset[:2]).max() > min(first.pixel_mm)
        if not beside and min(abs(steps + 1), abs(steps - len(stack.slices))) < 0.1:
            problem = f"it continues the slices of series {first.series[-12:]} but names another series"
            remedy = f"download it again if it is damaged, or leave it out with --series {_key(stack, stacks)}"
            raise InputError(one.path, problem, remedy)
