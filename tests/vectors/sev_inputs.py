"""The firmware, kernel and initrd that the recorded launch digests are of."""

from __future__ import annotations

import hashlib
import json
import lzma
from functools import cache
from pathlib import Path
from typing import Any

from recipes.measure.sev import HashedFile, SevFirmware
from tests.support import VECTORS
from tests.unit import sev_firmware

FOLDER = VECTORS / "snp"
SNP: dict[str, Any] = json.loads((FOLDER / "snp.json").read_text(encoding="utf-8"))
RECORDED: dict[str, Any] = json.loads((FOLDER / "sev-snp-measure.json").read_text(encoding="utf-8"))
AMDSEV = "OVMF.amdsev.fd"


@cache
def firmware(name: str) -> SevFirmware:
    """A firmware of the vectors by its name; hashed once for all tests."""
    return SevFirmware.of(name, [content(name)])


@cache
def content(name: str) -> bytes:
    """What a file of the vectors holds."""
    match name:
        case "kernel" | "initrd":
            return sev_firmware.stream(name, SNP["inputs"][name]["n"])
        case "small":
            return sev_firmware.firmware()
        case "svsm":
            return sev_firmware.svsm()
    return lzma.decompress((FOLDER / f"{name}.xz").read_bytes())


def hashed(name: str) -> HashedFile:
    """A file of which only the hash is measured."""
    data = content(name)
    return HashedFile(name=name, size=len(data), sha256=hashlib.sha256(data).digest())


def write_inputs(folder: Path) -> Path:
    """The folder, with every input in a file of its name."""
    for name in (AMDSEV, "kernel", "initrd", "small", "svsm"):
        (folder / name).write_bytes(content(name))
    return folder
