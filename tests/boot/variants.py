"""Other UKIs on the shipped disk: one thing changed, policies signed anew or stale, signed for firmware."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from recipes.formats import fat, pcrsig
from recipes.formats import uki as formats_uki
from recipes.formats.pe import PeImage
from recipes.formats.tree import FilePayload, FileTree
from recipes.golden.unlock import Rollback, Sealing, TpmPolicy
from recipes.schema.volumes import SIGNED_REGISTERS
from recipes.steps.boot_inputs import BOOT_PATH
from recipes.steps.packages import resolved_lock
from recipes.steps.uki import assemble, read_stub, uki_path
from recipes.steps.unlock_policy import secure_machines, sign_policies

from .support import Built, add_to_initramfs, partitions

SECTIONS = (".osrel", ".cmdline", ".uname", ".linux", ".initrd", ".pcrpkey", ".pcrsig")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What differs from the shipped UKI.

    Attributes:
        sections: other content by section.
        files: laid over the initramfs.
        signed: policies are signed anew, as for an update; otherwise the shipped signatures stay.
        rollback: what the signed policies say about the counter.
    """

    sections: Mapping[str, bytes] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    signed: bool = False
    rollback: Rollback | None = None


def make_uki(built: Built, folder: Path, variant: Variant) -> Path:
    """The UKI of a variant, signed for Secure Boot."""
    shipped = _sections(built)
    if variant.files:
        tree = FileTree()
        for path, data in variant.files.items():
            tree.add_file(path, data, 0o755)
        initramfs = add_to_initramfs(built.initramfs, folder / "initramfs", tree)
        shipped[".initrd"] = initramfs.read_bytes()
    shipped |= dict(variant.sections)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        stub = read_stub(resolved_lock(built.image), Path(work) / "stub")
    if variant.signed:
        del shipped[".pcrsig"]
        policy = TpmPolicy(sealing=Sealing.SIGNED, pcrs=SIGNED_REGISTERS, rollback=variant.rollback)
        machines = secure_machines(built.image)
        entries = sign_policies(assemble(stub, _listed(shipped)), "variant.efi", policy, machines)
        shipped[".pcrsig"] = pcrsig.render(entries)
    target = folder / "variant.efi"
    target.write_bytes(assemble(stub, _listed(shipped)))
    return target


def put_uki(disk: Path, uki: Path) -> None:
    """Makes an EFI system partition with this UKI; the other partitions stay."""
    esp = partitions(disk)["esp"]
    with tempfile.TemporaryFile(dir=disk.parent) as made:
        files = {BOOT_PATH: FilePayload(uki, 0, uki.stat().st_size)}
        fat.write(made, size=esp.size, volume_id=UUID(int=1).fields[0], label="ESP", epoch=0, files=files)
        made.seek(0)
        with disk.open("r+b") as out:
            out.seek(esp.offset)
            shutil.copyfileobj(made, out, 1 << 20)


def _sections(built: Built) -> dict[str, bytes]:
    """The sections of the shipped UKI that are ours."""
    image = PeImage.parse(uki_path(built.image).read_bytes(), "shipped UKI")
    return {name: image.section_data(name) for name in SECTIONS if image.section(name) is not None}


def _listed(sections: Mapping[str, bytes]) -> list[formats_uki.UkiSection]:
    names: Sequence[str] = [name for name in SECTIONS if name in sections]
    return [formats_uki.UkiSection(name, sections[name]) for name in names]
