"""An appliance that is a dictionary: what it was asked, and answers that a test has put there."""

from __future__ import annotations

import re
import tarfile
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from recipes.errors import ToolError
from recipes.sources.guestfs_appliance import Value


@dataclass
class FakeGuest:
    """A guest with one partition table and one mounted file system.

    Attributes:
        partitions: device, then type of its file system, size and GPT type; no GPT type means a partition of
            a DOS table or a logical volume.
        files: path and content in the mounted file system; None is a directory.
        calls: what was asked, the bytes of files left out.
    """

    partitions: dict[str, tuple[str, int, str]] = field(default_factory=dict)
    files: dict[str, bytes | None] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    calls: list[tuple[object, ...]] = field(default_factory=list)
    laid: dict[str, list[str]] = field(default_factory=dict)

    def call(self, method: str, *arguments: Value, **options: Value) -> object:
        self.calls.append((method, *(item for item in arguments if not isinstance(item, bytes))))
        answer = getattr(self, f"_{method}", None)
        return answer(*arguments, **options) if answer else None

    def _list_filesystems(self) -> dict[str, str]:
        return {name: kind for name, (kind, _, _) in self.partitions.items()}

    def _list_partitions(self) -> list[str]:
        return [name for name in self.partitions if re.fullmatch(r"/dev/sd[a-z]\d+", name)]

    def _part_get_parttype(self, disk: str) -> str:
        return "gpt" if any(kind for _, _, kind in self.partitions.values()) else "msdos"

    def _part_to_partnum(self, device: str) -> int:
        return int(device.lstrip("/devs abc"))

    def _part_get_gpt_type(self, disk: str, number: int) -> str:
        return self.partitions[f"{disk}{number}"][2]

    def _blockdev_getsize64(self, device: str) -> int:
        return self.partitions[device][1]

    def _exists(self, path: str) -> bool:
        return path in self.files

    def _is_symlink(self, path: str) -> bool:
        return path in self.links

    def _is_file(self, path: str, *, followsymlinks: bool) -> bool:
        return self.files.get(path) is not None

    def _filesize(self, path: str) -> int:
        return len(self._read_file(path))

    def _read_file(self, path: str) -> bytes:
        data = self.files.get(path)
        if data is None:
            raise ToolError(["guestfs", f"read_file {path}"], "failed", "No such file or directory")
        return data

    def _write(self, path: str, content: bytes) -> None:
        self.files[path] = content

    def _rm_f(self, path: str) -> None:
        self.files.pop(path, None)

    def _rm_rf(self, path: str) -> None:
        self.files = {
            name: data
            for name, data in self.files.items()
            if name != path and not name.startswith(f"{path}/")
        }

    def _glob_expand(self, pattern: str, *, directoryslash: bool) -> list[str]:
        brace = re.fullmatch(r"/\{(.*)\}", pattern)
        patterns = [f"/{item}" for item in brace[1].split(",")] if brace else [pattern]
        return sorted({name for each in patterns for name in self.files if _matches(name, each)})

    def _realpath(self, path: str) -> str:
        return self.links.get(path, path)

    def _download(self, path: str, target: str) -> None:
        Path(target).write_bytes(self._read_file(path))

    def _tar_in(self, archive: str, folder: str) -> None:
        with tarfile.open(archive) as found:
            self.laid[folder] = found.getnames()

    def _tar_out(self, folder: str, target: str, *, numericowner: bool, xattrs: bool) -> None:
        with tarfile.open(target, "w") as archive:
            for name, data in self.files.items():
                if name.startswith(f"{folder}/") and data is not None:
                    info = tarfile.TarInfo("." + name.removeprefix(folder))
                    info.size, info.mtime = len(data), 77
                    source = target + ".part"
                    Path(source).write_bytes(data)
                    with Path(source).open("rb") as content:
                        archive.addfile(info, content)
                    Path(source).unlink()

    def _findfs_uuid(self, value: str) -> str:
        return f"/dev/found/{value}"

    def asked(self, method: str) -> list[tuple[object, ...]]:
        return [call[1:] for call in self.calls if call[0] == method]


def _matches(name: str, pattern: str) -> bool:
    """As glob(7): a star does not match a slash."""
    ours, theirs = name.split("/"), pattern.split("/")
    return len(ours) == len(theirs) and all(map(fnmatchcase, ours, theirs))
