"""What a LUKS2 header of ours says, what a reader expects of one, and the JSON pattern of that expectation.

The host owns the disk and so the header, and nothing authenticates it. Only what the volume needs can be
said here: AES-XTS with a 512-bit key in key slots and data, one data segment, one digest. Everything else
that LUKS2 knows (other ciphers, the null cipher among them, flags, requirements, re-encryption) has no place
in the model, so that no check can forget it.

Spec: LUKS2 On-Disk Format Specification 1.1.x, "Binary Header" and "JSON Metadata Format" with its objects
for keyslots, segments, digests, tokens and config. Order of the members: cryptsetup 2.6.1, as it writes them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from uuid import UUID

from ..errors import FormatError
from ..units import KIB, MIB, align_up
from .luks2_json import Array, Charset, NumberHole, Object, Pattern, TextHole

HEADER_SIZE = 16 * KIB  # one copy; the smallest size that "Binary Header" lists
BINARY_SIZE = 4096  # sector 0 of a copy; its JSON area follows
JSON_SIZE = HEADER_SIZE - BINARY_SIZE
KEYSLOTS_OFFSET = 2 * HEADER_SIZE  # "Keyslots Area" follows both copies
DATA_OFFSET = 16 * MIB  # where cryptsetup 2.x puts the data of a new volume
CIPHER = "aes-xts-plain64"
SALT_SIZE = 32  # of key slots and digests; what cryptsetup 2.x writes
DIGEST_SIZE = 32  # PBKDF2 output of as many bytes as SHA-256 has
HEADER_SALT_SIZE = 64  # salt[64] of the binary header
AREA_KEY_SIZE = 64  # AES-256 in XTS mode: two keys
AREA_ALIGNMENT = 4096  # "Keyslots Area": areas start at multiples of 4096 bytes
STRIPES = 4000  # of the anti-forensic splitter, fixed by LUKS1 and kept
MAX_KEYSLOTS = 8  # LUKS2 has 32; more than a few have no use here
MAX_SEQUENCE = 0xFFFF  # ours; the format has 64 bits, every update takes one
MAX_FIELD = 8192  # characters in a token's field; the whole JSON area has 12288
MAX_MEMORY = 4 * KIB * KIB  # KiB that Argon2id may take: the limit of cryptsetup 2.x, LUKS2 "Keyslots Object"
_U32 = (1 << 32) - 1


def _check_range(what: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise FormatError(what, f"{value} is not within {low} to {high}")


@dataclass(frozen=True)
class Argon2id:
    """Costs of Argon2id: passes, memory in KiB, lanes. Spec: RFC 9106 section 3.1."""

    time: int = 4
    memory: int = 64 * KIB
    cpus: int = 1

    def __post_init__(self) -> None:
        _check_range("argon2id time", self.time, 1, _U32)
        _check_range("argon2id cpus", self.cpus, 1, 4)  # at most 4 in cryptsetup 2.x
        _check_range("argon2id memory", self.memory, 8 * self.cpus, MAX_MEMORY)


@dataclass(frozen=True)
class Pbkdf2:
    """Iterations of PBKDF2 with HMAC-SHA256. Spec: RFC 8018 section 5.2; at least 1000, as LUKS1 has it."""

    iterations: int = 1000

    def __post_init__(self) -> None:
        _check_range("pbkdf2 iterations", self.iterations, 1000, _U32)


Kdf = Argon2id | Pbkdf2


def _costs(kdf: Kdf) -> tuple[int, ...]:
    return (kdf.iterations,) if isinstance(kdf, Pbkdf2) else (kdf.time, kdf.memory, kdf.cpus)


@dataclass(frozen=True)
class KdfBounds:
    """The costs that a reader agrees to pay, both ends included; without ``high`` exactly ``low``.

    Raises:
        FormatError: the ends are of different functions, or in the wrong order.
    """

    low: Kdf
    high: Kdf | None = None

    def __post_init__(self) -> None:
        pairs = list(zip(_costs(self.low), _costs(self.most), strict=False))
        if type(self.low) is not type(self.most) or any(low > high for low, high in pairs):
            raise FormatError("luks2 kdf bounds", f"{self.low} to {self.most} is no range")

    @property
    def most(self) -> Kdf:
        """The highest costs."""
        return self.low if self.high is None else self.high


class Integrity(StrEnum):
    """What authenticates the data, as the segment spells it."""

    NONE = "none"
    HMAC_SHA256 = "hmac(sha256)"


@dataclass(frozen=True)
class TokenField:
    """One member of a token: a literal value, or text of ``size`` characters over an alphabet.

    Attributes:
        padding: how many ``=`` of base64 follow the text.
    """

    name: str
    value: str | int | bool | tuple[str | int, ...] | None = None
    size: int = 0
    charset: Charset = Charset.BASE64
    padding: int = 0

    def __post_init__(self) -> None:
        if self.value is None:
            _check_range(f"luks2 token field {self.name} size", self.size, 1, MAX_FIELD)
            _check_range(f"luks2 token field {self.name} padding", self.padding, 0, 2)
            if self.charset not in (Charset.BASE64, Charset.HEX, Charset.UUID):
                what = f"{self.charset.value} is no alphabet of JSON text; use base64 or hex"
                raise FormatError(f"luks2 token field {self.name}", what)


@dataclass(frozen=True)
class TokenShape:
    """A token that a provider owns: its type, its key slots and its other members in order."""

    type: str
    keyslots: tuple[int, ...] = (0,)
    fields: tuple[TokenField, ...] = ()

    def __post_init__(self) -> None:
        names = ["type", "keyslots", *(each.name for each in self.fields)]
        if len(set(names)) != len(names):
            raise FormatError(f"luks2 token {self.type}", f"a member is named twice: {', '.join(names)}")


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a header must say to be opened.

    Attributes:
        keyslots: bounds of each key slot's derivation, numbered from 0; there are exactly these.
        digest: PBKDF2 bounds of the volume key's digest.
        sector_size: of the data, 512 or 4096 bytes.
        tokens: numbered from 0; there are exactly these.
        data_offset: where the data starts, in bytes; it ends with the device.
        uuid: the one expected, or any.

    Raises:
        FormatError: no such header is possible.
    """

    keyslots: tuple[KdfBounds, ...] = (KdfBounds(Argon2id()),)
    digest: KdfBounds = KdfBounds(Pbkdf2())
    sector_size: int = 4096
    integrity: Integrity = Integrity.NONE
    tokens: tuple[TokenShape, ...] = ()
    data_offset: int = DATA_OFFSET
    uuid: UUID | None = None

    def __post_init__(self) -> None:
        _check_range("luks2 key slots", len(self.keyslots), 1, MAX_KEYSLOTS)
        if self.sector_size not in (512, 4096):
            raise FormatError("luks2 sector size", f"{self.sector_size} bytes; use 512 or 4096")
        if not isinstance(self.digest.low, Pbkdf2):
            raise FormatError("luks2 digest", f"{self.digest.low} cannot make one; use PBKDF2")
        end = self.area(len(self.keyslots))
        if self.data_offset % AREA_ALIGNMENT or not end <= self.data_offset < 1 << 62:
            what = f"{self.data_offset} bytes, expected a multiple of {AREA_ALIGNMENT} from {end} on"
            raise FormatError("luks2 data offset", what)
        for token in self.tokens:
            if not all(0 <= slot < len(self.keyslots) for slot in token.keyslots):
                what = f"key slots {list(token.keyslots)}, the header has {len(self.keyslots)}"
                raise FormatError(f"luks2 token {token.type}", what)

    @property
    def key_size(self) -> int:
        """Bytes of the volume key: two AES-256 keys, and one for HMAC-SHA256 behind them."""
        return 64 if self.integrity is Integrity.NONE else 96

    @property
    def area_size(self) -> int:
        """Bytes of a key slot's area."""
        return align_up(self.key_size * STRIPES, AREA_ALIGNMENT)

    @property
    def metadata_size(self) -> int:
        """Bytes from the start of the volume to the end of the last key slot's area."""
        return self.area(len(self.keyslots))

    def area(self, slot: int) -> int:
        """Offset of a key slot's area."""
        return KEYSLOTS_OFFSET + slot * self.area_size

    def with_keyslot(self, kdf: KdfBounds) -> Expected:
        """The same with one more key slot."""
        return replace(self, keyslots=(*self.keyslots, kdf))


@dataclass(frozen=True)
class Keyslot:
    """How a passphrase becomes the key of a key slot's area."""

    kdf: Kdf
    salt: bytes


@dataclass(frozen=True)
class Digest:
    """What the right volume key derives to."""

    kdf: Pbkdf2
    salt: bytes
    digest: bytes


@dataclass(frozen=True)
class Token:
    """A token's shape and the text in its holes, in the order of its fields."""

    shape: TokenShape
    values: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Luks2Header:
    """One header, both copies: they differ in their salts alone.

    Attributes:
        sequence: counts updates.
        salts: of the primary and the secondary copy, 64 bytes each.
    """

    uuid: UUID
    salts: tuple[bytes, bytes]
    keyslots: tuple[Keyslot, ...]
    digest: Digest
    sequence: int = 1
    sector_size: int = 4096
    integrity: Integrity = Integrity.NONE
    tokens: tuple[Token, ...] = field(default=(), repr=False)
    data_offset: int = DATA_OFFSET

    @property
    def expected(self) -> Expected:
        """An expectation that only this header's shape and costs meet."""
        return Expected(
            keyslots=tuple(KdfBounds(slot.kdf) for slot in self.keyslots),
            digest=KdfBounds(self.digest.kdf),
            sector_size=self.sector_size,
            integrity=self.integrity,
            tokens=tuple(token.shape for token in self.tokens),
            data_offset=self.data_offset,
            uuid=self.uuid,
        )


def pattern(expected: Expected) -> Object:
    """The JSON area of every header that meets an expectation.

    Holes are named by the path of what is in them, such as ``keyslots.0.kdf.salt``.
    """
    slots = tuple(str(number) for number in range(len(expected.keyslots)))
    keyslots = tuple((slot, _keyslot(expected, int(slot))) for slot in slots)
    tokens = tuple((str(number), _token(number, shape)) for number, shape in enumerate(expected.tokens))
    digest: tuple[tuple[str, Pattern], ...] = (
        ("type", "pbkdf2"),
        ("keyslots", Array(slots)),
        ("segments", Array(("0",))),
        ("hash", "sha256"),
        ("iterations", _bounds("digests.0.iterations", expected.digest, 0)),
        ("salt", _base64("digests.0.salt", SALT_SIZE)),
        ("digest", _base64("digests.0.digest", DIGEST_SIZE)),
    )
    config: tuple[tuple[str, Pattern], ...] = (
        ("json_size", str(JSON_SIZE)),
        ("keyslots_size", str(expected.data_offset - KEYSLOTS_OFFSET)),
    )
    return Object(
        (
            ("keyslots", Object(keyslots)),
            ("tokens", Object(tokens)),
            ("segments", Object((("0", _segment(expected)),))),
            ("digests", Object((("0", Object(digest)),))),
            ("config", Object(config)),
        )
    )


def _keyslot(expected: Expected, slot: int) -> Object:
    af: tuple[tuple[str, Pattern], ...] = (("type", "luks1"), ("stripes", STRIPES), ("hash", "sha256"))
    area: tuple[tuple[str, Pattern], ...] = (
        ("type", "raw"),
        ("offset", str(expected.area(slot))),
        ("size", str(expected.area_size)),
        ("encryption", CIPHER),
        ("key_size", AREA_KEY_SIZE),
    )
    return Object(
        (
            ("type", "luks2"),
            ("key_size", expected.key_size),
            ("af", Object(af)),
            ("area", Object(area)),
            ("kdf", _kdf(f"keyslots.{slot}.kdf", expected.keyslots[slot])),
        )
    )


def _kdf(name: str, bounds: KdfBounds) -> Object:
    salt = ("salt", _base64(f"{name}.salt", SALT_SIZE))
    if isinstance(bounds.low, Pbkdf2):
        iterations = _bounds(f"{name}.iterations", bounds, 0)
        return Object((("type", "pbkdf2"), ("hash", "sha256"), ("iterations", iterations), salt))
    costs = tuple((cost, _bounds(f"{name}.{cost}", bounds, at)) for at, cost in enumerate(_ARGON2_COSTS))
    return Object((("type", "argon2id"), *costs, salt))


_ARGON2_COSTS = ("time", "memory", "cpus")


def _bounds(name: str, bounds: KdfBounds, index: int) -> Pattern:
    low, high = _costs(bounds.low)[index], _costs(bounds.most)[index]
    return low if low == high else NumberHole(name, low, high)


def _segment(expected: Expected) -> Object:
    members: tuple[tuple[str, Pattern], ...] = (
        ("type", "crypt"),
        ("offset", str(expected.data_offset)),
        ("size", "dynamic"),
        ("iv_tweak", "0"),
        ("encryption", CIPHER),
        ("sector_size", expected.sector_size),
    )
    if expected.integrity is not Integrity.NONE:
        # dm-integrity knows journals with ciphers of their own; cryptsetup 2.x asks for none.
        journal: tuple[tuple[str, Pattern], ...] = (
            ("type", expected.integrity.value),
            ("journal_encryption", "none"),
            ("journal_integrity", "none"),
        )
        members += (("integrity", Object(journal)),)
    return Object(members)


def _token(number: int, shape: TokenShape) -> Object:
    slots = Array(tuple(str(slot) for slot in shape.keyslots))
    fields = tuple((each.name, _field(f"tokens.{number}", each)) for each in shape.fields)
    return Object((("type", shape.type), ("keyslots", slots), *fields))


def _field(token: str, each: TokenField) -> Pattern:
    if each.value is None:
        return TextHole(f"{token}.{each.name}", each.size, each.charset, "=" * each.padding)
    return Array(each.value) if isinstance(each.value, tuple) else each.value


def _base64(name: str, size: int) -> TextHole:
    """Base64 of ``size`` bytes: its padding is literal, so that the alphabet of the hole has no exception."""
    padding = -size % 3
    return TextHole(name, align_up(size, 3) // 3 * 4 - padding, Charset.BASE64, "=" * padding)
