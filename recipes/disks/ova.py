"""OVA: a virtual machine for vSphere in one file, which is a tar archive with a streamOptimized VMDK in it.

The members are the descriptor, the digests of the other two, and the disk. How large the disk becomes is
known when it has been written, so it is written first, to its place behind the others.

Spec: DMTF DSP0243 2.1.1, Open Virtualization Format; POSIX.1-2017 pax, ustar Interchange Format.
"""

from __future__ import annotations

import hashlib
import html
import struct
from typing import BinaryIO

from ..errors import FormatError
from ..record import dataclass, field
from ..units import KIB, SECTOR_SIZE, align_up, pad
from .format import DiskFormat, aligned_size
from .source import Progress, RawDisk
from .vmdk import StreamOptimizedVmdk

SPEC = "DMTF DSP0243 2.1.1"
_BLOCK = SECTOR_SIZE  # ustar Interchange Format: 512 bytes, and two of zeros at the end
_RECORD = 20 * _BLOCK  # same document, -b: the default blocking factor of a pax archive is that of tar, 20
_NAME_MAX = 100  # same document, field name
_SIZE_MAX = 8**11 - 1  # ustar Interchange Format: eleven octal digits
_OVF_SIZE = 8 * KIB  # of the descriptor, filled up with line ends, which XML allows behind the root element

# The numbers of CIM_ResourceAllocationSettingData, property ResourceType (DMTF CIM schema 2.49):
# 3 processor, 4 memory, 6 parallel SCSI controller, 10 Ethernet adapter, 17 disk drive. Subtypes, the type
# of the system and the settings of the namespace vmw are VMware's: open-vmdk, ova/templates. The operating
# system is 101, "Linux 64-Bit": CIM_OperatingSystem, property OSType.
_OVF = """\
<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1"
          xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
          xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
          xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData"
          xmlns:vmw="http://www.vmware.com/schema/ovf">
  <References>
    <File ovf:id="file1" ovf:href="{title}.vmdk" ovf:size="{size}"/>
  </References>
  <DiskSection>
    <Info>Disks</Info>
    <Disk ovf:diskId="disk1" ovf:fileRef="file1" ovf:capacity="{capacity}" ovf:capacityAllocationUnits="byte"
          ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"
          ovf:populatedSize="{populated}"/>
  </DiskSection>
  <NetworkSection>
    <Info>Networks</Info>
    <Network ovf:name="network">
      <Description>The only network</Description>
    </Network>
  </NetworkSection>
  <VirtualSystem ovf:id="{title}">
    <Info>One virtual machine</Info>
    <Name>{title}</Name>
    <OperatingSystemSection ovf:id="101" vmw:osType="otherLinux64Guest">
      <Info>Guest</Info>
    </OperatingSystemSection>
    <VirtualHardwareSection>
      <Info>Devices</Info>
      <System>
        <vssd:ElementName>Virtual hardware</vssd:ElementName>
        <vssd:InstanceID>0</vssd:InstanceID>
        <vssd:VirtualSystemIdentifier>{title}</vssd:VirtualSystemIdentifier>
        <vssd:VirtualSystemType>{hardware}</vssd:VirtualSystemType>
      </System>
      <Item>
        <rasd:AllocationUnits>hertz * 10^6</rasd:AllocationUnits>
        <rasd:ElementName>Processors</rasd:ElementName>
        <rasd:InstanceID>1</rasd:InstanceID>
        <rasd:ResourceType>3</rasd:ResourceType>
        <rasd:VirtualQuantity>{vcpus}</rasd:VirtualQuantity>
      </Item>
      <Item>
        <rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits>
        <rasd:ElementName>Memory</rasd:ElementName>
        <rasd:InstanceID>2</rasd:InstanceID>
        <rasd:ResourceType>4</rasd:ResourceType>
        <rasd:VirtualQuantity>{mebibytes}</rasd:VirtualQuantity>
      </Item>
      <Item>
        <rasd:Address>0</rasd:Address>
        <rasd:ElementName>SCSI controller</rasd:ElementName>
        <rasd:InstanceID>3</rasd:InstanceID>
        <rasd:ResourceSubType>VirtualSCSI</rasd:ResourceSubType>
        <rasd:ResourceType>6</rasd:ResourceType>
      </Item>
      <Item>
        <rasd:AddressOnParent>0</rasd:AddressOnParent>
        <rasd:ElementName>Disk</rasd:ElementName>
        <rasd:HostResource>ovf:/disk/disk1</rasd:HostResource>
        <rasd:InstanceID>4</rasd:InstanceID>
        <rasd:Parent>3</rasd:Parent>
        <rasd:ResourceType>17</rasd:ResourceType>
      </Item>
      <Item>
        <rasd:AddressOnParent>1</rasd:AddressOnParent>
        <rasd:AutomaticAllocation>true</rasd:AutomaticAllocation>
        <rasd:Connection>network</rasd:Connection>
        <rasd:ElementName>Ethernet adapter</rasd:ElementName>
        <rasd:InstanceID>5</rasd:InstanceID>
        <rasd:ResourceSubType>VmxNet3</rasd:ResourceSubType>
        <rasd:ResourceType>10</rasd:ResourceType>
      </Item>
      <vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="efi"/>
    </VirtualHardwareSection>
  </VirtualSystem>
</Envelope>
"""


@dataclass(frozen=True)
class Ova:
    """The format.

    Attributes:
        title: name of the virtual machine and of the members, which people see and may change on import.
        hardware: VMware's version of virtual hardware; vmx-19 is that of ESXi 7.0 update 2.
        memory: MiB.
    """

    name: str = "ova"
    suffix: str = ".ova"
    summary: str = "OVA: a streamOptimized VMDK and its virtual machine, for vSphere"
    vmdk: StreamOptimizedVmdk = field(default_factory=StreamOptimizedVmdk)
    title: str = "image"
    hardware: str = "vmx-19"
    vcpus: int = 2
    memory: int = 2048
    architectures: frozenset[str] = frozenset({"x86_64"})  # the descriptor's guest and hardware are
    firmware: frozenset[str] = frozenset({"uefi"})  # it asks for firmware efi

    @property
    def max_size(self) -> int:
        """As the VMDK in it."""
        return self.vmdk.max_size

    @property
    def alignment(self) -> int:
        """As the VMDK in it."""
        return self.vmdk.alignment

    def write(self, disk: RawDisk, out: BinaryIO, *, seed: bytes, progress: Progress | None = None) -> None:
        """Writes the disk, grown to whole grains, to the empty seekable file ``out``.

        Raises:
            FormatError: too large, too large when compressed, or the raw image was changed while it was read.
        """
        capacity = aligned_size(self, disk.size)
        descriptor, digests, image = (f"{self.title}.{end}" for end in ("ovf", "mf", "vmdk"))
        for member in (descriptor, digests, image):
            _member(member, 0)  # refused before the disk is written, and not after
        blocks = align_up(len(self._digests(b"", b"")), _BLOCK)
        out.seek(3 * _BLOCK + _OVF_SIZE + blocks)
        stream = _Hashed(out)
        size, populated = self.vmdk.write_stream(disk, stream, seed=seed, progress=progress)
        if size > _SIZE_MAX:
            what = f"its VMDK takes {size} bytes, a member of an OVA at most {_SIZE_MAX}"
            raise FormatError(disk.name, f"{what}; ship the VMDK itself", spec="ustar Interchange Format")
        end = out.tell()
        out.write(bytes(align_up(end + 2 * _BLOCK, _RECORD) - end))
        text = self._descriptor(capacity, size, populated)
        sums = self._digests(hashlib.sha256(text).digest(), stream.digest())
        out.seek(0)
        out.write(_member(descriptor, len(text)) + text)
        out.write(_member(digests, len(sums)) + pad(sums, _BLOCK))
        out.write(_member(image, size))

    def _descriptor(self, capacity: int, size: int, populated: int) -> bytes:
        """The OVF descriptor, always of the same length: DSP0243 sections 7 to 9."""
        text = _OVF.format(
            title=html.escape(self.title),
            size=size,
            capacity=capacity,
            populated=populated,
            hardware=html.escape(self.hardware),
            vcpus=self.vcpus,
            mebibytes=self.memory,
        )
        data = text.encode()
        if len(data) > _OVF_SIZE:
            what = f"its descriptor takes {len(data)} bytes, {_OVF_SIZE} are kept for it; shorten the title"
            raise FormatError(f"OVA {self.title}", what, spec=SPEC)
        return data.ljust(_OVF_SIZE, b"\n")

    def _digests(self, descriptor: bytes, image: bytes) -> bytes:
        """The manifest, a line a file: DSP0243 section 6.1.

        Args:
            descriptor: its SHA-256; empty for a manifest that has the right length alone.
            image: the same of the VMDK.
        """
        lines = (("ovf", descriptor), ("vmdk", image))
        return "".join(f"SHA256({self.title}.{end})= {digest.hex():0>64}\n" for end, digest in lines).encode()


class _Hashed:
    """A file, and the SHA-256 of what is written to it."""

    def __init__(self, out: BinaryIO) -> None:
        self._out, self._hash = out, hashlib.sha256()
        self.digest = self._hash.digest

    def write(self, data: bytes) -> None:
        self._hash.update(data)
        self._out.write(data)


def _member(name: str, size: int) -> bytes:
    """Header of a regular file of nobody in particular, with no time: ustar Interchange Format.

    Raises:
        FormatError: a name that does not fit.
    """
    encoded = name.encode()
    if len(encoded) > _NAME_MAX:
        what = (
            f"its name takes {len(encoded)} bytes, a tar header has room for {_NAME_MAX}; shorten the title"
        )
        raise FormatError(f"OVA member {name}", what, spec="ustar Interchange Format")
    numbers = (b"%07o\0" % 0o644, b"%07o\0" % 0, b"%07o\0" % 0, b"%011o\0" % size, b"%011o\0" % 0)
    before = struct.pack("100s8s8s8s12s12s", encoded, *numbers)
    behind = struct.pack(
        "c100s6s2s32s32s8s8s167x", b"0", b"", b"ustar\0", b"00", b"", b"", *[b"%07o\0" % 0] * 2
    )
    # The checksum counts its own eight bytes as blanks.
    total = sum(before) + sum(behind) + 8 * ord(" ")
    return before + b"%06o\0 " % total + behind


FORMATS: tuple[DiskFormat, ...] = (Ova(),)
