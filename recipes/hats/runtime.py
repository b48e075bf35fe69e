"""The runtime bundle of an application: a root file system and ``config.json``, as runc takes them.

Oak's orchestrator unpacks it, gives every file to an unprivileged user, adds its socket to the mounts and
starts runc as that user; so the container has a user namespace, and the network of the VM.

Spec: OCI runtime-spec 1.2.0 config.md and config-linux.md; project-oak/oak 28edc4a,
oak_containers/orchestrator/src/container_runtime.rs; private-compute-infra-toolkit/hats 7d61840
client/proto/launcher_config.proto, ``runc_runtime_bundle``.
"""

from __future__ import annotations

import json

ROOT_FOLDER, CONFIG_FILE = "rootfs", "config.json"
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NAMESPACES = ("pid", "ipc", "uts", "mount", "cgroup", "user")
_MOUNTS = (
    ("/proc", "proc", "proc", ()),
    ("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
    ("/dev/shm", "tmpfs", "shm", ("nosuid", "noexec", "nodev", "mode=1777", "size=65536k")),  # noqa: S108 - in the container
    ("/tmp", "tmpfs", "tmpfs", ("nosuid", "nodev", "mode=1777")),  # noqa: S108 - in the container
)


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
        },
    }
    return json.dumps(value, indent=2) + "\n"
