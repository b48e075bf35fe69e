"""Prepares ``.venv`` and hands over to doit: what ``python3 dodo.py`` runs before anything is installed.

Standard library only. The environment is made from the hashed requirement sets; a stamp, written last, says
for which sets and which Python it was made, so an interrupted or outdated environment is made again.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

RUNTIME = "requirements.lock"
TESTING = "requirements-test.lock"
# Put into .venv before anything else: what has it is ours to remove, however early we were interrupted.
MARK = ".goldsmith"

# The foreign programs that judge our bytes, by Debian package.
TEST_PACKAGES = (
    *(
        "qemu-system-x86",
        "qemu-system-arm",
        "device-tree-compiler",
        "gzip",
        "qemu-utils",
        "swtpm",
        "swtpm-tools",
        "tpm2-tools",
    ),
    *(
        "cryptsetup-bin",
        "erofs-utils",
        "dosfstools",
        "mtools",
        "sbsigntool",
        "efitools",
        "osslsigncode",
        "fdisk",
    ),
    *("gdisk", "cpio", "kmod", "busybox-static", "shellcheck", "binutils", "openssl", "xz-utils", "systemd"),
    *("git", "gcc", "libc6-dev", "libssl-dev", "iproute2", "p7zip-full"),
    *("qemu-user", "python3-guestfs", "linux-image-cloud-amd64", "e2fsprogs", "protobuf-compiler"),
)
TEST_PROGRAMS = (
    *(
        "qemu-system-x86_64",
        "qemu-system-aarch64",
        "dtc",
        "gzip",
        "qemu-img",
        "swtpm",
        "swtpm_setup",
        "tpm2_eventlog",
        "veritysetup",
        "fsck.erofs",
    ),
    *("fsck.fat", "mcopy", "sbverify", "osslsigncode", "sfdisk", "sgdisk", "cpio", "depmod", "busybox"),
    *("shellcheck", "objdump", "openssl", "xz", "systemd-sysusers", "git", "cc", "ip", "debugfs", "supermin"),
    *("cert-to-efi-sig-list", "qemu-x86_64", "protoc", "7z"),
)


class BootstrapError(Exception):
    """The environment cannot be made; the message says what to do."""


def main(arguments: list[str], root: Path) -> None:
    """Makes the environment if it is not there, then becomes ``doit`` with these arguments.

    ``--locked`` may stand anywhere: packages are then taken at their locked versions only, or not at all.
    """
    try:
        testing = bool({"test", "lint", "bench"} & set(arguments))
        python = ensure_environment(root, testing=testing)
        if "test" in arguments:
            ensure_test_programs()
    except (BootstrapError, OSError) as error:
        print(f"dodo.py: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ndodo.py: interrupted; the same command begins again", file=sys.stderr)
        sys.exit(130)
    environment = dict(os.environ)
    if "--locked" in arguments:
        arguments = [argument for argument in arguments if argument != "--locked"]
        environment["GOLDSMITH_LOCKED"] = "1"
    os.chdir(root)
    sys.stdout.flush()
    command = [str(python), "-m", "recipes.steps", *arguments]
    # Until doit's Python has our words for it (steps/signals.py), an interrupt would be a traceback.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    os.execve(python, command, environment)  # noqa: S606 - becomes doit, no shell


def ensure_environment(root: Path, *, testing: bool) -> Path:
    """Path of the environment's Python, after making the environment if it is missing or out of date."""
    if sys.version_info < (3, 11):  # noqa: UP036 - whoever starts this may have an older one
        raise BootstrapError(f"Python {sys.version.split()[0]} is too old; install Python 3.11 or newer")
    python = root / ".venv" / "bin" / "python"
    if _is_current(root, testing=testing):
        return python
    (root / "out").mkdir(exist_ok=True)
    with (root / "out" / ".venv.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_current(root, testing=testing):
            _make(root, testing=testing)
    return python


def _stamp(root: Path, name: str) -> tuple[Path, str]:
    state = hashlib.sha256((root / name).read_bytes())
    state.update(f"{root}\n{sys.version}".encode())
    return root / ".venv" / f".{name}.stamp", state.hexdigest()


def _is_current(root: Path, *, testing: bool) -> bool:
    if not (root / ".venv" / "bin" / "python").exists():  # a link to a Python that may have been removed
        return False
    for name in (RUNTIME, TESTING) if testing else (RUNTIME,):
        path, stamp = _stamp(root, name)
        if not path.is_file() or path.read_text() != stamp:
            return False
    return True


def _make(root: Path, *, testing: bool) -> None:
    folder = root / ".venv"
    if not _is_current(root, testing=False):
        print("preparing .venv (once; from hashed requirements)", file=sys.stderr)
        content = {path.name for path in folder.iterdir()} if folder.exists() else set()
        if folder.is_symlink() or (content and not content & {"pyvenv.cfg", MARK}):
            raise BootstrapError(f"{folder} is not a virtual environment; move it away")
        shutil.rmtree(folder, ignore_errors=True)
        _create(folder)
        _install(root, RUNTIME)
        _write_command(root)
        path, stamp = _stamp(root, RUNTIME)
        path.write_text(stamp)
    if testing:
        print("adding the test requirements to .venv (once)", file=sys.stderr)
        _install(root, TESTING)
        path, stamp = _stamp(root, TESTING)
        path.write_text(stamp)


def _create(folder: Path) -> None:
    folder.mkdir()
    (folder / MARK).touch()
    command = [sys.executable, "-m", "venv", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode and "ensurepip" in result.stdout + result.stderr:
        _apt_install(["python3-venv"], "python3 -m venv does not work here")
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        shutil.rmtree(folder, ignore_errors=True)
        raise BootstrapError(f"cannot make {folder}: {(result.stderr or result.stdout).strip()}")


def _install(root: Path, name: str) -> None:
    command = [str(root / ".venv" / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--require-hashes", "-r", str(root / name)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        tail = "\n".join((result.stderr or result.stdout).strip().splitlines()[-8:])
        advice = "check the network and pip's index settings"
        raise BootstrapError(f"pip could not install {name}; {advice}\n{tail}")


def _write_command(root: Path) -> None:
    """``.venv/bin/goldsmith``: the project in this folder as a command."""
    python = root / ".venv" / "bin" / "python"
    path = root / ".venv" / "bin" / "goldsmith"
    program = (
        f"import sys; sys.path.insert(0, {str(root)!r}); from recipes.__main__ import main; sys.exit(main())"
    )
    # Not in the first line, which can hold neither a blank nor a long path.
    path.write_text(f'#!/bin/sh\nexec {shlex.quote(str(python))} -P -c {shlex.quote(program)} "$@"\n')
    path.chmod(0o755)


def ensure_test_programs() -> None:
    """Installs the foreign programs that tests call when root, else says the one command that does."""
    search = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = [name for name in TEST_PROGRAMS if shutil.which(name, path=search) is None]
    if missing:
        _apt_install(list(TEST_PACKAGES), f"the tests need {', '.join(missing)}")


def _apt_install(packages: list[str], reason: str) -> None:
    command = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    line = " ".join(command)
    if shutil.which("apt-get") is None:
        raise BootstrapError(
            f"{reason}; there is no apt-get here, install the likes of: {' '.join(packages)}"
        )
    if os.geteuid() != 0:
        raise BootstrapError(f"{reason}; as root, run:\n    apt-get update && {line}")
    print(f"{reason}; running: {line}", file=sys.stderr)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for step in (["apt-get", "update"], command):
        result = subprocess.run(step, env=environment, capture_output=True, text=True, check=False)
        if result.returncode and step is command:
            tail = "\n".join(result.stderr.strip().splitlines()[-8:])
            raise BootstrapError(f"{line} failed\n{tail}")
