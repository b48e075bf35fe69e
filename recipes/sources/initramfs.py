"""The initramfs as a file tree: the scripts of ``initrd/``, a static busybox, programs and modules.

What the recipe decides becomes plain ``KEY=value`` files inside the measured initramfs; nothing is decided by
the command line. Everything is owned by root and has time 0, so the tree is a function of its inputs alone.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..errors import SpecError
from ..formats.elf import library_closure
from ..formats.kmod import ModuleDirectory
from ..formats.tree import FileTree
from .initramfs_tree import add_console, add_modules, copy_file
from .providers import Provider

PHASES = ("enter-initrd", "leave-initrd")  # systemd-pcrphase.service(8): the phases of an initramfs
BANKS = ("sha1", "sha256", "sha384", "sha512")  # Linux drivers/char/tpm/tpm-sysfs.c: the banks sysfs shows
BUSYBOX = "usr/bin/busybox"
# What the scripts and the providers call; everything else they use is built into the shell.
APPLETS = (
    "cat", "chmod", "cp", "cut", "dd", "env", "head", "insmod", "mkdir", "mount", "od", "rm", "sed",
    "setsid", "sh", "sleep", "stat", "switch_root", "tail", "timeout", "tr",
)  # fmt: skip
_VERITY_MODULES, _ROOT_MODULES = ("dm-verity",), ("erofs",)
_PROGRAMS, _VOLUME_PROGRAMS = ("usr/sbin/veritysetup",), ("usr/sbin/mkfs.ext4",)
_LINKS = (("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64"))
_DIRECTORIES = ("dev", "mnt", "proc", "run", "sys", "sysroot", "usr/sbin", "usr/lib64")
_CHOICES = {
    "profile": ("release", "dev"),
    "on_failure": ("panic", "poweroff", "reboot", "shell"),
    "tpm": ("required", "if-present"),
}
_SCRIPTS = ("init", "unlock")
_LIBRARY = re.compile(r"[a-z0-9-]+\.sh")
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,15}")  # ext4 labels hold 16 bytes, device-mapper names more
_CMDLINE = re.compile(r"([!-~]([ -~]*[!-~])?)?")
_MOUNTPOINT = re.compile(r"(/[a-z0-9][a-z0-9_-]*)+")


@dataclass(frozen=True, kw_only=True)
class VolumeSpec:
    """A volume the initramfs opens.

    Attributes:
        partition_uuid: PARTUUID of the partition, fixed when the disk is laid out.
        providers: who is asked for the key, in order.
        provider_timeout: seconds one run of a provider may take.
        total_timeout: seconds until the volume must be open.
        format_policy: ``always``: a new file system at every boot.
    """

    name: str
    partition_uuid: uuid.UUID
    providers: tuple[Provider, ...]
    mountpoint: str = "/var"
    filesystem: str = "ext4"
    format_policy: str = "always"
    provider_timeout: int = 20
    total_timeout: int = 60


@dataclass(frozen=True, kw_only=True)
class InitramfsSpec:
    """What the recipe decides about the initramfs.

    Attributes:
        kernel_release: as in ``usr/lib/modules``.
        cmdline: the kernel's command line without `` roothash=...``; a release boots with no other.
        profile: ``release`` or ``dev``.
        on_failure: ``panic``, ``poweroff``, ``reboot``, or ``shell`` in profile dev.
        tpm: ``required`` or ``if-present``.
        device_timeout: seconds until a partition or the TPM must be there.
        modules: names of kernel modules, loaded in order with what they need.
        tpm_modules: those loaded before the first phase is measured; only TPM drivers belong here.
        banks: PCR banks the phases are extended in, where the TPM has them.
    """

    architecture: str
    kernel_release: str
    modules: tuple[str, ...]
    volumes: tuple[VolumeSpec, ...] = ()
    cmdline: str = ""
    profile: str = "release"
    on_failure: str = "panic"
    tpm: str = "required"
    device_timeout: int = 30
    tpm_modules: tuple[str, ...] = ()
    banks: tuple[str, ...] = BANKS


def assemble(
    packages: FileTree,
    modules: FileTree,
    spec: InitramfsSpec,
    scripts: Mapping[str, bytes],
    phases: Mapping[str, bytes],
) -> FileTree:
    """The tree of the initramfs.

    Args:
        packages: unpacked packages the programs come from.
        modules: a tree with ``usr/lib/modules/<release>``.
        scripts: files of ``initrd/`` by name: ``init``, ``unlock`` and ``*.sh``.
        phases: ``<phase>.<bank>`` and the whole TPM2_PCR_Extend command, for every phase and bank.

    Raises:
        SpecError: a value that cannot be, or a program, library, module, script or phase that is missing.
        FormatError: a program, library or module that does not parse.
    """
    _check(spec, scripts, phases)
    tree = FileTree()
    for path in _DIRECTORIES:
        tree.add_directory(path)
    for link, target in _LINKS:
        tree.add_symlink(link, target)
    add_console(tree)
    _add_programs(tree, packages, spec)
    _add_scripts(tree, spec, scripts)
    _add_modules(tree, modules, spec)
    for name in sorted(phases):
        tree.add_file(f"etc/initramfs/tpm2/{name}", phases[name])
    tree.add_file("etc/initramfs/config", _config(spec))
    for volume in spec.volumes:
        tree.add_file(f"etc/unlock/{volume.name}.conf", _volume_config(volume))
    return tree


def _add_programs(tree: FileTree, packages: FileTree, spec: InitramfsSpec) -> None:
    """Busybox and its names, the programs, their libraries and their loader."""
    programs = list(_PROGRAMS)
    for volume in spec.volumes:
        programs += _VOLUME_PROGRAMS
        for provider in volume.providers:
            programs += provider.binaries
    for path in library_closure(packages, (BUSYBOX, *programs), spec.architecture):
        copy_file(tree, packages, path)
    if spec.volumes:
        # Features of a new file system are the package's choice, not a default hidden in the program.
        copy_file(tree, packages, "etc/mke2fs.conf")
    for applet in APPLETS:
        tree.add_symlink(f"usr/bin/{applet}", "busybox", source="busybox")


def _add_scripts(tree: FileTree, spec: InitramfsSpec, scripts: Mapping[str, bytes]) -> None:
    for name in sorted(scripts):
        path = "init" if name == "init" else f"usr/lib/goldsmith/{name}"
        tree.add_file(path, scripts[name], 0o644 if name.endswith(".sh") else 0o755, source=f"initrd/{name}")
    for provider in _providers(spec):
        path = f"usr/lib/unlock.d/{provider.name}"
        tree.add_file(path, provider.script, 0o755, source=f"initrd/unlock.d/{provider.name}")


def _add_modules(tree: FileTree, modules: FileTree, spec: InitramfsSpec) -> None:
    """The modules, and the lists of their paths."""
    directory = ModuleDirectory(modules, spec.kernel_release)
    wanted = (*_VERITY_MODULES, *_ROOT_MODULES, *spec.modules)
    wanted += tuple(name for provider in _providers(spec) for name in provider.modules)
    first = directory.closure(spec.tpm_modules)
    rest = tuple(path for path in directory.closure(wanted) if path not in first)
    for name, paths in (("modules.tpm", first), ("modules", rest)):
        tree.add_file(f"etc/initramfs/{name}", add_modules(tree, modules, paths))


def _providers(spec: InitramfsSpec) -> tuple[Provider, ...]:
    return tuple(
        {provider.name: provider for volume in spec.volumes for provider in volume.providers}.values()
    )


def command_line(cmdline: str, root_hash: bytes) -> str:
    """The whole command line of the UKI; the initramfs of a release compares it with what the kernel got.

    Spec: systemd 257 src/boot/util.c mangle_stub_cmdline (white space at both ends goes).
    """
    return f"{cmdline} roothash={root_hash.hex()}".strip()


def _config(spec: InitramfsSpec) -> bytes:
    return _assignments(
        PROFILE=spec.profile,
        ON_FAILURE=spec.on_failure,
        DEVICE_TIMEOUT=str(spec.device_timeout),
        TPM=spec.tpm,
        BANKS=" ".join(spec.banks),
        VOLUMES=" ".join(volume.name for volume in spec.volumes),
        CMDLINE=spec.cmdline,
    )


def _volume_config(volume: VolumeSpec) -> bytes:
    return _assignments(
        PARTUUID=str(volume.partition_uuid),
        MOUNTPOINT=volume.mountpoint,
        FILESYSTEM=volume.filesystem,
        FORMAT=volume.format_policy,
        PROVIDERS=" ".join(f"{provider.name}:{provider.kind}" for provider in volume.providers),
        PROVIDER_TIMEOUT=str(volume.provider_timeout),
        TOTAL_TIMEOUT=str(volume.total_timeout),
    )


def _assignments(**values: str) -> bytes:
    """Lines a shell can read with ``.``: a quote ends the quoted text, stands escaped and begins it again."""
    quoted = {key: value.replace("'", "'\\''") for key, value in values.items()}
    return "".join(f"{key}='{value}'\n" for key, value in quoted.items()).encode("ascii")


def _check(spec: InitramfsSpec, scripts: Mapping[str, bytes], phases: Mapping[str, bytes]) -> None:
    for field, allowed in _CHOICES.items():
        _one_of(f"initramfs.{field}", getattr(spec, field), allowed)
    if spec.on_failure == "shell" and spec.profile != "dev":
        raise SpecError("initramfs.on_failure: a release never gives a shell; use panic, or set profile: dev")
    if not _CMDLINE.fullmatch(spec.cmdline):
        raise SpecError(
            f"kernel.cmdline: {spec.cmdline!r} has more than printable ASCII or a space at an end; remove it"
        )
    _whole("initramfs.device_timeout", spec.device_timeout)
    for bank in spec.banks:
        _one_of("initramfs: PCR bank", bank, BANKS)
    lacking = sorted({"init", "boot.sh", "unlock"} - set(scripts))
    if lacking:
        raise SpecError(f"initrd: the script {lacking[0]} is not there; restore it")
    strange = [name for name in sorted(scripts) if name not in _SCRIPTS and not _LIBRARY.fullmatch(name)]
    if strange:
        raise SpecError(f"initrd: {strange[0]} is not init, unlock or a *.sh file; remove it")
    want = {f"{phase}.{bank}" for phase in PHASES for bank in spec.banks}
    if want != set(phases):
        odd = min(want ^ set(phases))
        raise SpecError(f"initramfs: phase command {odd} is {'missing' if odd in want else 'not expected'}")
    names = [volume.name for volume in spec.volumes]
    if len(set(names)) != len(names):
        raise SpecError(f"volumes {', '.join(names)}: a name is there twice; names are device-mapper names")
    for volume in spec.volumes:
        _check_volume(volume, spec.profile)


def _check_volume(volume: VolumeSpec, profile: str) -> None:
    where = f"volume {volume.name}"
    if not _NAME.fullmatch(volume.name) or volume.name == "root":
        raise SpecError(
            f"{where}: not a volume's name; use at most 16 lower-case letters, digits, - and _, not root"
        )
    if not _MOUNTPOINT.fullmatch(volume.mountpoint):
        raise SpecError(f"{where}: {volume.mountpoint!r} is no mount point; write a path such as /var")
    _one_of(f"{where}: filesystem", volume.filesystem, ("ext4",))
    _one_of(f"{where}: format", volume.format_policy, ("always",))
    _whole(f"{where}: provider_timeout", volume.provider_timeout)
    _whole(f"{where}: total_timeout", volume.total_timeout)
    if not volume.providers:
        raise SpecError(f"{where}: has no unlock provider; name one, such as ephemeral")
    for provider in volume.providers:
        if provider.kind != "volume-key":
            raise SpecError(
                f"{where}: provider {provider.name} is of kind {provider.kind}; only volume-key is supported"
            )
        if provider.network:
            raise SpecError(
                f"{where}: provider {provider.name} needs a network; the initramfs brings none up"
            )
        if provider.development and profile != "dev":
            raise SpecError(
                f"{where}: provider {provider.name} is for development; use another, or set profile: dev"
            )


def _one_of(where: str, value: str, allowed: Iterable[str]) -> None:
    if value not in allowed:
        raise SpecError(f"{where}: {value!r} is not known; write one of {', '.join(allowed)}")


def _whole(where: str, value: int) -> None:
    if not 1 <= value <= 3600:
        raise SpecError(f"{where}: {value} is out of range; write 1 to 3600 seconds")
