"""What firmware does before it hands over: it mends partition tables, and starts nothing that is not signed.

One UEFI boot for all of it, with Secure Boot on. The machine has six disks, tried one after the other. The
first five have a damaged partition table, and those that firmware can read hold a UKI it has to refuse. The
last one is whole and signed: it shows that the others fail for their damage, and its kernel's first words end
the boot.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest

from recipes.formats import authenticode, fat, gpt
from recipes.formats.tree import BytesPayload
from recipes.steps import uki
from recipes.steps.boot_inputs import BOOT_PATH
from recipes.units import MIB, SECTOR_SIZE

from .support import Boot, Boots, Built, Run, boot_uefi, flip, read_at

pytestmark = pytest.mark.boot

MACHINE = "q35-secure-boot"
# Words of the release text in the UKI. One bit of them is flipped; the certificate table is not.
MARKER = b"IMAGE_ID="
PRIMARY, BACKUP = gpt.PRIMARY_SECTORS * SECTOR_SIZE, gpt.BACKUP_SECTORS * SECTOR_SIZE
# Where a header keeps the disk's GUID, an entry its partition's GUID. Spec: UEFI 2.10 tables 5.5 and 5.6.
DISK_GUID, PARTITION_GUID = 56, 16


@dataclass(frozen=True)
class Case:
    """A small disk, what is wrong with it, and what becomes of it.

    Attributes:
        flips: offsets from the start of the disk, or from its end when negative.
        mended: firmware writes both tables as they were.
        verdict: why firmware does not start the program; empty when it does.
    """

    flips: tuple[int, ...]
    program: str
    mended: bool
    verdict: str


PRIMARY_HEADER, PRIMARY_ENTRY = SECTOR_SIZE + DISK_GUID, 2 * SECTOR_SIZE + PARTITION_GUID
BACKUP_HEADER, BACKUP_ENTRY = -SECTOR_SIZE + DISK_GUID, -BACKUP + PARTITION_GUID
# In the order in which firmware tries them; it calls the first one Boot0001.
CASES = {
    "primary header": Case((PRIMARY_HEADER,), "unsigned", True, "Access Denied"),
    "primary entries": Case((PRIMARY_ENTRY,), "forged", True, "Access Denied"),
    "backup header": Case((BACKUP_HEADER,), "unsigned", True, "Access Denied"),
    "backup entries": Case((BACKUP_ENTRY,), "forged", True, "Access Denied"),
    "both": Case((PRIMARY_ENTRY, BACKUP_ENTRY), "signed", False, "Not Found"),
    "whole": Case((), "signed", True, ""),
}


@dataclass(frozen=True)
class Tables:
    """The primary and the backup table as they stand on a disk: all sectors of both."""

    primary: bytes
    backup: bytes

    @classmethod
    def of(cls, path: Path) -> Tables:
        return cls(read_at(path, 0, PRIMARY), read_at(path, path.stat().st_size - BACKUP, BACKUP))


@dataclass(frozen=True)
class Outcome:
    """A disk's tables as they were written, after the damage, and after the boot."""

    written: Tables
    damaged: Tables
    left: Tables


def write_disk(path: Path, program: bytes) -> None:
    """A disk with nothing but an EFI system partition and a boot program."""
    plan = gpt.PartitionPlan(name="esp", type_guid=gpt.TYPE_ESP, guid=UUID(int=1), size=64 * MIB)
    table = gpt.lay_out(UUID(int=2), [plan])
    with path.open("w+b") as out:
        out.truncate(table.sectors * SECTOR_SIZE)
        out.write(table.primary())
        out.seek(table.partitions[0].offset)
        files = {BOOT_PATH: BytesPayload(program)}
        fat.write(out, size=64 * MIB, volume_id=1, label="ESP", epoch=0, files=files)
        out.seek(-BACKUP, 2)
        out.write(table.backup())


def programs(signed: bytes) -> dict[str, bytes]:
    """The shipped UKI, the same without its signature, and the same with one bit of its content flipped."""
    at = signed.index(MARKER)
    forged = signed[:at] + bytes([signed[at] ^ 1]) + signed[at + 1 :]
    return {"signed": signed, "unsigned": authenticode.strip_signature(signed), "forged": forged}


def decided(console: bytes) -> bool:
    """A kernel has started, or firmware has no more disks to try."""
    return b"EFI stub: " in console or b"No bootable option or device was found" in console


@dataclass(frozen=True)
class Boundary:
    """What firmware said and what it left of every disk."""

    run: Run
    outcomes: dict[str, Outcome]


def boot_disks(built: Built, folder: Path) -> Boundary:
    known = programs(uki.uki_path(built.image).read_bytes())
    paths = {name: folder / f"{name.replace(' ', '-')}.raw" for name in CASES}
    before = {}
    for name, path in paths.items():
        write_disk(path, known[CASES[name].program])
        written = Tables.of(path)
        for offset in CASES[name].flips:
            flip(path, offset % path.stat().st_size)
        before[name] = (written, Tables.of(path))
    run = boot_uefi(built, built.machine(MACHINE), list(paths.values()), until=decided)
    outcomes = {name: Outcome(*before[name], Tables.of(path)) for name, path in paths.items()}
    for path in paths.values():
        path.unlink()
    return Boundary(run, outcomes)


BOOTS: dict[str, Boot] = {"disks": boot_disks}


@pytest.fixture(scope="module")
def boundary(boots: Boots) -> Boundary:
    found: Boundary = boots["disks"].result()
    return found


@pytest.mark.parametrize("name", CASES)
def test_firmware_starts_only_what_is_signed_and_found(boundary: Boundary, name: str) -> None:
    option = f"Boot{list(CASES).index(name) + 1:04}"
    failures = re.findall(rf'failed to load {option} "[^"]*" from [^:]*: (.*)', boundary.run.text)
    assert failures == ([CASES[name].verdict] if CASES[name].verdict else [])


def test_the_only_kernel_that_starts_is_that_of_the_last_disk(boundary: Boundary) -> None:
    before, _, after = boundary.run.text.partition(f'starting Boot{len(CASES):04} "')
    assert "EFI stub" not in before
    assert "EFI stub" in after


@pytest.mark.parametrize("name", CASES)
def test_firmware_mends_one_table_from_the_other(boundary: Boundary, name: str) -> None:
    outcome = boundary.outcomes[name]
    assert (outcome.damaged != outcome.written) == bool(CASES[name].flips)
    assert outcome.left == (outcome.written if CASES[name].mended else outcome.damaged)
