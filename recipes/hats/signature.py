"""Signatures of appraisal policies: ECDSA on P-256 with SHA-256, r and s, over the bytes of what is measured.

Not signed are the description, who signed, that a policy is for an insecure machine, and all that an
``amd_sev_dynamic`` policy says of firmware and processors. So nothing is signed but ``amd_sev``: any other
signature would stand below any firmware.

Spec: private-compute-infra-toolkit/hats 7d61840, tvs/appraisal_policies/policy_signature/src/lib.rs;
FIPS 186-5 section 6.4; RFC 6979 section 3.2 (signing is deterministic).
"""

from __future__ import annotations

import struct
from dataclasses import replace

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from ..errors import FormatError, ImageError
from .policy import AmdSev, AppraisalPolicy, PolicySignature

_COORDINATE = 32
# An uncompressed point: a mark, X, Y. Spec: SEC 1 version 2.0 section 2.3.3.
_POINT = 1 + 2 * _COORDINATE
# Ours: a key has a few hundred bytes.
_MAX_KEY = 16384
_MAKE = "make one with `openssl ecparam -genkey -name prime256v1 -noout`"
_TCB = struct.Struct(">IIII")  # boot_loader, tee, snp, microcode


def signed_bytes(policy: AppraisalPolicy) -> bytes:
    """What a signature is over: values one after the other, without lengths or names."""
    start = b""
    if isinstance(policy.stage0, AmdSev):
        tcb = policy.stage0.tcb
        start = policy.stage0.sha384 + _TCB.pack(tcb.boot_loader, tcb.tee, tcb.snp, tcb.microcode)
    return b"".join(
        (
            start,
            policy.kernel_image,
            policy.kernel_setup_data,
            policy.init_ram_fs,
            policy.memory_map,
            policy.acpi_table,
            policy.kernel_cmd_line_regex.encode(),
            policy.system_image,
            *policy.containers,
        )
    )


def sign(policy: AppraisalPolicy, key: ec.EllipticCurvePrivateKey, signer: str) -> AppraisalPolicy:
    """The policy with this signature as its only one.

    Raises:
        ImageError: it is not ``amd_sev``, so a signature would not cover what vouches for the firmware.
    """
    if not isinstance(policy.stage0, AmdSev):
        what = "a signature covers nothing of what vouches for its firmware"
        raise ImageError(f"{policy.description}: {what}; only amd_sev policies are signed")
    algorithm = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
    r, s = utils.decode_dss_signature(key.sign(signed_bytes(policy), algorithm))
    value = r.to_bytes(_COORDINATE, "big") + s.to_bytes(_COORDINATE, "big")
    return replace(policy, signatures=(PolicySignature(value, signer),))


def verify(policy: AppraisalPolicy, public: ec.EllipticCurvePublicKey) -> bool:
    """Whether the first signature is of this key; no other one is looked at, as HATs does."""
    if not policy.signatures:
        return False
    value = policy.signatures[0].value
    r, s = (int.from_bytes(part, "big") for part in (value[:_COORDINATE], value[_COORDINATE:]))
    try:
        public.verify(utils.encode_dss_signature(r, s), signed_bytes(policy), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def make_key() -> bytes:
    """A new private key, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())


def load_key(data: bytes, source: str) -> ec.EllipticCurvePrivateKey:
    """The private key of a PEM file.

    Raises:
        FormatError: it is none, is encrypted, or is on another curve; nothing of it is shown.
    """
    if len(data) > _MAX_KEY:
        raise FormatError(source, f"{len(data)} bytes are no key file; {_MAKE}")
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise FormatError(source, f"no PEM file of an unencrypted private key; {_MAKE}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise FormatError(source, f"not a key on P-256, and HATs takes no other; {_MAKE}")
    return key


def public_point(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The public key as TVS sources hold it: 65 bytes, an uncompressed point."""
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def load_point(data: bytes, source: str) -> ec.EllipticCurvePublicKey:
    """The public key of 65 bytes, an uncompressed point.

    Raises:
        FormatError: another length, or not a point of the curve.
    """
    if len(data) != _POINT:
        raise FormatError(source, f"{len(data)} bytes, a public key has {_POINT} (4, X, Y)")
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), data)
    except ValueError:
        raise FormatError(source, "not a point of P-256") from None
