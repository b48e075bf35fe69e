"""The store for ``--uefi-data`` that the tool of AWS makes of the same signature lists."""

from __future__ import annotations

import base64
import importlib.resources
import zlib

import pytest

from recipes.errors import FormatError
from recipes.formats.aws_uefi_data import read, write
from recipes.formats.efi import EFI_GLOBAL_VARIABLE, EFI_IMAGE_SECURITY_DATABASE, Variable
from tests.support import VECTORS

FOLDER = VECTORS / "aws"
THEIRS = (FOLDER / "uefivars-1.2.txt").read_bytes()
# Non-volatile, for boot and run time, time-based authenticated: what uefivars gives all of them.
VARIABLES = tuple(
    Variable(name, vendor, 0x27, (FOLDER / f"{name}.esl").read_bytes())
    for name, vendor in (
        ("PK", EFI_GLOBAL_VARIABLE),
        ("KEK", EFI_GLOBAL_VARIABLE),
        ("db", EFI_IMAGE_SECURITY_DATABASE),
    )
)


def dictionary() -> bytes:
    return importlib.resources.files("virt.firmware").joinpath("aws", "dict.v0").read_bytes()


def store(text: bytes, preset: bytes = b"") -> bytes:
    """What is behind the 16 bytes of the header, unpacked."""
    stream = zlib.decompressobj(zdict=preset) if preset else zlib.decompressobj()
    return stream.decompress(base64.b64decode(text)[16:])


def test_its_store_is_read() -> None:
    assert read(THEIRS, "uefivars", dictionary()) == VARIABLES


def test_our_store_is_the_same_byte_for_byte() -> None:
    assert store(write(VARIABLES)) == store(THEIRS, dictionary())


def test_without_its_dictionary_it_is_refused_in_words() -> None:
    expected = (
        "uefivars: offset 0x10: the zlib stream needs the preset dictionary of python-uefivars, which is not"
        " given [RFC 1950 section 2.2]"
    )
    with pytest.raises(FormatError) as caught:
        read(THEIRS, "uefivars")
    assert str(caught.value) == expected
