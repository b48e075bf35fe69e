from __future__ import annotations

import base64
import gzip
import hashlib
import json
import struct
from collections.abc import Sequence
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from recipes.clouds import secure_boot
from recipes.clouds.secure_boot import Certificates, material, pcr7, uefi_data_problems
from recipes.errors import FormatError, MeasureError, SpecError
from recipes.formats import authenticode, aws_uefi_data, efi_auth, eventlog
from recipes.formats.efi import Variable, parse_variable_data
from recipes.measure.secureboot import LoadedImage
from recipes.measure.trace import Established, HashAlgorithm
from tests.support import VECTORS
from tests.unit.boot_images import key_pair
from tests.unit.measure_images import kernel

OWNER = UUID("11111111-2222-3333-4444-123456789abc")
GLOBAL = UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
DATABASE = UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
X509 = UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
CLOUDS = ("azure", "gcp", "aws")


def der(role: str) -> bytes:
    return key_pair(role)[1].public_bytes(Encoding.DER)


KEYS = Certificates(pk=der("PK"), kek=der("KEK"), db=der("db"))


def sign(role: str, data: bytes) -> bytes:
    return efi_auth.rsa_signer(key_pair(role)[0])(data)


def signature_list(certificate: bytes, owner: UUID = OWNER) -> bytes:
    """One EFI_SIGNATURE_LIST with one certificate, field by field (UEFI 2.10 section 32.4.1)."""
    size = 28 + 16 + len(certificate)
    head = X509.bytes_le + struct.pack("<III", size, 0, 16 + len(certificate))
    return head + owner.bytes_le + certificate


ALL = {f"{role}.{kind}" for role in ("PK", "KEK", "db") for kind in ("der", "pem", "esl", "auth")}


@pytest.mark.parametrize(
    ("cloud", "more"), [("azure", {"security-profile.json"}), ("gcp", set()), ("aws", {"uefi-data.txt"})]
)
def test_files(cloud: str, more: set[str]) -> None:
    files = material(cloud, KEYS, OWNER, sign)
    assert [name for name, _ in files] == sorted(ALL | more)
    unsigned = material(cloud, KEYS, OWNER)
    assert [item for item in files if not item[0].endswith(".auth")] == list(unsigned)
    assert material(cloud, KEYS, OWNER, sign) == files


def test_certificates_and_lists() -> None:
    files = dict(material("gcp", KEYS, OWNER))
    for role in ("PK", "KEK", "db"):
        assert files[f"{role}.der"] == der(role)
        assert x509.load_pem_x509_certificate(files[f"{role}.pem"]) == key_pair(role)[1]
        assert files[f"{role}.pem"] == key_pair(role)[1].public_bytes(Encoding.PEM)
        assert files[f"{role}.esl"] == signature_list(der(role))


def test_who_signs_what() -> None:
    """The platform key itself and KEK, a key of KEK db; the certificate is in the signature."""
    files = dict(material("gcp", KEYS, OWNER, sign))
    for role, by in (("PK", "PK"), ("KEK", "PK"), ("db", "KEK")):
        signed = files[f"{role}.auth"]
        assert signed.endswith(files[f"{role}.esl"])
        head = signed.removesuffix(files[f"{role}.esl"])
        assert der(by) in head
        assert not [other for other in {"PK", "KEK", "db"} - {by} if der(other) in head]


def test_the_security_profile_of_an_image_version() -> None:
    def entry(role: str) -> dict[str, object]:
        return {"type": "x509", "value": [base64.b64encode(der(role)).decode()]}

    profile = dict(material("azure", KEYS, OWNER))["security-profile.json"]
    assert profile.endswith(b"}\n")
    assert json.loads(profile) == {
        "uefiSettings": {
            "signatureTemplateNames": ["NoSignatureTemplate"],
            "additionalSignatures": {"pk": entry("PK"), "kek": [entry("KEK")], "db": [entry("db")]},
        }
    }


def test_the_variables_of_an_ami() -> None:
    text = dict(material("aws", KEYS, OWNER))["uefi-data.txt"]
    assert aws_uefi_data.read(text, "x") == (
        Variable("PK", GLOBAL, 0x27, signature_list(der("PK"))),
        Variable("KEK", GLOBAL, 0x27, signature_list(der("KEK"))),
        Variable("db", DATABASE, 0x27, signature_list(der("db"))),
    )
    assert uefi_data_problems(text) == ()


def test_too_much_for_an_ami() -> None:
    long = Certificates(pk=der("PK"), kek=der("KEK"), db=b"\x30\x82\xc0\x00" + bytes(0xC000))
    # Header, zlib, one block; count; name, list, vendor, attributes, time and digest of each.
    lists = sum(8 + 44 + len(item) + 8 + 16 + 4 + 16 + 8 + 32 for item in (long.pk, long.kek, long.db))
    characters = -(-(16 + 2 + 5 + 4 + 8 + len("PKKEKdb") + lists) // 3) * 4
    with pytest.raises(FormatError) as caught:
        material("aws", long, OWNER)
    what = f"{characters} characters, and aws takes 64000; use smaller certificates"
    assert str(caught.value) == f"uefi data: {what} [Amazon EC2 API Reference, RegisterImage, UefiData]"


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        (b"?", ["uefi data: not base64 (Only base64 data is allowed); make it again"]),
        (
            aws_uefi_data.write([Variable("PK", GLOBAL, 0x27, b"x"), Variable("db", DATABASE, 0x27, b"")]),
            [
                f"uefi data: {role} is missing, and Secure Boot would not be enforced or boot nothing; make"
                " it again [Amazon EC2 User Guide, How UEFI Secure Boot works]"
                for role in ("KEK", "db")
            ],
        ),
    ],
)
def test_bad_uefi_data(text: bytes, messages: list[str]) -> None:
    assert [str(finding) for finding in uefi_data_problems(text)] == messages


def test_what_is_no_der() -> None:
    pem = key_pair("KEK")[1].public_bytes(Encoding.PEM)
    with pytest.raises(FormatError) as caught:
        material("gcp", Certificates(pk=KEYS.pk, kek=pem, db=KEYS.db), OWNER)
    assert str(caught.value).startswith("certificate KEK: ")


def test_unknown_clouds() -> None:
    for call in (lambda: material("oracle", KEYS, OWNER), lambda: pcr7("oracle", KEYS, OWNER, ())):
        with pytest.raises(SpecError) as caught:
            call()
        assert str(caught.value) == "cloud 'oracle' is not known; known: aws, azure, gcp"


def by_hand(algorithm: str, owner: UUID, authorities: Sequence[str]) -> bytes:
    """PCR 7 as NitroTPM-Tools computes it (nitro-tpm-pcr-compute/src/main.rs, commit 9490615498)."""

    def variable(vendor: UUID, name: str, data: bytes) -> bytes:
        head = vendor.bytes_le + struct.pack("<QQ", len(name), len(data))
        return hashlib.new(algorithm, head + name.encode("utf-16-le") + data).digest()

    events = [
        variable(GLOBAL, "SecureBoot", b"\1"),
        variable(GLOBAL, "PK", signature_list(der("PK"), owner)),
        variable(GLOBAL, "KEK", signature_list(der("KEK"), owner)),
        variable(DATABASE, "db", signature_list(der("db"), owner)),
        variable(DATABASE, "dbx", b""),
        hashlib.new(algorithm, bytes(4)).digest(),
        *(variable(DATABASE, "db", owner.bytes_le + der(role)) for role in authorities),
    ]
    value = bytes(len(events[0]))
    for event in events:
        value = hashlib.new(algorithm, value + event).digest()
    return value


def image(name: str, role: str = "db") -> LoadedImage:
    return LoadedImage(name, authenticode.sign(kernel(), *key_pair(role)))


@pytest.mark.parametrize(
    ("cloud", "owner"), [("aws", OWNER), ("azure", secure_boot.AZURE_OWNER), ("gcp", secure_boot.GCP_OWNER)]
)
@pytest.mark.parametrize("images", [0, 1, 2])
def test_pcr7(cloud: str, owner: UUID, images: int) -> None:
    """An entry of db counts once, however many images it lets run."""
    found = pcr7(cloud, KEYS, OWNER, [image(f"image {number}") for number in range(images)])
    for algorithm in HashAlgorithm:
        assert found.value(algorithm) == by_hand(algorithm.value, owner, ["db"][:images])
    assert (found.cloud, found.owner, found.trace.register) == (cloud, owner, "PCR7")
    assert found.established is Established.SPEC_ONLY


@pytest.mark.parametrize("cloud", CLOUDS)
def test_what_a_prediction_rests_on_is_said(cloud: str) -> None:
    assumptions = pcr7(cloud, KEYS, OWNER, ()).assumptions
    assert len(assumptions) >= 3
    assert any("dbx" in text for text in assumptions[1:])


def test_an_image_that_would_not_start() -> None:
    with pytest.raises(MeasureError, match="under Secure Boot firmware refuses to load it"):
        pcr7("gcp", KEYS, OWNER, [image("uki.efi", "stranger")])


@pytest.mark.parametrize("name", ["cos-101-amd-sev", "rhel8-uefi"])
def test_the_owner_that_google_cloud_notes(name: str) -> None:
    """Logs of machines that were given the image's own certificates, and the usual ones."""
    log = eventlog.parse(gzip.decompress((VECTORS / "eventlogs" / f"{name}.bin.gz").read_bytes()), name)
    events = [event for event in log.events if event.pcr == 7][:4]
    for event, expected in zip(events[1:], ("PK", "KEK", "db"), strict=True):
        variable = parse_variable_data(event.data, name)
        assert variable.name == expected
        assert UUID(bytes_le=variable.data[:16]) == X509
        assert UUID(bytes_le=variable.data[28:44]) == secure_boot.GCP_OWNER
