"""Debian packages by apt-get: a recipe's wishes become a lock, and a lock becomes files in a cache.

The cache holds ``SHA256.deb``. What is in it is hashed whenever it is used: a gigabyte takes a second, and a
damaged file would otherwise become an image that nobody can rebuild.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import urllib.parse
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import SpecError
from ..formats import deb
from ..formats.control import Paragraph
from ..formats.relations import relations
from . import index
from .aptget import AptGet, Key, Result, alone
from .lock import Lock, LockedPackage
from .mirror import SNAPSHOT, Archives, discover
from .request import Closure, Group, Request, asked, check_packages, check_request, is_kernel

Progress = Callable[[int, int], None]


def resolve(
    suite: str, architecture: str, groups: Sequence[Group], work: Path, *, archives: Archives | None = None
) -> Lock:
    """The lock of what the archives have now.

    Args:
        suite: a Debian release by its code name, ``trixie``.
        architecture: Debian's name of it, ``amd64``.
        work: folder for apt's lists; kept, it makes the next time faster.
        archives: where to look; those of this machine unless given.

    Raises:
        SpecError: a package is unknown; names all of them, with what may have been meant.
        ToolError: apt-get is missing, the archives cannot be reached, or packages cannot be installed
            together.
    """
    with alone(work / f"{suite}-{architecture}"):
        return _resolve(suite, architecture, groups, work, archives or discover())


def _resolve(suite: str, architecture: str, groups: Sequence[Group], work: Path, archives: Archives) -> Lock:
    apt = AptGet(work / f"{suite}-{architecture}", architecture, archives.sources(suite, architecture))
    apt.update()
    indices = apt.indices()
    index.check_known(_wanted(groups), suite, indices)
    members = {group.name: _members(apt, indices, group) for group in groups}
    listed = index.listed(indices, {key[0] for keys in members.values() for key in keys})
    packages = _packages(members, listed, {})
    return Lock(
        suite=suite,
        architecture=architecture,
        epoch=apt.newest_release(),
        request=asked(groups),
        packages=packages,
    )


def cached_path(cache: Path, package: LockedPackage) -> Path:
    """Where the cache keeps a package."""
    return cache / f"{package.sha256.hex()}.deb"


def fetch(
    lock: Lock,
    cache: Path,
    work: Path,
    *,
    request: Request,
    locked_only: bool,
    notify: Callable[[str], None],
    progress: Progress,
    archives: Archives | None = None,
) -> Lock:
    """The lock whose packages are all in ``cache`` now: the one given, or one with substitutes.

    With everything in the cache, nothing is started and no network is used. A locked version that has left
    the archives is taken from the snapshots where these are configured. Else, unless ``locked_only``, all
    binary packages of its source package are taken at their present version, all other packages as locked;
    the epoch stays as it is. Whatever is taken, it is what the recipe asks for, and complete.

    Args:
        request: what the recipe asks for.
        locked_only: refuse substitutes.
        notify: gets one warning when there are substitutes.
        progress: gets bytes done and bytes in all, while packages are downloaded.
        archives: where to look; those of this machine unless given.

    Raises:
        SpecError: the lock was made for another request; a package is not the one that was locked, lacks one
            that it depends on, or has left the archives with ``locked_only``.
        ToolError: apt-get is missing, or a download fails; what is complete by then is in the cache.
    """
    check_request(request, lock)
    cache.mkdir(parents=True, exist_ok=True)
    if _missing(cache, lock):
        with alone(work / f"{lock.suite}-{lock.architecture}"):
            # Who had the folder before may have brought what was missing.
            fetcher = _Fetcher(lock, cache, work, archives or discover(), request, progress)
            missing = _missing(cache, lock)
            lock = _get(fetcher, missing, locked_only=locked_only, notify=notify) if missing else lock
    check_packages(request, lock, lambda package: cached_path(cache, package))
    return lock


def _get(
    fetcher: _Fetcher, missing: list[LockedPackage], *, locked_only: bool, notify: Callable[[str], None]
) -> Lock:
    """The lock whose packages are all in the cache now, which ``missing`` were not."""
    lock, cache, request = fetcher.lock, fetcher.cache, fetcher.request
    apt = fetcher.apt()
    listed = index.listed(apt.indices(), {package.name for package in lock.packages})
    gone = [package for package in missing if package.key not in listed]
    if gone and fetcher.archives.snapshot:
        gone = fetcher.from_snapshot(gone)
        missing = [package for package in missing if not _is_cached(cache, package)]
    if gone and locked_only:
        names = ", ".join(f"{package.name} {package.version}" for package in gone)
        what = f"lock of {request.image}: {lock.suite} no longer has {names}"
        raise SpecError(f"{what}; run {request.update}, or set {SNAPSHOT}")
    if gone:
        unlisted = [package for package in lock.packages if package.key not in listed]
        lock, apt, listed = fetcher.substitute(gone, unlisted, notify)
        missing = _missing(cache, lock)
    fetcher.download(apt, missing, listed)
    return lock


def _missing(cache: Path, lock: Lock) -> list[LockedPackage]:
    return [package for package in lock.packages if not _is_cached(cache, package)]


def _wanted(groups: Sequence[Group]) -> set[str]:
    return {name for group in groups for name in group.packages}


def _is_cached(cache: Path, package: LockedPackage) -> bool:
    """Whether the cache has the package, undamaged."""
    path = cached_path(cache, package)
    try:
        return path.stat().st_size == package.size and _digest(path) == package.sha256
    except FileNotFoundError:
        return False


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _members(
    apt: AptGet, indices: Sequence[Path], group: Group, pins: Mapping[str, Key] | None = None
) -> list[Key]:
    """The packages of a group; those in ``pins`` are members already, at that version."""
    pins = pins or {}
    free = [name for name in group.packages if name not in pins]
    if group.closure is Closure.DEPENDENCIES:
        advice = (
            "the packages that are locked do not fit those that replace the ones that are gone"
            if pins
            else ""
        )
        return apt.simulate(
            [*(f"{name}={key[1]}" for name, key in sorted(pins.items())), *free], advice=advice
        )
    keys = apt.candidates(free)
    if group.closure is Closure.KERNEL:
        listed = index.listed(indices, {key[0] for key in keys})
        needed = {name for key in keys for name in _kernels(listed[key])} - set(free) - set(pins)
        keys += apt.candidates(sorted(needed))
    return [*pins.values(), *keys]


def _kernels(metapackage: Paragraph) -> Iterator[str]:
    """Names of the kernel packages that a metapackage depends on."""
    source = f"package {metapackage.get('Package')}: Depends"
    for alternatives in relations(metapackage.get("Depends"), source):
        if is_kernel(alternatives):
            yield alternatives[0].name


def _packages(
    members: Mapping[str, Collection[Key]],
    listed: Mapping[Key, Paragraph],
    locked: Mapping[Key, LockedPackage],
) -> tuple[LockedPackage, ...]:
    """Packages with the groups they are in: as locked, else as the archives list them."""
    groups: dict[Key, list[str]] = {}
    for name in sorted(members):
        for key in members[name]:
            if name not in groups.setdefault(key, []):
                groups[key].append(name)
    packages = [
        replace(
            locked[key] if key in locked else index.locked_package(key, listed), groups=tuple(groups[key])
        )
        for key in sorted(groups)
    ]
    return tuple(packages)


@dataclass
class _Fetcher:
    """One fetch, from when something turned out to be missing."""

    lock: Lock
    cache: Path
    work: Path
    archives: Archives
    request: Request
    progress: Progress

    @property
    def _folder(self) -> Path:
        return self.work / f"{self.lock.suite}-{self.lock.architecture}"

    def apt(self, *, more_sources: str = "", preferences: str = "") -> AptGet:
        """apt-get with fresh indices of today's archives."""
        sources = self.archives.sources(self.lock.suite, self.lock.architecture) + more_sources
        apt = AptGet(self._folder, self.lock.architecture, sources, preferences)
        apt.update()
        return apt

    def from_snapshot(self, gone: Sequence[LockedPackage]) -> list[LockedPackage]:
        """Downloads what the snapshots have of ``gone``; returns the rest."""
        sources = self.archives.past_sources(self.lock.suite, self.lock.architecture, self.lock.epoch)
        apt = AptGet(self._folder / "snapshot", self.lock.architecture, sources)
        apt.update()
        listed = index.listed(apt.indices(), {package.name for package in gone})
        self.download(apt, [package for package in gone if package.key in listed], listed)
        return [package for package in gone if package.key not in listed]

    def substitute(
        self, gone: Sequence[LockedPackage], unlisted: Sequence[LockedPackage], notify: Callable[[str], None]
    ) -> tuple[Lock, AptGet, dict[Key, Paragraph]]:
        """The lock with present versions for the source packages of ``gone``, and where they are listed.

        Args:
            unlisted: locked packages that the archives do not have, ``gone`` among them.
        """
        sources = {package.source for package in gone}
        kept = {package.key: package for package in self.lock.packages if package.source not in sources}
        cached = [package for package in unlisted if package.key in kept]
        pins = "".join(
            f"Package: {name}\nPin: version {version}\nPin-Priority: 1001\n\n"
            for name, version, _ in sorted(kept)
        )
        apt = self.apt(more_sources=self._local_archive(cached), preferences=pins)
        indices = apt.indices()
        index.check_known(_wanted(self.request.groups), self.lock.suite, indices)
        members: dict[str, list[Key]] = {}
        for group in self.request.groups:
            had = [package.key for package in self.lock.packages if group.name in package.groups]
            stay = {key[0]: key for key in had if key in kept}
            if group.closure is Closure.KERNEL and len(stay) < len(had):
                stay = {}
            members[group.name] = _members(apt, indices, group, stay)
            self._check_closed(apt, group, members[group.name])
        listed = index.listed(indices, {key[0] for keys in members.values() for key in keys})
        lock = replace(self.lock, packages=_packages(members, listed, kept))
        notify(self._warning(gone, lock))
        return lock, apt, listed

    def _local_archive(self, packages: Sequence[LockedPackage]) -> str:
        """The source line of a local archive that lists cached packages, for apt to reckon with."""
        folder = (self._folder / "locked").resolve()
        folder.mkdir(parents=True, exist_ok=True)
        stanzas: list[str] = []
        for package in packages:
            path = cached_path(self.cache, package)
            about = deb.open_deb(path, source=f"{package.name} {package.version}").control().paragraph
            for name, value in (
                ("Filename", f"./{path.name}"),
                ("Size", str(package.size)),
                ("SHA256", package.sha256.hex()),
            ):
                about = about.replaced(name, value)
            stanzas.append(about.render() + "\n")
        (folder / "Packages").write_text("".join(stanzas), encoding="utf-8")
        if not stanzas:
            return ""
        options = f"arch={self.lock.architecture} target=Packages trusted=yes"
        return f"deb [{options}] file:{urllib.parse.quote(str(folder))} ./\n"

    def _check_closed(self, apt: AptGet, group: Group, keys: Sequence[Key]) -> None:
        """Checks that the packages of a group, at exactly these versions, need nothing else."""
        if group.closure is not Closure.DEPENDENCIES:
            return
        advice = f"the substitutes do not fit together; run {self.request.update}"
        again = apt.simulate([f"{name}={version}" for name, version, _ in sorted(keys)], advice=advice)
        if sorted(again) != sorted(keys):
            extra = ", ".join(f"{name} {version}" for name, version, _ in sorted(set(again) ^ set(keys)))
            raise SpecError(f"lock of {self.request.image}: {advice} (differing: {extra})")

    def _warning(self, gone: Sequence[LockedPackage], lock: Lock) -> str:
        """What was substituted, in one line."""
        before = {package.name: package.version for package in self.lock.packages}
        after = {package.name: package.version for package in lock.packages}
        changes = [
            f"{name} {before.get(name, '(new)')} -> {after.get(name, '(gone)')}"
            for name in sorted({*before, *after})
            if before.get(name) != after.get(name)
        ]
        names = ", ".join(f"{package.name} {package.version}" for package in gone)
        what = f"lock of {self.request.image}: {lock.suite} no longer has {names}"
        taken = ", ".join(changes)
        return f"{what}; building with {taken}; run {self.request.update} to lock these"

    def download(
        self, apt: AptGet, packages: Sequence[LockedPackage], listed: Mapping[Key, Paragraph]
    ) -> None:
        """Gets packages that the archives list into the cache.

        Raises:
            SpecError: the archives have other bytes under the same version than were locked.
            ToolError: a download fails.
        """
        if not packages:
            return
        for package in packages:
            found = index.locked_package(package.key, listed)
            self._check_same(package, found.sha256, found.size)
        total = sum(package.size for package in packages)
        self.work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="download-", dir=self.work) as name:
            folder = Path(name)
            self.progress(0, total)
            specs = [f"{package.name}={package.version}" for package in packages]
            result = apt.download(specs, folder, lambda: self.progress(min(_bytes_in(folder), total), total))
            self._take(packages, folder, result)
        self.progress(total, total)

    def _take(self, packages: Sequence[LockedPackage], folder: Path, result: Result) -> None:
        """Moves what was downloaded into the cache, each file checked; only then tells of failures."""
        wrong: list[SpecError] = []
        missing: list[str] = []
        for package in packages:
            # apt's own file name; only the colon of an epoch is escaped.
            path = folder / f"{package.name}_{package.version.replace(':', '%3a')}_{package.architecture}.deb"
            if not path.is_file():
                missing.append(package.name)
                continue
            try:
                self._check_same(package, _digest(path), path.stat().st_size)
            except SpecError as error:
                wrong.append(error)
            else:
                path.replace(cached_path(self.cache, package))
        if result.status or missing:
            left = f"{', '.join(missing)} could not be downloaded; " if missing else ""
            raise result.fail(f"{left}try again, what is complete is kept")
        if wrong:
            raise wrong[0]

    def _check_same(self, package: LockedPackage, sha256: bytes, size: int) -> None:
        """Checks that a package is the one that was locked."""
        if (sha256, size) != (package.sha256, package.size):
            locked = f"sha256 {package.sha256.hex()} and {package.size} bytes"
            what = f"lock of {self.request.image}: {package.name} {package.version} should have {locked}"
            what += f", the archive's has {sha256.hex()} and {size}"
            raise SpecError(f"{what}; find out why before you run {self.request.update}")


def _bytes_in(folder: Path) -> int:
    """Bytes downloaded so far."""
    total = 0
    for entry in os.scandir(folder):
        try:
            total += entry.stat(follow_symlinks=False).st_size
        except FileNotFoundError:
            continue
    return total
