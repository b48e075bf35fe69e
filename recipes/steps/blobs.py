"""Files as the replay reads them: in pieces, so that memory stays flat however large they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..errors import FormatError
from ..record import dataclass
from ..units import MIB

# Large enough for the reads not to count, small enough for two of them not to matter.
WINDOW = 2 * MIB


@dataclass(frozen=True)
class FileBlob:
    """A file whose content is measured; ``name`` is what traces call it.

    Mapped pages would count as resident memory, so it is read.
    """

    path: Path
    size: int

    @classmethod
    def of(cls, path: Path) -> FileBlob:
        """The file at ``path``, as large as it is now.

        Raises:
            FormatError: it is not a regular file.
        """
        if not path.is_file():
            what = "is no regular file" if path.exists() else "there is no such file"
            raise FormatError(str(path), f"{what}; check the path")
        return cls(path, path.stat().st_size)

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return self.path.name

    def windows(self, window: int = WINDOW) -> Iterator[memoryview]:
        """The content in consecutive pieces; each is valid until the next one is asked for.

        They share one buffer: fresh memory for each would cost more than reading it.
        """
        buffer = memoryview(bytearray(window))
        with self.path.open("rb", buffering=0) as file:
            while size := file.readinto(buffer):
                yield buffer[:size]

    def head(self, size: int) -> bytes:
        """The first bytes, fewer where there are not so many."""
        with self.path.open("rb") as file:
            return file.read(size)
