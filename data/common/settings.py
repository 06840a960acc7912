"""Settings as frozen dataclasses: to plain values and back, changed by what a user types, compared."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

from data.common.errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def from_record(kind: type[T], record: Mapping[str, Any], *, complete: bool = False) -> T:
    """Rebuild a settings dataclass, with those nested in it, from the plain values of ``dataclasses.asdict``.

    Lists, into which YAML and JSON turn tuples, become tuples again.

    Args:
        kind: The dataclass.
        record: Its values by name.
        complete: Whether every field has to be recorded, except those that have ``added`` in their metadata: records of
            earlier versions lack them, and their defaults say what those did. Otherwise a field that is not recorded
            gets its default.

    Raises:
        TypeError: If a field that has to be recorded is missing, unknown or of another type.
    """
    hints = get_type_hints(kind)
    demanded = {f.name for f in fields(kind) if not f.metadata.get("added")}
    if complete and (missing := demanded - record.keys()):
        raise TypeError(f"{kind.__name__} lacks {', '.join(sorted(missing))}")
    values = {}
    for name, value in record.items():
        nested = hints.get(name)
        if isinstance(nested, type) and is_dataclass(nested):
            value = from_record(nested, value, complete=complete)
        values[name] = tuple(value) if isinstance(value, list) else value
        if name in hints and not _is_of_kind(values[name], hints[name]):
            raise TypeError(f"{name} of {kind.__name__} is {value!r}")
    return kind(**values)


def _is_of_kind(value: object, kind: object) -> bool:
    """Return whether a value is of an annotated kind; only int, float, str and tuples of these are checked."""
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_is_of_kind, value, kinds))
    if kind is float:
        return type(value) in (int, float)
    return kind not in (int, str) or type(value) is kind


def change_settings(settings: T, changes: Sequence[str], flag: str) -> T:
    """Apply changes that were typed as ``NAME=VALUE``; several numbers are separated by commas.

    Args:
        settings: A frozen dataclass of numbers, strings and tuples of numbers.
        changes: For instance ``["rotation_degrees=10", "scale=0.9,1.1"]``.
        flag: The command-line option that gave them, for messages.

    Raises:
        InputError: If a name is unknown, or a value is not of the kind that the setting has or out of its range.
    """
    known = get_type_hints(type(settings))
    for change in changes:
        name, _, text = change.partition("=")
        if name not in known:
            names = ", ".join(sorted(known))
            raise InputError(f"{flag} {change}", "no such setting", f"write NAME=VALUE with one of the names {names}")
        value = _parse(text, known[name], f"{flag} {change}")
        try:
            settings = replace(settings, **{name: value})
        except ValueError as error:
            raise InputError(f"{flag} {change}", str(error), "give another value") from error
    return settings


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str = "") -> list[str]:
    """List the settings of ``ours`` that ``theirs`` lacks or sets differently, as "name value".

    The names of nested settings are joined by dots, such as ``method.weights.dice``.
    """
    found = []
    for name, value in ours.items():
        other = theirs.get(name)
        if isinstance(value, dict) and isinstance(other, dict):
            found += differences(value, other, f"{prefix}{name}.")
        elif value != other:
            found.append(f"{prefix}{name} {value}")
    return found


def _parse(text: str, kind: object, typed: str) -> object:
    """Parse ``text`` into a value of the annotated ``kind``: str, int, float or a tuple of floats."""
    if kind is str:
        return text
    count = len(get_args(kind)) or 1
    try:
        numbers = [int(part) if kind is int else float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count or any(math.isnan(number) for number in numbers):
        whole = "a whole number" if kind is int else "a number"
        expected = f"{count} numbers separated by commas" if count > 1 else whole
        raise InputError(typed, f"{text!r} is not {expected}", f"write {expected} after the equals sign")
    return tuple(numbers) if count > 1 else numbers[0]
