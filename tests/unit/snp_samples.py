"""Reports of SEV-SNP guests: real ones, and a chip of our own with AMD's chain of certificates made anew.

Reports are put together from the table in AMD 56860 section 7.3, by offsets, and certificates by the library:
neither by the code that reads them.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tests.support import VECTORS

FOLDER = VECTORS / "snp_report"
REAL = ("milan-v2", "milan-v3", "genoa-v5", "turin-v5")
# Every certificate of the real chains is valid then, and those made here are.
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
MEASUREMENT = hashlib.sha384(b"a guest with a TPM inside").digest()
HARDWARE_ID = hashlib.sha512(b"a chip").digest()
PSS = padding.PSS(padding.MGF1(hashes.SHA384()), 48)
_AMD = "1.3.6.1.4.1.3704.1"
VCEK_GUID = "63da758d-e664-4564-adc5-f4b93be8accd"
VLEK_GUID = "a8074bc2-a25a-483e-aae6-39c045a0b8a1"
ASK_GUID = "4ab7b379-bbac-4fe4-a02f-05aef327c782"


def real_report(name: str) -> bytes:
    return (FOLDER / f"{name}.bin").read_bytes()


def real_certificate(name: str) -> bytes:
    """In DER; the library would warn of its serial number."""
    lines = (FOLDER / f"{name}.pem").read_text(encoding="ascii").splitlines()
    return base64.b64decode("".join(lines[1:-1]))


def real_roots(name: str) -> bytes:
    """ASK and ARK in PEM."""
    return (FOLDER / f"{name.partition('-')[0]}.pem").read_bytes()


@dataclass(frozen=True)
class Issued:
    """A certificate and its key."""

    key: Any
    certificate: x509.Certificate

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)


def issue(
    name: str,
    issuer: Issued | None = None,
    *,
    key: Any = None,
    extensions: tuple[x509.ExtensionType, ...] | None = None,
    days: tuple[float, float] = (-1, 1),
    scheme: padding.PSS | padding.PKCS1v15 = PSS,
    algorithm: hashes.SHA256 | hashes.SHA384 | None = None,
) -> Issued:
    """A certificate; without ``extensions`` that of an authority."""
    key = key or rsa_key(name)
    signer = issuer.key if issuer else key
    constraints = (x509.BasicConstraints(ca=True, path_length=None),)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(issuer.certificate.subject if issuer else _name(name))
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(NOW + dt.timedelta(days=days[0]))
        .not_valid_after(NOW + dt.timedelta(days=days[1]))
    )
    for each in constraints if extensions is None else extensions:
        builder = builder.add_extension(each, critical=isinstance(each, x509.BasicConstraints))
    return Issued(key, builder.sign(signer, algorithm or hashes.SHA384(), rsa_padding=scheme))


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


@cache
def rsa_key(name: str) -> rsa.RSAPrivateKey:
    """A key of that name's; shorter than AMD's, which take long to make."""
    return rsa.generate_private_key(65537, 2048)


def _extension(arc: str, value: bytes) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(f"{_AMD}.{arc}"), value)


def integer(value: int) -> bytes:
    """In DER: two bytes above 127, so that it is not negative."""
    content = value.to_bytes(value.bit_length() // 8 + 1, "big")
    return bytes([2, len(content)]) + content


def chip_extensions(
    product: str = "Milan-B0",
    levels: tuple[int, ...] = (3, 0, 8, 0, 0, 0, 0, 115),
    hardware_id: bytes = HARDWARE_ID,
    csp: str = "",
    fmc: int | None = None,
) -> tuple[x509.ExtensionType, ...]:
    """What a certificate of a VCEK says. Spec: AMD 57230 section 3.1."""
    found = [_extension("1", integer(0)), _extension("2", bytes([0x16, len(product)]) + product.encode())]
    found += [_extension(f"3.{arc}", integer(level)) for arc, level in enumerate(levels, start=1)]
    if fmc is not None:
        found.append(_extension("3.9", integer(fmc)))
    if hardware_id:
        found.append(_extension("4", hardware_id))
    if csp:
        found.append(_extension("5", bytes([0x16, len(csp)]) + csp.encode()))
    return tuple(found)


# Offsets and sizes of fields. Spec: AMD 56860 section 7.3, ATTESTATION_REPORT.
FIELDS = {
    "version": (0x000, 4),
    "guest_svn": (0x004, 4),
    "policy": (0x008, 8),
    "vmpl": (0x030, 4),
    "signature_algorithm": (0x034, 4),
    "current_tcb": (0x038, 8),
    "platform_info": (0x040, 8),
    "key_info": (0x048, 4),
    "report_data": (0x050, 64),
    "measurement": (0x090, 48),
    "reported_tcb": (0x180, 8),
    "cpuid": (0x188, 3),
    "chip_id": (0x1A0, 64),
    "committed_tcb": (0x1E0, 8),
    "launch_tcb": (0x1F0, 8),
    "launch_mitigations": (0x1F8, 8),
}
MILAN_TCB = bytes((3, 0, 0, 0, 0, 0, 8, 115))
_DEFAULTS: dict[str, int | bytes] = {
    "version": 2,
    # Bit 17 is always one; the guest may run on processors with SMT.
    "policy": 0x30000,
    "vmpl": 0,
    "signature_algorithm": 1,
    **dict.fromkeys(("current_tcb", "reported_tcb", "committed_tcb", "launch_tcb"), MILAN_TCB),
    "platform_info": 1,
    "measurement": MEASUREMENT,
    "chip_id": HARDWARE_ID,
}


def unsigned_report(**changes: int | bytes) -> bytes:
    """A report without a signature; fields by their names."""
    data = bytearray(1184)
    data[0x160:0x180] = b"\xff" * 32
    for name, value in {**_DEFAULTS, **changes}.items():
        offset, size = FIELDS[name]
        data[offset : offset + size] = value.to_bytes(size, "little") if isinstance(value, int) else value
    return bytes(data)


def sign_report(report: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """R and S are 72 bytes each, the lowest first. Spec: AMD 56860 chapter 10."""
    r, s = utils.decode_dss_signature(key.sign(report[:0x2A0], ec.ECDSA(hashes.SHA384())))
    return report[:0x2A0] + r.to_bytes(72, "little") + s.to_bytes(72, "little") + bytes(368)


def table(*entries: tuple[str, bytes]) -> bytes:
    """A host's table of certificates. Spec: AMD 56421 section 4.1.8.1."""
    head, body, offset = b"", b"", 24 * (len(entries) + 1)
    for kind, data in entries:
        head += bytes.fromhex(kind.replace("-", "")) + offset.to_bytes(4, "little")
        head += len(data).to_bytes(4, "little")
        body += data
        offset += len(data)
    return head + bytes(24) + body


@dataclass(frozen=True)
class Chip:
    """A processor, with the certificates that AMD would give it."""

    ark: Issued
    ask: Issued
    vcek: Issued
    levels: dict[str, Any] = field(default_factory=dict)

    @property
    def roots(self) -> bytes:
        """What an operator has in a file."""
        return self.ask.pem + self.ark.pem

    @property
    def table(self) -> bytes:
        return table((ASK_GUID, self.ask.der), (VCEK_GUID, self.vcek.der))

    def report(self, data: bytes, **changes: int | bytes) -> bytes:
        return sign_report(unsigned_report(report_data=data, **changes), self.vcek.key)

    def with_vcek(self, **changes: Any) -> Chip:
        """The same with another certificate for the key."""
        return replace(self, vcek=issue_vcek(self.ask, self.vcek.key, **changes))


def issue_vcek(ask: Issued, key: Any = None, **changes: Any) -> Issued:
    options = {name: changes.pop(name) for name in ("days", "scheme", "algorithm") if name in changes}
    key = key or ec.generate_private_key(ec.SECP384R1())
    return issue("SEV-VCEK", ask, key=key, extensions=chip_extensions(**changes), **options)


@cache
def chip() -> Chip:
    ark = issue("ARK-Milan")
    ask = issue("SEV-Milan", ark)
    return Chip(ark, ask, issue_vcek(ask))
