"""Our LUKS2 against cryptsetup, with no device-mapper: its metadata code and its re-encryption in user space.

What this cannot judge on every host: a key slot under the null cipher needs the kernel's AF_ALG, which
containers often lack, and data with integrity tags needs dm-integrity.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from recipes.errors import FormatError, VerifyError
from recipes.formats import luks2
from recipes.formats.luks2_model import (
    Argon2id,
    Expected,
    Integrity,
    KdfBounds,
    Pbkdf2,
    Token,
    TokenField,
    TokenShape,
)
from recipes.formats.luks2_segment import SectorCipher, encrypt_image
from recipes.formats.luks2_template import matches, template
from tests.support import require_tool
from tests.unit import luks2_forgeries as forge

pytestmark = pytest.mark.tool

MIB = 1 << 20
DATA = 16 * MIB
ARGON = Expected(keyslots=(KdfBounds(Argon2id(4, 4096, 1)),))
COSTS = {
    "argon2id": (ARGON, ("--pbkdf-memory", "4096", "--pbkdf-force-iterations", "4", "--pbkdf-parallel", "1")),
    "pbkdf2": (forge.PLAIN, ("--pbkdf-force-iterations", "1000")),
}


def cryptsetup(*arguments: str | Path, key: bytes | None = None) -> subprocess.CompletedProcess[str]:
    """One run; ``key`` goes in as its standard input."""
    argv = [require_tool("cryptsetup"), *map(str, arguments)]
    env = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(argv, input=key, capture_output=True, env=env, check=False)
    out, err = done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
    return subprocess.CompletedProcess(argv, done.returncode, out, err)


def stored(path: Path, data: bytes, size: int = DATA + MIB) -> Path:
    """A volume of ours in a file, with room for data."""
    path.write_bytes(data)
    os.truncate(path, size)
    return path


def opens(path: Path, passphrase: bytes, *arguments: str | Path) -> bool:
    argv = ("open", "--test-passphrase", "-v", "--key-file", "-", *arguments, path)
    return cryptsetup(*argv, key=passphrase).returncode == 0


@pytest.mark.parametrize(
    "expected",
    [
        forge.PLAIN,
        ARGON,
        Expected(keyslots=(KdfBounds(Pbkdf2(1500)),), digest=KdfBounds(Pbkdf2(2000)), sector_size=512),
        Expected(keyslots=(KdfBounds(Argon2id(1, 64, 2)), KdfBounds(Pbkdf2(1000)))),
        replace(forge.PLAIN, integrity=Integrity.HMAC_SHA256),
        Expected(keyslots=(KdfBounds(Pbkdf2(1000)),), data_offset=20 * MIB),
    ],
    ids=["pbkdf2", "argon2id", "costs", "two key slots", "integrity", "data offset"],
)
def test_cryptsetup_opens_what_we_format(tmp_path: Path, expected: Expected) -> None:
    path = stored(tmp_path / "disk", forge.volume(expected), expected.data_offset + MIB)
    assert opens(path, forge.PASSPHRASE)
    assert not opens(path, b"wrong-key-entirely")
    done = cryptsetup("luksDump", "--dump-volume-key", "-q", "--key-file", "-", path, key=forge.PASSPHRASE)
    digits = re.sub(r"\s", "", done.stdout.partition("MK dump:")[2])
    assert digits == (forge.VOLUME_KEY + b"\x77" * (expected.key_size - 64)).hex()


def test_cryptsetup_shows_what_we_said(tmp_path: Path) -> None:
    dump = cryptsetup("luksDump", stored(tmp_path / "disk", forge.volume(ARGON))).stdout
    rows = {" ".join(line.split()) for line in dump.splitlines()}
    assert {
        "Version: 2",
        "Epoch: 1",
        "Metadata area: 16384 [bytes]",
        "Keyslots area: 16744448 [bytes]",
        f"UUID: {forge.VOLUME_UUID}",
        "Flags: (no flags)",
        "offset: 16777216 [bytes]",
        "length: (whole device)",
        "cipher: aes-xts-plain64",
        "sector: 4096 [bytes]",
        "PBKDF: argon2id",
        "Time cost: 4",
        "Memory: 4096",
        "Threads: 1",
        "AF stripes: 4000",
        "Area offset:32768 [bytes]",
        "Area length:258048 [bytes]",
    } <= rows


def test_cryptsetup_reads_each_copy(tmp_path: Path) -> None:
    """With one copy destroyed it takes the other one, which so is whole and right as well."""
    data = forge.volume()
    for start in (0, 16384):
        broken = data[:start] + bytes(4096) + data[start + 4096 :]
        path = stored(tmp_path / f"disk{start}", broken)
        assert opens(path, forge.PASSPHRASE)


@pytest.mark.parametrize("kdf", sorted(COSTS))
@pytest.mark.parametrize("sector", [512, 4096])
def test_we_open_what_cryptsetup_formats(tmp_path: Path, kdf: str, sector: int) -> None:
    base, costs = COSTS[kdf]
    expected = replace(base, sector_size=sector)
    path = stored(tmp_path / "disk", b"")
    argv = ("luksFormat", "-q", "--type", "luks2", "--pbkdf", kdf, *costs, "--sector-size", str(sector))
    done = cryptsetup(*argv, "--key-file", "-", path, key=b"hunter2")
    assert done.returncode == 0, done.stderr
    data = path.read_bytes()[: expected.metadata_size]
    header = luks2.read(data, expected, "disk")
    key = luks2.open(data, header, b"hunter2", "disk")
    shown = cryptsetup("luksDump", "--dump-volume-key", "-q", "--key-file", "-", path, key=b"hunter2").stdout
    assert key.hex() == re.sub(r"\s", "", shown.partition("MK dump:")[2])
    with pytest.raises(VerifyError):
        luks2.open(data, header, b"hunter3", "disk")
    # cryptsetup writes the very bytes of the template, so that a first boot may format with it
    assert matches(data, template(expected))


def test_cryptsetup_writes_the_template_when_it_changes_a_header(tmp_path: Path) -> None:
    """A token imported and a key slot added to a volume of ours; and ours to one of theirs."""
    shape = TokenShape(
        "goldsmith-tpm2", (0,), (TokenField("blob", size=62, padding=2), TokenField("pin", False))
    )
    path = stored(tmp_path / "disk", forge.volume())
    token = {"type": shape.type, "keyslots": ["0"], "blob": "A/" * 31 + "==", "pin": False}
    (tmp_path / "token").write_text(json.dumps(token))
    done = cryptsetup("token", "import", "--token-id", "0", "--json-file", tmp_path / "token", path)
    assert done.returncode == 0, done.stderr
    expected = replace(forge.PLAIN, tokens=(shape,))
    data = path.read_bytes()[: expected.metadata_size]
    assert matches(data, template(expected))
    header = luks2.read(data, expected, "disk")
    assert header.tokens == (Token(shape, ("A/" * 31,)),)

    (tmp_path / "new").write_bytes(b"two")
    argv = ("luksAddKey", "-q", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", "-")
    done = cryptsetup(*argv, path, tmp_path / "new", key=forge.PASSPHRASE)
    assert done.returncode == 0, done.stderr
    grown = expected.with_keyslot(KdfBounds(Pbkdf2(1000)))
    data = path.read_bytes()[: grown.metadata_size]
    assert matches(data, template(grown))
    header = luks2.read(data, grown, "disk")
    assert luks2.open(data, header, b"two", "disk") == forge.VOLUME_KEY

    seed = luks2.Seed(bytes(32))
    data = luks2.add_keyslot(
        data, header, Argon2id(1, 64, 1), volume_key=forge.VOLUME_KEY, passphrase=b"three", seed=seed
    )
    path = stored(path, data)
    for passphrase in (forge.PASSPHRASE, b"two", b"three"):
        assert opens(path, passphrase)
    export = cryptsetup("token", "export", "--token-id", "0", path)
    assert json.loads(export.stdout) == token


@pytest.mark.parametrize("sector", [512, 4096])
def test_cryptsetup_encrypts_data_as_we_do(tmp_path: Path, sector: int) -> None:
    """Encryption in place by cryptsetup: the plain image moves behind a new header, under a key it draws."""
    plain = bytes(range(251)) * 4200 + bytes(MIB)
    path = tmp_path / "disk"
    path.write_bytes(plain)
    os.truncate(path, 34 * MIB)
    argv = (
        "reencrypt",
        "--encrypt",
        "--type",
        "luks2",
        "--reduce-device-size",
        "32M",
        "-q",
        "--key-file",
        "-",
    )
    costs = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--sector-size", str(sector))
    done = cryptsetup(*argv, *costs, "--force-offline-reencrypt", path, key=b"hunter2")
    assert done.returncode == 0, done.stderr
    data = path.read_bytes()
    header = luks2.read(data, replace(forge.PLAIN, sector_size=sector), "disk")
    key = luks2.open(data, header, b"hunter2", "disk")
    body = plain.ljust(18 * MIB, b"\0")[: 2 * MIB]
    assert data[DATA : DATA + 2 * MIB] == SectorCipher(key, sector).encrypt(body)


@pytest.mark.parametrize("sector", [512, 4096])
def test_cryptsetup_decrypts_data_that_we_encrypted(tmp_path: Path, sector: int) -> None:
    """Decryption in place by cryptsetup, of a volume that it never saw: every byte of it is ours."""
    plain = tmp_path / "plain"
    with plain.open("wb") as file:  # with a hole
        file.write(bytes(range(251)) * 4200)
        file.truncate(2 * MIB)
        file.seek(2 * MIB - 4096)
        file.write(bytes(range(256)) * 16)
    expected = replace(forge.PLAIN, sector_size=sector)
    path = stored(tmp_path / "disk", forge.volume(expected), DATA)
    encrypt_image(plain, path, key=forge.VOLUME_KEY, offset=DATA, sector_size=sector)
    argv = ("reencrypt", "--decrypt", "--header", tmp_path / "header", "-q", "--key-file", "-")
    done = cryptsetup(*argv, "--force-offline-reencrypt", path, key=forge.PASSPHRASE)
    assert done.returncode == 0, done.stderr
    assert path.read_bytes()[: 2 * MIB] == plain.read_bytes()


def test_a_copy_of_the_header_opens_the_volume(tmp_path: Path) -> None:
    """What a guest opens with: the metadata on its own, made as long as the data offset by a hole."""
    data = forge.volume()
    path = stored(tmp_path / "disk", bytes(4096), DATA + MIB)  # the host took the header away meanwhile
    copy = stored(tmp_path / "copy", data, DATA)
    assert opens(path, forge.PASSPHRASE, "--header", copy)
    short = stored(tmp_path / "short", data, DATA - 4096)
    assert not opens(path, forge.PASSPHRASE, "--header", short)


def test_stock_takes_the_null_cipher_that_we_refuse(tmp_path: Path) -> None:
    """CVE-2025-59054: any passphrase opens this header, and the attacker knows the volume key.

    cryptsetup finds nothing wrong with the metadata. Only the cipher itself can be missing: without AF_ALG
    in the kernel there is no null cipher, error 95 (EOPNOTSUPP), and this host cannot show the rest.
    """
    good = forge.volume()
    forged = forge.null_keyslot(good)
    path = stored(tmp_path / "disk", forged)
    dump = cryptsetup("luksDump", path)
    assert dump.returncode == 0, dump.stderr
    assert "cipher_null-ecb" in dump.stdout
    done = cryptsetup(
        "open", "--test-passphrase", "--debug", "--key-file", "-", path, key=b"wrong-key-entirely"
    )
    if done.returncode == 0:
        assert "Key slot 0 unlocked" in done.stdout
    else:
        assert re.search(r"^# Reading keyslot area \[0x8000\]\.$", done.stdout, re.MULTILINE), done.stdout
        missing = ("open failed with -95", "Cannot use cipher_null-ecb cipher for keyslot encryption")
        assert any(reason in done.stdout + done.stderr for reason in missing)
    assert not matches(forged, template(forge.PLAIN))
    with pytest.raises(FormatError) as caught:
        luks2.read(forged, forge.PLAIN, "disk")
    assert str(caught.value).startswith("disk: keyslots.0.area.encryption is 'cipher_null-ecb'")
    # the header is refused for that alone
    assert matches(good, template(forge.PLAIN))


@pytest.mark.parametrize("name", ["flags", "huge derivation cost", "two key slots", "alien token"])
def test_stock_reads_forged_headers_that_we_refuse(tmp_path: Path, name: str) -> None:
    """So these are attacks, not damage: cryptsetup takes the header, the strict reader does not."""
    (forgery,) = [each for each in forge.FORGERIES if each.name == name]
    forged = forgery.make(forge.volume())
    if name == "alien token":  # stock wants a whole one
        token = {"type": "alien", "keyslots": ["0"]}
        forged = forge.put("tokens.0", token)(forge.volume())
    assert cryptsetup("luksDump", stored(tmp_path / "disk", forged)).returncode == 0
    with pytest.raises(FormatError):
        luks2.read(forged, forge.PLAIN, "disk")


def test_the_uuid_is_ours(tmp_path: Path) -> None:
    path = stored(tmp_path / "disk", forge.volume())
    assert UUID(cryptsetup("luksUUID", path).stdout.strip()) == forge.VOLUME_UUID
