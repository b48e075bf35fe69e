"""LUKS2 headers as a host would forge them, made from a good one with struct, json and hashlib alone.

Each keeps what stock tools check intact: both copies are rewritten and their checksums worked out again,
unless the forgery is about just that. ``FORGERIES`` is the whole corpus, with what the reader says of each.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from recipes.formats import luks2
from recipes.formats.luks2_keyslot import split
from recipes.formats.luks2_model import Expected, KdfBounds, Pbkdf2, TokenField, TokenShape

COPY = 16384
JSON = 4096
AREA = 32768
PASSPHRASE = b"correct horse battery staple"
VOLUME_KEY = bytes(range(64))
ATTACKER_KEY = bytes(range(255, 191, -1))
VOLUME_UUID = UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")
SHAPE = TokenShape("goldsmith-tpm2", (0,), (TokenField("blob", size=64), TokenField("pcrs", (7, 11))))
# The cheapest derivation there is: what is tested here is not how slow it is.
PLAIN = Expected(keyslots=(KdfBounds(Pbkdf2(1000)),))
OWNED = Expected(keyslots=(KdfBounds(Pbkdf2(1000)),), tokens=(SHAPE,))


def volume(expected: Expected = PLAIN) -> bytes:
    """A good header with its key slot areas."""
    return luks2.format(
        expected,
        uuid=VOLUME_UUID,
        seed=luks2.Seed(b"test images only, never a release"),
        volume_key=VOLUME_KEY[: expected.key_size].ljust(expected.key_size, b"\x77"),
        passphrases=[PASSPHRASE] * len(expected.keyslots),
        tokens=[["A" * 64] for _ in expected.tokens],
    )


def document(data: bytes) -> Any:
    """The JSON of the primary copy."""
    return json.loads(data[JSON:COPY].rstrip(b"\0"))


def with_text(data: bytes, text: bytes, copies: tuple[int, ...] = (0, 1)) -> bytes:
    """The header with another JSON area in some copies, all checksums right."""
    out = bytearray(data)
    for copy in copies:
        out[copy * COPY + JSON : (copy + 1) * COPY] = text.ljust(COPY - JSON, b"\0")
    return resealed(bytes(out))


def edited(data: bytes, edit: Callable[[Any], object], copies: tuple[int, ...] = (0, 1)) -> bytes:
    """The header with an edited document in some copies, all checksums right."""
    value = document(data)
    edit(value)
    return with_text(data, json.dumps(value, separators=(",", ":")).encode(), copies)


def patched(data: bytes, offset: int, new: bytes, *, reseal: bool = True) -> bytes:
    """The header with some bytes replaced."""
    out = data[:offset] + new + data[offset + len(new) :]
    return resealed(out) if reseal else out


def resealed(data: bytes) -> bytes:
    """The header with the checksums that its copies ask for."""
    out = bytearray(data)
    for start in (0, COPY):
        out[start + 448 : start + 512] = bytes(64)
        out[start + 448 : start + 480] = hashlib.sha256(out[start : start + COPY]).digest()
    return bytes(out)


def null_keyslot(data: bytes, cipher: str = "cipher_null-ecb") -> bytes:
    """The attack of CVE-2025-59054: the attacker's volume key in clear, opened by any passphrase.

    The data segment still says aes-xts-plain64, so that everything the guest writes can be read and forged.
    """
    salt = bytes(range(32))
    material = split(ATTACKER_KEY, b"\x5a" * (64 * 3999))

    def edit(value: Any) -> None:
        value["keyslots"]["0"]["area"]["encryption"] = cipher
        digest = hashlib.pbkdf2_hmac("sha256", ATTACKER_KEY, salt, 1000, 32)
        value["digests"]["0"]["salt"] = base64.b64encode(salt).decode()
        value["digests"]["0"]["digest"] = base64.b64encode(digest).decode()

    return patched(edited(data, edit), AREA, material)


@dataclass(frozen=True)
class Forgery:
    """One forged header.

    Attributes:
        make: from a good header, :func:`volume`.
        message: what the strict reader says behind the name of the file.
    """

    name: str
    make: Callable[[bytes], bytes]
    message: str


def put(path: str, new: object) -> Callable[[bytes], bytes]:
    """A forgery that sets one member, such as ``segments.0.size``."""
    *parents, last = path.split(".")

    def edit(value: Any) -> None:
        for name in parents:
            value = value[name]
        value[last] = new

    return lambda data: edited(data, edit)


def drop(path: str) -> Callable[[bytes], bytes]:
    """A forgery that leaves one member out."""
    *parents, last = path.split(".")

    def edit(value: Any) -> None:
        for name in parents:
            value = value[name]
        del value[last]

    return lambda data: edited(data, edit)


def _second_keyslot(data: bytes) -> bytes:
    def edit(value: Any) -> None:
        value["keyslots"]["1"] = json.loads(json.dumps(value["keyslots"]["0"]))
        value["keyslots"]["1"]["area"]["offset"] = str(AREA + 258048)
        value["digests"]["0"]["keyslots"] = ["0", "1"]

    return edited(data, edit)


def _twice(data: bytes) -> bytes:
    text = json.dumps(document(data), separators=(",", ":"))
    first = '"encryption":"aes-xts-plain64"'
    return with_text(data, text.replace(first, f'{first},"encryption":"cipher_null-ecb"', 1).encode())


def _escaped_twice(data: bytes) -> bytes:
    """The second name is spelled with an escape, and is the same name all the same."""
    text = json.dumps(document(data), separators=(",", ":"))
    last = '"encryption":"aes-xts-plain64"'
    return with_text(data, text.replace(last, rf'{last},"\u0065ncryption":"x"', 1).encode())


def _reencrypt(data: bytes) -> bytes:
    def edit(value: Any) -> None:
        value["config"]["requirements"] = {"mandatory": ["online-reencrypt-v2"]}

    return edited(data, edit)


def _backup_segment(data: bytes) -> bytes:
    def edit(value: Any) -> None:
        value["segments"]["1"] = {**value["segments"]["0"], "flags": ["backup-final"]}

    return edited(data, edit)


def _text(data: bytes, old: bytes, new: bytes) -> bytes:
    text = data[JSON:COPY].rstrip(b"\0")
    assert old in text
    return with_text(data, text.replace(old, new, 1))


ADVICE = "; do not open this volume"
WHOLE = "expected 'aes-xts-plain64'" + ADVICE
HUGE = '"iterations":' + "9" * 5000

FORGERIES = (
    Forgery(
        "null cipher in the key slot",
        null_keyslot,
        f"keyslots.0.area.encryption is 'cipher_null-ecb', {WHOLE}",
    ),
    Forgery(
        "null cipher in the segment",
        put("segments.0.encryption", "cipher_null-ecb"),
        f"segments.0.encryption is 'cipher_null-ecb', {WHOLE}",
    ),
    Forgery(
        "another cipher in the segment",
        put("segments.0.encryption", "aes-cbc-plain64"),
        f"segments.0.encryption is 'aes-cbc-plain64', {WHOLE}",
    ),
    Forgery("two key slots", _second_keyslot, f"keyslots.1 is not expected{ADVICE}"),
    Forgery("no key slot", drop("keyslots.0"), f"keyslots.0 is missing{ADVICE}"),
    Forgery(
        "alien token",
        put("tokens.0", {"type": "systemd-tpm2", "keyslots": ["0"]}),
        f"tokens.0 is not expected{ADVICE}",
    ),
    Forgery(
        "huge derivation cost",
        put("keyslots.0.kdf.iterations", 4_000_000_000),
        f"keyslots.0.kdf.iterations is 4000000000, expected 1000{ADVICE}",
    ),
    Forgery(
        "another derivation",
        put(
            "keyslots.0.kdf",
            {"type": "argon2id", "time": 1, "memory": 1 << 22, "cpus": 4, "salt": "A" * 43 + "="},
        ),
        f"keyslots.0.kdf.time is not expected{ADVICE}",
    ),
    Forgery(
        "weak digest", put("digests.0.iterations", 1), f"digests.0.iterations is 1, expected 1000{ADVICE}"
    ),
    Forgery(
        "another digest hash",
        put("digests.0.hash", "sha1"),
        f"digests.0.hash is 'sha1', expected 'sha256'{ADVICE}",
    ),
    Forgery("second digest", put("digests.1", {}), f"digests.1 is not expected{ADVICE}"),
    Forgery(
        "digest of no key slot",
        put("digests.0.keyslots", []),
        f"digests.0.keyslots is a list of 0, expected a list of 1{ADVICE}",
    ),
    Forgery(
        "cut JSON",
        lambda data: with_text(data, data[JSON:COPY].rstrip(b"\0")[:-1]),
        "the JSON area does not parse: expecting ',' delimiter" + ADVICE,
    ),
    Forgery(
        "JSON without its end",
        lambda data: with_text(data, data[JSON:COPY].rstrip(b"\0")[:400]),
        "the JSON area is empty or cut short: its text is not one object",
    ),
    Forgery(
        "empty JSON",
        lambda data: with_text(data, b""),
        "the JSON area is empty or cut short: its text is not one object",
    ),
    Forgery(
        "JSON behind the JSON",
        lambda data: with_text(data, data[JSON:COPY].rstrip(b"\0") + b"\0{}"),
        f"the JSON area holds more bytes behind its text{ADVICE}",
    ),
    Forgery(
        "a member twice",
        _twice,
        f"the JSON area does not parse: 'encryption' is written twice in one object{ADVICE}",
    ),
    Forgery(
        "a member twice, once escaped",
        _escaped_twice,
        f"the JSON area does not parse: 'encryption' is written twice in one object{ADVICE}",
    ),
    Forgery(
        "a key slot twice",
        lambda data: _text(data, b'},"tokens":', b',"0":{}},"tokens":'),
        f"the JSON area does not parse: '0' is written twice in one object{ADVICE}",
    ),
    Forgery(
        "deep JSON",
        lambda data: with_text(data, b'{"a":' + b"[" * 6000 + b"]" * 6000 + b"}"),
        f"the JSON area nests deeper than 6 levels{ADVICE}",
    ),
    Forgery(
        "not ASCII",
        lambda data: _text(data, b'"luks2"', b'"lu\xffs2"'),
        f"byte 28 of the JSON area is not ASCII{ADVICE}",
    ),
    Forgery(
        "a number of 5000 digits",
        lambda data: _text(data, b'"iterations":1000', HUGE.encode()),
        f"the JSON area does not parse: '{'9' * 37}...' is not a whole number from 0 up{ADVICE}",
    ),
    Forgery(
        "a number that is not whole",
        lambda data: _text(data, b'"stripes":4000', b'"stripes":4e3'),
        f"the JSON area does not parse: '4e3' is not a whole number from 0 up{ADVICE}",
    ),
    Forgery(
        "not a number",
        lambda data: _text(data, b'"stripes":4000', b'"stripes":NaN'),
        f"the JSON area does not parse: 'NaN' is not a whole number from 0 up{ADVICE}",
    ),
    Forgery(
        "a number as text",
        put("segments.0.sector_size", "4096"),
        f"segments.0.sector_size is '4096', expected 4096{ADVICE}",
    ),
    Forgery(
        "true for one", put("keyslots.0.key_size", True), f"keyslots.0.key_size is true, expected 64{ADVICE}"
    ),
    Forgery("re-encryption", _reencrypt, f"config.requirements is not expected{ADVICE}"),
    Forgery("backup segment of a re-encryption", _backup_segment, f"segments.1 is not expected{ADVICE}"),
    Forgery("flags", put("config.flags", ["allow-discards"]), f"config.flags is not expected{ADVICE}"),
    Forgery("segment flags", put("segments.0.flags", ["x"]), f"segments.0.flags is not expected{ADVICE}"),
    Forgery("priority", put("keyslots.0.priority", 2), f"keyslots.0.priority is not expected{ADVICE}"),
    Forgery(
        "segment moved",
        put("segments.0.offset", "32768"),
        f"segments.0.offset is '32768', expected '16777216'{ADVICE}",
    ),
    Forgery(
        "size not dynamic",
        put("segments.0.size", "1048576"),
        f"segments.0.size is '1048576', expected 'dynamic'{ADVICE}",
    ),
    Forgery(
        "tweak moved", put("segments.0.iv_tweak", "8"), f"segments.0.iv_tweak is '8', expected '0'{ADVICE}"
    ),
    Forgery(
        "another sector size",
        put("segments.0.sector_size", 512),
        f"segments.0.sector_size is 512, expected 4096{ADVICE}",
    ),
    Forgery(
        "linear segment",
        put("segments.0.type", "linear"),
        f"segments.0.type is 'linear', expected 'crypt'{ADVICE}",
    ),
    Forgery(
        "unauthenticated made authenticated",
        put(
            "segments.0.integrity",
            {"type": "hmac(sha256)", "journal_encryption": "none", "journal_integrity": "none"},
        ),
        f"segments.0.integrity is not expected{ADVICE}",
    ),
    Forgery(
        "key slot area over the header",
        put("keyslots.0.area.offset", "0"),
        f"keyslots.0.area.offset is '0', expected '32768'{ADVICE}",
    ),
    Forgery(
        "few stripes", put("keyslots.0.af.stripes", 1), f"keyslots.0.af.stripes is 1, expected 4000{ADVICE}"
    ),
    Forgery(
        "short area key",
        put("keyslots.0.area.key_size", 32),
        f"keyslots.0.area.key_size is 32, expected 64{ADVICE}",
    ),
    Forgery(
        "short salt",
        put("keyslots.0.kdf.salt", "AAAA"),
        f"keyslots.0.kdf.salt is not 44 characters of base64{ADVICE}",
    ),
    Forgery(
        "salt with a line end",
        put("digests.0.salt", "A" * 43 + "\n"),
        f"digests.0.salt is not 44 characters of base64{ADVICE}",
    ),
    Forgery(
        "terminal escapes",
        put("segments.0.size", "\x1b[2Jdynamic"),
        f"segments.0.size is '\\x1b[2Jdynamic', expected 'dynamic'{ADVICE}",
    ),
    Forgery("a name with terminal escapes", put("\x1b[2J", 0), f"\\x1b[2J is not expected{ADVICE}"),
    Forgery(
        "another JSON size",
        put("config.json_size", "4096"),
        f"config.json_size is '4096', expected '12288'{ADVICE}",
    ),
    Forgery(
        "a list for an object", put("keyslots", []), f"keyslots is a list of 0, expected an object{ADVICE}"
    ),
    Forgery(
        "mismatched copies",
        lambda data: edited(data, lambda value: value["segments"]["0"].update(sector_size=512), (1,)),
        f"offset 0x4000: the copies differ in their JSON areas{ADVICE}",
    ),
    Forgery(
        "an older second copy",
        lambda data: patched(data, COPY + 23, b"\0"),
        f"offset 0x4000: the copies differ in their sequence, 1 and 0{ADVICE}",
    ),
    Forgery(
        "a second copy of another volume",
        lambda data: patched(data, COPY + 168, b"0"),
        "offset 0x4000: the copies differ in their uuid, b'6ba7b810-9dad-11d1-80b4-...' and "
        f"b'0ba7b810-9dad-11d1-80b4-...'{ADVICE}",
    ),
    Forgery(
        "wrong checksum",
        lambda data: patched(data, 448, b"\0", reseal=False),
        f"offset 0x0: primary header: csum is not the SHA-256 of this copy{ADVICE}",
    ),
    Forgery(
        "wrong checksum of the second copy",
        lambda data: patched(data, COPY + 104, b"\0\0\0\0", reseal=False),
        f"offset 0x4000: secondary header: csum is not the SHA-256 of this copy{ADVICE}",
    ),
    Forgery(
        "no second copy",
        lambda data: patched(data, COPY, bytes(COPY), reseal=False),
        f"offset 0x4000: secondary header: magic is b'', expected b'SKUL\\xba\\xbe'{ADVICE}",
    ),
    Forgery(
        "LUKS1",
        lambda data: patched(data, 6, b"\0\1"),
        f"offset 0x0: primary header: version is 1, expected 2{ADVICE}",
    ),
    Forgery(
        "larger header",
        lambda data: patched(data, 8, (32768).to_bytes(8, "big")),
        f"offset 0x0: primary header: hdr_size is 32768, expected 16384{ADVICE}",
    ),
    Forgery(
        "another checksum algorithm",
        lambda data: patched(data, 72, b"sha1\0\0"),
        f"offset 0x0: primary header: csum_alg is b'sha1', expected b'sha256'{ADVICE}",
    ),
    Forgery(
        "label",
        lambda data: patched(data, 24, b"root"),
        f"offset 0x0: primary header: label is b'root', expected b''{ADVICE}",
    ),
    Forgery(
        "subsystem",
        lambda data: patched(data, 208, b"x"),
        f"offset 0x0: primary header: subsystem is b'x', expected b''{ADVICE}",
    ),
    Forgery(
        "header offset",
        lambda data: patched(data, COPY + 256, bytes(8)),
        f"offset 0x4000: secondary header: hdr_offset is 0, expected 16384{ADVICE}",
    ),
    Forgery(
        "a sequence number that would win for ever",
        lambda data: patched(patched(data, 16, b"\xff" * 8), COPY + 16, b"\xff" * 8),
        f"offset 0x0: primary header: seqid is 18446744073709551615, expected at most 65535{ADVICE}",
    ),
    Forgery(
        "bytes in the padding",
        lambda data: patched(data, 0x200, b"x" * 100),
        f"offset 0x0: primary header: padding at 0x200 is b'{'x' * 24}...', expected b''{ADVICE}",
    ),
    Forgery(
        "an upper-case UUID",
        lambda data: patched(patched(data, 169, b"B"), COPY + 169, b"B"),
        "offset 0x0: primary header: uuid is b'6Ba7b810-9dad-11d1-80b4-...', expected lower-case digits"
        f"{ADVICE}",
    ),
    Forgery(
        "nothing but zeros",
        lambda data: bytes(len(data)),
        f"offset 0x0: primary header: magic is b'', expected b'LUKS\\xba\\xbe'{ADVICE}",
    ),
    Forgery(
        "cut file",
        lambda data: data[:-1],
        "290815 bytes, header and key slots take 290816; it is cut short",
    ),
    Forgery("empty file", lambda data: b"", "0 bytes, header and key slots take 290816; it is cut short"),
)
