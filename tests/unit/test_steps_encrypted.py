"""Volumes that a build makes: their keys, what stands in front of the data, and the data."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from recipes.errors import FormatError, ImageError, SpecError
from recipes.formats import luks2, tls_certificates
from recipes.formats.luks2_segment import SectorCipher
from recipes.formats.luks2_template import matches, template
from recipes.formats.tree import FileTree
from recipes.schema import load_project
from recipes.schema.volumes import FormatPolicy, KbsSpec, UnlockSpec, VolumeHeader
from recipes.sources import volumes as told
from recipes.steps import data as data_step
from recipes.steps import encrypted, initramfs, volume_keys, volumes
from recipes.steps.convert import encrypt
from recipes.steps.volumes import Volume
from recipes.units import MIB
from tests.support import ROOT

PARTITION = UUID("5e5554b7-deba-59ab-abc9-d38bc6372ff1")
LUKS = UnlockSpec(unlock=("kbs",), header=VolumeHeader.LUKS2)
HEADERLESS = UnlockSpec(unlock=("kbs",))
# Both halves of an AES-XTS key, which must differ.
KEY = bytes(range(64))
TYPED = UnlockSpec(unlock=("passphrase",))
SITE = UnlockSpec(unlock=("exec",), header=VolumeHeader.LUKS2)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of keys of our own."""
    monkeypatch.setattr(volume_keys, "FOLDER", tmp_path / "keys")
    for module in (volume_keys, volumes):
        monkeypatch.setattr(module, "KEYS", tmp_path / "keys/volumes")
    return tmp_path / "keys"


def volume(
    unlock: UnlockSpec = LUKS, name: str = "data", *, policy: FormatPolicy = FormatPolicy.NEVER
) -> Volume:
    return Volume(
        name=name,
        image="image",
        key=(name,),
        partition=str(PARTITION),
        mountpoint="/var",
        unlock=unlock,
        format=policy,
    )


def test_keys_are_made_once_and_are_nobodys_else(folder: Path) -> None:
    volume_keys.make([volume()])
    key, seed = folder / "volumes" / "image-data", folder / "image-data.seed"
    modes = [path.stat().st_mode & 0o777 for path in (key, seed, key.parent)]
    assert modes == [0o600, 0o600, 0o700]
    before = key.read_bytes(), seed.read_bytes()
    assert len(base64.b64decode(before[0], validate=True)) == len(before[1]) == 64
    volume_keys.make([volume()])
    assert (key.read_bytes(), seed.read_bytes()) == before
    assert {found.data for found in volume_keys.own_keys()} == set(before)


def test_a_volume_without_a_header_has_a_volume_key(folder: Path) -> None:
    volume_keys.make([volume(HEADERLESS)])
    assert len(volume_keys.read_key(volume(HEADERLESS))) == 64


def test_keys_that_are_not_as_they_must_be(folder: Path) -> None:
    volume_keys.make([volume()])
    path = folder / "volumes" / "image-data"
    path.chmod(0o640)
    with pytest.raises(ImageError, match=r"image-data: others may use it \(mode 0640\); run chmod 600"):
        volume_keys.make([volume()])
    path.chmod(0o600)
    path.write_bytes(b"short")
    with pytest.raises(ImageError) as caught:
        volume_keys.make([volume()])
    assert str(caught.value).endswith(
        "has 5 bytes, expected 32 to 512; restore it, or remove it and encrypt the volume anew"
    )


def test_the_folder_of_keys_is_nobodys_else(folder: Path) -> None:
    volume_keys.make([volume()])
    (folder / "volumes").chmod(0o750)
    for use in (lambda: volume_keys.make([volume()]), lambda: volume_keys.read_key(volume())):
        with pytest.raises(ImageError) as caught:
            use()
        name = f"{folder}/volumes"
        assert str(caught.value) == f"{name}: mode 0750, expected 0700; run chmod 700 {name}"


def written(folder: Path, content: bytes = b"plain", unlock: UnlockSpec = LUKS) -> bytes:
    """A volume with a file system of four blocks under keys that are always the same."""
    (folder / "volumes").mkdir(0o700, parents=True, exist_ok=True)
    for path, data in ((folder / "volumes/image-data", KEY), (folder / "seed", bytes(range(64)))):
        path.write_bytes(data)
        path.chmod(0o600)
    (folder / "plain").write_bytes(content.ljust(4 * 4096, b"\0"))
    target = folder / "volume"
    encrypted.write_volume(target, volume(unlock), plain=folder / "plain", seed=folder / "seed")
    return target.read_bytes()


def test_the_passphrase_opens_what_decrypts_to_the_file_system(folder: Path) -> None:
    data = written(folder)
    expected = encrypted.expected_header(volume())
    key = luks2.open(data, luks2.read(data, expected, "volume"), KEY, "volume")
    segment = data[expected.data_offset :]
    assert bytes(SectorCipher(key, 4096).decrypt(segment)) == (folder / "plain").read_bytes()
    # A hole says as little as the rest.
    assert all(any(segment[start : start + 4096]) for start in range(0, len(segment), 4096))


def follows(key: bytes, content: bytes) -> bytes:
    """64 bytes of HKDF-SHA256 without a salt, written down from RFC 5869."""
    secret = hmac.digest(bytes(32), key, "sha256")
    info = b"goldsmith content key 1 " + content.hex().encode()
    first = hmac.digest(secret, info + b"\1", "sha256")
    return first + hmac.digest(secret, first + info + b"\2", "sha256")


def test_without_a_header_the_key_follows_from_the_volume_key_and_the_content(folder: Path) -> None:
    data = written(folder, unlock=HEADERLESS)
    # What the unlock driver looks for: initrd/note.sh.
    assert data[:512] == b"goldsmith volume 1 formatted".ljust(512, b"\0")
    content = data[512:544]
    assert any(content)
    assert data[544:MIB] == bytes(MIB - 544)
    plain = (folder / "plain").read_bytes()
    assert bytes(SectorCipher(follows(KEY, content), 4096).decrypt(data[MIB:])) == plain
    # The content tells nobody what it is a digest of.
    assert content != hashlib.sha256(plain).digest()
    assert content not in (folder / "seed").read_bytes()


def test_the_same_is_the_same_bytes_and_another_has_another_volume_key(folder: Path) -> None:
    one, again, other = (written(folder, content) for content in (b"x", b"x", b"y"))
    assert one == again
    # The third block is zero in both; under one volume key it would be the same.
    offset = encrypted.expected_header(volume()).data_offset + 2 * 4096
    assert one[offset : offset + 4096] != other[offset : offset + 4096]


@pytest.mark.parametrize("unlock", [LUKS, TYPED], ids=["kbs", "passphrase"])
def test_the_header_is_the_one_that_the_initramfs_accepts(unlock: UnlockSpec) -> None:
    spec = told.VolumeSpec(
        name="data",
        partition_uuid=PARTITION,
        providers=(),
        format_policy="never",
        header="luks2",
        kdf=volumes.key_slot_costs(unlock),
    )
    assert template(encrypted.expected_header(volume(unlock))) == template(told.expected_header(spec))


def release(folder: Path, content: bytes, unlock: UnlockSpec) -> tuple[bytes, told.VolumeSpec]:
    """The volume of a release, and what its initramfs is told of it."""
    data = written(folder, content, unlock)
    path = volume(unlock).built_path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return data, volumes.read_volume(volume(unlock))


def test_a_release_does_not_open_the_volume_of_another(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volumes, "OUT", folder / "made")
    (old, old_spec), (new, new_spec) = (release(folder, content, SITE) for content in (b"1", b"2"))
    assert set(new_spec.pinned) == {"digests.0.salt", "digests.0.digest"}
    for data, spec, opens in [
        (old, old_spec, True),
        (new, new_spec, True),
        (old, new_spec, False),
        (new, old_spec, False),
    ]:
        assert matches(data, told.header_shape(spec)) is opens
    # Only the pinned bytes tell them apart.
    assert matches(old, template(told.expected_header(new_spec)))
    tables = []
    for spec in (old_spec, new_spec):
        tree = FileTree()
        told.add_volume(tree, spec)
        tables.append(tree["etc/unlock/data.header"].read())
    assert tables[0] != tables[1]
    assert b"digests" not in tables[1]


def test_a_built_volume_that_its_initramfs_would_refuse(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volumes, "OUT", folder / "made")
    release(folder, b"1", SITE)
    path = volume().built_path
    path.write_bytes(path.read_bytes()[:4096])
    with pytest.raises(FormatError, match=r"^volume data: .*the header ends after 4096 of 290816 bytes"):
        volumes.read_volume(volume(SITE))


def test_a_release_without_a_header_does_not_open_the_volume_of_another(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volumes, "OUT", folder / "made")
    site = UnlockSpec(unlock=("exec",), header=VolumeHeader.NONE)
    (old, old_spec), (new, new_spec) = (release(folder, content, site) for content in (b"1", b"2"))
    again, again_spec = release(folder, b"2", site)
    assert (again, again_spec) == (new, new_spec)
    assert old_spec.content != new_spec.content
    assert new_spec.pinned == {}
    plain = b"2".ljust(4 * 4096, b"\0")
    for data, opens in ((new, True), (old, False)):
        found = bytes(SectorCipher(follows(KEY, new_spec.content), 4096).decrypt(data[MIB:]))
        assert (found == plain) is opens
        # The blocks behind the first one are zero in both.
        assert (found[4096:] == plain[4096:]) is opens
    tree = FileTree()
    told.add_volume(tree, new_spec)
    assert f"\nCONTENT='{new_spec.content.hex()}'\n" in tree["etc/unlock/data.conf"].read().decode()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:543],
        lambda data: b"\0" + data[1:],
        lambda data: data[:512] + bytes(32) + data[544:],
        lambda _: b"",
    ],
    ids=["short", "no note", "no content", "empty"],
)
def test_a_volume_without_a_header_that_the_build_did_not_make(
    folder: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setattr(volumes, "OUT", folder / "made")
    site = UnlockSpec(unlock=("exec",), header=VolumeHeader.NONE)
    data, _ = release(folder, b"1", site)
    volume(site).built_path.write_bytes(damage(data))
    with pytest.raises(FormatError) as caught:
        volumes.read_volume(volume(site))
    what = "does not begin as the build writes it; build the volume again"
    assert str(caught.value) == f"volume data: {what}"


def test_nothing_of_a_volume_that_the_guest_makes_is_pinned() -> None:
    scratch = UnlockSpec(unlock=("ephemeral",))
    spec = volumes.read_volume(volume(scratch, policy=FormatPolicy.ALWAYS))
    assert (spec.pinned, spec.content) == ({}, b"")


def test_who_makes_what_the_initramfs_pins() -> None:
    project = load_project(ROOT)
    for converted in project.converted:
        (root,) = volumes.volumes(converted)
        assert root.built_path == encrypt.encrypted_root(converted)
        assert root.built_path in initramfs.step(converted).inputs
    for image in project.images:
        (made,) = volumes.volumes(image)
        assert made.built_path == data_step.encrypted_data(image)
        assert (made.built_path in initramfs.step(image).inputs) is made.is_built


def pem(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


RSA = pem(rsa.generate_private_key(65537, 2048).public_key())
CA_KEY = tls_certificates.load_key(tls_certificates.make_key(), "key")
CA = tls_certificates.make_ca(CA_KEY, "test").public_bytes(Encoding.PEM)
ESCROWED = UnlockSpec(unlock=("ephemeral",), escrow="escrow.pem")
REMEDY = "give the RSA public key that `openssl pkey -in KEY -pubout` writes"
CA_REMEDY = "give the one CA certificate that vouches for the broker, in PEM"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", f"not exactly one public key in PEM; {REMEDY}"),
        (RSA + RSA, f"not exactly one public key in PEM; {REMEDY}"),
        (b"text\n" + RSA, f"not exactly one public key in PEM; {REMEDY}"),
        (RSA + CA, f"not exactly one public key in PEM; {REMEDY}"),
        (CA, f"not exactly one public key in PEM; {REMEDY}"),
        (RSA.replace(b" PUBLIC", b" RSA PUBLIC"), f"not exactly one public key in PEM; {REMEDY}"),
        (RSA[:40] + RSA[44:], f"not a public key in PEM; {REMEDY}"),
        (RSA.ljust(16384), f"has 16384 bytes, at most 16383 are read; {REMEDY}"),
        (pem(CA_KEY.public_key()), f"a public key of another kind than RSA; {REMEDY}"),
        (
            pem(rsa.generate_private_key(65537, 1024).public_key()),
            "an RSA key of 1024 bits, expected 2048 to 4096; make another one",
        ),
        (
            pem(rsa.RSAPublicNumbers(65537, (1 << 4096) + 1).public_key()),
            "an RSA key of 4097 bits, expected 2048 to 4096; make another one",
        ),
        (b"-----BEGIN PRIVATE KEY-----", "this is a private key; name the public part of it"),
    ],
)
def test_a_key_that_nothing_is_encrypted_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, what: str
) -> None:
    monkeypatch.setattr(volumes, "ROOT", tmp_path)
    (tmp_path / "escrow.pem").write_bytes(content)
    with pytest.raises(SpecError) as caught:
        volumes.read_volume(volume(ESCROWED))
    assert str(caught.value) == f"data.escrow: escrow.pem: {what}"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", f"0 PEM blocks, expected one certificate and nothing else; {CA_REMEDY}"),
        (CA + CA, f"2 PEM blocks, expected one certificate and nothing else; {CA_REMEDY}"),
        (CA + RSA, f"2 PEM blocks, expected one certificate and nothing else; {CA_REMEDY}"),
        (RSA, f"1 PEM blocks, expected one certificate and nothing else; {CA_REMEDY}"),
        (CA[:60] + CA[64:], "not a certificate ("),
    ],
)
def test_what_vouches_for_no_broker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, what: str
) -> None:
    monkeypatch.setattr(volumes, "ROOT", tmp_path)
    (tmp_path / "ca.pem").write_bytes(content)
    asked = replace(HEADERLESS, kbs=KbsSpec(url="https://broker.example", volume="data", ca="ca.pem"))
    with pytest.raises(SpecError) as caught:
        volumes.read_volume(volume(asked))
    assert str(caught.value).startswith(f"data.kbs.ca: ca.pem: {what}")


def test_what_an_operator_brings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volumes, "ROOT", tmp_path)
    (tmp_path / "escrow.pem").write_bytes(RSA)
    (tmp_path / "ca.pem").write_bytes(b"subject=test\n" + CA)
    spec = replace(
        HEADERLESS, escrow="escrow.pem", kbs=KbsSpec(url="https://b.example", volume="data", ca="ca.pem")
    )
    files = volumes.read_volume(volume(spec, policy=FormatPolicy.IF_BLANK)).files
    assert files == {"escrow.pem": RSA, "kbs-ca.pem": b"subject=test\n" + CA}


def test_what_people_type_costs_more_to_guess() -> None:
    assert type(volumes.key_slot_costs(TYPED)).__name__ == "Argon2id"
    assert type(volumes.key_slot_costs(LUKS)).__name__ == "Pbkdf2"
