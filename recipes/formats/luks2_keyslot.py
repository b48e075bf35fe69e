"""Key slots of LUKS2: a key derived from a passphrase, the anti-forensic splitter, the encrypted area.

The volume key is split into 4000 stripes, all of which are needed to get it back, and the stripes are
encrypted with a key that the passphrase derives to. Nothing here draws random numbers: stripes and salts come
from the caller, so that the same secrets give the same bytes.

Spec: LUKS2 On-Disk Format Specification 1.1.x, "Keyslots Object" and "AF Splitter"; LUKS1 On-Disk Format
Specification 1.2.3 section 2.4 (the splitter, with its hash in counter mode as the diffuser).
"""

from __future__ import annotations

import hashlib
import hmac

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.kdf import argon2

from ..errors import FormatError
from ..units import SECTOR_SIZE
from .luks2_model import AREA_KEY_SIZE, STRIPES, Digest, Kdf, Keyslot, Pbkdf2
from .luks2_segment import SectorCipher

# cryptsetup 2.6.1 lib/utils_crypt.h, DEFAULT_PASSPHRASE_SIZE_MAX and KEYFILE_SIZE_MAX_KB: 512 typed, 8 MiB
# from a file.
MAX_PASSPHRASE = 8 << 20
_HASH_SIZE = 32


def derive(kdf: Kdf, passphrase: bytes, salt: bytes, size: int) -> bytes:
    """``size`` bytes of key. Spec: RFC 9106 (Argon2id version 0x13), RFC 8018 section 5.2 (PBKDF2).

    Raises:
        FormatError: the passphrase is too long, or the installed library cannot derive with Argon2id.
    """
    if len(passphrase) > MAX_PASSPHRASE:
        raise FormatError("luks2 passphrase", f"{len(passphrase)} bytes; at most {MAX_PASSPHRASE}")
    if isinstance(kdf, Pbkdf2):
        return hashlib.pbkdf2_hmac("sha256", passphrase, salt, kdf.iterations, size)
    try:
        function = argon2.Argon2id(
            salt=salt, length=size, iterations=kdf.time, lanes=kdf.cpus, memory_cost=kdf.memory
        )
        return function.derive(passphrase)
    except UnsupportedAlgorithm:
        what = "this build of the cryptography package has no Argon2id; install the locked one"
        raise FormatError("luks2 key slot", what) from None


def split(key: bytes, stripes: bytes) -> bytes:
    """The key as 4000 stripes of its own size; ``stripes`` are the random first 3999.

    Raises:
        FormatError: ``stripes`` has another size.
    """
    if len(stripes) != len(key) * (STRIPES - 1):
        what = f"{len(stripes)} random bytes, expected {len(key) * (STRIPES - 1)}"
        raise FormatError("luks2 splitter", what)
    return stripes + _xor(_fold(stripes, len(key)), key)


def merge(material: bytes, size: int) -> bytes:
    """The key of ``size`` bytes that :func:`split` was given.

    Raises:
        FormatError: the material is not 4000 stripes.
    """
    if len(material) != size * STRIPES:
        raise FormatError("luks2 splitter", f"{len(material)} bytes, expected {size * STRIPES}")
    last = size * (STRIPES - 1)
    return _xor(_fold(material[:last], size), material[last:])


def seal(slot: Keyslot, volume_key: bytes, passphrase: bytes, *, stripes: bytes, area_size: int) -> bytes:
    """The area of a key slot; what the split key does not fill is zero.

    Raises:
        FormatError: ``stripes`` has another size than the splitter needs.
    """
    cipher = _cipher(slot, passphrase)
    return bytes(cipher.encrypt(split(volume_key, stripes))).ljust(area_size, b"\0")


def unseal(slot: Keyslot, area: bytes, passphrase: bytes, key_size: int) -> bytes:
    """What a passphrase makes of an area: the volume key, or as many other bytes. Check its digest.

    Raises:
        FormatError: the area is too short.
    """
    size = key_size * STRIPES
    if len(area) < size:
        raise FormatError("luks2 key slot area", f"{len(area)} bytes, {size} are needed")
    return merge(bytes(_cipher(slot, passphrase).decrypt(memoryview(area)[:size])), key_size)


def digest_of(volume_key: bytes, kdf: Pbkdf2, salt: bytes) -> Digest:
    """The digest that tells the right volume key. Spec: LUKS2 On-Disk Format, "Digests Object"."""
    return Digest(kdf, salt, derive(kdf, volume_key, salt, _HASH_SIZE))


def is_key(volume_key: bytes, digest: Digest) -> bool:
    """Whether this is the volume key that the digest was made of."""
    return hmac.compare_digest(digest_of(volume_key, digest.kdf, digest.salt).digest, digest.digest)


def _cipher(slot: Keyslot, passphrase: bytes) -> SectorCipher:
    """Areas are sectors of 512 bytes, counted from the start of the area."""
    return SectorCipher(derive(slot.kdf, passphrase, slot.salt, AREA_KEY_SIZE), SECTOR_SIZE)


def _fold(stripes: bytes, size: int) -> bytes:
    """All stripes but the last one in the block that the last one hides the key with."""
    block = bytes(size)
    for start in range(0, len(stripes), size):
        block = _diffuse(_xor(block, stripes[start : start + size]))
    return block


def _diffuse(block: bytes) -> bytes:
    """Each 32 bytes as the SHA-256 of their number and themselves; a shorter end keeps its length."""
    digests = [
        hashlib.sha256((start // _HASH_SIZE).to_bytes(4, "big") + block[start : start + _HASH_SIZE]).digest()
        for start in range(0, len(block), _HASH_SIZE)
    ]
    return b"".join(digests)[: len(block)]


def _xor(one: bytes, other: bytes) -> bytes:
    return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).to_bytes(len(one), "big")
