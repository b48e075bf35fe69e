"""Tokens of a LUKS2 header whose key slot opens with a secret that a TPM has sealed.

They are systemd's: a stock ``systemd-cryptsetup`` opens the volume too. Every byte is known when the image
is built but the sealed blob, which the machine makes at its first boot, and with literal registers the digest
of the policy. A volume under a rollback counter has a type of its own, for systemd knows no such policy and
would only fail with it.

Spec: systemd 252 src/shared/tpm2-util.c tpm2_make_luks2_json (type ``systemd-tpm2``, members in order);
LUKS2 On-Disk Format Specification 1.1.x, "Token Object".
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

from ..errors import FormatError
from .luks2_json import Charset
from .luks2_model import Expected, TokenField, TokenShape
from .luks2_template import template
from .tpm2 import PCR_COUNT

SYSTEMD_TYPE = "systemd-tpm2"
COUNTED_TYPE = "goldsmith-tpm2"

# TPM2B_PRIVATE (160 bytes) and TPM2B_PUBLIC (80) of 32 sealed bytes by the TCG reference implementation,
# which the TPMs of virtual machines are built from. Measured with swtpm 0.7 and libtpms 0.9; the sizes follow
# from part 1 section 23.3 (sensitive area with its HMAC) and part 2 section 12.2.4 (TPMT_PUBLIC).
DEFAULT_BLOB_SIZE = 240
# Ours: room for the HMAC and the IV of another implementation.
BLOB_SIZES = range(128, 1025)
_DIGEST_SIZE = 32
# First octet of a handle of an NV index. Spec: part 2 section 7.2 (TPM_HT_NV_INDEX).
_NV_HANDLE_TYPE = 0x01
# Registers that any software may reset, so that they bind nothing.
# Spec: TCG PC Client Platform TPM Profile 1.05 section 4.6.2.
RESETTABLE = (16, 23)
_BLOB = "tpm2-blob"


def signed_shape(
    pem: bytes,
    policy: bytes,
    *,
    registers: Sequence[int] = (11,),
    blob_size: int = DEFAULT_BLOB_SIZE,
    counter: int | None = None,
) -> TokenShape:
    """The token of a secret that opens under every policy of some registers that a key has signed.

    Args:
        pem: the public key, as it is loaded to check signatures.
        policy: the digest of PolicyAuthorize for this key, 32 bytes.
        registers: PCR indexes, ascending, that the signed policies speak of.
        blob_size: bytes of TPM2B_PRIVATE and TPM2B_PUBLIC together.
        counter: handle of the NV counter that the signed policies compare with their release.

    Raises:
        FormatError: a size or the handle is none, or the key is no PEM text.
    """
    if len(policy) != _DIGEST_SIZE:
        raise FormatError("tpm2 token", f"policy of {len(policy)} bytes, expected {_DIGEST_SIZE} (SHA-256)")
    if not pem.startswith(b"-----BEGIN PUBLIC KEY-----\n") or not pem.isascii():
        raise FormatError("tpm2 token", "the key is no PEM public key; write a SubjectPublicKeyInfo")
    fields = (
        *_common((), blob_size),
        TokenField("tpm2-policy-hash", policy.hex()),
        TokenField("tpm2-pin", False),
        TokenField("tpm2_pubkey_pcrs", _checked(registers)),
        TokenField("tpm2_pubkey", base64.b64encode(pem).decode("ascii")),
    )
    if counter is None:
        return TokenShape(SYSTEMD_TYPE, (0,), fields)
    if counter >> 24 != _NV_HANDLE_TYPE:
        what = f"counter {counter:#x}, expected an NV index: 0x1000000 to 0x1ffffff"
        raise FormatError("tpm2 token", what)
    return TokenShape(COUNTED_TYPE, (0,), (*fields, TokenField("counter", counter)))


def literal_shape(registers: Sequence[int], *, blob_size: int = DEFAULT_BLOB_SIZE) -> TokenShape:
    """The token of a secret that opens while registers of the SHA-256 bank hold what they held.

    Args:
        registers: PCR indexes, ascending.
        blob_size: as in ``signed_shape``.

    Raises:
        FormatError: no registers, one that does not exist or that software can reset, or no such size.
    """
    fields = (
        *_common(_checked(registers), blob_size),
        TokenField("tpm2-policy-hash", size=2 * _DIGEST_SIZE, charset=Charset.HEX),
        TokenField("tpm2-pin", False),
    )
    return TokenShape(SYSTEMD_TYPE, (0,), fields)


def blob_place(expected: Expected) -> tuple[int, int]:
    """Where the text of the sealed blob stands in the primary header: its offset and size in bytes.

    The text is base64 with its padding, which the template has as literal bytes behind the hole.

    Raises:
        FormatError: no token of these volumes, or more than one, has a sealed blob.
    """
    found = [
        (number, field)
        for number, token in enumerate(expected.tokens)
        for field in token.fields
        if field.name == _BLOB and field.value is None
    ]
    if len(found) != 1:
        raise FormatError("tpm2 token", f"{len(found)} tokens have a sealed blob, expected one")
    ((number, field),) = found
    name = f"tokens.{number}.{_BLOB}"
    (hole,) = (each for each in template(expected).holes if each.name == name)
    return hole.offset, hole.size + field.padding


def _common(registers: tuple[int, ...], blob_size: int) -> tuple[TokenField, ...]:
    if blob_size not in BLOB_SIZES:
        what = f"blob of {blob_size} bytes, expected {BLOB_SIZES[0]} to {BLOB_SIZES[-1]}"
        raise FormatError("tpm2 token", what)
    padding = -blob_size % 3
    return (
        TokenField(_BLOB, size=-(-blob_size // 3) * 4 - padding, padding=padding),
        TokenField("tpm2-pcrs", registers),
        TokenField("tpm2-pcr-bank", "sha256"),
        TokenField("tpm2-primary-alg", "ecc"),
    )


def _checked(registers: Sequence[int]) -> tuple[int, ...]:
    shown = ",".join(map(str, registers)) or "none"
    if not registers or list(registers) != sorted(set(registers) & set(range(PCR_COUNT))):
        what = f"registers {shown}, expected some of 0 to {PCR_COUNT - 1}, ascending, each once"
        raise FormatError("tpm2 token", what)
    soft = [each for each in registers if each in RESETTABLE]
    if soft:
        raise FormatError(
            "tpm2 token", f"PCR {soft[0]} can be reset by software and binds nothing; leave it out"
        )
    return tuple(registers)
