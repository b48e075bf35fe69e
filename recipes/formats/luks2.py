"""LUKS2 volumes without device-mapper and without root: formatted, read strictly, opened and given keys.

A volume's metadata is two copies of a 16 KiB header and the areas of its key slots. :func:`format` writes
it, the same bytes for the same secrets; :func:`read` accepts exactly the headers that an :class:`Expected`
allows; :func:`open` gives the volume key for a passphrase. The data that follows is `luks2_segment`'s.

Spec: LUKS2 On-Disk Format Specification 1.1.x, "LUKS2 On-Disk Format". What the host can do with a header
that is not checked: CVE-2025-59054, CVE-2025-58356 (the null cipher in a key slot).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

from ..errors import FormatError, VerifyError
from . import luks2_keyslot as keyslot
from .luks2_json import Charset, capture, parse
from .luks2_model import (
    BINARY_SIZE,
    DIGEST_SIZE,
    HEADER_SALT_SIZE,
    HEADER_SIZE,
    MAX_SEQUENCE,
    SALT_SIZE,
    STRIPES,
    Argon2id,
    Digest,
    Expected,
    Kdf,
    KdfBounds,
    Keyslot,
    Luks2Header,
    Pbkdf2,
    Token,
    TokenShape,
    pattern,
)
from .luks2_template import (
    CHECKSUM,
    CHECKSUM_SIZE,
    COPIES,
    MAGICS,
    VERSION,
    Luks2BinaryHeader,
    checksum,
    fill,
    template,
)

_ADVICE = "do not open this volume"
_MIN_SEED = 32


@dataclass(frozen=True)
class Seed:
    """Where salts and splitter stripes come from; its bytes are in no text form of it.

    A released volume takes it from the system's random numbers. The same seed twice is for test images only.

    Raises:
        FormatError: fewer than 32 bytes.
    """

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) < _MIN_SEED:
            raise FormatError("luks2 seed", f"{len(self.secret)} bytes, at least {_MIN_SEED} are needed")

    def take(self, label: str, size: int) -> bytes:
        """``size`` bytes that belong to ``label``. Spec: FIPS 202 section 6.2, SHAKE256."""
        prefix = len(self.secret).to_bytes(8, "big") + self.secret
        return hashlib.shake_256(prefix + label.encode()).digest(size)


def format(  # noqa: A001 - named after the command it replays, `cryptsetup luksFormat`
    expected: Expected,
    *,
    uuid: UUID,
    seed: Seed,
    volume_key: bytes,
    passphrases: Sequence[bytes],
    tokens: Sequence[Sequence[str]] = (),
) -> bytes:
    """The metadata of a new volume: what stands in front of its data, up to the last key slot's area.

    Derivations take the lowest costs that ``expected`` allows. Up to the data offset only zeros follow.

    Args:
        volume_key: 64 bytes, or 96 with integrity.
        passphrases: one for each key slot.
        tokens: for each token the text of its holes, in order.

    Raises:
        FormatError: a count or a size is not the expected one.
    """
    if expected.uuid not in (None, uuid):
        raise FormatError("luks2 uuid", f"{uuid} is not the expected {expected.uuid}")
    if len(volume_key) != expected.key_size:
        what = f"{len(volume_key)} bytes, {expected.key_size} are needed"
        raise FormatError("luks2 volume key", what)
    if len(passphrases) != len(expected.keyslots):
        what = f"{len(passphrases)} for {len(expected.keyslots)} key slots"
        raise FormatError("luks2 passphrases", what)
    if len(tokens) != len(expected.tokens):
        raise FormatError("luks2 tokens", f"{len(tokens)}, expected {len(expected.tokens)}")
    slots = [
        Keyslot(bounds.low, seed.take(f"keyslots.{number}.salt", SALT_SIZE))
        for number, bounds in enumerate(expected.keyslots)
    ]
    digest_kdf = expected.digest.low
    assert isinstance(digest_kdf, Pbkdf2)
    header = Luks2Header(
        uuid=uuid,
        salts=(seed.take("primary.salt", HEADER_SALT_SIZE), seed.take("secondary.salt", HEADER_SALT_SIZE)),
        keyslots=tuple(slots),
        digest=keyslot.digest_of(volume_key, digest_kdf, seed.take("digests.0.salt", SALT_SIZE)),
        sector_size=expected.sector_size,
        integrity=expected.integrity,
        tokens=tuple(Token(shape, tuple(text)) for shape, text in zip(expected.tokens, tokens, strict=True)),
        data_offset=expected.data_offset,
    )
    areas = [
        _area(header, number, volume_key, passphrase, seed) for number, passphrase in enumerate(passphrases)
    ]
    return pack(header, areas)


def pack(header: Luks2Header, areas: Sequence[bytes]) -> bytes:
    """The metadata of a header and the areas of its key slots.

    Raises:
        FormatError: a value does not fit its place.
    """
    if not 0 <= header.sequence <= MAX_SEQUENCE:
        what = f"{header.sequence} is over {MAX_SEQUENCE}; format the volume anew"
        raise FormatError("luks2 sequence number", what)
    return fill(template(header.expected), _values(header, areas))


def read(data: bytes, expected: Expected, source: str) -> Luks2Header:
    """The header at the start of ``data``, every field of both copies one that ``expected`` allows.

    Raises:
        FormatError: it is cut short, a checksum or a field is another one, or the copies differ; names the
            field. Never open such a volume: this is where a host would make the guest use a key of its own.

    Spec: LUKS2 On-Disk Format Specification 1.1.x, "Binary Header", "JSON Area".
    """
    if len(data) < expected.metadata_size:
        what = f"{len(data)} bytes, header and key slots take {expected.metadata_size}; it is cut short"
        raise FormatError(source, what)
    first, second = (_read_binary(data, copy, expected, source) for copy in range(len(COPIES)))
    for name in ("sequence", "uuid"):
        one, other = getattr(first, name), getattr(second, name)
        if one != other:
            what = f"the copies differ in their {name}, {_show(one)} and {_show(other)}; {_ADVICE}"
            raise FormatError(source, what, offset=HEADER_SIZE)
    text = data[BINARY_SIZE:HEADER_SIZE]
    if text != data[HEADER_SIZE + BINARY_SIZE : 2 * HEADER_SIZE]:
        raise FormatError(source, f"the copies differ in their JSON areas; {_ADVICE}", offset=HEADER_SIZE)
    found = capture(pattern(expected), parse(text, source), source)
    return Luks2Header(
        uuid=UUID(first.uuid[:36].decode("ascii")),
        sequence=first.sequence,
        salts=(first.salt, second.salt),
        keyslots=tuple(_keyslot(found, number, each) for number, each in enumerate(expected.keyslots)),
        digest=_digest(found, expected.digest),
        sector_size=expected.sector_size,
        integrity=expected.integrity,
        tokens=tuple(_token(found, number, shape) for number, shape in enumerate(expected.tokens)),
        data_offset=expected.data_offset,
    )


def open(  # noqa: A001 - named after the command it replays, `cryptsetup open`
    data: bytes, header: Luks2Header, passphrase: bytes, source: str
) -> bytes:
    """The volume key, from the first key slot that the passphrase opens.

    Args:
        data: the metadata that ``header`` was read from.

    Raises:
        FormatError: the areas of the key slots are not there.
        VerifyError: the passphrase opens none.
    """
    expected = header.expected
    for number, slot in enumerate(header.keyslots):
        area = data[expected.area(number) : expected.area(number + 1)]
        key = keyslot.unseal(slot, area, passphrase, expected.key_size)
        if keyslot.is_key(key, header.digest):
            return key
    raise VerifyError(f"{source}: the passphrase opens none of {len(header.keyslots)} key slots; try another")


def add_keyslot(
    data: bytes, header: Luks2Header, kdf: Kdf, *, volume_key: bytes, passphrase: bytes, seed: Seed
) -> bytes:
    """The metadata with one more key slot; the reader then expects ``expected.with_keyslot(KdfBounds(kdf))``.

    Args:
        data: the metadata that ``header`` was read from.
        seed: not the one the volume was formatted with, unless that is meant to be repeatable.

    Raises:
        FormatError: no more key slots fit.
        VerifyError: this is not the volume key of this header.
    """
    if not keyslot.is_key(volume_key, header.digest):
        raise VerifyError("luks2 digest: this is not the volume key of this header; open it first")
    number = len(header.keyslots)
    slot = Keyslot(kdf, seed.take(f"keyslots.{number}.salt", SALT_SIZE))
    grown = replace(header, keyslots=(*header.keyslots, slot), sequence=header.sequence + 1)
    area = _area(grown, number, volume_key, passphrase, seed)
    return pack(grown, [*_areas(data, header), area])


def set_tokens(data: bytes, header: Luks2Header, tokens: Sequence[Token]) -> bytes:
    """The metadata with these tokens in place of those it has.

    Args:
        data: the metadata that ``header`` was read from.

    Raises:
        FormatError: a token names a key slot that is not there, or does not fit.
    """
    changed = replace(header, tokens=tuple(tokens), sequence=header.sequence + 1)
    return pack(changed, _areas(data, header))


def _area(header: Luks2Header, number: int, volume_key: bytes, passphrase: bytes, seed: Seed) -> bytes:
    size = header.expected.area_size
    stripes = seed.take(f"keyslots.{number}.stripes", len(volume_key) * (STRIPES - 1))
    slot = header.keyslots[number]
    return keyslot.seal(slot, volume_key, passphrase, stripes=stripes, area_size=size)


def _areas(data: bytes, header: Luks2Header) -> list[bytes]:
    expected = header.expected
    return [data[expected.area(slot) : expected.area(slot + 1)] for slot in range(len(header.keyslots))]


def _values(header: Luks2Header, areas: Sequence[bytes]) -> dict[str, bytes]:
    """What goes in the holes of this header's template."""
    values = {
        "sequence": header.sequence.to_bytes(2, "big"),
        "uuid": str(header.uuid).encode(),
        "digests.0.salt": _encode(header.digest.salt),
        "digests.0.digest": _encode(header.digest.digest),
    }
    values |= {f"{name}.salt": salt for name, salt in zip(COPIES, header.salts, strict=True)}
    for number, slot in enumerate(header.keyslots):
        values[f"keyslots.{number}.kdf.salt"] = _encode(slot.salt)
    values |= {f"keyslot.{number}": area for number, area in enumerate(areas)}
    for number, token in enumerate(header.tokens):
        names = _holes(token.shape)
        if len(names) != len(token.values):
            what = f"{len(token.values)} values for {len(names)} fields"
            raise FormatError(f"luks2 token {token.shape.type}", what)
        for name, text in zip(names, token.values, strict=True):
            values[f"tokens.{number}.{name}"] = text.encode("utf-8", "replace")
    return values


def _read_binary(data: bytes, copy: int, expected: Expected, source: str) -> Luks2BinaryHeader:
    start = copy * HEADER_SIZE
    header = Luks2BinaryHeader.unpack(data, start, source=source)
    rules: tuple[tuple[str, object, object], ...] = (
        ("magic", header.magic, MAGICS[copy]),
        ("version", header.version, VERSION),
        ("hdr_size", header.header_size, HEADER_SIZE),
        ("label", header.label, bytes(48)),
        ("csum_alg", header.checksum_algorithm, CHECKSUM.ljust(32, b"\0")),
        ("subsystem", header.subsystem, bytes(48)),
        ("hdr_offset", header.header_offset, start),
        ("padding at 0x108", header.reserved_0x108, bytes(184)),
        ("padding at 0x200", header.reserved_0x200, bytes(7 * 512)),
        ("padding of uuid", header.uuid[36:], bytes(4)),
        ("padding of csum", header.checksum[CHECKSUM_SIZE:], bytes(64 - CHECKSUM_SIZE)),
    )

    def fail(what: str) -> FormatError:
        return FormatError(source, f"{COPIES[copy]} header: {what}; {_ADVICE}", offset=start)

    for name, got, want in rules:
        if got != want:
            raise fail(f"{name} is {_show(got)}, expected {_show(want)}")
    if header.sequence > MAX_SEQUENCE:
        raise fail(f"seqid is {header.sequence}, expected at most {MAX_SEQUENCE}")
    if not Charset.UUID.accepts(header.uuid[:36]):
        raise fail(f"uuid is {_show(header.uuid)}, expected lower-case digits")
    if expected.uuid is not None and header.uuid[:36] != str(expected.uuid).encode():
        raise fail(f"uuid is {header.uuid[:36].decode()}, expected {expected.uuid}")
    if header.checksum[:CHECKSUM_SIZE] != checksum(data[start : start + HEADER_SIZE]):
        raise fail("csum is not the SHA-256 of this copy")
    return header


def _show(value: object) -> str:
    """A field's value for a message; NUL bytes at its end say nothing."""
    if not isinstance(value, bytes):
        return repr(value)
    text = value.rstrip(b"\0")
    return repr(text if len(text) <= 24 else text[:24] + b"...")


def _keyslot(found: Mapping[str, str], number: int, bounds: KdfBounds) -> Keyslot:
    name = f"keyslots.{number}.kdf"
    return Keyslot(_kdf(found, name, bounds.low), _decode(found[f"{name}.salt"], SALT_SIZE))


def _kdf(found: Mapping[str, str], name: str, low: Kdf) -> Kdf:
    """The costs as they were found; those of one value only are not captured."""

    def cost(part: str, otherwise: int) -> int:
        return int(found.get(f"{name}.{part}", otherwise))

    if isinstance(low, Pbkdf2):
        return Pbkdf2(cost("iterations", low.iterations))
    return Argon2id(cost("time", low.time), cost("memory", low.memory), cost("cpus", low.cpus))


def _digest(found: Mapping[str, str], bounds: KdfBounds) -> Digest:
    kdf = _kdf(found, "digests.0", bounds.low)
    assert isinstance(kdf, Pbkdf2)
    salt = _decode(found["digests.0.salt"], SALT_SIZE)
    return Digest(kdf, salt, _decode(found["digests.0.digest"], DIGEST_SIZE))


def _token(found: Mapping[str, str], number: int, shape: TokenShape) -> Token:
    return Token(shape, tuple(found[f"tokens.{number}.{name}"] for name in _holes(shape)))


def _holes(shape: TokenShape) -> list[str]:
    return [each.name for each in shape.fields if each.value is None]


def _encode(data: bytes) -> bytes:
    return base64.b64encode(data).rstrip(b"=")


def _decode(text: str, size: int) -> bytes:
    """The bytes of a hole, whose alphabet was checked; its padding is a literal behind it."""
    return base64.b64decode(text + "=" * (-size % 3))
