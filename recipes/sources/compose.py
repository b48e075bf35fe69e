"""Compose files: the part of them that a measured workload may use, and an error with its line for the rest.

Nothing is taken from the environment (a ``$`` must be written ``$$``), nothing has a hidden default that
would be measured without being seen, and no file of the folder may be there for nothing.

Spec: Compose Specification (compose-spec), 05-services.md, 07-volumes.md, 12-interpolation.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from enum import Enum
from typing import Annotated, cast

from ..errors import Problem, suggestion
from ..reader import Marks, Place, Text, read

# Names become those of containers, units and files.
Name = Annotated[str, Text(r"[a-z0-9][a-z0-9_-]{0,40}", "web")]
# Arguments of programs: no control characters but tab and newline, and nothing that is not UTF-8.
Line = Annotated[str, Text("[^\\x00-\\x08\\x0b-\\x1f\\x7f\ud800-\udfff]*", "text without control characters")]
Variable = Annotated[str, Text(r"[A-Za-z_][A-Za-z0-9_]*", "LOG_LEVEL")]
REFERENCE = r"[a-z0-9][a-z0-9._/:-]*(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?"
Reference = Annotated[str, Text(REFERENCE, "hello:1.0")]
User = Annotated[str, Text(r"[a-z0-9_][a-z0-9_-]*(:[a-z0-9_][a-z0-9_-]*)?", '"1000:1000"')]
Capability = Annotated[str, Text(r"ALL|(CAP_)?[A-Z][A-Z0-9_]*", "NET_BIND_SERVICE")]
_PATH = r"(/[A-Za-z0-9._@+-]+)+"
TargetPath = Annotated[str, Text(_PATH, "/srv/app")]
Tmpfs = Annotated[
    str, Text(rf"{_PATH}(:[a-z]+(=[A-Za-z0-9%]+)?(,[a-z]+(=[A-Za-z0-9%]+)?)*)?", "/run:size=16m")
]
Volume = Annotated[
    str,
    Text(rf"(\.{_PATH}|[a-z0-9][a-z0-9_-]{{0,40}}):{_PATH}(:ro|:rw)?", "./config/app.toml:/etc/app.toml:ro"),
]
Port = Annotated[
    str,
    Text(r"([0-9]+(\.[0-9]+){3}:|\[[0-9a-f:]+\]:)?[0-9]{1,5}:[0-9]{1,5}(/(tcp|udp))?", '"8080:80"'),
]

CONFIG, SECRETS = "config", "secrets"
DEFAULT_TAG = "latest"
# Where an image without a registry may come from, as programs that save images write it.
_REGISTRIES = ("docker.io/library/", "docker.io/", "localhost/")
MAX_SERVICES = 64


class Network(Enum):
    """Networks of a container: nothing but loopback, one with its own addresses, or the machine's own."""

    NONE = "none"
    BRIDGE = "bridge"
    HOST = "host"


class Restart(Enum):
    """When a container is started again."""

    NO = "no"
    ALWAYS = "always"
    ON_FAILURE = "on-failure"
    UNLESS_STOPPED = "unless-stopped"


@dataclass(frozen=True, kw_only=True)
class _Service:
    image: Reference
    network_mode: Network
    command: tuple[Line, ...] | None = None
    entrypoint: tuple[Line, ...] | None = None
    environment: dict[Variable, Line] = field(default_factory=dict)
    ports: tuple[Port, ...] = ()
    volumes: tuple[Volume, ...] = ()
    tmpfs: tuple[Tmpfs, ...] = ()
    user: User | None = None
    working_dir: TargetPath | None = None
    read_only: bool = False
    cap_drop: tuple[Capability, ...] = ()
    cap_add: tuple[Capability, ...] = ()
    restart: Restart = Restart.NO
    depends_on: tuple[Name, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _NamedVolume:
    """Options of a named volume: there are none."""


@dataclass(frozen=True, kw_only=True)
class _File:
    services: dict[Name, _Service]
    volumes: dict[Name, _NamedVolume | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Mount:
    """Something of the host's that a container sees.

    Attributes:
        source: a path of the folder, ``config/app.toml``, or the name of a volume.
        is_volume: whether it is that.
    """

    source: str
    target: str
    is_volume: bool
    read_only: bool


@dataclass(frozen=True, kw_only=True)
class Service:
    """One service, every word as a program gets it.

    Attributes:
        image: its name with a tag and without the registries that are the default.
        entrypoint: None where the image's own is meant, as with ``command``.
    """

    name: str
    image: str
    network: Network
    entrypoint: tuple[str, ...] | None = None
    command: tuple[str, ...] | None = None
    environment: tuple[tuple[str, str], ...] = ()
    ports: tuple[str, ...] = ()
    mounts: tuple[Mount, ...] = ()
    tmpfs: tuple[str, ...] = ()
    user: str | None = None
    working_dir: str | None = None
    read_only: bool = False
    cap_drop: tuple[str, ...] = ()
    cap_add: tuple[str, ...] = ()
    restart: Restart = Restart.NO
    depends_on: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Compose:
    """The services in the order of the file, and the names of the volumes."""

    services: tuple[Service, ...]
    volumes: tuple[str, ...] = ()

    def starting_order(self) -> tuple[Service, ...]:
        """The services, each behind those it depends on, otherwise in the order of the file."""
        found: dict[str, Service] = {}
        while len(found) < len(self.services):
            ready = (each for each in self.services if each.name not in found)
            service = next(each for each in ready if set(each.depends_on) <= found.keys())
            found[service.name] = service
        return tuple(found.values())


def read_compose(text: str, where: str, *, files: Sequence[str], images: Iterable[str]) -> Compose:
    """The Compose file of a workload.

    Args:
        where: its path, for messages.
        files: those below ``config/`` and ``secrets/``, by their paths in the folder.
        images: names of those that the image archives have, as ``image_name`` gives them.

    Raises:
        SpecError: with every mistake, and every file that no service uses.
    """
    raw, marks = read(text, where, _File)
    marks.raise_problems()
    raw = cast("_File", _literal(raw, marks, ()))
    if not raw.services:
        marks.add(("services",), "there is no service; a workload runs at least one")
    if len(raw.services) > MAX_SERVICES:
        marks.add(("services",), f"{len(raw.services)} services; at most {MAX_SERVICES} are run")
    known = frozenset(images)
    for name, service in raw.services.items():
        _check_lists(marks, ("services", name), service)
        _check_service(marks, ("services", name), service, known)
        _check_needs(marks, ("services", name), service, raw.services)
        _check_mounts(marks, ("services", name, "volumes"), service.volumes, raw, files)
    _check_unused(marks, raw, files)
    marks.raise_problems()
    _check_cycle(marks, raw.services)
    services = tuple(_service(name, service) for name, service in raw.services.items())
    return Compose(services=services, volumes=tuple(raw.volumes))


def image_name(text: str) -> str:
    """A reference with its tag, ``latest`` where it has none, and without a default registry."""
    for registry in _REGISTRIES:
        if text.startswith(registry):
            text = text.removeprefix(registry)
            break
    return text if ":" in text.rpartition("/")[2] else f"{text}:{DEFAULT_TAG}"


def _literal(value: object, marks: Marks, place: Place) -> object:
    """The value with ``$$`` as ``$`` in every text; what would come from an environment is noted."""
    if isinstance(value, str):
        return _text(value, marks, place)
    if isinstance(value, tuple):
        return tuple(_literal(item, marks, (*place, index)) for index, item in enumerate(value))
    if isinstance(value, dict):
        return {key: _literal(item, marks, (*place, key)) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        items = {each.name: getattr(value, each.name) for each in fields(value)}
        return replace(value, **{key: _literal(item, marks, (*place, key)) for key, item in items.items()})
    return value


def _text(text: str, marks: Marks, place: Place) -> str:
    plain = text.replace("$$", "\0")
    if "$" in plain:
        found = re.search(r"\$(\{[^}]*\}?|\w*)", plain)
        shown = found[0] if found else "$"
        what = f"{shown[:40]!r} would be taken from the environment of whoever builds"
        marks.add(place, f"{what}; write the value itself, or $$ for a dollar sign")
    return plain.replace("\0", "$")


def _check_lists(marks: Marks, place: Place, service: _Service) -> None:
    """Compose splits a text at spaces as a shell does where a list is meant; that is for a shell to do."""
    for key in ("command", "entrypoint", "ports", "volumes", "cap_drop", "cap_add", "depends_on"):
        here = (*place, key)
        value = getattr(service, key)
        if value and marks.places.get(here) == marks.places.get((*here, 0)):
            marks.add(here, f"{key} is a text; write it as a list, [{', '.join(value[0].split())[:60]}]")
        elif value == () and here in marks.places:
            marks.add(here, f"{key} is an empty list; leave it out")


def _check_service(marks: Marks, place: Place, service: _Service, images: frozenset[str]) -> None:
    wanted = image_name(service.image)
    if wanted not in images:
        what = f"no image archive of the workload has {wanted}{suggestion(wanted, images)}"
        marks.add((*place, "image"), f"{what}; save the image to a file *.tar beside this one")
    if service.ports and service.network_mode is not Network.BRIDGE:
        what = f"ports are for network_mode bridge, this is {service.network_mode.value}"
        marks.add((*place, "ports"), f"{what}; leave them out")
    for index, port in enumerate(service.ports):
        numbers = re.findall(r"[0-9]+", port.rpartition("]")[2].partition("/")[0])[-2:]
        if not all(0 < int(number) < 65536 for number in numbers):
            marks.add((*place, "ports", index), f"{port}: a port is 1 to 65535")
    targets = [volume.split(":")[1] for volume in service.volumes]
    for index, target in enumerate(targets):
        if target in targets[:index]:
            marks.add((*place, "volumes", index), f"{target} is mounted twice")


def _check_needs(marks: Marks, place: Place, service: _Service, services: Mapping[str, _Service]) -> None:
    for index, name in enumerate(service.depends_on):
        if name not in services:
            marks.add(
                (*place, "depends_on", index), f"there is no service {name}{suggestion(name, services)}"
            )


def _check_cycle(marks: Marks, services: Mapping[str, _Service]) -> None:
    """Notes services that wait for each other, and stops there."""
    left = dict(services)
    while True:
        ready = [name for name, each in left.items() if not set(each.depends_on) & left.keys()]
        if not ready:
            break
        for name in ready:
            del left[name]
    for name in left:
        what = f"{name} waits for itself through {', '.join(left[name].depends_on)}; break the circle"
        marks.add(("services", name, "depends_on"), what)
    marks.raise_problems()


def _check_mounts(
    marks: Marks, place: Place, volumes: tuple[str, ...], raw: _File, files: Sequence[str]
) -> None:
    for index, text in enumerate(volumes):
        mount = _mount(text)
        here = (*place, index)
        if mount.is_volume:
            if mount.source not in raw.volumes:
                what = f"volume {mount.source} is not declared{suggestion(mount.source, raw.volumes)}"
                marks.add(here, f"{what}; list it under volumes at the end of the file")
            continue
        parts = mount.source.split("/")
        if "." in parts or ".." in parts or parts[0] not in (CONFIG, SECRETS):
            marks.add(here, f"./{mount.source} is not below ./{CONFIG} or ./{SECRETS}; put the file there")
        elif not any(_is_below(path, mount.source) for path in files):
            what = f"there is no file {mount.source}{suggestion(mount.source, files)}"
            marks.add(here, f"{what}; put it there, or remove the line")
        if text.endswith(":rw"):
            marks.add(here, "the workload's partition is read-only; leave :rw out, or use a named volume")


def _check_unused(marks: Marks, raw: _File, files: Sequence[str]) -> None:
    """A file that nothing reads is a mistake, or was meant to be measured."""
    mounts = [_mount(text) for service in raw.services.values() for text in service.volumes]
    sources = [mount.source for mount in mounts if not mount.is_volume]
    for path in files:
        if not any(_is_below(path, source) for source in sources):
            what = f"no service uses the file {path}; mount it with volumes, or remove it"
            marks.problems.append(Problem(marks.path, 1, 1, what))
    named = {mount.source for mount in mounts if mount.is_volume}
    for name in raw.volumes:
        if name not in named:
            marks.add(("volumes", name), f"no service uses the volume {name}; remove it")


def _is_below(path: str, source: str) -> bool:
    return path == source or path.startswith(f"{source}/")


def _mount(text: str) -> Mount:
    source, target, *mode = text.split(":")
    is_volume = not source.startswith("./")
    return Mount(
        source=source if is_volume else source.removeprefix("./"),
        target=target,
        is_volume=is_volume,
        read_only=not is_volume or mode == ["ro"],
    )


def _service(name: str, raw: _Service) -> Service:
    return Service(
        name=name,
        image=image_name(raw.image),
        network=raw.network_mode,
        entrypoint=raw.entrypoint,
        command=raw.command,
        environment=tuple(raw.environment.items()),
        ports=raw.ports,
        mounts=tuple(_mount(text) for text in raw.volumes),
        tmpfs=raw.tmpfs,
        user=raw.user,
        working_dir=raw.working_dir,
        read_only=raw.read_only,
        cap_drop=raw.cap_drop,
        cap_add=raw.cap_add,
        restart=raw.restart,
        depends_on=raw.depends_on,
    )
