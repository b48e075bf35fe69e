"""The initramfs as a file tree: the scripts of ``initrd/``, a static busybox, programs, helpers and modules.

What the recipe decides becomes plain ``KEY=value`` files inside the measured initramfs; nothing is decided by
the command line. Everything is owned by root and has time 0, so the tree is a function of its inputs alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..errors import SpecError
from ..formats.elf import library_closure, walk
from ..formats.kmod import ModuleDirectory
from ..formats.tree import FileTree
from .initramfs_spec import (
    BANKS,
    PHASES,
    InitramfsSpec,
    VerifiedPartitions,
    check_spec,
    helpers_needed,
    secret_paths,
)
from .initramfs_tree import add_console, add_modules, copy_file
from .volume_checks import EXEC
from .volumes import LUKS2, NEVER, ROOT, VolumeSpec, add_volume, assignments

__all__ = [
    "BANKS",
    "PHASES",
    "InitramfsSpec",
    "VerifiedPartitions",
    "VolumeSpec",
    "assemble",
    "command_line",
    "helpers_needed",
    "secret_paths",
]

BUSYBOX = "usr/bin/busybox"
# What the scripts and the providers call; everything else they use is built into the shell.
APPLETS = (
    "base64", "cat", "chmod", "cmp", "cp", "cut", "dd", "env", "head", "insmod", "mkdir", "mount", "od", "rm",
    "sed", "setsid", "sh", "sha256sum", "sleep", "stat", "switch_root", "sync", "tail", "timeout", "tr",
)  # fmt: skip
NETWORK_APPLETS = ("ip", "udhcpc")
# Programs of packages, by what wants them: a header, a new file system.
HEADER_PROGRAMS = ("usr/sbin/cryptsetup",)
FORMAT_PROGRAMS = ("usr/sbin/mkfs.ext4",)
_VERITY_MODULES = ("dm-verity", "erofs")
_VOLUME_MODULES = ("dm-crypt", "xts", "ext4")
# Linux drivers/md/dm-crypt.c, crypt_ctr_cipher: the tags are authenc(hmac(sha256),xts(aes)).
_INTEGRITY_MODULES = ("dm-integrity", "authenc", "hmac")
_LIBRARY = "usr/lib/goldsmith"
_SHELLS = ([b"/bin/sh"], [b"/usr/bin/sh"], [b"/usr/bin/busybox"])
_LINKS = (("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64"))
_DIRECTORIES = ("dev", "mnt", "proc", "run", "sys", "sysroot", "usr/sbin", "usr/lib64")
_SCRIPTS = ("init", "unlock")
_NETWORK_SCRIPT = "udhcpc"  # what udhcpc calls with each answer
_SHELL_FILE = re.compile(r"[a-z0-9-]+\.sh")


def assemble(
    packages: FileTree,
    modules: FileTree,
    spec: InitramfsSpec,
    scripts: Mapping[str, bytes],
    phases: Mapping[str, bytes],
    helpers: Mapping[str, bytes],
) -> FileTree:
    """The tree of the initramfs.

    Args:
        packages: unpacked packages the programs come from.
        modules: a tree with ``usr/lib/modules/<release>``.
        scripts: files of ``initrd/`` by name: ``init``, ``unlock``, ``udhcpc`` and ``*.sh``.
        phases: ``<phase>.<bank>`` and the whole TPM2_PCR_Extend command, for every phase and bank.
        helpers: the programs that ``helpers_needed`` names; their libraries come from the packages.

    Raises:
        SpecError: a value that cannot be, or a program, library, module, script, phase or helper that is
            missing.
        FormatError: a program, library or module that does not parse, or a LUKS2 header that cannot be.
    """
    check_spec(spec)
    _check_files(spec, scripts, phases, helpers)
    tree = FileTree()
    for path in _DIRECTORIES:
        tree.add_directory(path)
    for link, target in _LINKS:
        tree.add_symlink(link, target)
    add_console(tree)
    _add_programs(tree, packages, spec, helpers)
    _add_scripts(tree, spec, scripts)
    _add_modules(tree, modules, spec)
    for name in sorted(phases):
        tree.add_file(f"etc/initramfs/tpm2/{name}", phases[name])
    tree.add_file("etc/initramfs/config", assignments(_config(spec)))
    for volume in spec.volumes:
        add_volume(tree, volume)
    return tree


def _add_programs(
    tree: FileTree, packages: FileTree, spec: InitramfsSpec, helpers: Mapping[str, bytes]
) -> None:
    """Busybox and its names, the programs and our helpers, their libraries and their loader."""
    everything = FileTree(dict(packages.nodes))
    programs = [BUSYBOX, *_programs(spec)]
    for name in sorted(helpers):
        programs.append(f"{_LIBRARY}/{name}")
        everything.add_file(programs[-1], helpers[name], 0o755, source=f"initrd/helpers/{name}.c")
    scripts = _site_programs(everything, spec)
    programs += [path for path, script in scripts.items() if not script]
    for path in library_closure(everything, programs, spec.architecture):
        copy_file(tree, everything, path)
    for path, script in scripts.items():
        for link in walk(everything, path) if script else ():
            copy_file(tree, everything, link)
    if any(volume.format_policy != NEVER for volume in spec.volumes):
        # Features of a new file system are the package's choice, not a default hidden in the program.
        copy_file(tree, packages, "etc/mke2fs.conf")
    for applet in (*APPLETS, *(NETWORK_APPLETS if spec.network != "none" else ())):
        tree.add_symlink(f"usr/bin/{applet}", "busybox", source="busybox")


def _programs(spec: InitramfsSpec) -> list[str]:
    """Programs of packages that the scripts and the providers call."""
    programs: list[str] = []
    for volume in spec.volumes:
        programs += HEADER_PROGRAMS if volume.header == LUKS2 else ()
        programs += FORMAT_PROGRAMS if volume.format_policy != NEVER else ()
    return [*programs, *(path for provider in spec.providers for path in provider.binaries)]


def _site_programs(packages: FileTree, spec: InitramfsSpec) -> dict[str, bool]:
    """Tree paths of the programs that provider exec runs, and whether each is a script."""
    found = {}
    for volume in spec.volumes:
        if not any(provider.name == EXEC for provider in volume.providers):
            continue
        path = volume.options["EXEC_PROGRAM"].lstrip("/")
        links = walk(packages, path)
        node = packages[links[-1]] if links else None
        if node is None or not node.mode & 0o100:
            what = "is no program in a package of the initramfs"
            raise SpecError(f"{path}: {what}; add its package to initramfs.packages")
        first = node.read().partition(b"\n")[0]
        found[path] = first.startswith(b"#!")
        if found[path] and first[2:].split()[:1] not in _SHELLS:
            what = f"begins with {first[:80]!r}, and the initramfs has no such interpreter"
            raise SpecError(f"{path}: {what}; write it for /bin/sh, or bring an ELF program")
    return found


def _add_scripts(tree: FileTree, spec: InitramfsSpec, scripts: Mapping[str, bytes]) -> None:
    for name in sorted(scripts):
        if name == _NETWORK_SCRIPT and spec.network == "none":
            continue
        path = "init" if name == "init" else f"{_LIBRARY}/{name}"
        tree.add_file(path, scripts[name], 0o644 if name.endswith(".sh") else 0o755, source=f"initrd/{name}")
    for provider in spec.providers:
        path = f"usr/lib/unlock.d/{provider.name}"
        tree.add_file(path, provider.script, 0o755, source=f"initrd/unlock.d/{provider.name}")


def _add_modules(tree: FileTree, modules: FileTree, spec: InitramfsSpec) -> None:
    """The modules, and the lists of their paths."""
    directory = ModuleDirectory(modules, spec.kernel_release)
    wanted = [*(_VERITY_MODULES if spec.root == "verity" else ()), *spec.modules]
    for volume in spec.volumes:
        wanted += _VOLUME_MODULES
        wanted += _INTEGRITY_MODULES if volume.integrity != "none" else ()
    wanted += [name for provider in spec.providers for name in provider.modules]
    first = directory.closure(spec.tpm_modules)
    rest = tuple(path for path in directory.closure(wanted) if path not in first)
    for name, paths in (("modules.tpm", first), ("modules", rest)):
        tree.add_file(f"etc/initramfs/{name}", add_modules(tree, modules, paths))


def command_line(cmdline: str, root_hash: bytes | None = None) -> str:
    """The whole command line of the UKI; the initramfs of a release compares it with what the kernel got.

    Args:
        root_hash: of a verity root; an encrypted root has none.

    Spec: systemd 257 src/boot/util.c mangle_stub_cmdline (white space at both ends goes).
    """
    return cmdline.strip() if root_hash is None else f"{cmdline} roothash={root_hash.hex()}".strip()


def _config(spec: InitramfsSpec) -> dict[str, str]:
    opened = {}
    if spec.workload is not None:
        opened = {
            "WORKLOAD_DATA": spec.workload.data,
            "WORKLOAD_HASHES": spec.workload.hashes,
            "WORKLOAD_ROOTHASH": spec.workload.root_hash.hex(),
        }
    return {
        "PROFILE": spec.profile,
        "ON_FAILURE": spec.on_failure,
        "DEVICE_TIMEOUT": str(spec.device_timeout),
        "TPM": spec.tpm,
        "BANKS": " ".join(spec.banks),
        "ROOT": spec.root,
        "NETWORK": spec.network,
        # The root is mounted first, and the others on it.
        "VOLUMES": " ".join(sorted((volume.name for volume in spec.volumes), key=lambda name: name != ROOT)),
        "CMDLINE": spec.cmdline,
        **opened,
    }


def _check_files(
    spec: InitramfsSpec,
    scripts: Mapping[str, bytes],
    phases: Mapping[str, bytes],
    helpers: Mapping[str, bytes],
) -> None:
    lacking = sorted({"init", "boot.sh", "unlock"} - set(scripts))
    if lacking:
        raise SpecError(f"initrd: the script {lacking[0]} is not there; restore it")
    known = (*_SCRIPTS, _NETWORK_SCRIPT)
    strange = [name for name in sorted(scripts) if name not in known and not _SHELL_FILE.fullmatch(name)]
    if strange:
        raise SpecError(f"initrd: {strange[0]} is not {', '.join(known)} or a *.sh file; remove it")
    want = {f"{phase}.{bank}" for phase in PHASES for bank in spec.banks}
    if want != set(phases):
        odd = min(want ^ set(phases))
        raise SpecError(f"initramfs: phase command {odd} is {'missing' if odd in want else 'not expected'}")
    needed = set(helpers_needed(spec))
    if needed != set(helpers):
        odd = min(needed ^ set(helpers))
        fault = "was not compiled; compile it" if odd in needed else "is wanted by nothing; leave it out"
        raise SpecError(f"initramfs: helper {odd} {fault}")
