"""A small initramfs of our own for tests of the unlock driver, and the volumes that it is asked for.

It has the scripts of ``initrd/`` as they are and a judge in place of the first program. Volumes are described
here as the builder describes them to the driver, so that a test may also say what no builder writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from recipes.formats import cpio
from recipes.formats.elf import library_closure
from recipes.formats.kmod import ModuleDirectory
from recipes.formats.luks2_model import Expected
from recipes.formats.luks2_template import shell_table, template
from recipes.formats.tree import FileTree
from recipes.sources.initramfs import APPLETS, BUSYBOX
from recipes.sources.initramfs_tree import add_console, add_modules, copy_file
from recipes.steps.develop import TESTED_TPM
from recipes.steps.unpack import unpacked
from tests.support import ROOT
from tests.tool.built_helpers import helper

from .support import Built, Run

# Its packages have everything that an encrypted volume may need.
IMAGE = Built(TESTED_TPM)
INITRD = ROOT / "initrd"
PROGRAMS = ("usr/sbin/cryptsetup", "usr/sbin/mkfs.ext4")
HELPERS = ("dmtable", "escrow", "tpm2")
MODULES = ("virtio_blk", "virtio_pci", "erofs", "dm-crypt", "xts", "sha256-ssse3")
# A key slot under the null cipher, which no image has, is what needs AF_ALG.
LUKS_MODULES = ("dm-integrity", "authenc", "ext4", "algif_skcipher", "crypto_null")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """``/etc/unlock/<volume>.conf`` and what lies beside it.

    Attributes:
        expected: of the LUKS2 header; without one the volume is headerless.
        files: of ``/etc/unlock/<volume>.d``.
        options: further lines.
    """

    providers: str
    expected: Expected | None = None
    format: str = "never"
    mountpoint: str = "/var"
    uuid: str = "00000000-0000-0000-0000-000000000001"
    integrity: str = "none"
    kdf: str = "pbkdf2 1000"
    token: str = "none"
    remembers: str = ""
    escrow: str = "none"
    provider_timeout: int = 20
    total_timeout: int = 60
    files: Mapping[str, bytes] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The lines of the configuration."""
        values = {
            "PARTUUID": self.uuid,
            "MOUNTPOINT": self.mountpoint,
            "FORMAT": self.format,
            "HEADER": "none" if self.expected is None else "luks2",
            "INTEGRITY": self.integrity,
            "KDF": self.kdf,
            "PROVIDERS": self.providers,
            "PROVIDER_TIMEOUT": str(self.provider_timeout),
            "TOTAL_TIMEOUT": str(self.total_timeout),
            "METADATA_SIZE": "0" if self.expected is None else str(self.expected.metadata_size),
            "TOKEN": self.token,
            "REMEMBERS": self.remembers,
            "ESCROW": self.escrow,
            **self.options,
        }
        return "".join(f"{name}='{value}'\n" for name, value in values.items())


def add_volume(tree: FileTree, name: str, settings: Settings) -> None:
    """Adds the files of a volume as the builder does."""
    tree.add_file(f"etc/unlock/{name}.conf", settings.text.encode())
    if settings.expected is not None:
        tree.add_file(f"etc/unlock/{name}.header", shell_table(template(settings.expected)).encode())
    for file, data in settings.files.items():
        tree.add_file(f"etc/unlock/{name}.d/{file}", data)


def write_initramfs(
    target: Path,
    judge: Path,
    add: Callable[[FileTree], None],
    modules: Iterable[str] = (),
    helpers: Iterable[str] = HELPERS,
    programs: Iterable[str] = (),
) -> bytes:
    """Writes an initramfs whose first program is ``judge``, as ``/test/judge.sh``; returns busybox.

    Args:
        add: adds the files of a test.
        modules: loaded behind :data:`MODULES`.
        helpers: compiled programs, with the libraries that they need.
        programs: of the image's packages, beside :data:`PROGRAMS`.
    """
    tree = FileTree()
    for path in ("dev", "mnt", "proc", "run", "sys", "sysroot", "usr/sbin", "usr/lib64"):
        tree.add_directory(path)
    for name in ("bin", "sbin", "lib", "lib64"):
        tree.add_symlink(name, f"usr/{name}")
    add_console(tree)
    for applet in APPLETS:
        tree.add_symlink(f"usr/bin/{applet}", "busybox")
    _add_scripts(tree)
    tree.add_file("test/judge.sh", judge.read_bytes(), 0o755)
    add(tree)
    with (
        unpacked(IMAGE.lock, "initramfs", target) as (packages, _),
        unpacked(IMAGE.lock, "kernel", target) as (files, _),
    ):
        everything = FileTree(dict(packages.nodes))
        compiled = [f"usr/lib/goldsmith/{name}" for name in helpers]
        for path in compiled:
            everything.add_file(path, helper(Path(path).name).read_bytes(), 0o755)
        architecture = IMAGE.image.recipe.architecture.value
        for path in library_closure(everything, (BUSYBOX, *PROGRAMS, *programs, *compiled), architecture):
            copy_file(tree, everything, path)
        copy_file(tree, packages, "etc/mke2fs.conf")
        closure = ModuleDirectory(files, IMAGE.kernel_release).closure((*MODULES, *modules))
        tree.add_file("etc/initramfs/modules", add_modules(tree, files, closure))
        with target.open("wb") as out:
            cpio.write_newc(tree, out, epoch=0)
        return tree[BUSYBOX].read()


def facts_of(run: Run) -> dict[str, list[str]]:
    """What a judge found: the rest of each of its lines, by topic."""
    facts: dict[str, list[str]] = {}
    for line in run.text.split("\n"):
        if line.startswith("JUDGE "):
            topic, _, rest = line.removeprefix("JUDGE ").partition(" ")
            facts.setdefault(topic, []).append(rest)
    assert run.stopped
    assert "end" in facts, run.text[-3000:]
    return facts


def _add_scripts(tree: FileTree) -> None:
    for path in sorted(INITRD.iterdir()):
        if path.is_file() and path.name != "init":
            tree.add_file(f"usr/lib/goldsmith/{path.name}", path.read_bytes(), 0o755)
    for path in sorted((INITRD / "unlock.d").iterdir()):
        tree.add_file(f"usr/lib/unlock.d/{path.name}", path.read_bytes(), 0o755)
