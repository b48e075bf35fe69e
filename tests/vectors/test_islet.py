"""Realm metadata, its signatures and REM0 against values that another program computed."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from recipes.errors import VerifyError
from recipes.formats.islet_metadata import (
    MetadataHeader,
    RealmManifest,
    RimAlgorithm,
    parse_version,
    read,
    sign,
)
from recipes.formats.p384 import SigningKey
from recipes.measure.islet import ProvisionedApplication, rem_after, rem_sets
from recipes.measure.trace import HashAlgorithm
from tests.support import VECTORS

DATA: dict[str, Any] = json.loads((VECTORS / "islet" / "islet_metadata.json").read_text())
CASES: dict[str, dict[str, Any]] = {case["name"]: case for case in DATA["vectors"]}
README = DATA["readme_example"]
REM = DATA["rem_example"]


def manifest(fields: dict[str, Any]) -> RealmManifest:
    return RealmManifest(
        realm_id=fields["realm_id"],
        version=parse_version(fields["version"]),
        svn=fields["svn"],
        rim=bytes.fromhex(fields["rim"]),
        algorithm=RimAlgorithm(fields["hash_algo"]),
    )


def readme_file(numbers: tuple[int, int, int, int]) -> bytes:
    """The README's example with the four numbers behind hash_algo in the order given."""
    first, second, third, fourth = numbers
    header = MetadataHeader(
        fmt_version=1,
        realm_id=b"com.company.realm".ljust(128, b"\0"),
        rim=bytes.fromhex(README["rim"]).ljust(64, b"\0"),
        hash_algo=1,
        svn=first,
        version_major=second,
        version_minor=third,
        version_patch=fourth,
        public_key=bytes.fromhex(README["public_key"]),
    )
    return header.pack() + bytes.fromhex(README["signature"])


def test_all_cases_are_there() -> None:
    assert list(CASES) == ["demo", "sha512", "id-128"]


@pytest.mark.parametrize("name", CASES)
def test_signing_gives_the_same_file(name: str) -> None:
    key = SigningKey.from_scalar(int(DATA["private_key_scalar_hex"], 16), "key")
    data = sign(manifest(CASES[name]["manifest"]), key)
    assert data.hex() == CASES[name]["metadata_bin_hex"]
    assert hashlib.sha256(data).hexdigest() == CASES[name]["sha256"]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("padded", [False, True])
def test_reading_gives_the_manifest(name: str, padded: bool) -> None:
    data = bytes.fromhex(CASES[name]["metadata_bin_hex"])
    signed = read(data.ljust(4096 if padded else 0, b"\0"), name)
    expected = manifest(CASES[name]["manifest"])
    assert signed.manifest == expected
    signed.verify(key=signed.public_key, rim=expected.rim, manifest=expected)


def test_the_example_of_the_readme_has_a_stale_signature() -> None:
    """Its fields in today's order: the signature covers the old one."""
    signed = read(readme_file((1, 1, 0, 0)), "metadata.bin")
    assert signed.manifest.version_text == "1.0.0"
    assert not signed.signed
    with pytest.raises(VerifyError) as caught:
        signed.verify()
    assert str(caught.value) == (
        "metadata.bin: stale field order: the signature was made by realm-metadata-tool older than f08738d "
        "(field order major, minor, patch, svn); sign it again"
    )


def test_the_file_that_the_readme_shows() -> None:
    """As the old tool wrote it the signature is valid, and the fields read as others."""
    signed = read(readme_file((1, 0, 0, 1)), "metadata.bin")
    signed.verify()
    assert (signed.manifest.version_text, signed.manifest.svn) == ("0.0.1", 1)
    assert signed.old_reading == ((1, 0, 0), 1)
    fields = {"realm_id": "com.company.realm", "version": "1.0.0", "svn": 1, "hash_algo": "SHA256"}
    with pytest.raises(VerifyError) as caught:
        signed.verify(manifest=manifest({**fields, "rim": README["rim"]}))
    assert str(caught.value) == (
        "metadata.bin: stale field order: written by realm-metadata-tool older than f08738d "
        "(field order major, minor, patch, svn); sign it again"
    )


def application() -> ProvisionedApplication:
    return ProvisionedApplication.of_config(
        "app",
        REM["config_utf8"].encode(),
        public_key=bytes.fromhex(REM["vendor_pub_hex"]),
        public_key_signature=bytes.fromhex(REM["vendor_pub_signature_hex"]),
    )


def test_rem0() -> None:
    prediction = rem_after([application()], HashAlgorithm.SHA256)
    assert prediction.value.hex() == REM["rem0_sha256"]
    assert [step.size for step in prediction.trace.steps] == REM["chunks"]
    assert prediction.trace.steps[-1].after == prediction.value


@pytest.mark.parametrize("rem", [0, 1, 2, 3])
def test_rem_sets(rem: int) -> None:
    sets = rem_sets([application()], HashAlgorithm.SHA256, rem)
    expected = ["00" * 32] * 4
    expected[rem] = REM["rem0_sha256"]
    assert [[value.hex() for value in each] for each in sets] == [["00" * 32] * 4, expected]
