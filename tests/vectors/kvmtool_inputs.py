"""The cases of tests/vectors/kvmtool: what they hold, and the files that their command lines name.

The files are not stored but made again from what the JSON says of them, each checked against its SHA-256.
One of them is the kernel of a Debian package, which a test has to bring (``place_debian``) or do without.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from recipes.formats.deb import open_deb

FILE = Path(__file__).parent / "kvmtool" / "kvmtool_rim.json"
DTB_REGION_SIZE = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation of the recorded sequence; adjacent populated ranges are joined in the record.

    Attributes:
        kind: DATA, RIPAS or REC.
        base: first guest address of DATA and RIPAS, 0 for REC.
        top: the address after the last one, 0 for REC.
        step: bytes of one extend of RIPAS, 0 otherwise.
        flags: measure-content flag of DATA, runnable flag of REC, 0 for RIPAS.
    """

    kind: str
    base: int = 0
    top: int = 0
    step: int = 0
    flags: int = 0
    pc: int = 0
    x0: int = 0


@dataclass(frozen=True, kw_only=True)
class Vector:
    """One command line and what the measurer printed for it.

    Attributes:
        argv: everything after the program's name; file names are relative to the folder of the inputs.
        rim: 32 or 64 bytes, a REC extend for every vCPU.
        rim_runnable_recs_only: the same with one REC extend; None where it is the same value.
        rim_after_realm_create: the register before the first operation.
        dtb_size: of the blob without what stands behind it.
        dtb_region_sha256: of the 64 KiB that are measured.
        dtb: the blob, where it is recorded.
        dtb_tail: what follows the blob in the region, without the zeros after it; with ``dtb``.
        realm_params: first 0x38 bytes of the parameter page, where recorded.
        operations: without REALM_CREATE, where recorded.
    """

    name: str
    argv: tuple[str, ...]
    rim: bytes
    rim_runnable_recs_only: bytes | None
    rim_after_realm_create: bytes
    dtb_size: int
    dtb_sha256: bytes
    dtb_region_sha256: bytes
    dtb: bytes | None
    dtb_tail: bytes | None
    realm_params: bytes | None
    operations: tuple[Operation, ...] | None

    @property
    def dtb_region(self) -> bytes | None:
        """The 64 KiB of guest memory that hold the device tree, where recorded."""
        if self.dtb is None or self.dtb_tail is None:
            return None
        return (self.dtb + self.dtb_tail).ljust(DTB_REGION_SIZE, b"\0")

    def needs(self) -> frozenset[str]:
        """Names of the inputs on this command line."""
        return frozenset(self.argv) & frozenset(document()["inputs"])


@dataclass(frozen=True, kw_only=True)
class DebianInput:
    """An input that only a Debian package holds; sizes and digests in the JSON's own words."""

    name: str
    package: str
    version: str
    suite: str
    member: str
    deb_sha256: str
    size: int
    sha256: str

    @property
    def file_name(self) -> str:
        """What the archive calls the package."""
        return f"{self.package}_{self.version}_arm64.deb"


@dataclass(frozen=True, kw_only=True)
class RipasBlocks:
    """RTT_INIT_RIPAS extends of the newer measurer for one range: ``(block size, count)``, ascending."""

    base: int
    size: int
    s2sz: int
    levels: int
    blocks: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Inputs:
    """The folder with the inputs, and those that are not in it."""

    folder: Path
    unavailable: Mapping[str, DebianInput]

    def missing(self, vector: Vector) -> str:
        """Why a vector cannot run here, or nothing; text for ``pytest.skip``."""
        gone = [self.unavailable[name] for name in sorted(vector.needs() & self.unavailable.keys())]
        return "; ".join(f"{item.name} is in {item.file_name}, sha256 {item.deb_sha256}" for item in gone)


@cache
def document() -> dict[str, Any]:
    """The whole JSON."""
    loaded: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return loaded


@cache
def vectors() -> tuple[Vector, ...]:
    """Every accepted command line, in the order of the file."""
    return tuple(_vector(item) for item in document()["vectors"])


def rejected() -> tuple[tuple[str, str], ...]:
    """Every rejected case in words, and what the measurer said."""
    return tuple((item["case"], item["message"]) for item in document()["rejected"])


def ripas_blocks() -> tuple[RipasBlocks, ...]:
    """The block lists of the newer measurer."""
    return tuple(
        RipasBlocks(
            base=int(item["base"], 16),
            size=int(item["size"], 16),
            s2sz=item["s2sz"],
            levels=item["levels"],
            blocks=tuple((int(size, 16), count) for size, count in item["blocks"]),
        )
        for item in document()["ripas_blocks_newer_measurer"]["cases"]
    )


def regenerate(folder: Path, *, debian_package: Path | None = None) -> Inputs:
    """Every input written into ``folder``, which exists; files that are there with the right bytes stay.

    Args:
        debian_package: the package that holds the Debian kernel; without it that input is unavailable.
    """
    unavailable = {}
    for name, item in document()["inputs"].items():
        path = folder / name
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == item["sha256"]:
            continue
        if item["generator"] == "debian":
            debian = debian_input(name)
            if debian_package is None:
                unavailable[name] = debian
            else:
                place_debian(debian, debian_package, folder)
            continue
        path.write_bytes(generate(name))
    return Inputs(folder, unavailable)


@cache
def generate(name: str) -> bytes:
    """The bytes of one input; not of a Debian one."""
    item = document()["inputs"][name]
    match item["generator"]:
        case "literal":
            data = bytes.fromhex(item["hex"])
        case "sha256_counter":
            data = _counter(item["tag"], item["size"])
        case "arm64_image":
            data = _arm64_image(item)
        case other:
            raise AssertionError(f"{name}: generator {other!r} is unknown here")
    _check(name, data)
    return data


def debian_input(name: str = "debian-Image") -> DebianInput:
    """What is known of an input that a Debian package holds."""
    item = document()["inputs"][name]
    known = ("package", "version", "suite", "member", "deb_sha256", "size", "sha256")
    return DebianInput(name=name, **{key: item[key] for key in known})


def place_debian(item: DebianInput, package: Path, folder: Path) -> None:
    """Write the input into ``folder``, from the package that holds it."""
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    assert digest == item.deb_sha256, f"{package}: sha256 {digest}; {item.deb_sha256} is wanted"
    spool_path = folder / f".{item.name}.unpacked"
    try:
        with spool_path.open("wb") as spool:
            tree = dict(open_deb(package).unpack(spool, spool_path))
        data = tree[item.member.removeprefix("./")].read()
    finally:
        spool_path.unlink(missing_ok=True)
    _check(item.name, data)
    (folder / item.name).write_bytes(data)


def _vector(item: dict[str, Any]) -> Vector:
    def optional(key: str) -> bytes | None:
        return bytes.fromhex(item[key]) if key in item else None

    return Vector(
        name=item["name"],
        argv=tuple(item["argv"]),
        rim=bytes.fromhex(item["rim"]),
        rim_runnable_recs_only=optional("rim_runnable_recs_only"),
        rim_after_realm_create=bytes.fromhex(item["rim_after_realm_create"]),
        dtb_size=item["dtb_size"],
        dtb_sha256=bytes.fromhex(item["dtb_sha256"]),
        dtb_region_sha256=bytes.fromhex(item["dtb_region_sha256"]),
        dtb=base64.b64decode(item["dtb_b64"], validate=True) if "dtb_b64" in item else None,
        dtb_tail=optional("bytes_after_dtb_hex"),
        realm_params=optional("realm_params_hex_first_0x38"),
        operations=tuple(map(_operation, item["operations"])) if "operations" in item else None,
    )


def _operation(item: dict[str, Any]) -> Operation:
    def number(key: str) -> int:
        return int(item.get(key, "0"), 16)

    base = number("ipa") or number("base")
    flags = item.get("flags", 0)
    return Operation(
        kind=item["op"],
        base=base,
        top=number("top"),
        step=number("step"),
        flags=flags,
        pc=number("pc"),
        x0=number("x0"),
    )


def _counter(tag: str, size: int) -> bytes:
    blocks = range(-(-size // 32))
    return b"".join(hashlib.sha256(f"{tag}:{index}".encode()).digest() for index in blocks)[:size]


def _arm64_image(item: dict[str, Any]) -> bytes:
    fields = (item["text_offset"], item["image_size"], item["flags"], 0, 0, 0)
    header = struct.pack("<2I6Q4sI", 0x14000010, 0xD503201F, *fields, b"ARM\x64", 0)
    return header + _counter(item["tag"], item["file_size"] - len(header))


def _check(name: str, data: bytes) -> None:
    item = document()["inputs"][name]
    digest = hashlib.sha256(data).hexdigest()
    assert (len(data), digest) == (item["size"], item["sha256"]), (
        f"{name}: {len(data)} bytes, sha256 {digest}"
    )
