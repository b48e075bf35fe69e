"""A workload's folder as the tree of its partition, and the manifest whose digest says what will run.

The tree, read-only in the guest below ``/run/workload``:

====================================  ===================================================================
``workload.json``                     the manifest; its SHA-256 is what the register gets
``files.sha256``                      every measured file, as ``sha256sum --check`` reads it
``start``, ``archives``               names of services and of image archives, a line each, in order
``services/NAME/arguments``           what podman is called with, NUL behind each word
``services/NAME/restart``             what systemd does when the container ends: no, always or on-failure
``executables``                       files of ``config/`` that are programs, a line each
``secrets.list``                      files of ``secrets/``, a line each
``images/*.tar``                      image archives
``config/``, ``secrets/``             as in the folder; ``secrets/`` is not measured, only its names are
====================================  ===================================================================

The manifest is JSON in one form only: keys sorted, one space a level, ASCII, whole numbers and texts alone.
It names ``files.sha256`` by its digest, on a line of its own, so that the guest needs no JSON reader to go
from one to the other.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import SpecError, suggestion
from ..formats.oci import Digest
from ..formats.tree import FilePayload, FileTree, Node, NodeType
from ..units import KIB, format_size
from .compose import CONFIG, SECRETS, Compose, Mount, Restart, Service, read_compose
from .overlay import read_overlay
from .workload_images import ImageArchive, SavedImage

FORMAT, VERSION = "goldsmith-workload", 1
MANIFEST, LIST = "workload.json", "files.sha256"
START, ARCHIVES, EXECUTABLES = "start", "archives", "executables"
SECRETS_LIST = "secrets.list"
MOUNT_POINT = "/run/workload"
# What a name must be to need no quotes in a list of `sha256sum`, a mount of podman or a shell.
_NAME = re.compile(r"[A-Za-z0-9._@+-]+(/[A-Za-z0-9._@+-]+)*")
# Linux takes words of up to 128 KiB (include/uapi/linux/binfmts.h, MAX_ARG_STRLEN); more belongs into a file.
MAX_ARGUMENTS = 64 * KIB
_TAR = ".tar"
_RESTART = {
    Restart.NO: "no",
    Restart.ON_FAILURE: "on-failure",
    Restart.ALWAYS: "always",
    Restart.UNLESS_STOPPED: "always",
}


@dataclass(frozen=True, kw_only=True)
class WorkloadFolder:
    """What lies in a workload's folder.

    Attributes:
        tree: ``config/`` and ``secrets/``.
        archives: the files ``*.tar`` by name.
    """

    compose: str
    tree: FileTree
    archives: tuple[Path, ...]

    def files(self, folder: str) -> tuple[str, ...]:
        """Paths of the files below ``config`` or ``secrets``, sorted."""
        found = (path for path, node in self.tree.sorted() if node.type is NodeType.FILE)
        return tuple(path for path in found if path.startswith(f"{folder}/"))


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A workload, ready to be written.

    Attributes:
        tree: all of the partition.
        manifest: the bytes of ``workload.json``.
    """

    tree: FileTree
    manifest: bytes


def read_folder(folder: Path, compose_file: str) -> WorkloadFolder:
    """The folder of a workload.

    Raises:
        SpecError: a file that has no place in one, that no line of a list could name, or is no file.
    """
    name = folder.name
    overlay = read_overlay(folder, f"workload {name}")
    archives: list[Path] = []
    tree = FileTree()
    for path, node in overlay.tree.sorted():
        where = f"workload {name}: {path}"
        if path and _NAME.fullmatch(path) is None:
            raise SpecError(f"{where!a} has characters other than letters, digits and ._@+-; rename it")
        if node.type not in (NodeType.FILE, NodeType.DIRECTORY):
            raise SpecError(f"{where} is a {node.type.value}; a workload has files only, put the file there")
        top = path.partition("/")[0]
        if top in (CONFIG, SECRETS):
            if path in (CONFIG, SECRETS) and node.type is NodeType.FILE:
                raise SpecError(f"{where} is a file; make it a folder of files")
            tree[path] = node
        elif path.endswith(_TAR) and node.type is NodeType.FILE and "/" not in path:
            archives.append(folder / path)
        elif path and path != compose_file:
            what = f"is no part of a workload{suggestion(path, (compose_file, CONFIG, SECRETS))}"
            raise SpecError(f"{where} {what}; images are files *{_TAR} beside {compose_file}")
    try:
        text = (folder / compose_file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"workload {name}: {compose_file}: {error}") from None
    return WorkloadFolder(compose=text, tree=tree, archives=tuple(archives))


def assemble(name: str, folder: WorkloadFolder, archives: Sequence[ImageArchive], where: str) -> Workload:
    """The partition's tree and the manifest.

    Args:
        archives: those of the folder, and those that the build has made.
        where: path of the Compose file, for messages.

    Raises:
        SpecError: with every mistake of the Compose file; two archives that have an image of the same name;
            an archive, an image or a file that nothing uses, or that another archive has.
    """
    images = _image_digests(archives)
    files = (*folder.files(CONFIG), *folder.files(SECRETS))
    compose = read_compose(folder.compose, where, files=files, images=tuple(images))
    _check_archives(compose, archives, where)
    tree = FileTree()
    programs = [path for path in folder.files(CONFIG) if folder.tree[path].mode & 0o100]
    tree.add_file(EXECUTABLES, "".join(f"{path}\n" for path in programs).encode(), 0o444)
    secrets = "".join(f"{path}\n" for path in folder.files(SECRETS))
    tree.add_file(SECRETS_LIST, secrets.encode(), 0o444)
    for path in files:
        node = folder.tree[path]
        tree.add_parents(path)
        mode = 0o555 if path in programs else 0o444
        tree[path] = Node(type=NodeType.FILE, mode=mode, payload=node.payload, source=f"workload {name}")
    for archive in archives:
        path = f"images/{archive.stem}{_TAR}"
        tree.add_parents(path)
        payload = FilePayload(archive.path, 0, archive.size)
        tree[path] = Node(type=NodeType.FILE, mode=0o444, payload=payload, source=archive.path.name)
    for service in compose.services:
        words = command_line(name, service, images[service.image])
        tree.add_file(f"services/{service.name}/arguments", _arguments(words, service, where), 0o444)
        tree.add_file(f"services/{service.name}/restart", f"{_RESTART[service.restart]}\n".encode(), 0o444)
    order = compose.starting_order()
    tree.add_file(START, "".join(f"{service.name}\n" for service in order).encode(), 0o444)
    tree.add_file(ARCHIVES, "".join(f"{archive.stem}{_TAR}\n" for archive in archives).encode(), 0o444)
    return _with_manifest(name, tree, compose, archives, images)


def command_line(workload: str, service: Service, image: Digest) -> tuple[str, ...]:
    """What starts a service's container, word by word.

    Spec: podman 5.4 podman-run(1). ``--cgroups=split`` and ``--sdnotify=conmon`` leave the container to the
    service of systemd that starts it; ``--log-driver=passthrough`` gives it that service's output.
    """
    words = ["podman", "run", f"--name={service.name}", "--replace", "--rm", "--detach", "--pull=never"]
    words += ["--cgroups=split", "--sdnotify=conmon", "--log-driver=passthrough"]
    words += [f"--network={service.network.value}"]
    words += ["--read-only", "--read-only-tmpfs=false"] if service.read_only else []
    words += [f"--user={service.user}"] if service.user is not None else []
    words += [f"--workdir={service.working_dir}"] if service.working_dir is not None else []
    words += [f"--cap-drop={name}" for name in service.cap_drop]
    words += [f"--cap-add={name}" for name in service.cap_add]
    words += [f"--env={key}={value}" for key, value in service.environment]
    words += [f"--publish={port}" for port in service.ports]
    words += [f"--tmpfs={text}" for text in service.tmpfs]
    words += [f"--volume={_mounted(workload, mount)}" for mount in service.mounts]
    if service.entrypoint is not None:
        words.append(f"--entrypoint={json.dumps(list(service.entrypoint))}")
    return (*words, image.value.hex(), *(service.command or ()))


def _mounted(workload: str, mount: Mount) -> str:
    source = f"{workload}_{mount.source}" if mount.is_volume else f"{MOUNT_POINT}/{mount.source}"
    return f"{source}:{mount.target}" + (":ro" if mount.read_only else "")


def _arguments(words: Sequence[str], service: Service, where: str) -> bytes:
    """All words but the program's, a NUL behind each."""
    data = b"".join(word.encode("utf-8") + b"\0" for word in words[1:])
    if len(data) > MAX_ARGUMENTS:
        what = f"its command line has {format_size(len(data))}, at most {format_size(MAX_ARGUMENTS)} are run"
        raise SpecError(f"{where}: service {service.name}: {what}; put some of it into a file below {CONFIG}")
    return data


def _image_digests(archives: Sequence[ImageArchive]) -> dict[str, Digest]:
    found: dict[str, Digest] = {}
    places: dict[str, str] = {}
    for archive in archives:
        for image in archive.images:
            for name in image.names:
                if found.setdefault(name, image.config) != image.config:
                    what = f"{places[name]} and {archive.path.name} have different images called {name}"
                    raise SpecError(f"{what}; keep one of them")
                places[name] = archive.path.name
    return found


def _check_archives(compose: Compose, archives: Sequence[ImageArchive], where: str) -> None:
    """Stops at what would be loaded into every guest, and measured, for nothing."""
    used = {service.image for service in compose.services}
    stems = [archive.stem for archive in archives]
    places: dict[str, str] = {}
    for archive in archives:
        file = archive.path.name
        names = {name for image in archive.images for name in image.names}
        needed = sorted(names & used)
        if not needed:
            has = ", ".join(sorted(names)) or "images without a name"
            raise SpecError(f"{where}: no service uses {file}, which has {has}; remove it")
        if stems.count(archive.stem) > 1:
            what = f"{archive.stem}{_TAR} is in the folder, and the recipe's images make one"
            raise SpecError(f"{where}: {what}; rename one")
        for image in archive.images:
            _check_image(image, file, used, where)
        if places.keys() >= set(needed):
            others = sorted({places[name] for name in needed})
            what = f"{' and '.join(others)} already {'have' if others[1:] else 'has'} {', '.join(needed)}"
            raise SpecError(f"{where}: {what}; remove {file}")
        places |= {name: file for name in needed if name not in places}


def _check_image(image: SavedImage, file: str, used: Collection[str], where: str) -> None:
    if not image.names:
        what = f"{file} has an image without a name, {image.config}"
        raise SpecError(f"{where}: {what}; no service can use it, tag it or save the others without it")
    if not set(image.names) & set(used):
        has = ", ".join(sorted(image.names))
        raise SpecError(f"{where}: no service uses {has}, which {file} has; save it without")


def _with_manifest(
    name: str,
    tree: FileTree,
    compose: Compose,
    archives: Sequence[ImageArchive],
    images: dict[str, Digest],
) -> Workload:
    known = {f"images/{archive.stem}{_TAR}": archive.sha256.hex() for archive in archives}
    digests = {
        path: known.get(path) or hashlib.sha256(node.read()).hexdigest()
        for path, node in tree.sorted()
        if node.type is NodeType.FILE and not path.startswith(f"{SECRETS}/")
    }
    listed = "".join(f"{digest}  {path}\n" for path, digest in digests.items()).encode()
    tree.add_file(LIST, listed, 0o444)
    document = {
        "format": FORMAT,
        "version": VERSION,
        "name": name,
        "list": f"sha256:{hashlib.sha256(listed).hexdigest()}",
        "services": [_service_json(name, service, images, digests) for service in compose.services],
        "start": [service.name for service in compose.starting_order()],
        "volumes": sorted(f"{name}_{volume}" for volume in compose.volumes),
        "archives": [_archive_json(archive) for archive in archives],
        "config": [
            {"path": path, "sha256": digest, "executable": bool(tree[path].mode & 0o100)}
            for path, digest in digests.items()
            if path.startswith(f"{CONFIG}/")
        ],
        "secrets": tree[SECRETS_LIST].read().decode().splitlines(),
    }
    manifest = canonical(document)
    tree.add_file(MANIFEST, manifest, 0o444)
    tree[""] = Node(type=NodeType.DIRECTORY, mode=0o700, source="generated")
    return Workload(tree=tree, manifest=manifest)


def canonical(document: object) -> bytes:
    """The one form that a manifest is written in."""
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=True, allow_nan=False).encode() + b"\n"


def _service_json(
    workload: str, service: Service, images: dict[str, Digest], digests: dict[str, str]
) -> dict[str, object]:
    image = images[service.image]
    return {
        "name": service.name,
        "image": {"name": service.image, "digest": str(image)},
        "argv": list(command_line(workload, service, image)),
        "arguments": digests[f"services/{service.name}/arguments"],
        "restart": _RESTART[service.restart],
    }


def _archive_json(archive: ImageArchive) -> dict[str, object]:
    return {
        "file": f"{archive.stem}{_TAR}",
        "sha256": archive.sha256.hex(),
        "size": archive.size,
        "images": [{"digest": str(image.config), "names": sorted(image.names)} for image in archive.images],
    }
