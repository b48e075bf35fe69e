"""Files that a measurement reads: what they must be, said in one line."""

from __future__ import annotations

import io
from pathlib import Path
from types import MappingProxyType

import pytest

from recipes.document import MAX_DOCUMENT
from recipes.errors import FormatError, MeasureError
from recipes.formats import gpt
from recipes.formats.fat_reader import FatFilesystem
from recipes.steps import boot_inputs
from recipes.steps.models import read_captures
from tests.unit.measure_images import kernel, pe_image, uki


class FakeFile:
    path = "EFI/BOOT/BOOTX64.EFI"

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self) -> bytes:
        return self.data


def read(data: bytes, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """``read_disk`` of a disk that holds one file."""

    class FakeFilesystem:
        files = MappingProxyType[str, FakeFile]({})

        def file(self, _path: str) -> FakeFile:
            return FakeFile(data)

    class Partition:
        type_guid, offset = gpt.TYPE_ESP, 0

    class Table:
        partitions = (Partition(),)

    monkeypatch.setattr(gpt, "read", lambda _file, _source: Table())
    monkeypatch.setattr(gpt, "event_data", lambda _file, _source: b"")
    monkeypatch.setattr(FatFilesystem, "open", lambda *_args: FakeFilesystem())
    return boot_inputs.read_disk(io.BytesIO(), "disk.raw")[1].uki


@pytest.mark.parametrize(
    ("image", "missing"),
    [
        (kernel(), ".sdmagic"),
        (pe_image([(".sbat", b"shim")]), ".sdmagic"),
        (pe_image([(".sdmagic", b"#### LoaderInfo: systemd-boot 257 ####")]), ".linux"),
    ],
)
def test_another_boot_loader(image: bytes, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MeasureError) as caught:
        read(image, monkeypatch)
    assert str(caught.value) == (
        f"disk.raw EFI/BOOT/BOOTX64.EFI: no UKI, it has no section {missing}; what shim, systemd-boot or GRUB"
        " starts is not modelled; put the UKI itself there"
    )


def test_a_uki_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    image = uki(cmdline=b"quiet")
    assert read(image, monkeypatch) == image


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"\xff"}', "c.lock: offset 0x2: no UTF-8 text; give a file of captures"),
        (b" " * (MAX_DOCUMENT + 1), f"c.lock: larger than {MAX_DOCUMENT} bytes; give a file of captures"),
    ],
    ids=["binary", "large"],
)
def test_captures_that_are_no_text(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "c.lock").write_bytes(data)
    with pytest.raises(FormatError) as caught:
        read_captures([tmp_path / "c.lock"])
    assert str(caught.value) == message
