"""The table of disk formats in README.md is what the formats and their tests say."""

from __future__ import annotations

from recipes.disks.format import DiskFormat, registry
from recipes.units import GIB, KIB, MIB, SECTOR_SIZE
from tests.boot.test_disk_formats import FORMATS as BOOTED
from tests.support import ROOT
from tests.tool.disk_conformance import ROWS

HEAD = "| format | file | taken by | size | largest | bytes follow | read back by |"
UNITS = {SECTOR_SIZE: "sectors", 64 * KIB: "64 KiB", MIB: "MiB", GIB: "GiB"}
TIB = 1 << 40


def row(item: DiskFormat) -> str:
    judged = ROWS[item.name]
    largest = f"{item.max_size // TIB} TiB" if item.max_size % TIB == 0 else f"{item.max_size // GIB} GiB"
    cells = (
        f"`{item.name}`",
        f"`disk{item.suffix}`",
        item.summary,
        f"whole {UNITS[item.alignment]}",
        "any" if item.name == "raw" else largest,
        "disk and name" if judged.follows_seed else "disk",
        judged.judges + (", a boot" if item.name in ("raw", *BOOTED) else ""),
    )
    return f"| {' | '.join(cells)} |"


def table() -> str:
    """The whole table."""
    rule = "| --- | --- | --- | --- | --- | --- | --- |"
    return "\n".join((HEAD, rule, *(row(item) for item in registry().values()))) + "\n"


def test_the_table_of_formats_is_right() -> None:
    texts = [path.read_text() for path in (ROOT / "README.md", *(ROOT / "tests" / "tool").glob("*.md"))]
    (text,) = [text for text in texts if HEAD in text]
    start = text.index(HEAD)
    assert text[start : text.index("\n\n", start) + 1] == table(), f"it should read:\n{table()}"
