"""virt-firmware reads the variable stores that we write, and the other way round."""

from __future__ import annotations

import datetime as dt
import lzma
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from virt.firmware.varstore.edk2 import Edk2VarStore

from recipes.formats.efi import Variable
from recipes.formats.varstore import read, secure_boot_variables, write
from tests.support import VECTORS

pytestmark = pytest.mark.tool
OWNER = UUID("00112233-4455-6677-8899-aabbccddeeff")
STORES = [
    "firmware/ovmf-2025.02-8+deb13u1.OVMF_VARS_4M.snakeoil.fd.xz",
    "firmware/ovmf-2025.02-8+deb13u1.OVMF_VARS_4M.ms.fd.xz",
    "pcr/q35-512m-1cpu-secureboot.vars.fd.xz",
]


def unpack(name: str) -> bytes:
    return lzma.decompress((VECTORS / name).read_bytes())


EMPTY = unpack("firmware/ovmf-2025.02-8+deb13u1.OVMF_VARS_4M.fd.xz")


def certificate(name: str, folder: Path) -> tuple[bytes, str]:
    """A self-signed certificate: its DER bytes, and a PEM file of it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    day = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
    made = x509.CertificateBuilder(subject, subject, key.public_key(), 1, day, day.replace(year=2044)).sign(
        key, hashes.SHA256()
    )
    path = folder / f"{name}.pem"
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return made.public_bytes(serialization.Encoding.DER), str(path)


def foreign(data: bytes, folder: Path) -> Any:
    path = folder / "vars.fd"
    path.write_bytes(data)
    return Edk2VarStore(str(path))


def seen(data: bytes, folder: Path) -> list[tuple[str, str, int, bytes]]:
    found = foreign(data, folder).get_varlist()
    return sorted((str(item.name), str(item.guid), item.attr, item.data) for item in found.values())


def ours(variables: tuple[Variable, ...]) -> list[tuple[str, str, int, bytes]]:
    return sorted((item.name, str(item.vendor), item.attributes, item.data) for item in variables)


@pytest.mark.parametrize("name", STORES)
def test_both_read_the_same_variables(name: str, tmp_path: Path) -> None:
    data = unpack(name)
    assert ours(read(data, name)) == seen(data, tmp_path)


def test_our_store_is_read_and_is_the_one_it_would_write(tmp_path: Path) -> None:
    ders = [certificate(name, tmp_path)[0] for name in ("pk", "kek", "db", "other")]
    made = secure_boot_variables(OWNER, ders[0], [ders[1]], ders[2:], [b"\x11" * 32])
    variables = tuple(sorted(made, key=lambda item: item.name))
    store = write(EMPTY, variables)
    assert seen(store, tmp_path) == ours(variables)
    judge = foreign(store, tmp_path)
    assert judge.bytes_varstore(judge.get_varlist()) == store


def test_enrolled_keys_are_those_of_virt_fw_vars(tmp_path: Path) -> None:
    (pk, pk_pem), (kek, kek_pem), (db, db_pem) = (certificate(name, tmp_path) for name in ("pk", "kek", "db"))
    (tmp_path / "empty.fd").write_bytes(EMPTY)
    files = ["-i", str(tmp_path / "empty.fd"), "-o", str(tmp_path / "out.fd")]
    owner = str(OWNER)
    keys = ["--set-pk", owner, pk_pem, "--add-kek", owner, kek_pem, "--add-db", owner, db_pem, "--sb"]
    argv = [sys.executable, "-m", "virt.firmware.vars", *files, *keys]
    subprocess.run(argv, check=True, capture_output=True)
    theirs = read((tmp_path / "out.fd").read_bytes(), "out.fd")
    # It adds a dbx of one dummy hash; everything else is the same.
    assert [item.name for item in theirs if item.name == "dbx"] == ["dbx"]
    made = secure_boot_variables(OWNER, pk, [kek], [db])
    assert ours(tuple(item for item in theirs if item.name != "dbx")) == ours(made)
