"""Amazon Web Services: names, sizes and machines for an AMI made of a snapshot and an SEV-SNP instance.

Documents of AWS, as of 2025: VM Import/Export User Guide, "System requirements" and "Limitations"; Amazon EC2
API Reference, RegisterImage and CpuOptionsRequest; Amazon EC2 User Guide, "AMD SEV-SNP for Amazon EC2
instances", "UEFI Secure Boot for Amazon EC2 instances"; Amazon S3 User Guide, "General purpose bucket naming
rules"; AWS Identity and Access Management User Guide, "IAM and AWS STS quotas".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ..record import dataclass
from ..units import GIB
from .cloud import (
    DiskSizes,
    Finding,
    MachineDisks,
    NameRule,
    Shipment,
    common_findings,
    machine_disk_findings,
    name_findings,
    processor_findings,
    shown,
    size_text,
)

_SNP = "Amazon EC2 User Guide, AMD SEV-SNP for Amazon EC2 instances, Requirements"
_REGISTER = "Amazon EC2 API Reference, RegisterImage"
_BUCKETS = "Amazon S3 User Guide, General purpose bucket naming rules"
_LIMITS = "AWS, VM Import/Export User Guide, Limitations"
_VOLUMES = "Amazon EBS User Guide, Amazon EBS volume types"
_CPU_OPTIONS = "Amazon EC2 API Reference, CpuOptionsRequest"

# Characters of ``--uefi-data``. Spec: Amazon EC2 API Reference, RegisterImage, UefiData.
MAX_UEFI_DATA = 64_000
# "Disk images must be less than 16 TiB"; from 8 TiB on they need a manifest, which nothing here writes.
_TIB = 1024 * GIB
MAX_DISK = 8 * _TIB

SNP_REGIONS = ("us-east-2", "eu-west-1")
# Sizes with SEV-SNP. Spec: _SNP.
_SNP_SIZES = {
    "m6a": ("large", "xlarge", "2xlarge", "4xlarge", "8xlarge"),
    "c6a": ("large", "xlarge", "2xlarge", "4xlarge", "8xlarge", "12xlarge", "16xlarge"),
    "r6a": ("large", "xlarge", "2xlarge", "4xlarge"),
}

_ADDRESS = r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}"
_BUCKET = (
    r"(?=.{3,63}\Z)(?!xn--|sthree-|amzn-s3-demo-)(?!.*(?:-s3alias|--ol-s3|\.mrap|--x-s3|--table-s3)\Z)"
    rf"(?!{_ADDRESS}\Z)(?!.*\.\.)[a-z0-9][a-z0-9.-]*[a-z0-9]"
)

# Tried by flatcar/mantle#582; what the answer says is not on record.
_WITHOUT_UEFI = "aws ec2 register-image takes --tpm-support with --boot-mode uefi alone"

_RULES = (
    NameRule(
        "ami",
        r"[A-Za-z0-9()\[\] ./'@_-]{3,128}",
        "3 to 128 letters, digits, spaces or ( ) [ ] . / - ' @ _",
        "InvalidAMIName.Malformed",
        f"{_REGISTER}, Name",
    ),
    NameRule(
        "bucket",
        _BUCKET,
        "3 to 63 small letters, digits, '.' or '-' with a letter or digit at both ends, without two periods"
        " together, not like an IP address, and without the prefixes and suffixes that AWS keeps for itself",
        "InvalidBucketName",
        _BUCKETS,
    ),
    NameRule(
        "object",
        r"[^\x00-\x1f\x7f]{1,1024}",
        "1 to 1024 characters without control characters",
        "KeyTooLongError or InvalidURI",
        "Amazon S3 User Guide, Naming Amazon S3 objects",
    ),
    NameRule(
        "region",
        r"[a-z]{2}(?:-[a-z]+)+-[0-9]",
        "the name of a region, such as us-east-2",
        "that it could not connect to the endpoint",
        "AWS, Regions and Availability Zones",
    ),
    NameRule(
        "instance-type",
        r"[a-z][a-z0-9-]*\.(?:[a-z0-9]+-)*[a-z0-9]+",
        "the name of an instance type, such as m6a.large",
        "InvalidParameterValue",
        "Amazon EC2 User Guide, Instance type naming conventions",
    ),
    NameRule(
        "vm",
        r"(?!aws:)[^\x00-\x1f\x7f]{1,256}",
        "1 to 256 characters of a tag that do not start with aws:",
        "InvalidParameterValue",
        "Amazon EC2 User Guide, Tag your Amazon EC2 resources, Tag restrictions",
    ),
    NameRule(
        "snapshot",
        r"[^\x00-\x1f\x7f]{1,255}",
        "a description of 1 to 255 characters",
        "InvalidParameterValue",
        "Amazon EC2 API Reference, ImportSnapshot",
    ),
    NameRule(
        "role",
        r"[A-Za-z0-9_+=,.@-]{1,64}",
        "1 to 64 letters, digits or _ + = , . @ -",
        "ValidationError",
        "AWS Identity and Access Management User Guide, IAM and AWS STS quotas",
    ),
    NameRule(
        "security-group",
        r"(?!sg-)[A-Za-z0-9 ._:/()#,@\[\]+=&;{}!$*-]{1,255}",
        "1 to 255 letters, digits, spaces or ._-:/()#,@[]+=&;{}!$* that do not start with sg-",
        "InvalidParameterValue",
        "Amazon EC2 API Reference, CreateSecurityGroup",
    ),
    NameRule(
        "root-device",
        r"/dev/(?:xvda|sda1)",
        "/dev/xvda or /dev/sda1",
        "InvalidBlockDeviceMapping",
        "Amazon EC2 User Guide, Device names on Linux instances",
    ),
    NameRule("volume-type", "gp[23]", "gp2 or gp3", "InvalidParameterValue", _VOLUMES),
)


@dataclass(frozen=True)
class Aws:
    """An AMI made of an imported snapshot, and an instance with SEV-SNP."""

    name: str = "aws"
    disk_formats: tuple[str, ...] = ("vmdk",)
    machine_disks: MachineDisks = MachineDisks(
        what="a volume",
        type="volume-type",
        # gp3 since September 2025.
        sizes=(DiskSizes("gp2", 1, 16_384), DiskSizes("*", 1, 65_536)),
        too_large="aws ec2 run-instances would refuse it",
        # The words are in scylladb/scylladb#6999.
        below_image="aws answers InvalidBlockDeviceMapping (volume is smaller than snapshot)",
        spec=_VOLUMES,
    )

    @property
    def disk_format(self) -> str:
        """The format that ``import-snapshot`` is given."""
        return self.disk_formats[0]

    @property
    def name_kinds(self) -> tuple[str, ...]:
        """Kinds of names that there are rules for."""
        return tuple(rule.kind for rule in _RULES)

    def problems(self, shipment: Shipment) -> tuple[Finding, ...]:
        """What AWS would refuse."""
        return (
            *common_findings(self.name, self.disk_formats, shipment, without_uefi=_WITHOUT_UEFI),
            *_disk(shipment.disk_size),
            *machine_disk_findings(shipment, self.machine_disks),
            *name_findings(self.name, _RULES, shipment.names),
            *_protection(shipment),
            *_instance(shipment),
        )

    def file_problems(self, shipment: Shipment, path: Path) -> tuple[Finding, ...]:
        """What AWS would refuse of the VMDK: header, descriptor, footer and grain directory are read.

        Raises:
            OSError: the file cannot be read.
        """
        from .vmdk_file import findings

        with path.open("rb") as file:
            return findings(file, shipment.disk_size)


def volume_size(disk_size: int) -> int:
    """GiB of the volume that holds a disk: snapshots are counted in whole GiB.

    Spec: Amazon EC2 API Reference, EbsBlockDevice, VolumeSize.
    """
    return max(-(-disk_size // GIB), 1)


def _disk(size: int) -> Iterator[Finding]:
    if size <= 0 or size % 512:
        what = f"a disk of {size_text(size)} is not whole sectors of 512 bytes"
        yield Finding("disk", f"{what}; aws answers that disk validation failed; rebuild it", _LIMITS)
    if size > MAX_DISK:
        what = f"a disk of {size_text(size)}, and beyond 8 TiB an import needs a manifest"
        yield Finding("disk", f"{what}; aws ec2 import-snapshot would refuse it; make it smaller", _LIMITS)


def _protection(shipment: Shipment) -> Iterator[Finding]:
    if shipment.tee == "tdx":
        what = "aws has no machines with TDX, and --cpu-options of aws ec2 run-instances no word for them"
        yield Finding("tee", f"{what}; publish there with sev-snp, or publish to azure or gcp", _CPU_OPTIONS)
    region = shipment.value("region")
    if shipment.tee == "sev-snp" and region is not None and region not in SNP_REGIONS:
        regions = " or ".join(SNP_REGIONS)
        what = f"{shown(region)} has no SEV-SNP; aws answers UnsupportedOperation; use {regions}"
        yield Finding("region", what, _SNP)


def _instance(shipment: Shipment) -> Iterator[Finding]:
    instance = shipment.value("instance-type")
    if instance is None or "." not in instance:
        return
    family, _, size = instance.partition(".")
    if shipment.tee == "sev-snp" and size not in _SNP_SIZES.get(family, ()):
        offered = "; ".join(f"{name}: {', '.join(sizes)}" for name, sizes in _SNP_SIZES.items())
        what = f"{shown(instance)} has no SEV-SNP; aws answers InvalidParameterCombination; use {offered}"
        yield Finding("instance-type", what, _SNP)
    # The letter behind the generation: a for AMD, i for Intel, g for AWS Graviton, an Arm processor.
    arm = re.fullmatch(r"a1|[a-z]+[0-9]+g[a-z0-9-]*", family) is not None
    yield from processor_findings("instance-type", instance, arm=arm, architecture=shipment.architecture)
