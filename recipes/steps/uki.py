"""``uki:IMAGE``: kernel, initramfs and command line as one signed EFI program."""

from __future__ import annotations

from pathlib import Path

from ..errors import SpecError
from ..schema import Image
from . import initramfs, kernel, keys, verity
from .packages import resolved_lock
from .task import OUT, Step
from .unpack import unpacked

STUB = "usr/lib/systemd/boot/efi/linuxx64.efi.stub"


def uki_path(image: Image) -> Path:
    """Path of the signed Unified Kernel Image."""
    return OUT / image.name / f"{image.name}.efi"


def step(image: Image) -> Step:
    """The step that builds and signs the Unified Kernel Image."""
    return Step(
        basename="uki",
        image=image,
        products=(uki_path(image),),
        inputs=(
            resolved_lock(image),
            kernel.vmlinuz(image),
            kernel.kernel_facts(image),
            initramfs.archive(image),
            verity.verity_facts(image),
            keys.key_path("db"),
            keys.certificate_path("db"),
        ),
        build=build,
        arguments={
            "lock": resolved_lock(image),
            "linux": kernel.vmlinuz(image),
            "facts": kernel.kernel_facts(image),
            "initrd": initramfs.archive(image),
            "verity_facts": verity.verity_facts(image),
            "cmdline": initramfs.kernel_cmdline(image),
            "name": image.name,
            "version": image.recipe.version,
            "suite": image.recipe.debian.suite,
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
    verity_facts: Path,
    cmdline: str,
    name: str,
    version: str,
    suite: str,
) -> None:
    """Writes the signed image."""
    from ..formats import authenticode, secureboot_keys
    from ..formats import uki as formats_uki
    from ..sources.initramfs import command_line

    line = command_line(cmdline, verity.read_facts(verity_facts).root_hash)
    sections = [
        formats_uki.UkiSection(".osrel", os_release(name, version, suite)),
        formats_uki.UkiSection(".cmdline", line.encode("ascii")),
        formats_uki.UkiSection(".uname", kernel.release_of(facts).encode()),
        formats_uki.UkiSection(".linux", linux.read_bytes()),
        formats_uki.UkiSection(".initrd", initrd.read_bytes()),
    ]
    unsigned = formats_uki.build(read_stub(lock, target), sections)
    key = secureboot_keys.load_key(keys.key_path("db").read_bytes(), "keys/db.key")
    certificate = secureboot_keys.load_certificate(keys.certificate_path("db").read_bytes(), "keys/db.pem")
    target.write_bytes(authenticode.sign(unsigned, key, certificate))


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
