"""One direct boot with many volumes on one disk: what each is, what the host did to it, and where it lies."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from uuid import UUID

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from recipes.formats import gpt, luks2
from recipes.formats.luks2_model import (
    Argon2id,
    Expected,
    Integrity,
    KdfBounds,
    Pbkdf2,
    TokenField,
    TokenShape,
)
from recipes.formats.luks2_segment import SectorCipher
from recipes.formats.luks2_template import template
from recipes.formats.tpm2_token import blob_place, literal_shape
from recipes.formats.tree import FileTree
from recipes.units import MIB
from recipes.vmm.qemu import DriveFile
from tests.unit import luks2_forgeries as forge

from .luks_forgeries import EXPECTED, forged
from .luks_machine import IMAGE, LUKS_MODULES, Settings, add_volume, facts_of, write_initramfs
from .support import Built, Run, boot_kernel, read_at

JUDGE = Path(__file__).with_name("luks_judge.sh")
COMMAND_LINE = "console=ttyS0 panic=-1 loglevel=7 rdinit=/test/judge.sh"
DATA = 16 * MIB
TEXT = b"hello, guest"
# Nothing else on a console looks like these.
KEYS = {
    "tagged": b"nobody-may-see-the-passphrase-of-tagged",
    "plain": b"nobody-may-see-the-volume-key-of".ljust(64, b"!"),
    "fresh": b"nobody-may-see-the-passphrase-of-fresh",
    "token": b"nobody-may-see-the-passphrase-of-token",
}
# What a person at the console types, each when asked: the first is wrong, the second too short.
TYPED = ("nobody-may-see-what-is-typed-wrong", "nobody-may-see", forge.PASSPHRASE.decode())
DECOY = b"everybody-may-see-this-decoy"
BLOB = 62
# What a disk is cut to, so that the partitions of a case can be told by their size.
SIZES = {
    "good": 17 * MIB,
    "swapped": 17 * MIB,
    "fresh": 24 * MIB,
    "dirty": 17 * MIB,
    "short": 8 * MIB,
    "empty": 16 * MIB,
    "token": 17 * MIB,
    "tagged": 32 * MIB,
    "plain": 12 * MIB,
    "sealed": 17 * MIB,
    "theirs": 17 * MIB,
}


def identity(name: str) -> UUID:
    """Of a partition and the header in it."""
    return forge.VOLUME_UUID if name == "good" else UUID(int=0x100 + list(SIZES).index(name))


def expecting(name: str, shape: Expected = forge.PLAIN) -> Expected:
    """The header of the volume on a partition."""
    return replace(shape, uuid=identity(name))


TOKEN = TokenShape(
    "goldsmith-test", (0,), (TokenField("blob", size=BLOB, padding=2), TokenField("pin", False))
)
OWNED = Expected(keyslots=(KdfBounds(Argon2id(4, 1024, 1)),), tokens=(TOKEN,))
TAGGED = Expected(keyslots=(KdfBounds(Pbkdf2(1000)),), integrity=Integrity.HMAC_SHA256)

SPY = 'echo "$UNLOCK_PURPOSE $UNLOCK_KIND" >>/run/spied\nexit 20\n'
# The first passphrase is a mistake of the one who types.
TYPES = f"""\
if [ "$UNLOCK_ATTEMPT" = 1 ]; then printf 'a passphrase with a mistake' >&3; else
printf '{forge.PASSPHRASE.decode()}' >&3; fi
exit 11
"""
# Knows of one volume, as a TPM does, and opens no other.
REMEMBERS = f"""\
case $UNLOCK_PURPOSE in
known) [ -e /run/remembered ] && exit 0 || exit 30 ;;
commit) head -c 32768 "$UNLOCK_HEADER" >/run/remembered && exit 0 ;;
open) cmp -s -n 32768 "$UNLOCK_HEADER" /run/remembered || exit 20 ;;
esac
printf '{KEYS["fresh"].decode()}' >&3
"""
GIVES_TOKEN = """\
[ "$UNLOCK_PURPOSE" = format ] && printf '%s' \
'{"type":"goldsmith-test","keyslots":["0"],"blob":"BLOB==","pin":false}' >"$UNLOCK_TOKEN"
[ "$UNLOCK_PURPOSE" = format ] || grep -q 'BLOB==' "$UNLOCK_HEADER" || exit 20
printf 'KEY' >&3
"""
PROVIDERS = {
    "spy": SPY,
    "types": TYPES,
    "remembers": REMEMBERS,
    "tokens": GIVES_TOKEN.replace("BLOB", "A" * BLOB).replace("KEY", KEYS["token"].decode()),
    "unfits": GIVES_TOKEN.replace("BLOB", "A" * (BLOB + 4)).replace("KEY", KEYS["token"].decode()),
}


@cache
def operator() -> rsa.RSAPrivateKey:
    """Who can read the key of a new volume."""
    return rsa.generate_private_key(65537, 2048)


def settings() -> dict[str, Settings]:
    """The volumes by name; several may be on one partition."""
    keyfile = Settings(providers="keyfile", expected=EXPECTED, uuid=str(identity("good")))
    pem = (
        operator()
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    fresh = replace(keyfile, expected=expecting("fresh"), uuid=str(identity("fresh")), format="if-blank")
    tagged = replace(
        keyfile,
        expected=expecting("tagged", TAGGED),
        uuid=str(identity("tagged")),
        format="if-blank",
        integrity="hmac-sha256",
        files={"keyfile": KEYS["tagged"]},
    )
    plain = Settings(
        providers="keyfile", format="if-blank", uuid=str(identity("plain")), files={"keyfile": KEYS["plain"]}
    )
    owned = replace(
        keyfile,
        expected=expecting("token", OWNED),
        uuid=str(identity("token")),
        format="if-blank",
        kdf="argon2id 4 1024 1",
        token=TOKEN.type,
    )
    sealed = _sealed()
    return {
        "good": replace(keyfile, files={"keyfile": forge.PASSPHRASE}),
        "wrong": replace(keyfile, files={"keyfile": b"not the passphrase at all"}),
        "spied": replace(keyfile, providers="spy"),
        "typed": replace(keyfile, providers="types"),
        "asked": replace(keyfile, providers="passphrase"),
        "never": replace(fresh, format="never", providers="spy"),
        "dirty": replace(fresh, expected=expecting("dirty"), providers="spy"),
        "cut": replace(fresh, providers="spy"),
        "cut-fresh": replace(fresh, providers="spy", remembers="remembers"),
        "fresh": replace(
            fresh,
            providers="remembers",
            remembers="remembers",
            escrow="/etc/unlock/fresh.d/escrow.pem",
            files={"escrow.pem": pem},
        ),
        "token": replace(owned, providers="tokens"),
        "unfitting": replace(owned, providers="unfits"),
        "tagged": tagged,
        "root": replace(tagged, format="never", mountpoint="/"),
        "plain": plain,
        "plain-wrong": replace(plain, files={"keyfile": bytes(64)}),
        "cut-plain": replace(plain, providers="spy", files={}),
        "ephemeral": Settings(providers="ephemeral", format="always", uuid=str(identity("plain"))),
        "sealed": sealed,
        "theirs": replace(sealed, options={**sealed.options, "MARKER": "0x01800abd"}),
    }


def _sealed_header() -> Expected:
    return expecting("sealed", Expected(keyslots=(KdfBounds(Pbkdf2(1000)),), tokens=(literal_shape((7,)),)))


def _sealed() -> Settings:
    """A volume of provider tpm2; without firmware the register is zero, and so it is in every boot."""
    expected = _sealed_header()
    offset, size = blob_place(expected)
    return Settings(
        providers="tpm2",
        expected=expected,
        uuid=str(identity("sealed")),
        format="if-blank",
        token=expected.tokens[0].type,
        remembers="tpm2",
        options={
            "TOKEN_BLOB_OFFSET": str(offset),
            "TOKEN_BLOB_SIZE": str(size),
            "MARKER": "0x01800abc",
            "TPM2_POLICY": "literal",
            "TPM2_PCRS": "7",
            "TPM2_BANK": "sha256",
            "TPM2_COUNTER": "none",
        },
    )


@dataclass(frozen=True)
class Kept:
    """Keys that the guest has drawn itself, and what there was to be seen of processes and log meanwhile.

    Attributes:
        keys: the secret as the TPM gives it, and in bytes; the key of that volume; that of the ephemeral one.
    """

    keys: tuple[bytes, ...]
    seen: bytes


@dataclass(frozen=True)
class Tried:
    """What the judge found, and the disks as it left them."""

    run: Run
    facts: Mapping[str, list[str]]
    stolen: bytes
    kept: Kept

    def of(self, topic: str, name: str) -> str:
        """The only fact of a topic that is about ``name``."""
        (found,) = [fact for fact in self.facts[topic] if fact.startswith(f"{name}: ")]
        return found.removeprefix(f"{name}: ")


def boot_luks(_: Built, folder: Path) -> Tried:
    """Boots it; the machine powers itself off."""
    initrd, disk, headers = folder / "luks.cpio", folder / "luks.raw", folder / "headers.raw"
    kept = folder / "kept.raw"
    write_initramfs(initrd, JUDGE, _add_files, LUKS_MODULES, programs=("usr/sbin/dmsetup",))
    table = _write_disk(disk)
    good = forge.volume(EXPECTED)
    everything = [good, *(data.ljust(len(good), b"\0") for data, _ in on_disk().values())]
    headers.write_bytes(b"".join(everything))
    with kept.open("wb") as file:
        file.truncate(16 * MIB)
    drives = [DriveFile(path=str(path)) for path in (disk, headers, kept)]
    typed = [(f"TYPE {number}", line) for number, line in enumerate(TYPED, 1)]
    run = boot_kernel(IMAGE, COMMAND_LINE, drives, initrd=initrd, typed=typed)
    stolen = read_at(disk, table.partitions[0].offset + DATA + 4096, 4096)
    return Tried(run, facts_of(run), stolen, _read_kept(kept))


def _read_kept(path: Path) -> Kept:
    """What the judge has put on the third disk; where things failed, the test says so and not this."""
    passphrase = read_at(path, 0, MIB).rstrip(b"\0")
    volume_key = read_at(path, MIB, MIB)[:64]
    table = read_at(path, 2 * MIB, MIB).rstrip(b"\0\n")
    keys = (passphrase, base64.b64decode(passphrase), volume_key, bytes.fromhex(table.decode()))
    return Kept(keys, read_at(path, 3 * MIB, 13 * MIB))


@cache
def on_disk() -> dict[str, tuple[bytes, str]]:
    """The forgeries that a disk can hold: it cannot end within the header but as a whole."""
    return {name: each for name, each in forged().items() if len(each[0]) == EXPECTED.metadata_size}


def _add_files(tree: FileTree) -> None:
    for name, each in settings().items():
        add_volume(tree, name, each)
    for name, script in PROVIDERS.items():
        tree.add_file(f"usr/lib/unlock.d/{name}", f"#!/bin/sh\n{script}".encode(), 0o755)
    tree.add_file("test/decoy", DECOY)
    (policy,) = [
        hole for hole in template(_sealed_header()).holes if hole.name == "tokens.0.tpm2-policy-hash"
    ]
    tree.add_file("test/policy", str(policy.offset).encode())
    for register in (7, 8):
        tree.add_file(f"test/extend-{register}", extend_command(register))
    tree.add_file("test/partitions", "".join(f"{name}\n" for name in SIZES).encode())
    tree.add_file("test/forged", "".join(f"{name}\n" for name in on_disk()).encode())
    tree.add_file("test/needles", b"".join(trace + b"\n" for trace in traces(KEYS["tagged"])))


def extend_command(register: int) -> bytes:
    """TPM2_PCR_Extend in bank SHA-256. Spec: TCG TPM 2.0 Library, part 3, section 22.2."""
    session = struct.pack(">IIHBH", 9, 0x40000009, 0, 0, 0)
    body = struct.pack(">I", register) + session + struct.pack(">IH", 1, 0x000B) + bytes(range(32))
    return struct.pack(">HII", 0x8002, 10 + len(body), 0x0182) + body


def traces(key: bytes) -> tuple[bytes, ...]:
    """How a key of any bytes could show: as it is, in hex, in base64 at any offset; a part is enough."""
    encoded = (base64.b64encode(key[start:])[:16] for start in range(3))
    return (key[:16], key[:12].hex().encode(), key[:12].hex().upper().encode(), *encoded)


def _write_disk(path: Path) -> gpt.PartitionTable:
    plans = [
        gpt.PartitionPlan(name=name, type_guid=gpt.TYPE_LINUX_GENERIC, guid=identity(name), size=size)
        for name, size in SIZES.items()
    ]
    table = gpt.lay_out(UUID(int=7), plans)
    at = {partition.name: partition.offset for partition in table.partitions}
    good = forge.volume(EXPECTED)
    attackers = luks2.format(
        EXPECTED,
        uuid=forge.VOLUME_UUID,
        seed=luks2.Seed(b"what the attacker has drawn, not we"),
        volume_key=forge.ATTACKER_KEY,
        passphrases=[b"a passphrase of the attacker"],
    )
    with path.open("wb") as file:
        file.truncate(table.sectors * 512)
        for offset, data in (
            (0, table.primary()),
            (table.sectors * 512 - gpt.BACKUP_SECTORS * 512, table.backup()),
            (at["good"], good),
            (at["good"] + DATA, SectorCipher(forge.VOLUME_KEY, 4096).encrypt(TEXT.ljust(4096, b"\0"))),
            (at["swapped"], attackers),
            (at["short"], good),
            (at["empty"], good),
            (at["dirty"] + 12 * MIB, b"x"),
        ):
            file.seek(offset)
            file.write(data)
    return table
