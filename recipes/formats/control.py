"""Debian control files (deb822): package control, ``Packages`` indices, the dpkg status file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO

from ..errors import FormatError
from ..units import MIB, format_size

# The longest paragraph in Debian's own indices is some 100 KiB; more than this is not a paragraph.
MAX_PARAGRAPH = 4 * MIB

# Spec: Debian Policy 5.1: printable ASCII but the colon, not beginning with a number sign or a hyphen.
_FIELD = re.compile(r"([!-9;-~]+):[ \t]*(.*)")
_PACKAGE = re.compile(rb"^package:[ \t]*(\S+)", re.IGNORECASE | re.MULTILINE)
_SOURCE = re.compile(r"(\S+)(?: \((\S+)\))?")


@dataclass(frozen=True)
class Paragraph:
    """Fields in file order; names are compared without regard to case.

    Attributes:
        fields: name as written, and value; the lines of a folded value keep the blank they begin with.
    """

    fields: tuple[tuple[str, str], ...]

    @cached_property
    def _values(self) -> dict[str, str]:
        return {name.lower(): value for name, value in self.fields}

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._values

    def get(self, name: str, default: str = "") -> str:
        """The value of a field, or ``default`` where it is missing."""
        return self._values.get(name.lower(), default)

    def replaced(self, name: str, value: str) -> Paragraph:
        """A copy with one field set: in its place where it is there, else at the end."""
        if name not in self:
            return Paragraph((*self.fields, (name, value)))
        return Paragraph(
            tuple((old, value if old.lower() == name.lower() else had) for old, had in self.fields)
        )

    def render(self) -> str:
        """The paragraph as text, a newline at its end."""
        lines = (
            f"{name}:{' ' if value and value[0] != chr(10) else ''}{value}\n" for name, value in self.fields
        )
        return "".join(lines)


def parse(data: bytes, source: str, *, offset: int = 0) -> Paragraph:
    """The one paragraph that ``data`` is.

    Args:
        offset: where in ``source`` the bytes begin; for messages.

    Raises:
        FormatError: not UTF-8, no or more than one paragraph, a line that is neither field nor continuation,
            or a field twice.

    Spec: Debian Policy 5.1.
    """
    if len(data) > MAX_PARAGRAPH:
        what = f"a paragraph of {format_size(len(data))}, at most {format_size(MAX_PARAGRAPH)} are sensible"
        raise FormatError(source, what, offset=offset)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise FormatError(source, "not UTF-8", offset=offset + error.start) from None
    fields: dict[str, tuple[str, list[str]]] = {}
    values: list[str] | None = None
    position = offset + len(text) - len(text.lstrip("\n"))
    for line in text.strip("\n").split("\n"):
        values = _take_line(line, values, fields, source, position)
        position += len(line.encode()) + 1
    return Paragraph(tuple((name, "\n".join(lines)) for name, lines in fields.values()))


def _take_line(
    line: str, values: list[str] | None, fields: dict[str, tuple[str, list[str]]], source: str, offset: int
) -> list[str]:
    """Adds one line to ``fields``; returns the value that a following line would continue."""
    if not line.strip(" \t"):
        what = "an empty line, so no paragraph or more than one; within a field write ` .`"
        raise FormatError(source, what, offset=offset)
    if any(character < " " and character != "\t" for character in line):
        raise FormatError(source, f"a control character in {line[:64]!r}", offset=offset)
    if line[0] in " \t":
        if values is None:
            raise FormatError(source, f"continuation line {line[:64]!r} before any field", offset=offset)
        values.append(line.rstrip(" \t"))
        return values
    match = _FIELD.fullmatch(line)
    if match is None or line[0] in "#-":
        raise FormatError(source, f"{line[:64]!r} is no field; expected `Name: value`", offset=offset)
    if match[1].lower() in fields:
        raise FormatError(source, f"field {match[1]} is there twice", offset=offset)
    values = [match[2].rstrip(" \t")]
    fields[match[1].lower()] = (match[1], values)
    return values


def stanzas(file: BinaryIO, source: str) -> Iterator[tuple[int, bytes]]:
    """Offset and unparsed bytes of each paragraph of a file that may be large.

    Raises:
        FormatError: a paragraph is too long to be one.
    """
    buffer, offset = b"", 0
    while True:
        chunk = file.read(MIB)
        buffer += chunk
        *whole, buffer = buffer.split(b"\n\n") if chunk else (buffer, b"")
        for data in whole:
            if data.strip(b"\n"):
                yield offset, data
            offset += len(data) + 2
        if not chunk:
            return
        if len(buffer) > MAX_PARAGRAPH:
            raise FormatError(source, f"no paragraph ends within {format_size(MAX_PARAGRAPH)}", offset=offset)


def paragraphs(file: BinaryIO, source: str) -> Iterator[Paragraph]:
    """Every paragraph of a file, in order.

    Raises:
        FormatError: as ``parse`` says.
    """
    for offset, data in stanzas(file, source):
        yield parse(data, source, offset=offset)


def package_name(stanza: bytes) -> str:
    """The ``Package`` field of an unparsed paragraph, empty where there is none.

    Looking at one field is twenty times faster than parsing, and an index has seventy thousand paragraphs.
    """
    match = _PACKAGE.search(stanza)
    return match[1].decode("utf-8", "replace") if match else ""


def source_of(paragraph: Paragraph) -> tuple[str, str]:
    """Name and version of the source package a binary package was built from.

    Raises:
        FormatError: the ``Source`` field is not ``name`` or ``name (version)``.

    Spec: Debian Policy 5.6.1; deb-control(5), "Source".
    """
    value = paragraph.get("Source") or paragraph.get("Package")
    match = _SOURCE.fullmatch(value)
    if match is None:
        name = paragraph.get("Package")
        raise FormatError(
            f"package {name}", f"source field is {value!r}, expected `name` or `name (version)`"
        )
    return match[1], match[2] or paragraph.get("Version")
