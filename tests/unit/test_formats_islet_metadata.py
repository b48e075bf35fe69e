from __future__ import annotations

import json
import re
import struct
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError, VerifyError
from recipes.formats.islet_metadata import (
    METADATA_SIZE,
    MetadataHeader,
    RealmManifest,
    RimAlgorithm,
    Version,
    manifest_yaml,
    parse_version,
    read,
    sign,
)
from recipes.formats.p384 import ORDER, SigningKey
from recipes.steps.metadata import show, verify

FUZZ = settings(max_examples=150)

KEY = SigningKey.from_scalar(0x1234567, "key")
OTHER = SigningKey.from_scalar(0x7654321, "key")
RIM = bytes.fromhex("9d78c2e78ed97d4209939cb125e91bbe3961542955cac39bf31817d46c0d1847")
RIM_512 = RIM + RIM[::-1]
MAX = (1 << 64) - 1
OLD = "realm-metadata-tool older than f08738d (field order major, minor, patch, svn)"
# Offsets of the fields. Spec: islet rmm/src/rmi/metadata.rs, its const assertions.
REALM_ID, RIM_AT, HASH_ALGO, SVN, MAJOR, PUBLIC_KEY, SIGNATURE = 8, 0x88, 0xC8, 0xD0, 0xD8, 0xF0, 0x150


def manifest(
    realm_id: str = "ala.ma.kota",
    version: Version = (1, 2, 3),
    svn: int = 100,
    rim: bytes = RIM,
    algorithm: RimAlgorithm = RimAlgorithm.SHA256,
) -> RealmManifest:
    return RealmManifest(realm_id=realm_id, version=version, svn=svn, rim=rim, algorithm=algorithm)


VALID = sign(manifest(), KEY)


def patched(offset: int, new: bytes, data: bytes = VALID) -> bytes:
    return data[:offset] + new + data[offset + len(new) :]


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def resigned(offset: int, new: bytes) -> bytes:
    header = patched(offset, new)[:SIGNATURE]
    return header + KEY.sign(header).raw


def test_sizes_and_offsets() -> None:
    assert MetadataHeader.SIZE == 0x150
    assert METADATA_SIZE == len(VALID) == 0x1B0
    assert VALID[REALM_ID:][:11] == b"ala.ma.kota"
    assert VALID[RIM_AT:][:64] == RIM.ljust(64, b"\0")
    assert struct.unpack_from("<5Q", VALID, HASH_ALGO) == (1, 100, 1, 2, 3)
    assert VALID[PUBLIC_KEY:SIGNATURE] == KEY.public.point


def test_what_is_signed_can_be_read() -> None:
    signed = read(VALID, "metadata.bin")
    assert signed.manifest == manifest()
    assert signed.signed
    signed.verify(key=KEY.public, rim=RIM, manifest=manifest())
    assert sign(manifest(), KEY) == VALID
    assert read(VALID.ljust(4096, b"\0"), "metadata.bin") == read(VALID, "metadata.bin")


# As upstream's unit tests, src/manifest.rs: what a manifest may not say.
BAD_VERSIONS = [
    "abrakadabra", "1.2", "1.2.3-alpha.1", "1.2.3+build.1.2.3", "", "1.2.3.4", "01.2.3", "1.02.3", "1.2.03",
    "1.2.3-", " 1.2.3", "1.2.3\n", "v1.2.3", "-1.2.3", "1..3", "\u0661.2.3", "1_0.2.3",
]  # fmt: skip


@pytest.mark.parametrize("text", BAD_VERSIONS)
def test_bad_versions(text: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse_version(text)
    fix = "write MAJOR.MINOR.PATCH and nothing behind it, such as 1.0.0"
    assert str(caught.value) == f"version: {text!r} is not a version; {fix}"


def test_versions_of_64_bits() -> None:
    assert parse_version(f"{MAX}.0.7") == (MAX, 0, 7)
    with pytest.raises(FormatError, match=rf"^x: {MAX + 1} in version '0.{MAX + 1}.0' does not fit 64 bits$"):
        parse_version(f"0.{MAX + 1}.0", "x")
    with pytest.raises(FormatError, match=r"^x: a number of '9{40}'\.\.\. does not fit 64 bits$"):
        parse_version("9" * 100000 + ".0.0", "x")


NOT_PRINTABLE = "is not printable ASCII; the RMM refuses it, use characters from space to ~"


def refused(text: str, **fields: object) -> None:
    with pytest.raises(FormatError) as caught:
        manifest(**fields)  # type: ignore[arg-type]  # one wrong value is the point
    assert str(caught.value) == text


def test_bad_realm_ids() -> None:
    refused("realm_id: realm id of 0 characters, expected 1 to 128", realm_id="")
    refused("realm_id: realm id of 129 characters, expected 1 to 128", realm_id="x" * 129)
    fix = NOT_PRINTABLE
    refused(f"realm_id: realm id 'a\\u0142a': '\\u0142' at position 2 {fix}", realm_id="a\u0142a")
    refused(f"realm_id: realm id '\\U0001f47e': '\\U0001f47e' at position 1 {fix}", realm_id="\U0001f47e")
    refused(f"realm_id: realm id 'a\\n': '\\n' at position 2 {fix}", realm_id="a\n")
    refused(f"realm_id: realm id '\\x7f': '\\x7f' at position 1 {fix}", realm_id="\x7f")
    refused(f"realm_id: realm id 'a\\x00': '\\x00' at position 2 {fix}", realm_id="a\0")
    assert manifest(realm_id=" ~").realm_id == " ~"
    assert len(manifest(realm_id="x" * 128).realm_id) == 128


def test_bad_numbers() -> None:
    refused("svn: 0 is not from 1 to 2**64-1; the first is 1", svn=0)
    refused(f"svn: {MAX + 1} is not from 1 to 2**64-1; the first is 1", svn=MAX + 1)
    text = "is not three numbers from 0 to 2**64-1"
    refused(f"version: (1, 2, -1) {text}", version=(1, 2, -1))
    refused(f"version: (1, {MAX + 1}, 3) {text}", version=(1, MAX + 1, 3))
    refused(f"version: (1, 2) {text}", version=(1, 2))


def test_bad_rims() -> None:
    refused("rim: 64 bytes, SHA256 has 32 (64 hexadecimal digits)", rim=RIM_512)
    refused("rim: 31 bytes, SHA256 has 32 (64 hexadecimal digits)", rim=RIM[1:])
    refused("rim: 32 bytes, SHA512 has 64 (128 hexadecimal digits)", algorithm=RimAlgorithm.SHA512)
    padded = "rim of 32 bytes and zeros, SHA512 has 64; use hash_algo SHA256 or the SHA-512 rim"
    refused(f"rim: {padded}", rim=RIM + bytes(32), algorithm=RimAlgorithm.SHA512)


def test_manifest_yaml() -> None:
    assert manifest_yaml(manifest()) == (
        f'realm_id: "ala.ma.kota"\nversion: "1.2.3"\nsvn: 100\nrim: "{RIM.hex()}"\nhash_algo: SHA256\n'
    )


PRINTABLE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=128)
NUMBER = st.integers(0, MAX) | st.integers(0, 3)
HEX_LIKE_NUMBERS = [bytes.fromhex("1e" + "00" * 31), bytes.fromhex("12" * 32), bytes(32), RIM]


@st.composite
def manifests(draw: st.DrawFn) -> RealmManifest:
    algorithm = draw(st.sampled_from(RimAlgorithm))
    rim = draw(st.sampled_from(HEX_LIKE_NUMBERS) | st.binary(min_size=32, max_size=32))
    return RealmManifest(
        realm_id=draw(PRINTABLE | st.sampled_from(["yes", "1.0", "~", "null", '"\\', "# x", "- a", "a: b"])),
        version=(draw(NUMBER), draw(NUMBER), draw(NUMBER)),
        svn=draw(st.integers(1, MAX) | st.integers(1, 3)),
        rim=rim if algorithm is RimAlgorithm.SHA256 else rim + RIM,
        algorithm=algorithm,
    )


@FUZZ
@given(manifests())
def test_round_trips(value: RealmManifest) -> None:
    signed = read(sign(value, KEY), "x")
    assert signed.manifest == value
    assert signed.signed
    assert yaml.safe_load(manifest_yaml(value)) == {
        "realm_id": value.realm_id,
        "version": value.version_text,
        "svn": value.svn,
        "rim": value.rim.hex(),
        "hash_algo": value.algorithm.value,
    }
    assert parse_version(value.version_text) == value.version


OFF_CURVE = "the public key is not a point of the curve P-384"
ZEROS = "or up to 4096 with zeros behind"
BAD_BYTES = [
    (b"", f"0 bytes, metadata has 432, {ZEROS}"),
    (VALID[:-1], f"431 bytes, metadata has 432, {ZEROS}"),
    (VALID + bytes(3665), f"more than 4096 bytes, metadata has 432, {ZEROS}"),
    (VALID + b"\0\1", "offset 0x1b0: bytes behind the signature are not zero"),
    (patched(0, u64(2)), "offset 0x0: fmt_version 2, expected 1"),
    (patched(HASH_ALGO, u64(0)), "offset 0xc8: hash_algo 0, expected 1 (SHA256) or 2 (SHA512)"),
    (patched(HASH_ALGO, u64(3)), "offset 0xc8: hash_algo 3, expected 1 (SHA256) or 2 (SHA512)"),
    (
        patched(RIM_AT, RIM_512),
        "offset 0xa8: rim of more than 32 bytes, SHA256 has 32; the rest must be zero",
    ),
    (
        patched(HASH_ALGO, u64(2)),
        "offset 0x88: rim of 32 bytes and zeros, SHA512 has 64; use hash_algo SHA256 or the SHA-512 rim",
    ),
    (patched(SVN, u64(0)), f"offset 0xd0: svn 0, expected at least 1; or the file was written by {OLD}"),
    (patched(REALM_ID, bytes(128)), "realm id of 0 characters, expected 1 to 128"),
    (patched(REALM_ID + 3, b"\0"), "offset 0xb: bytes behind the end of the realm id are not zero"),
    (patched(REALM_ID + 127, b"x"), "offset 0x13: bytes behind the end of the realm id are not zero"),
    (
        patched(REALM_ID, b"\xc5\x82a.ma.kota"),
        f"realm id '\\xc5\\x82a.ma.kota': '\\xc5' at position 1 {NOT_PRINTABLE}",
    ),
    (patched(PUBLIC_KEY, bytes(96)), OFF_CURVE),
    (patched(PUBLIC_KEY + 95, bytes((VALID[PUBLIC_KEY + 95] ^ 1,))), OFF_CURVE),
    (patched(SIGNATURE, bytes(48)), "r of the signature is zero or negative [FIPS 186-5 section 6.4.2]"),
    (
        patched(SIGNATURE + 48, ORDER.to_bytes(48, "big")),
        "s of the signature is not below the order of P-384 [FIPS 186-5 section 6.4.2]",
    ),
]


@pytest.mark.parametrize(("data", "text"), BAD_BYTES, ids=range(len(BAD_BYTES)))
def test_bad_bytes(data: bytes, text: str) -> None:
    with pytest.raises(FormatError) as caught:
        read(data, "metadata.bin")
    assert str(caught.value) == f"metadata.bin: {text}"


@FUZZ
@given(st.data())
def test_nothing_but_a_format_error_comes_out(data: st.DataObject) -> None:
    content = bytearray(VALID)
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        content = bytearray(data.draw(st.binary(max_size=500)))
    try:
        signed = read(bytes(content), "fuzz")
    except FormatError as error:
        assert str(error).startswith("fuzz: ")
    else:
        assert signed.signed == (content == VALID)


WRONG = "the signature is wrong: it was made over other content, or by another key; sign it again"


def disproved(data: bytes, text: str, **expected: object) -> None:
    signed = read(data, "metadata.bin")
    with pytest.raises(VerifyError) as caught:
        signed.verify(**expected)  # type: ignore[arg-type]
    assert str(caught.value) == f"metadata.bin: {text}"


def test_wrong_signatures() -> None:
    disproved(patched(SVN, u64(101)), WRONG)
    disproved(patched(REALM_ID, b"b"), WRONG)
    disproved(patched(SIGNATURE, sign(manifest(svn=101), KEY)[SIGNATURE:]), WRONG)
    disproved(patched(PUBLIC_KEY, OTHER.public.point), WRONG)


def test_stale_field_order() -> None:
    """Signed as the old tool signed: the same fields, the svn behind the version."""
    old = patched(SVN, struct.pack("<4Q", 1, 2, 3, 100))[:SIGNATURE]
    stale = VALID[:SIGNATURE] + KEY.sign(old).raw
    disproved(stale, f"stale field order: the signature was made by {OLD}; sign it again")
    written = old + KEY.sign(old).raw
    text = f"stale field order: written by {OLD}; sign it again"
    disproved(written, text, manifest=manifest())
    assert read(written, "x").old_reading == ((1, 2, 3), 100)


def test_no_old_tool_wrote_a_patch_level_of_zero() -> None:
    assert read(sign(manifest(version=(1, 2, 0)), KEY), "x").old_reading is None


def test_other_content_than_expected() -> None:
    mine, theirs = KEY.public.point[:8].hex(), OTHER.public.point[:8].hex()
    disproved(
        VALID,
        f"signed by another key (X starts with {mine}, expected {theirs}); sign it with the expected key",
        key=OTHER.public,
    )
    rim = bytes(32)
    text = f"rim is {RIM.hex()}, expected {rim.hex()}"
    disproved(VALID, f"{text}; the RMM would not activate the realm", rim=rim)
    disproved(VALID, text, manifest=manifest(rim=rim))
    disproved(VALID, "svn is 100, expected 7", manifest=manifest(svn=7))
    disproved(VALID, "version is 1.2.3, expected 1.2.4", manifest=manifest(version=(1, 2, 4)))
    disproved(VALID, "realm_id is ala.ma.kota, expected b", manifest=manifest(realm_id="b"))
    longer = manifest(rim=RIM_512, algorithm=RimAlgorithm.SHA512)
    disproved(VALID, "hash_algo is SHA256, expected SHA512", manifest=longer)


# The command.


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "metadata.bin"
    file.write_bytes(VALID)
    (tmp_path / "key.pub").write_bytes(KEY.public.der)
    (tmp_path / "other.pub").write_bytes(OTHER.public.der)
    return file


def test_show(path: Path) -> None:
    lines = show(path).splitlines()
    assert lines[:5] == [
        "realm_id    ala.ma.kota",
        "version     1.2.3",
        "svn         100",
        f"rim         {RIM.hex()}",
        "hash_algo   SHA256",
    ]
    assert lines[5:] == [
        f"public_key  {KEY.public.point.hex()}",
        f"signature   valid, {VALID[SIGNATURE:].hex()}",
        "note        from a tool older than f08738d this is version 100.1.2, svn 3",
    ]
    path.write_bytes(sign(manifest(version=(1, 0, 0)), KEY))
    assert "note" not in show(path)


def test_show_as_json(path: Path) -> None:
    assert json.loads(show(path, as_json=True)) == {
        "realm_id": "ala.ma.kota",
        "version": "1.2.3",
        "svn": 100,
        "rim": RIM.hex(),
        "hash_algo": "SHA256",
        "public_key": KEY.public.point.hex(),
        "signature": VALID[SIGNATURE:].hex(),
        "signature_state": "valid",
    }
    path.write_bytes(patched(SVN, u64(101)))
    assert json.loads(show(path, as_json=True))["signature_state"] == "wrong"
    assert "signature   wrong, " in show(path)


def test_verify(path: Path) -> None:
    begin = f"{path}: ala.ma.kota 1.2.3 svn 100: signature valid"
    assert verify(path) == f"{begin} by the key in the file"
    said = verify(path, path.with_name("key.pub"), RIM.hex().upper())
    assert said == f"{begin}, signed by the expected key, rim as expected"


@pytest.mark.parametrize(
    ("key", "rim", "error", "text"),
    [
        ("other.pub", None, VerifyError, "metadata.bin: signed by another key"),
        (None, "00" * 32, VerifyError, "metadata.bin: rim is 9d78"),
        (None, "00" * 64, FormatError, "rim: 128 hexadecimal digits, a RIM of SHA256 has 64"),
        (None, "", FormatError, "rim: 0 hexadecimal digits, a RIM of SHA256 has 64"),
        (None, "zz" * 32, FormatError, "rim: 'zzzz"),
        ("metadata.bin", None, FormatError, "metadata.bin: 432 bytes that are not a P-384 public key"),
    ],
)
def test_verify_refuses(
    path: Path, key: str | None, rim: str | None, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=re.escape(text)):
        verify(path, path.with_name(key) if key else None, rim)


def test_a_large_file_is_not_read_whole(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(FormatError, match="more than 4096 bytes"):
        show(path)


def test_a_file_of_the_old_tool_is_shown_as_both_read_it(path: Path) -> None:
    path.write_bytes(resigned(SVN, struct.pack("<4Q", 1, 2, 3, 100)))
    assert "note        from a tool older than f08738d this is version 1.2.3, svn 100" in show(path)
    assert "svn         1\n" in show(path)
