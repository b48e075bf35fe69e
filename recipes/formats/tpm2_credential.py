"""TPM2_MakeCredential in software: a secret that only one TPM, holding one named key, gives back.

The secret is wrapped for an endorsement key and bound to the name of another key. TPM2_ActivateCredential
opens it only on the TPM of that endorsement key, and only while a key of that name is loaded there; the name
covers the attributes, so whoever returns the secret has proved where the key lives and that it is restricted.

Spec: TCG TPM 2.0 Library part 1 section 24 "Credential Protection", section 11.4.10 (KDFa, KDFe), annexes
B.10 and C.6 (label IDENTITY for RSA and ECC); part 2 section 12.4 (TPMS_ID_OBJECT); version 1.59.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode

from ..errors import FormatError
from .tpm2 import HASHES, Alg, Reader, hash_size, sized
from .tpm2_public import EccKey, Public

_SPEC = "TCG TPM 2.0 Library part 1 section 24"
# With the NUL that ends it. Spec: part 1 annexes B.10 and C.6.
_IDENTITY = b"IDENTITY\0"
_HASHES: dict[Alg, hashes.HashAlgorithm] = {
    Alg.SHA256: hashes.SHA256(),
    Alg.SHA384: hashes.SHA384(),
    Alg.SHA512: hashes.SHA512(),
}
_BLOCK = 16
# Longest TPMS_ID_OBJECT and TPM2B_ENCRYPTED_SECRET here: SHA-512 twice with sizes, RSA-4096.
_MAX_BLOB = 2 * (2 + 64)
_MAX_SECRET = 512


@dataclass(frozen=True)
class Credential:
    """What TPM2_MakeCredential returns; neither part is secret.

    Attributes:
        blob: credentialBlob, a TPMS_ID_OBJECT.
        encrypted_seed: secret, the seed as the endorsement key gets it.
    """

    blob: bytes
    encrypted_seed: bytes

    def pack(self) -> bytes:
        """TPM2B_ID_OBJECT, then TPM2B_ENCRYPTED_SECRET."""
        return sized(self.blob) + sized(self.encrypted_seed)


def read_credential(data: bytes, source: str) -> Credential:
    """The two structures in ``data``.

    Raises:
        FormatError: not exactly a TPM2B_ID_OBJECT and a TPM2B_ENCRYPTED_SECRET.
    """
    reader = Reader(data, source)
    blob = reader.sized("credentialBlob", _MAX_BLOB)
    seed = reader.sized("secret", _MAX_SECRET)
    reader.finish()
    return Credential(blob, seed)


def make_credential(endorsement: Public, name: bytes, secret: bytes) -> Credential:
    """``secret`` for the TPM of ``endorsement``, while a key called ``name`` is loaded; new every time.

    Args:
        endorsement: an RSA or ECC storage key; from a certificate, see ``tpm2_public.endorsement_public``.
        name: nameAlg and digest of the attestation key, see ``Public.name``.
        secret: 1 to as many bytes as a digest of the endorsement key's nameAlg has.

    Raises:
        FormatError: the key is no storage key, the name is none, or the secret has another length.
    """
    algorithm = _checked(endorsement, name, secret)
    seed, encrypted_seed = _make_seed(endorsement, algorithm)
    key = _kdfa(algorithm, seed, b"STORAGE", name, endorsement.symmetric.key_bits // 8)
    encryptor = Cipher(algorithms.AES(key), CFB(bytes(_BLOCK))).encryptor()
    encrypted = encryptor.update(sized(secret)) + encryptor.finalize()
    integrity_key = _kdfa(algorithm, seed, b"INTEGRITY", b"", algorithm.digest_size)
    integrity = hmac.digest(integrity_key, encrypted + name, algorithm.name)
    return Credential(sized(integrity) + encrypted, encrypted_seed)


def _checked(endorsement: Public, name: bytes, secret: bytes) -> hashes.HashAlgorithm:
    """The hash of the endorsement key's nameAlg, once everything fits it."""
    algorithm = _HASHES.get(endorsement.name_algorithm)
    if algorithm is None:
        what = f"nameAlg is {endorsement.name_algorithm.name}; take a key named with SHA-256 or longer"
        raise FormatError("endorsement key", what, spec=_SPEC)
    if not endorsement.symmetric.key_bits:
        raise FormatError("endorsement key", "it protects nothing; take a restricted decryption key")
    if not 1 <= len(secret) <= algorithm.digest_size:
        what = f"secret of {len(secret)} bytes, expected 1 to {algorithm.digest_size}"
        raise FormatError("credential", what, spec=_SPEC)
    kinds = {int(each): 2 + hash_size(each) for each in HASHES}
    if kinds.get(int.from_bytes(name[:2], "big")) != len(name):
        what = f"name of {len(name)} bytes is no nameAlg with its digest; take the key's Name"
        raise FormatError("credential", what, spec="TCG TPM 2.0 Library part 1 section 16")
    return algorithm


def _make_seed(endorsement: Public, algorithm: hashes.HashAlgorithm) -> tuple[bytes, bytes]:
    """A new seed, and the same as the endorsement key gets it."""
    key = endorsement.public_key("endorsement key")
    if isinstance(key, rsa.RSAPublicKey):
        seed = secrets.token_bytes(algorithm.digest_size)
        oaep = padding.OAEP(padding.MGF1(algorithm), algorithm, _IDENTITY)
        return seed, key.encrypt(seed, oaep)
    assert isinstance(endorsement.key, EccKey)
    size = endorsement.key.curve.size
    ephemeral = ec.generate_private_key(key.curve)
    point = ephemeral.public_key().public_numbers()
    x, y = (each.to_bytes(size, "big") for each in (point.x, point.y))
    # KDFe is the concatenation KDF of SP 800-56A; what it hashes behind Z ends its label with a NUL.
    # Spec: part 1 section 11.4.10.3.
    info = _IDENTITY + x + endorsement.key.x
    shared = ephemeral.exchange(ec.ECDH(), key)
    return ConcatKDFHash(algorithm, algorithm.digest_size, info).derive(shared), sized(x) + sized(y)


def _kdfa(algorithm: hashes.HashAlgorithm, key: bytes, label: bytes, context: bytes, size: int) -> bytes:
    """KDFa: the counter-mode KDF of SP 800-108 with HMAC. Spec: part 1 section 11.4.10.2.

    Args:
        context: contextU; contextV is empty for credentials.
        size: bytes to make.
    """
    return KBKDFHMAC(
        algorithm=algorithm,
        mode=Mode.CounterMode,
        length=size,
        rlen=4,
        llen=4,
        location=CounterLocation.BeforeFixed,
        label=label,
        context=context,
        fixed=None,
    ).derive(key)
