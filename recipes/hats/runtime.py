"""The runtime bundle of an application: a root file system and ``config.json``, as runc takes them.

Oak's orchestrator unpacks it, gives every file to an unprivileged user, adds its socket to the mounts and
starts runc as that user; so the container has a user namespace, and the network of the VM.

Spec: OCI runtime-spec 1.2.0 config.md and config-linux.md; project-oak/oak 28edc4a,
oak_containers/orchestrator/src/container_runtime.rs; private-compute-infra-toolkit/hats 7d61840
client/proto/launcher_config.proto, ``runc_runtime_bundle``.
"""

from __future__ import annotations

import json

from ..formats.tree import FileTree, NodeType

ROOT_FOLDER, CONFIG_FILE = "rootfs", "config.json"
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NAMESPACES = ("pid", "ipc", "uts", "mount", "cgroup", "user")
_MOUNTS = (
    ("/proc", "proc", "proc", ()),
    ("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
    ("/dev/shm", "tmpfs", "shm", ("nosuid", "noexec", "nodev", "mode=1777", "size=65536k")),  # noqa: S108 - in the container
    ("/tmp", "tmpfs", "tmpfs", ("nosuid", "nodev", "mode=1777")),  # noqa: S108 - in the container
)
# What of /proc tells of the host or changes it; what a kernel has not, runc passes over.
# Spec: opencontainers/runc 1.1 libcontainer/specconv/example.go, Example().
_MASKED = (
    *("/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list"),
    *("/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"),
)
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

# Spec: Linux 6.12 include/linux/namei.h MAXSYMLINKS.
_MAX_LINKS = 40


def no_program(tree: FileTree, path: str) -> str:
    """Why a container of this root cannot start the absolute ``path``; empty where it can."""
    waiting, reached, links = path.split("/")[::-1], "", 0
    while waiting:
        part = waiting.pop()
        if part in ("", "."):
            continue
        if part == "..":
            reached = reached.rpartition("/")[0]
            continue
        here = f"{reached}/{part}" if reached else part
        if here not in tree:
            return (
                "is not in the container"
                if here == path.strip("/")
                else f"leads to /{here}, which is missing"
            )
        node = tree[here]
        if node.type is not NodeType.SYMLINK:
            reached = here
            continue
        links += 1
        if links > _MAX_LINKS:
            return f"leads through more than {_MAX_LINKS} links"
        waiting += node.target.split("/")[::-1]
        reached = "" if node.target.startswith("/") else reached
    node = tree[reached]
    node = tree[node.target] if node.type is NodeType.HARDLINK else node
    if node.type is not NodeType.FILE:
        return "is no file"
    return "" if node.mode & 0o111 else f"is not executable (mode {node.mode:04o})"


def runtime_config(command: tuple[str, ...]) -> str:
    """``config.json`` of a container that runs ``command`` as root of a user namespace of its own."""
    mapping = [{"containerID": 0, "hostID": 0, "size": 1}]
    value = {
        "ociVersion": "1.2.0",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": list(command),
            "env": [_PATH],
            "cwd": "/",
            "noNewPrivileges": True,
        },
        "root": {"path": ROOT_FOLDER, "readonly": True},
        "hostname": "hats",
        "mounts": [
            {"destination": place, "type": kind, "source": source}
            | ({"options": list(options)} if options else {})
            for place, kind, source, options in _MOUNTS
        ],
        "linux": {
            "uidMappings": mapping,
            "gidMappings": mapping,
            "namespaces": [{"type": name} for name in _NAMESPACES],
            "maskedPaths": list(_MASKED),
            "readonlyPaths": list(_READ_ONLY),
        },
    }
    return json.dumps(value, indent=2) + "\n"
