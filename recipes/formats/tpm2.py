"""TPM 2.0 structures: what all of them are made of, and selections of PCRs.

Everything is big endian and unpadded. A TPM2B is a 16-bit size and so many bytes; a TPML is a 32-bit count
and so many structures; a TPMT starts with the selector of the union in it.

Spec: TCG TPM 2.0 Library part 1 section 4 and part 2 sections 5 and 10; version 1.59 throughout.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from ..errors import FormatError

SPEC = "TCG TPM 2.0 Library part 2"
# PCRs of a PC Client TPM, and the octets their bits take. Spec: TCG PC Client Platform TPM Profile 1.05
# section 4.6 (24 PCRs) and its PLATFORM_PCR and PCR_SELECT_MIN.
PCR_COUNT = 24
PCR_SELECT_SIZE = 3


class Alg(IntEnum):
    """TPM_ALG_ID: the algorithms used here. Spec: part 2 section 6.3, TCG Algorithm Registry 1.34 table 3."""

    RSA = 0x0001
    SHA1 = 0x0004
    AES = 0x0006
    SHA256 = 0x000B
    SHA384 = 0x000C
    SHA512 = 0x000D
    NULL = 0x0010
    RSASSA = 0x0014
    RSAES = 0x0015
    RSAPSS = 0x0016
    OAEP = 0x0017
    ECDSA = 0x0018
    ECDH = 0x0019
    ECC = 0x0023
    CFB = 0x0043


HASHES = {Alg.SHA1: "sha1", Alg.SHA256: "sha256", Alg.SHA384: "sha384", Alg.SHA512: "sha512"}
"""The hash algorithms among them, by hashlib's names."""


def hash_size(algorithm: Alg) -> int:
    """Bytes in a digest of ``algorithm``, which is one of ``HASHES``."""
    return hashlib.new(HASHES[algorithm]).digest_size


def digest(algorithm: Alg, *parts: bytes) -> bytes:
    """Hash of the parts, one after the other; ``algorithm`` is one of ``HASHES``."""
    return hashlib.new(HASHES[algorithm], b"".join(parts)).digest()


def entity_name(algorithm: Alg, public_area: bytes) -> bytes:
    """Name of an object or NV index: its nameAlg, then the hash of its public area.

    Spec: part 1 section 16 "Names".
    """
    return struct.pack(">H", algorithm) + digest(algorithm, public_area)


def sized(data: bytes) -> bytes:
    """``data`` as a TPM2B.

    Raises:
        FormatError: more than its 16-bit size can say.

    Spec: part 2 section 10.4.
    """
    if len(data) > 0xFFFF:
        raise FormatError("TPM2B", f"{len(data)} bytes, a TPM2B holds at most 65535", spec=SPEC)
    return struct.pack(">H", len(data)) + data


class Reader:
    """Bytes that are taken from the front; every take is checked first.

    Args:
        data: all of the bytes.
        source: what they are, for messages.
    """

    def __init__(self, data: bytes, source: str) -> None:
        self.data = data
        self.source = source
        self.offset = 0

    @property
    def left(self) -> int:
        """How many bytes have not been taken."""
        return len(self.data) - self.offset

    def error(self, what: str, offset: int | None = None, spec: str = SPEC) -> FormatError:
        """A complaint about what was taken last, or stands at ``offset``."""
        place = self.offset if offset is None else offset
        return FormatError(self.source, what, offset=place, spec=spec)

    def take(self, size: int, what: str) -> bytes:
        """The next ``size`` bytes.

        Raises:
            FormatError: fewer are left.
        """
        if size > self.left:
            raise self.error(f"{what} needs {size} bytes, {self.left} are left; the data is truncated")
        found = bytes(self.data[self.offset : self.offset + size])
        self.offset += size
        return found

    def number(self, size: int, what: str) -> int:
        """An unsigned number of ``size`` bytes.

        Raises:
            FormatError: fewer bytes are left.
        """
        return int.from_bytes(self.take(size, what), "big")

    def sized(self, what: str, limit: int) -> bytes:
        """What a TPM2B holds, at most ``limit`` bytes.

        Raises:
            FormatError: it says it holds more, or more than is left.
        """
        start = self.offset
        size = self.number(2, f"{what} size")
        if size > limit:
            raise self.error(f"{what} of {size} bytes, at most {limit} are expected", start)
        return self.take(size, what)

    def algorithm(self, what: str, allowed: Sequence[Alg]) -> Alg:
        """A TPM_ALG_ID that is one of ``allowed``.

        Raises:
            FormatError: it is another.
        """
        start = self.offset
        value = self.number(2, what)
        for candidate in allowed:
            if candidate == value:
                return candidate
        names = ", ".join(f"{each:#06x} ({each.name})" for each in allowed)
        raise self.error(f"{what} is {value:#06x}, expected {names}", start)

    def hash(self, what: str) -> Alg:
        """A TPM_ALG_ID of a hash.

        Raises:
            FormatError: it is no hash, or none that is known here.
        """
        return self.algorithm(what, tuple(HASHES))

    def finish(self) -> None:
        """Stops at bytes that were not taken.

        Raises:
            FormatError: there are some.
        """
        if self.left:
            raise self.error(f"{self.left} bytes follow the structure, expected none")


@dataclass(frozen=True)
class PcrSelection:
    """TPMS_PCR_SELECTION: some PCRs of one bank. Spec: part 2 section 10.6.2.

    Attributes:
        bank: hash algorithm of the bank.
        registers: PCR indexes, 0 to 23, ascending; none at all is a selection too.
    """

    bank: Alg
    registers: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.bank not in HASHES:
            raise FormatError("PCR selection", f"bank {self.bank.name} is no hash; use sha256", spec=SPEC)
        if list(self.registers) != sorted(set(self.registers)):
            what = f"PCRs {self.registers} are not in ascending order, each once"
            raise FormatError("PCR selection", what)
        for index in self.registers:
            if not 0 <= index < PCR_COUNT:
                what = f"PCR {index}: there is no such register; use 0 to {PCR_COUNT - 1}"
                raise FormatError("PCR selection", what)

    def __str__(self) -> str:
        return f"{HASHES[self.bank]}:{','.join(map(str, self.registers))}"

    def pack(self) -> bytes:
        """The bytes of this structure: PCR n is bit n % 8 of octet n / 8."""
        bits = sum(1 << index for index in self.registers)
        return struct.pack(">HB", self.bank, PCR_SELECT_SIZE) + bits.to_bytes(PCR_SELECT_SIZE, "little")


def pack_selections(selections: Sequence[PcrSelection]) -> bytes:
    """TPML_PCR_SELECTION: the selections in the order given. Spec: part 2 section 10.9.7.

    Raises:
        FormatError: a bank is there twice.
    """
    if len({each.bank for each in selections}) != len(selections):
        shown = show_selections(selections)
        raise FormatError("PCR selection", f"{shown} has a bank twice; name each bank once")
    return struct.pack(">I", len(selections)) + b"".join(each.pack() for each in selections)


def show_selections(selections: Sequence[PcrSelection]) -> str:
    """Selections as tpm2-tools write them: ``sha1:0,7+sha256:11``."""
    return "+".join(map(str, selections))


def read_selections(reader: Reader) -> tuple[PcrSelection, ...]:
    """The selections of a TPML_PCR_SELECTION.

    Raises:
        FormatError: a bank that is unknown or there twice, or a bit map that is not one of 24 PCRs.
    """
    start = reader.offset
    count = reader.number(4, "pcrSelections count")
    if count > len(HASHES):
        raise reader.error(f"selection of {count} banks, at most {len(HASHES)} are known", start)
    found: list[PcrSelection] = []
    for _ in range(count):
        start = reader.offset
        bank = reader.hash("pcrSelection hash")
        if any(each.bank is bank for each in found):
            raise reader.error(f"selection has bank {HASHES[bank]} twice", start)
        size = reader.number(1, "sizeofSelect")
        if size != PCR_SELECT_SIZE:
            raise reader.error(f"sizeofSelect is {size}, expected {PCR_SELECT_SIZE}", start)
        bits = int.from_bytes(reader.take(size, "pcrSelect"), "little")
        found.append(PcrSelection(bank, tuple(index for index in range(PCR_COUNT) if bits >> index & 1)))
    return tuple(found)
