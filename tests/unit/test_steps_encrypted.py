"""Volumes that a build makes: their keys, what stands in front of the data, and the data."""

from __future__ import annotations

import base64
from pathlib import Path
from uuid import UUID

import pytest

from recipes.errors import ImageError
from recipes.formats import luks2
from recipes.formats.luks2_segment import SectorCipher
from recipes.formats.luks2_template import template
from recipes.schema.volumes import FormatPolicy, UnlockSpec, VolumeHeader
from recipes.sources import volumes as told
from recipes.steps import encrypted, volume_keys, volumes
from recipes.steps.volumes import Volume
from recipes.units import MIB

PARTITION = UUID("5e5554b7-deba-59ab-abc9-d38bc6372ff1")
LUKS = UnlockSpec(unlock=("kbs",), header=VolumeHeader.LUKS2)
HEADERLESS = UnlockSpec(unlock=("kbs",))
# Both halves of an AES-XTS key, which must differ.
KEY = bytes(range(64))
TYPED = UnlockSpec(unlock=("passphrase",))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of keys of our own."""
    monkeypatch.setattr(volume_keys, "FOLDER", tmp_path / "keys")
    for module in (volume_keys, volumes):
        monkeypatch.setattr(module, "KEYS", tmp_path / "keys/volumes")
    return tmp_path / "keys"


def volume(unlock: UnlockSpec = LUKS, name: str = "data") -> Volume:
    return Volume(
        name=name,
        image="image",
        key=(name,),
        partition=str(PARTITION),
        mountpoint="/var",
        unlock=unlock,
        format=FormatPolicy.NEVER,
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


def written(folder: Path, content: bytes = b"plain", unlock: UnlockSpec = LUKS) -> bytes:
    """A volume with a file system of four blocks under keys that are always the same."""
    (folder / "volumes").mkdir(parents=True, exist_ok=True)
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


def test_without_a_header_the_key_is_the_volume_key(folder: Path) -> None:
    data = written(folder, unlock=HEADERLESS)
    # What the unlock driver looks for: initrd/note.sh.
    assert data[:MIB] == b"goldsmith volume 1 formatted".ljust(MIB, b"\0")
    plain = bytes(SectorCipher(KEY, 4096).decrypt(data[MIB:]))
    assert plain == (folder / "plain").read_bytes()


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


def test_what_people_type_costs_more_to_guess() -> None:
    assert type(volumes.key_slot_costs(TYPED)).__name__ == "Argon2id"
    assert type(volumes.key_slot_costs(LUKS)).__name__ == "Pbkdf2"
