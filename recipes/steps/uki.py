"""``uki:IMAGE``: kernel, initramfs and command line as one signed EFI program."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SpecError
from ..schema import DiskImage, Image
from . import initramfs, kernel, keys, unlock_keys, verity
from .packages import resolved_lock
from .task import OUT, Step
from .unlock_policy import SecureMachine, is_any_signed, secure_machines, sign_policies, signed_policy
from .unpack import unpacked
from .volumes import Volume, volumes

if TYPE_CHECKING:
    from ..formats.uki import UkiSection

STUB = "usr/lib/systemd/boot/efi/linuxx64.efi.stub"


def uki_path(image: DiskImage) -> Path:
    """Path of the signed Unified Kernel Image."""
    return OUT / image.name / f"{image.name}.efi"


def facts_of_root(image: DiskImage) -> tuple[Path, ...]:
    """The product with the root hash; an encrypted root has none."""
    return (verity.verity_facts(image),) if isinstance(image, Image) else ()


def step(image: DiskImage) -> Step:
    """The step that builds and signs the Unified Kernel Image."""
    opened, machines = volumes(image), secure_machines(image)
    signing = (unlock_keys.PRIVATE, unlock_keys.PUBLIC) if is_any_signed(opened) else ()
    return Step(
        basename="uki",
        image=image,
        products=(uki_path(image),),
        inputs=(
            resolved_lock(image),
            kernel.vmlinuz(image),
            kernel.kernel_facts(image),
            initramfs.archive(image),
            *facts_of_root(image),
            keys.key_path("db"),
            keys.certificate_path("db"),
            *signing,
            *dict.fromkeys(item.variables for item in machines),
        ),
        build=build,
        arguments={
            "lock": resolved_lock(image),
            "linux": kernel.vmlinuz(image),
            "facts": kernel.kernel_facts(image),
            "initrd": initramfs.archive(image),
            "root": facts_of_root(image),
            "cmdline": initramfs.kernel_cmdline(image),
            "name": image.name,
            "version": image.recipe.version,
            "suite": image.recipe.debian.suite,
            "opened": opened,
            "machines": machines,
        },
        doc="assemble and sign the Unified Kernel Image",
    )


def build(
    target: Path,
    *,
    lock: Path,
    linux: Path,
    facts: Path,
    initrd: Path,
    root: Sequence[Path],
    cmdline: str,
    name: str,
    version: str,
    suite: str,
    opened: Sequence[Volume],
    machines: Sequence[SecureMachine],
) -> None:
    """Writes the signed image.

    Spec: UAPI Unified Kernel Image specification, "PE sections" (.pcrsig, .pcrpkey).
    """
    from ..formats import pcrsig
    from ..formats.uki import UkiSection
    from ..sources.initramfs import command_line

    hashes = [verity.read_facts(path).root_hash for path in root]
    line = command_line(cmdline, *hashes)
    sections = [
        UkiSection(".osrel", os_release(name, version, suite)),
        UkiSection(".cmdline", line.encode("ascii")),
        UkiSection(".uname", kernel.release_of(facts).encode()),
        UkiSection(".linux", linux.read_bytes()),
        UkiSection(".initrd", initrd.read_bytes()),
    ]
    stub = read_stub(lock, target)
    policy = signed_policy(opened)
    if policy is not None:
        sections.append(UkiSection(".pcrpkey", unlock_keys.PUBLIC.read_bytes()))
        # The stub measures every section but the signatures, so the image is first made without them.
        approved = sign_policies(assemble(stub, sections), f"{name}.efi", policy, machines)
        sections.append(UkiSection(".pcrsig", pcrsig.render(approved)))
    target.write_bytes(assemble(stub, sections))


def assemble(stub: bytes, sections: Sequence[UkiSection]) -> bytes:
    """The image of these sections, signed for Secure Boot."""
    from ..formats import authenticode, secureboot_keys
    from ..formats import uki as formats_uki

    key = secureboot_keys.load_key(keys.key_path("db").read_bytes(), "keys/db.key")
    certificate = secureboot_keys.load_certificate(keys.certificate_path("db").read_bytes(), "keys/db.pem")
    return authenticode.sign(formats_uki.build(stub, sections), key, certificate)


def read_stub(lock: Path, beside: Path) -> bytes:
    """The systemd stub out of its package.

    Raises:
        SpecError: the package has no stub for this architecture.
    """
    with unpacked(lock, "stub", beside) as (tree, packages):
        if STUB not in tree:
            names = ", ".join(package.name for package in packages)
            raise SpecError(f"uki.stub: {names} has no {STUB}; name the package of systemd's EFI stub")
        return tree[STUB].read()


def os_release(name: str, version: str, suite: str) -> bytes:
    """The ``.osrel`` section: which image this is, for boot menus and ``bootctl``.

    Spec: os-release(5), IMAGE_ID and IMAGE_VERSION.
    """
    lines = [
        "ID=debian",
        f'PRETTY_NAME="{name} {version}"',
        f"VERSION_CODENAME={suite}",
        f"IMAGE_ID={name}",
        f"IMAGE_VERSION={version}",
    ]
    return "\n".join(lines).encode() + b"\n"
