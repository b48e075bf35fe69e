"""OVA: members, order, digests and descriptor, read by Python's tarfile and ElementTree."""

from __future__ import annotations

import hashlib
import io
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from recipes.disks.format import aligned_size, lookup
from recipes.disks.ova import Ova
from recipes.disks.source import Progress, RawDisk
from recipes.disks.vmdk import Sink, StreamOptimizedVmdk
from recipes.errors import FormatError

GRAIN = 65536
OVF = "{http://schemas.dmtf.org/ovf/envelope/1}"
RASD = "{http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData}"
RAW = b"some text " * 30000 + bytes(5 * GRAIN) + hashlib.shake_128(b"").digest(3 * 512)


def make(tmp_path: Path, kind: Ova, raw: bytes = RAW) -> bytes:
    raw += bytes(-len(raw) % 512)
    (tmp_path / "raw").write_bytes(raw)
    out = io.BytesIO()
    with (tmp_path / "raw").open("rb") as file:
        kind.write(RawDisk.of("raw", file), out, seed=b"seed")
    return out.getvalue()


def members(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
        found = {}
        for info in tar:
            assert (info.mode, info.uid, info.gid, info.mtime, info.uname, info.gname) == (
                0o644,
                0,
                0,
                0,
                "",
                "",
            )
            assert info.isreg()
            file = tar.extractfile(info)
            assert file is not None
            found[info.name] = file.read()
    return found


def test_members(tmp_path: Path) -> None:
    archive = make(tmp_path, Ova())
    found = members(archive)
    assert list(found) == ["image.ovf", "image.mf", "image.vmdk"]
    vmdk = io.BytesIO()
    with (tmp_path / "raw").open("rb") as file:
        StreamOptimizedVmdk().write(RawDisk.of("raw", file), vmdk, seed=b"seed")
    assert found["image.vmdk"] == vmdk.getvalue()
    sums = {name: hashlib.sha256(found[name]).hexdigest() for name in ("image.ovf", "image.vmdk")}
    assert found["image.mf"].decode() == "".join(f"SHA256({name})= {value}\n" for name, value in sums.items())
    assert len(archive) % 10240 == 0
    assert archive[257:265] == b"ustar\x0000"


def test_descriptor(tmp_path: Path) -> None:
    found = members(make(tmp_path, Ova(title="a<b&\"c'", vcpus=4, memory=4096)))
    root = ET.fromstring(found["a<b&\"c'.ovf"])
    file = root.find(f"{OVF}References/{OVF}File")
    disk = root.find(f"{OVF}DiskSection/{OVF}Disk")
    assert file is not None
    assert disk is not None
    assert file.attrib == {
        f"{OVF}id": "file1",
        f"{OVF}href": "a<b&\"c'.vmdk",
        f"{OVF}size": str(len(found["a<b&\"c'.vmdk"])),
    }
    assert disk.get(f"{OVF}fileRef") == "file1"
    # 300000 bytes of text, 5 grains of zeros behind them and a little noise: 10 or 11 grains, 6 with content.
    assert disk.get(f"{OVF}capacity") == str(-(-(300000 + 5 * GRAIN + 1536) // GRAIN) * GRAIN)
    assert disk.get(f"{OVF}populatedSize") == str(6 * GRAIN)
    assert root.findtext(f"{OVF}VirtualSystem/{OVF}Name") == "a<b&\"c'"
    items = {item.findtext(f"{RASD}ResourceType"): item for item in root.iter(f"{OVF}Item")}
    assert list(items) == ["3", "4", "6", "17", "10"]
    assert items["3"].findtext(f"{RASD}VirtualQuantity") == "4"
    assert items["4"].findtext(f"{RASD}VirtualQuantity") == "4096"
    assert items["17"].findtext(f"{RASD}Parent") == items["6"].findtext(f"{RASD}InstanceID")
    assert items["17"].findtext(f"{RASD}HostResource") == f"ovf:/disk/{disk.get(f'{OVF}diskId')}"
    # DSP0243 has the elements of an item in the order of their names.
    for item in items.values():
        names = [child.tag for child in item]
        assert names == sorted(names)


def test_same_again_and_with_any_number_of_workers(tmp_path: Path) -> None:
    kinds = [Ova(vmdk=StreamOptimizedVmdk(workers=workers)) for workers in (1, 2, 2)]
    assert len({make(tmp_path, kind) for kind in kinds}) == 1


@dataclass(frozen=True)
class Huge(StreamOptimizedVmdk):
    """Says that it wrote a number of bytes."""

    said: int = 0

    def write_stream(
        self, disk: RawDisk, out: Sink, *, seed: bytes, progress: Progress | None = None
    ) -> tuple[int, int]:
        return self.said, 0


def test_vmdk_too_large_for_a_member(tmp_path: Path) -> None:
    make(tmp_path, Ova(vmdk=Huge(said=8589934591)))
    with pytest.raises(FormatError) as caught:
        make(tmp_path, Ova(vmdk=Huge(said=8589934592)))
    assert str(caught.value) == (
        "raw: its VMDK takes 8589934592 bytes, a member of an OVA at most 8589934591; ship the VMDK itself "
        "[ustar Interchange Format]"
    )


def test_titles_that_do_not_fit(tmp_path: Path) -> None:
    assert list(members(make(tmp_path, Ova(title="n" * 95))))[2] == "n" * 95 + ".vmdk"
    with pytest.raises(FormatError) as caught:
        make(tmp_path, Ova(title="n" * 96))
    assert str(caught.value) == (
        f"OVA member {'n' * 96}.vmdk: its name takes 101 bytes, a tar header has room for 100; "
        "shorten the title [ustar Interchange Format]"
    )
    with pytest.raises(FormatError) as caught:
        make(tmp_path, replace(Ova(), hardware="v" * 5000))
    assert "8192 are kept for it; shorten the title [DMTF DSP0243 2.1.1]" in str(caught.value)


def test_registered() -> None:
    assert lookup("ova") == Ova()
    assert (Ova().max_size, Ova().alignment, aligned_size(Ova(), 512)) == (1 << 41, GRAIN, GRAIN)
