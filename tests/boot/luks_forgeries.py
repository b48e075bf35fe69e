"""What the script of the initramfs says of each forged header: where it is not what the template wants.

The offsets are worked out by hand from the layout of a header with one PBKDF2 key slot and no token; see
``PLAIN_HOLES`` in ``tests/unit/test_formats_luks2_template.py`` for its holes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType

from recipes.formats.luks2_model import Expected
from tests.unit import luks2_forgeries as forge

# The identity is part of the template.
EXPECTED: Expected = replace(forge.PLAIN, uuid=forge.VOLUME_UUID)

_MAGIC = "bytes 0 to 21, in the primary binary header"
_SALTED = "bytes 24 to 103, in the primary binary header"
_UUID = "bytes 168 to 447, in the primary binary header"
_PADDING = "bytes 480 to 4095, in the primary binary header"
_KEYSLOT = "bytes 4096 to 4360, in the primary JSON area"
_SEGMENT = "bytes 4404 to 4665, in the primary JSON area"
_DIGEST = "bytes 4709 to 4721, in the primary JSON area"
_CONFIG = "bytes 4765 to 16383, in the primary JSON area"
_SECOND_MAGIC = "bytes 16384 to 16405, in the secondary binary header"
_SECOND_UUID = "bytes 16552 to 16831, in the secondary binary header"
_COPIES = ": the two copies differ"

FAULTS: Mapping[str, str] = MappingProxyType(
    {
        "null cipher in the key slot": _KEYSLOT,
        "null cipher in the segment": _SEGMENT,
        "another cipher in the segment": _SEGMENT,
        "two key slots": _SEGMENT,
        "no key slot": _KEYSLOT,
        "alien token": _SEGMENT,
        "huge derivation cost": _KEYSLOT,
        "another derivation": _KEYSLOT,
        "weak digest": _SEGMENT,
        "another digest hash": _SEGMENT,
        "second digest": _CONFIG,
        "digest of no key slot": _SEGMENT,
        "cut JSON": _CONFIG,
        "JSON without its end": _SEGMENT,
        "empty JSON": _KEYSLOT,
        "JSON behind the JSON": _CONFIG,
        "a member twice": _KEYSLOT,
        "a member twice, once escaped": _KEYSLOT,
        "a key slot twice": _SEGMENT,
        "deep JSON": _KEYSLOT,
        "not ASCII": _KEYSLOT,
        "a number of 5000 digits": _KEYSLOT,
        "a number that is not whole": _KEYSLOT,
        "not a number": _KEYSLOT,
        "a number as text": _SEGMENT,
        "true for one": _KEYSLOT,
        "re-encryption": _CONFIG,
        "backup segment of a re-encryption": _SEGMENT,
        "flags": _CONFIG,
        "segment flags": _SEGMENT,
        "priority": _SEGMENT,
        "segment moved": _SEGMENT,
        "size not dynamic": _SEGMENT,
        "tweak moved": _SEGMENT,
        "another sector size": _SEGMENT,
        "linear segment": _SEGMENT,
        "unauthenticated made authenticated": _SEGMENT,
        "key slot area over the header": _KEYSLOT,
        "few stripes": _KEYSLOT,
        "short area key": _KEYSLOT,
        # Everything behind a short salt has moved, and it fills its hole with what follows.
        "short salt": _SEGMENT,
        "salt with a line end": _DIGEST,
        "terminal escapes": _SEGMENT,
        "a name with terminal escapes": _CONFIG,
        "another JSON size": _CONFIG,
        "a list for an object": _KEYSLOT,
        "mismatched copies": f"bytes 20480 to 32767 are not those at 4096{_COPIES}",
        "an older second copy": f"bytes 16406 to 16407 are not those at 22{_COPIES}",
        "a second copy of another volume": _SECOND_UUID,
        "wrong checksum": "primary.checksum is wrong",
        "wrong checksum of the second copy": "secondary.checksum is wrong",
        "no second copy": _SECOND_MAGIC,
        "LUKS1": _MAGIC,
        "larger header": _MAGIC,
        "another checksum algorithm": _SALTED,
        "label": _SALTED,
        "subsystem": _UUID,
        "header offset": _SECOND_UUID,
        "a sequence number that would win for ever": _MAGIC,
        "bytes in the padding": _PADDING,
        "an upper-case UUID": _UUID,
        "nothing but zeros": _MAGIC,
        "cut file": "only 290815 of its 290816 bytes are there",
        "empty file": "only 0 of its 290816 bytes are there",
    }
)


def _both(offset: int, new: bytes, data: bytes) -> bytes:
    """Bytes of the JSON area replaced in both copies, with the checksums worked out again."""
    return forge.patched(forge.patched(data, offset, new), forge.COPY + offset, new)


# Bytes in the holes of the text that would end it, or that a variable of the shell would lose.
MORE: Mapping[str, tuple[Callable[[bytes], bytes], str]] = MappingProxyType(
    {
        f"{name} in {hole}": (partial(_both, offset, new), f"{hole} is not base64 text")
        for hole, offset in (
            ("keyslots.0.kdf.salt", 4361),
            ("digests.0.salt", 4666 + 42),
            ("digests.0.digest", 4722 + 20),
        )
        for name, new in (("a quote", b'"'), ("a line break", b"\n"), ("a NUL", b"\0"), ("an escape", b"\\"))
    }
)


def forged() -> dict[str, tuple[bytes, str]]:
    """Every forged header by name, with what the script says of it."""
    good = forge.volume(EXPECTED)
    corpus = {each.name: (each.make(good), FAULTS[each.name]) for each in forge.FORGERIES}
    return corpus | {name: (make(good), fault) for name, (make, fault) in MORE.items()}
