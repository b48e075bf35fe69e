"""Debian packages and archives made by hand or by Python's own tarfile, for the tests of their readers."""

from __future__ import annotations

import hashlib
import io
import lzma
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

Entry = tuple[tarfile.TarInfo, bytes]
MTIME = 1_700_000_000
DATE = "Sat, 12 Jul 2025 09:12:11 UTC"
EPOCH = 1752311531  # what `date -u -d DATE +%s` prints


def entry(
    name: str, data: bytes = b"", *, type_: bytes = tarfile.REGTYPE, mode: int = 0o644, link: str = ""
) -> Entry:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.size, info.mtime, info.linkname = type_, mode, len(data), MTIME, link
    info.uname = info.gname = "root"
    return info, data


def directory(name: str, mode: int = 0o755) -> Entry:
    return entry(name, type_=tarfile.DIRTYPE, mode=mode)


def symlink(name: str, target: str) -> Entry:
    return entry(name, type_=tarfile.SYMTYPE, mode=0o777, link=target)


def hardlink(name: str, target: str) -> Entry:
    return entry(name, type_=tarfile.LNKTYPE, link=target)


def tar(*entries: Entry, format_: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format_) as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def ar(*members: tuple[str, bytes]) -> bytes:
    parts = [b"!<arch>\n"]
    for name, data in members:
        parts.append(f"{name:<16}{MTIME:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode())
        parts.append(data + b"\n" * (len(data) % 2))
    return b"".join(parts)


def control(name: str, version: str = "1", more: str = "", architecture: str = "amd64") -> str:
    head = f"Package: {name}\nVersion: {version}\nArchitecture: {architecture}\n"
    return f"{head}Maintainer: Nobody <nobody@example.org>\n{more}Description: test\n"


def control_tar(text: str, **files: bytes) -> bytes:
    others = [entry(f"./{name}", data) for name, data in files.items()]
    return tar(directory("./"), entry("./control", text.encode()), *others)


def deb(text: str, *entries: Entry, **files: bytes) -> bytes:
    return ar(
        ("debian-binary", b"2.0\n"),
        ("control.tar.xz", lzma.compress(control_tar(text, **files), preset=0)),
        ("data.tar.xz", lzma.compress(tar(directory("./"), *entries), preset=0)),
    )


def write_deb(folder: Path, text: str, *entries: Entry, **files: bytes) -> Path:
    name = text.partition("\n")[0].removeprefix("Package: ")
    path = folder / f"{name}.deb"
    path.write_bytes(deb(text, *entries, **files))
    return path


@dataclass
class Repository:
    """An archive with SUITE, SUITE-updates and SUITE-security in one folder, without signatures."""

    folder: Path
    suite: str = "trixie"
    stanzas: dict[str, str] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        return f"file:{self.folder}"

    def add(
        self, name: str, version: str = "1", more: str = "", *, architecture: str = "amd64", release: str = ""
    ) -> bytes:
        """Publishes a package; returns its bytes."""
        text = control(name, version, more, architecture)
        data = deb(text, directory("./usr/"), entry(f"./usr/{name}", version.encode()))
        place = f"pool/main/{name}_{version.replace(':', '')}_{architecture}.deb"
        path = self.folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        self.stanzas[f"{release or self.suite} {name} {version}"] = (
            f"{text}Filename: {place}\nSize: {len(data)}\nSHA256: {digest}\n\n"
        )
        return data

    def drop(self, *names: str) -> None:
        """Takes all versions of packages out of the archive."""
        self.stanzas = {key: text for key, text in self.stanzas.items() if key.split()[1] not in names}

    def publish(self) -> None:
        """Writes the indices."""
        for release in (self.suite, f"{self.suite}-updates", f"{self.suite}-security"):
            text = "".join(value for key, value in sorted(self.stanzas.items()) if key.split()[0] == release)
            index = self.folder / "dists" / release / "main/binary-amd64/Packages"
            index.parent.mkdir(parents=True, exist_ok=True)
            index.write_text(text)
            digest = hashlib.sha256(text.encode()).hexdigest()
            (self.folder / "dists" / release / "Release").write_text(
                f"Origin: Debian\nLabel: Debian\nSuite: {release}\nCodename: {release}\nDate: {DATE}\n"
                "Architectures: amd64\nComponents: main\nSHA256:\n"
                f" {digest} {len(text)} main/binary-amd64/Packages\n"
            )
