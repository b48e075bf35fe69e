"""The footer of a fixed VHD as Azure reads it from the end of a page blob.

Spec: Microsoft, Virtual Hard Disk Image Format Specification, version 1.0 (October 2006), "Hard Disk Footer
Format"; Microsoft Learn, "Prepare a Windows VHD or VHDX to upload to Azure".
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

from ..disks import vhd_footer
from ..disks.vhd_footer import Footer
from ..record import replace
from .cloud import Finding, size_text

_SPEC = "Microsoft, Virtual Hard Disk Image Format Specification 1.0, Hard Disk Footer Format"
_PAGE = 512  # of a page blob: Microsoft Learn, Understanding block blobs, append blobs, and page blobs
_TYPES = {vhd_footer.FIXED: "fixed", vhd_footer.DYNAMIC: "dynamic", 4: "differencing"}
_REMAKE = "make the disk again in format vhd"


def findings(file: BinaryIO, disk_size: int) -> tuple[Finding, ...]:
    """What is wrong with a VHD that should hold a disk of ``disk_size`` bytes; 512 bytes of it are read."""
    size = file.seek(0, os.SEEK_END)
    if size % _PAGE or size < Footer.SIZE:
        what = f"{size_text(size)} are not whole pages of {_PAGE} bytes; azure answers InvalidHeaderValue"
        return (Finding("file", f"{what} (x-ms-blob-content-length); {_REMAKE}"),)
    file.seek(size - Footer.SIZE)
    data = file.read(Footer.SIZE)
    footer = Footer.unpack(data, source="footer")
    if footer.cookie != vhd_footer.COOKIE:
        what = f"the last {Footer.SIZE} bytes start with {footer.cookie!r}; azure answers InvalidParameter"
        return (
            Finding("footer", f"{what} (disk is expected to have cookie value 'conectix'); {_REMAKE}", _SPEC),
        )
    return (*_footer_findings(footer), *_size_findings(footer, size, disk_size))


def _footer_findings(footer: Footer) -> Iterator[Finding]:
    summed = vhd_footer.checksum(replace(footer, checksum=0).pack())
    if footer.checksum != summed:
        what = f"the checksum is {footer.checksum:#010x} and should be {summed:#010x}"
        yield Finding("footer", f"{what}; azure takes the footer for damaged; {_REMAKE}", _SPEC)
    if footer.file_format_version != vhd_footer.VERSION:
        what = f"the version is {footer.file_format_version:#010x}, expected {vhd_footer.VERSION:#010x}"
        yield Finding("footer", f"{what}; {_REMAKE}", _SPEC)
    if footer.disk_type != vhd_footer.FIXED:
        kind = _TYPES.get(footer.disk_type, f"type {footer.disk_type}")
        what = f"the disk is a {kind} one; azure answers that it takes fixed VHDs only"
        yield Finding("footer", f"{what}; {_REMAKE}", _SPEC)
    if footer.data_offset != vhd_footer.NOWHERE:
        what = f"the data offset is {footer.data_offset:#x}, and in a fixed disk all its bits are set"
        yield Finding("footer", f"{what}; {_REMAKE}", _SPEC)


def _size_findings(footer: Footer, size: int, disk_size: int) -> Iterator[Finding]:
    held = size - Footer.SIZE
    if footer.current_size != held:
        what = f"the footer says {size_text(footer.current_size)}, and in front of it are {size_text(held)}"
        yield Finding("footer", f"{what}; was the file cut short? {_REMAKE}", _SPEC)
    if footer.current_size % vhd_footer.ALIGNMENT:
        what = f"the disk has {size_text(footer.current_size)}, which is not a multiple of 1 MiB"
        answer = "azure answers InvalidParameter (unsupported virtual size; it must be a whole number in MBs)"
        yield Finding("footer", f"{what}; {answer}; {_REMAKE}")
    if footer.current_size != disk_size:
        what = f"the disk has {size_text(footer.current_size)}, and {size_text(disk_size)} were to be shipped"
        yield Finding("disk", f"{what}; {_REMAKE}")
