"""Secure Boot keys for clouds, judged by efitools, sbsigntool, OpenSSL and virt-firmware."""

from __future__ import annotations

import datetime as dt
import importlib.resources
import json
import os
import subprocess
from pathlib import Path
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from virt.firmware import measure
from virt.firmware.efi import efivar, guids, ucs16
from virt.firmware.varstore.authfiles import AuthFilesVarStore
from virt.firmware.varstore.aws import AwsVarStore
from virt.firmware.varstore.edk2 import Edk2VarStore

from recipes.clouds.secure_boot import Certificates, material, pcr7
from recipes.formats import aws_uefi_data, efi_auth, secureboot_keys
from recipes.formats.efi import Variable
from recipes.formats.varstore import secure_boot_variables, write
from recipes.measure.trace import HashAlgorithm
from tests.support import require_tool
from tests.tool.test_varstore import EMPTY

pytestmark = pytest.mark.tool
OWNER = UUID("00112233-4455-6677-8899-aabbccddeeff")
ROLES = ("PK", "KEK", "db")
SIGNED_BY = {"PK": "PK", "KEK": "PK", "db": "KEK"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys, their certificates, and all files that clouds are given, with those of AWS and Azure."""
    place = tmp_path_factory.mktemp("keys")
    keys = {role: secureboot_keys.make_key(f"test {role}") for role in ROLES}
    private = {role: secureboot_keys.load_key(key.private_key, role) for role, key in keys.items()}
    certificates = {
        role: secureboot_keys.load_certificate(key.certificate, role).public_bytes(Encoding.DER)
        for role, key in keys.items()
    }
    for role, key in keys.items():
        (place / f"{role}.key").write_bytes(key.private_key)
        (place / f"{role}.given.pem").write_bytes(key.certificate)
    owned = Certificates(pk=certificates["PK"], kek=certificates["KEK"], db=certificates["db"])

    def sign(role: str, data: bytes) -> bytes:
        return efi_auth.rsa_signer(private[role])(data)

    for cloud in ("azure", "gcp", "aws"):
        for name, data in material(cloud, owned, OWNER, sign):
            (place / name).write_bytes(data)
    (place / "pcr7.json").write_text(
        json.dumps({item.value: pcr7("aws", owned, OWNER, ()).value(item).hex() for item in HashAlgorithm})
    )
    return place


def run(*argv: str | Path, folder: Path) -> str:
    command = [require_tool(str(argv[0])), *map(str, argv[1:])]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env={**os.environ, "TZ": "UTC"}
    )
    assert done.returncode == 0, f"{command}: {done.stderr}{done.stdout}"
    return done.stdout + done.stderr


@pytest.mark.parametrize("role", ROLES)
def test_lists_are_those_of_efitools(folder: Path, role: str) -> None:
    run(
        "cert-to-efi-sig-list",
        "-g",
        OWNER.hex[:0] + str(OWNER),
        f"{role}.given.pem",
        f"{role}.theirs",
        folder=folder,
    )
    assert (folder / f"{role}.esl").read_bytes() == (folder / f"{role}.theirs").read_bytes()


@pytest.mark.parametrize("role", ROLES)
def test_lists_are_those_of_sbsigntool(folder: Path, role: str) -> None:
    arguments = ("--owner", str(OWNER), "--type", "x509", "--output", f"{role}.sb", f"{role}.der")
    run("sbsiglist", *arguments, folder=folder)
    assert (folder / f"{role}.esl").read_bytes() == (folder / f"{role}.sb").read_bytes()


@pytest.mark.parametrize("role", ROLES)
def test_signed_writes_are_those_of_efitools(folder: Path, role: str) -> None:
    """Byte for byte: RSA PKCS #1 v1.5 leaves nothing to chance once the time is given."""
    by = SIGNED_BY[role]
    keys = ("-k", f"{by}.key", "-c", f"{by}.given.pem")
    time = ("-t", "2020-01-01 00:00:00")
    run("sign-efi-sig-list", *time, *keys, role, f"{role}.esl", f"{role}.theirs.auth", folder=folder)
    assert (folder / f"{role}.auth").read_bytes() == (folder / f"{role}.theirs.auth").read_bytes()


def test_certificates_come_out_of_lists(folder: Path) -> None:
    run("sig-list-to-certs", "db.esl", "unpacked", folder=folder)
    assert (folder / "unpacked-0.der").read_bytes() == (folder / "db.der").read_bytes()


@pytest.mark.parametrize("role", ROLES)
def test_signatures_are_good(folder: Path, role: str) -> None:
    """OpenSSL checks the signature over what UEFI says is signed, put together here."""
    data = (folder / f"{role}.auth").read_bytes()
    length = int.from_bytes(data[16:20], "little")
    content_info = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02\xa0"
    signed = data[40 : 16 + length]
    inner = b"\x82" + len(signed).to_bytes(2, "big") + signed
    body = content_info + inner
    (folder / f"{role}.p7").write_bytes(b"\x30\x82" + len(body).to_bytes(2, "big") + body)
    vendor = (
        "d719b2cb-3d3a-4596-a3bc-dad00e67656f" if role == "db" else "8be4df61-93ca-11d2-aa0d-00e098032b8c"
    )
    covered = (
        role.encode("utf-16-le") + UUID(vendor).bytes_le + b"\x27\0\0\0" + data[:16] + data[16 + length :]
    )
    (folder / f"{role}.content").write_bytes(covered)
    arguments = ("-verify", "-inform", "DER", "-binary", "-in", f"{role}.p7", "-content", f"{role}.content")
    trust = ("-CAfile", f"{SIGNED_BY[role]}.given.pem", "-purpose", "any", "-out", os.devnull)
    assert "successful" in run("openssl", "cms", *arguments, *trust, folder=folder)


def test_pem_files(folder: Path) -> None:
    for role in ROLES:
        ours = run(
            "openssl", "x509", "-in", f"{role}.pem", "-noout", "-fingerprint", "-sha256", folder=folder
        )
        arguments = ("-inform", "DER", "-in", f"{role}.der", "-noout", "-fingerprint", "-sha256")
        assert run("openssl", "x509", *arguments, folder=folder) == ours


def test_signed_writes_are_read_by_virt_firmware(folder: Path) -> None:
    place = folder / "auth"
    place.mkdir()
    for role in ROLES:
        (place / f"{role}.auth").write_bytes((folder / f"{role}.auth").read_bytes())
    found = AuthFilesVarStore(str(place)).get_varlist()
    for role in ROLES:
        assert found[role].data == (folder / f"{role}.esl").read_bytes()
        assert found[role].time == dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


def variables(folder: Path) -> tuple[Variable, ...]:
    ders = [(folder / f"{role}.der").read_bytes() for role in ROLES]
    made = secure_boot_variables(OWNER, ders[0], [ders[1]], [ders[2]])
    return tuple(item for item in made if item.name in ROLES)


def test_virt_firmware_reads_the_variables_of_an_ami(folder: Path) -> None:
    assert AwsVarStore.probe(str(folder / "uefi-data.txt"))
    found = AwsVarStore(str(folder / "uefi-data.txt")).get_varlist()
    seen = {(str(item.name), str(item.guid), item.attr, item.data) for item in found.values()}
    assert seen == {(item.name, str(item.vendor), item.attributes, item.data) for item in variables(folder)}


def test_the_variables_that_virt_firmware_writes_are_read(folder: Path) -> None:
    theirs = AwsVarStore.base64_varstore(AwsVarStore(str(folder / "uefi-data.txt")).get_varlist())
    dictionary = importlib.resources.files("virt.firmware").joinpath("aws", "dict.v0").read_bytes()
    found = aws_uefi_data.read(theirs, "virt-firmware", dictionary)
    assert sorted(found, key=lambda item: item.name) == sorted(variables(folder), key=lambda item: item.name)


def test_pcr7_is_the_one_of_virt_firmware(folder: Path) -> None:
    """It measures what is in the store; a dbx that is there and empty stands for one that is not."""
    (folder / "vars.fd").write_bytes(write(EMPTY, variables(folder)))
    found = Edk2VarStore(str(folder / "vars.fd")).get_varlist()
    database = guids.parse_str(guids.EfiImageSecurityDatabase)
    found["dbx"] = efivar.EfiVar(ucs16.from_string("dbx"), guid=database)
    found["dbx"].data = b""
    banks = [item.value for item in HashAlgorithm]
    values = measure.calculate_pcrs(banks, measure.measure_varlist(banks, found))
    theirs = {item["hashAlg"]: item["digest"] for item in values if item["pcr"] == 7}
    assert theirs == json.loads((folder / "pcr7.json").read_text())
