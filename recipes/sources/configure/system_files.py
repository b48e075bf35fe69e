"""The files of /etc that installation scripts write from templates, and those that name the system.

Spec: the postinst scripts of Debian 13 (base-files 13.8, debianutils 5.23, libc-bin 2.41, libpam-modules 1.7,
netbase 6.5, tzdata); systemd 257 machine-id(5), os-release(5), hostname(5), locale.conf(5), localtime(5).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from ...errors import SpecError
from ...formats.tree import FileTree, NodeType
from .paths import is_file, names_in, read_file, read_text, resolve

# Template of a package, and where its first installation copies it: base-files, then libc-bin.
COPIES: tuple[tuple[str, str], ...] = (
    ("usr/share/base-files/profile", "etc/profile"),
    ("usr/share/base-files/motd", "etc/motd"),
    ("usr/share/base-files/dot.profile", "root/.profile"),
    ("usr/share/base-files/dot.bashrc", "root/.bashrc"),
    ("usr/share/libc-bin/nsswitch.conf", "etc/nsswitch.conf"),
)
DIRECTORIES = ("mnt", "srv", "opt", "media", "etc/opt", "var/opt")  # base-files
LINKS: tuple[tuple[str, str], ...] = (
    ("var/run", "/run"),  # base-files
    ("var/lock", "/run/lock"),  # base-files
    ("var/spool/mail", "../mail"),  # base-files
)
_HOST_NAME = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)(\.(?!-)[a-z0-9-]{1,63}(?<!-))*")  # hostname(5), RFC 1123
_OS_RELEASE_KEY = re.compile(r"[A-Z][A-Z0-9_]*")  # os-release(5)
_SHELLS = "usr/share/debianutils/shells"


def _add(tree: FileTree, path: str, text: str, mode: int = 0o644) -> None:
    """A file, unless a package or an overlay has it already."""
    if path not in tree:
        tree.add_file(path, text.encode("utf-8"), mode)


def write_copies(tree: FileTree) -> None:
    """Copies the templates, and makes the directories, links and empty files of a first installation."""
    for source, target in COPIES:
        data = read_file(tree, source)
        if data is not None and target not in tree:
            tree.add_file(target, data)
    for path in DIRECTORIES:
        if path not in tree:
            tree.add_directory(path)
    for link, target in LINKS:
        if link not in tree or _is_empty_directory(tree, link):
            tree.add_symlink(link, target)
    if is_file(tree, "etc/dpkg/origins/debian") and "etc/dpkg/origins/default" not in tree:
        tree.add_symlink("etc/dpkg/origins/default", "debian")
    _add(tree, "etc/environment", "")
    if "etc/security" in tree:
        _add(tree, "etc/security/opasswd", "", 0o600)


def _is_empty_directory(tree: FileTree, path: str) -> bool:
    """Whether a path is a directory with nothing in it, which base-files turns into a link."""
    return tree[path].type is NodeType.DIRECTORY and not any(names_in(tree, path))


def write_shells(tree: FileTree) -> None:
    """/etc/shells: the list of debianutils and of every package, each shell by both its names.

    Spec: debianutils 5.23, update-shells.
    """
    text = read_text(tree, _SHELLS)
    if text is None or "etc/shells" in tree:
        return
    folder = f"{_SHELLS}.d"
    files = [text, *(read_text(tree, f"{folder}/{name}") or "" for name in names_in(tree, folder))]
    lines = list(dict.fromkeys(text.splitlines()))
    for line in (line.partition("#")[0] for file in files for line in file.splitlines()):
        directory, _, base = line.rpartition("/")
        for shell in (line, f"/{resolve(tree, directory) or directory.strip('/')}/{base}"):
            if line and shell not in lines:
                lines.append(shell)
    _add(tree, "etc/shells", "".join(f"{line}\n" for line in lines))


def write_names(tree: FileTree, hostname: str) -> None:
    """/etc/hostname, hosts and networks, and where the resolver looks.

    Raises:
        SpecError: the name is not a host name.
    """
    if len(hostname) > 64 or _HOST_NAME.fullmatch(hostname) is None:  # Linux: HOST_NAME_MAX
        raise SpecError(
            f"hostname: {hostname!r} is not a host name; use a-z, 0-9 and -, at most 64 characters"
        )
    _add(tree, "etc/hostname", f"{hostname}\n")
    short = hostname.partition(".")[0]
    names = hostname if short == hostname else f"{hostname} {short}"
    own = "" if hostname == "localhost" else f"127.0.1.1\t{names}\n"
    hosts = "127.0.0.1\tlocalhost\n" + own + "::1\t\tlocalhost ip6-localhost ip6-loopback\n"
    _add(tree, "etc/hosts", hosts + "ff02::1\t\tip6-allnodes\nff02::2\t\tip6-allrouters\n")
    networks = "default\t\t0.0.0.0\nloopback\t127.0.0.0\nlink-local\t169.254.0.0\n"
    _add(tree, "etc/networks", networks)
    if "etc/resolv.conf" not in tree:
        # /etc is read-only: systemd-resolved keeps its file below /run, any other program can write
        # /run/resolv.conf.
        resolved = is_file(tree, "usr/lib/systemd/systemd-resolved")
        target = "../run/systemd/resolve/stub-resolv.conf" if resolved else "../run/resolv.conf"
        tree.add_symlink("etc/resolv.conf", target)


def write_place(tree: FileTree, locale: str, timezone: str) -> None:
    """/etc/locale.conf with the name programs know it by, and /etc/localtime.

    Raises:
        SpecError: the tree has no such time zone.
    """
    zone = f"usr/share/zoneinfo/{timezone}"
    if not is_file(tree, zone) and timezone != "UTC":
        raise SpecError(f"timezone: {zone} is not in the tree; add tzdata to rootfs.packages or use UTC")
    if "etc/localtime" not in tree:
        tree.add_symlink("etc/localtime", f"/{zone}")
    _add(tree, "etc/locale.conf", f"LANG={locale}\n")
    if "etc/default/locale" not in tree:
        tree.add_symlink("etc/default/locale", "../locale.conf")


def write_machine_id(tree: FileTree) -> None:
    """An empty /etc/machine-id that nobody can write, unless the tree has one.

    Empty, and not missing or ``uninitialized``, means: make an identity for this boot in /run, and do not
    treat the boot as the first one (machine-id(5), "First Boot Semantics"). The image is the same for
    everyone, so it cannot hold an identity; /etc is read-only, so none can be kept.
    """
    _add(tree, "etc/machine-id", "", 0o444)


def extend_os_release(tree: FileTree, fields: Sequence[tuple[str, str]]) -> None:
    """Adds fields such as IMAGE_ID to usr/lib/os-release, each in place of one of the same name.

    Raises:
        SpecError: the file is not in the tree, or a name is not that of a field.
    """
    path = "usr/lib/os-release"
    text = read_text(tree, path)
    if text is None:
        raise SpecError(f"{path}: not in the tree; add base-files to rootfs.packages")
    lines = text.splitlines()
    for key, value in fields:
        if _OS_RELEASE_KEY.fullmatch(key) is None or "\n" in value:
            raise SpecError(
                f"os-release: {key}={value!r} is not a field; names are upper case, values one line"
            )
        lines = [line for line in lines if not line.startswith(f"{key}=")]
        lines.append(f"{key}={shlex.quote(value)}")
    tree.add_file(path, "".join(f"{line}\n" for line in lines).encode("utf-8"))
