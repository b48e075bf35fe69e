"""What every kind of recipe has: names, a Debian suite, a profile, and a lock beside its file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Protocol, TypeVar

from ..errors import SpecError
from ..reader import Marks, Place, Text, read
from ..record import dataclass, field

PackageName = Annotated[str, Text(r"[a-z0-9][a-z0-9+.-]+", "systemd-sysv")]
Word = Annotated[str, Text(r"[a-z0-9][a-z0-9-]{0,40}", "debian-cvm")]
ModuleName = Annotated[str, Text(r"[A-Za-z0-9_-]+", "virtio_blk")]
# Semantic Versioning 2.0.0 section 2, without pre-release and build.
SemanticVersion = Annotated[str, Text(r"(0|[1-9][0-9]{0,18})(\.(0|[1-9][0-9]{0,18})){2}", "1.0.0")]

T = TypeVar("T")

# Names of tasks, and names that tasks are likely to get; no image or kernel can be called so.
_ARTEFACTS = (
    *("packages", "kernel", "rootfs", "verity", "initramfs", "uki", "keys", "variables", "disk", "golden"),
    *("applications", "provision", "metadata", "reference", "kernels", "image", "boot", "data", "sbom"),
    *("helpers", "base", "convert", "encrypt", "publish", "workload"),
    *("files", "bundles", "policies", "capture"),
)
_COMMANDS = (
    *("launch", "check", "run", "update", "stability", "test", "lint", "bench", "clean", "list", "info"),
    *("forget", "help", "sign", "manifest", "measure", "cache", "auto", "strace", "ignore"),
)
RESERVED = frozenset((*_ARTEFACTS, *_COMMANDS))


class Architecture(Enum):
    """Processor architectures, by the kernel's name."""

    X86_64 = "x86_64"
    AARCH64 = "aarch64"


class Profile(Enum):
    """``release`` never gives anybody a shell; ``dev`` may."""

    RELEASE = "release"
    DEV = "dev"


@dataclass(frozen=True, kw_only=True)
class DebianSpec:
    """The Debian suite that packages come from."""

    suite: Word


class DebianRecipe(Protocol):
    """What every recipe says: where its packages come from."""

    @property
    def architecture(self) -> Architecture:
        """The processor it is for."""

    @property
    def debian(self) -> DebianSpec:
        """Where its packages come from."""


@dataclass(frozen=True, kw_only=True)
class Buildable:
    """What is made from one recipe file with a lock beside it.

    Attributes:
        name: the file's name; tasks are called after it.
        path: the recipe's file.
        recipe: what the file says.
        places: where each value of the recipe stands.
    """

    name: str
    path: Path
    recipe: DebianRecipe
    places: Mapping[Place, tuple[int, int]] = field(default_factory=dict, compare=False, repr=False)

    def positions(self, *key: str | int) -> tuple[str, ...]:
        """``line:column`` of each item of a list in the recipe, or of a single value."""
        items = sorted(place for place in self.places if place[:-1] == key and isinstance(place[-1], int))
        found = items or [key]
        return tuple("{}:{}".format(*self.places[place]) for place in found if place in self.places)

    @property
    def lock_path(self) -> Path:
        """The committed lock beside the recipe."""
        return self.path.with_suffix(".lock")

    @property
    def folder(self) -> str:
        """Where its products are, below the folder of all products."""
        return self.name


def read_recipe(path: Path, root: Path, kind: type[T]) -> tuple[T, Marks]:
    """The recipe at ``path``, of which parts may be None, and the mistakes found so far.

    Raises:
        SpecError: it cannot be read, or is no YAML.
    """
    where = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{where}: {error}") from None
    return read(text, where, kind)


def attempt(marks: Marks, check: Callable[..., None], *arguments: object) -> None:
    """Runs a check on a recipe of which parts may not have parsed.

    Those are None, and their own mistake is noted; what stumbles over one has nothing to add.
    """
    try:
        check(marks, *arguments)
    except (AttributeError, TypeError):
        if not marks.problems:
            raise


def check_name(marks: Marks, name: str) -> None:
    """Notes a file name that cannot be an image's."""
    if name in RESERVED:
        marks.add((), f"an image cannot be called {name!r}: it is the name of a task; rename the file")
    elif re.fullmatch(r"[a-z0-9][a-z0-9-]{0,40}", name) is None:
        marks.add((), f"an image cannot be called {name!r}; use small letters, digits and dashes")


def check_unique(marks: Marks, place: Place, values: tuple[object, ...], what: str) -> None:
    """Notes each value of a list that stands there twice."""
    for index, value in enumerate(values):
        if value in values[:index]:
            marks.add((*place, index), f"{what} {value!r} is listed twice")


def check_cmdline(marks: Marks, place: Place, text: str) -> None:
    """Notes characters that no kernel command line should hold."""
    if re.search(r"[^\x20-\x7e]", text):
        marks.add(place, "the command line holds a character that is not printable ASCII")
