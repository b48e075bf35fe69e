"""Real PE images, keys and small edits of bytes that the boot format tests share."""

from __future__ import annotations

import lzma
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from recipes.formats.secureboot_keys import SigningKey, load_certificate, load_key, make_key
from tests.support import VECTORS

# Places in both stubs, read with objdump -x: PE magic at 0x40, so that the COFF header is at 0x44.
COFF = 0x44
OPTIONAL = 0x58
CHECKSUM = OPTIONAL + 64
DIRECTORIES = OPTIONAL + 112
CERTIFICATES = DIRECTORIES + 32
SECTIONS = OPTIONAL + 240


@cache
def stub() -> bytes:
    return lzma.decompress((VECTORS / "boot" / "linuxx64.efi.stub.xz").read_bytes())


@cache
def kernel() -> bytes:
    """A small PE image that stands for a kernel."""
    return lzma.decompress((VECTORS / "boot" / "addonx64.efi.stub.xz").read_bytes())


def signing_key(name: str = "test db") -> SigningKey:
    """The same key for the same name within one run."""
    return _made(name)


def key_pair(name: str = "test db") -> tuple[rsa.RSAPrivateKey, x509.Certificate]:
    return _loaded(name)


@cache
def _made(name: str) -> SigningKey:
    return make_key(name)


@cache
def _loaded(name: str) -> tuple[rsa.RSAPrivateKey, x509.Certificate]:
    made = _made(name)
    return load_key(made.private_key, "key"), load_certificate(made.certificate, "certificate")


def patched(data: bytes, offset: int, new: bytes) -> bytes:
    return data[:offset] + new + data[offset + len(new) :]


def le32(value: int) -> bytes:
    return value.to_bytes(4, "little")
