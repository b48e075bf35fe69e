from __future__ import annotations

import json
import uuid

import pytest

from recipes.errors import FormatError
from recipes.golden.emit.islet_reference import RealmReference, derive_uuid, dump
from recipes.measure.trace import HashAlgorithm

# The values of ratls bce64f0, tools/ratls-serve/ratls/example.json.
RIM = bytes.fromhex("7d77ac01f480798743d60e052dcafa1732d3243ccfd44b0078302b25e681e9e4")
REM1 = bytes.fromhex("7d43aefe4c6a955cd0753bccee2e707232d2b44b84c4607ac925597419ac104d")
ZERO = bytes(32)
UUID = uuid.UUID("f7e3e8ef-e0cc-4098-98f8-3a12436da040")


def reference(
    rim: bytes = RIM,
    rem_sets: tuple[tuple[bytes, ...], ...] = ((ZERO,) * 4, (ZERO, REM1, ZERO, ZERO)),
    algorithm: HashAlgorithm = HashAlgorithm.SHA256,
    release_time: int = 1725859291,
    port: int = 8088,
) -> RealmReference:
    return RealmReference(
        issuer_name="Samsung",
        issuer_url="https://cca-realms.samsung.com/",
        realm_uuid=UUID,
        name="Data Processing Service",
        version="1.0.0",
        release_time=release_time,
        rim=rim,
        rem_sets=rem_sets,
        algorithm=algorithm,
        port=port,
    )


def test_the_document_is_shaped_as_the_example() -> None:
    zero = "00" * 32
    text = dump(reference())
    assert json.loads(text) == {
        "version": "0.1",
        "issuer": {"name": "Samsung", "url": "https://cca-realms.samsung.com/"},
        "realm": {
            "uuid": "f7e3e8ef-e0cc-4098-98f8-3a12436da040",
            "name": "Data Processing Service",
            "version": "1.0.0",
            "release-timestamp": "2024-09-09T05:21:31Z",
            "attestation-protocol": "HTTPS/RA-TLSv1.0",
            "port": 8088,
            "reference-values": {
                "rim": RIM.hex(),
                "rems": [[zero] * 4, [zero, REM1.hex(), zero, zero]],
                "hash-algo": "sha-256",
            },
        },
    }
    assert text.startswith('{\n    "version": "0.1",\n    "issuer": {\n        "name": "Samsung",\n')
    assert text.endswith('            "hash-algo": "sha-256"\n        }\n    }\n}\n')


def test_sha512() -> None:
    sets = ((bytes(64),) * 4,)
    document = json.loads(dump(reference(RIM * 2, sets, HashAlgorithm.SHA512)))
    values = document["realm"]["reference-values"]
    assert values == {"rim": RIM.hex() * 2, "rems": [["00" * 64] * 4], "hash-algo": "sha-512"}


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "1970-01-01T00:00:00Z"), (253402300799, "9999-12-31T23:59:59Z")]
)
def test_release_timestamps(seconds: int, text: str) -> None:
    assert json.loads(dump(reference(release_time=seconds)))["realm"]["release-timestamp"] == text


def test_uuid_depends_on_realm_and_rim_alone() -> None:
    first = derive_uuid("com.company.realm", RIM)
    assert first == derive_uuid("com.company.realm", RIM)
    assert first.version == 5
    assert first != derive_uuid("com.company.realm", REM1)
    assert first != derive_uuid("com.company.other", RIM)


LAST = 253402300799


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"algorithm": HashAlgorithm.SHA384}, "hash-algo sha384, the verifier knows sha-256 and sha-512"),
        ({"rim": RIM[1:]}, "rim of 31 bytes, sha-256 has 32"),
        ({"algorithm": HashAlgorithm.SHA512}, "rim of 32 bytes, sha-512 has 64"),
        ({"rem_sets": ()}, "no REM set; give at least the one of zeros"),
        (
            {"rem_sets": ((ZERO,) * 4, (ZERO,) * 3)},
            "REM set 2 has values of [32, 32, 32] bytes, expected 4 of 32",
        ),
        (
            {"rem_sets": ((ZERO, ZERO, ZERO, bytes(64)),)},
            "REM set 1 has values of [32, 32, 32, 64] bytes, expected 4 of 32",
        ),
        ({"release_time": -1}, f"release time -1, expected seconds from 0 to {LAST}"),
        ({"release_time": LAST + 1}, f"release time {LAST + 1}, expected seconds from 0 to {LAST}"),
        ({"port": 0}, "port 0, expected 1 to 65535"),
        ({"port": 65536}, "port 65536, expected 1 to 65535"),
    ],
)
def test_values_that_the_verifier_refuses(fields: dict[str, object], text: str) -> None:
    with pytest.raises(FormatError) as caught:
        reference(**fields)  # type: ignore[arg-type]  # one wrong value is the point
    assert str(caught.value) == f"reference.json: {text}"
