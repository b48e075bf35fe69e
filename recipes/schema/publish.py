"""What a recipe says about clouds: where an image goes, under which names, and how a machine there is made.

Every key has a default. They are those of the reference's scripts, but where these have gone stale:

- The name ``cvm_test`` is none that Azure takes for Linux: it has an underscore. DCesv5 never left its
  preview and DCesv6 took its place, so a machine with TDX is ``Standard_DC2es_v6``. Regions are written as
  the API does.
- No port is open that the recipe does not name: an image answers on none unless something in it does.
- What has to be unique in the world (storage account, bucket) is derived when the script runs, of the account
  it runs for; a name written here would be taken by whoever publishes first.

What a pattern allows is checked twice, here and by the script for what its options say, so patterns keep to
what ``re`` and POSIX extended regular expressions have in common.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import fields
from enum import Enum
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Protocol, get_args, get_type_hints

from ..reader import Marks, Place, Size, Text
from ..record import dataclass
from ..units import GIB
from .common import check_unique


@dataclass(frozen=True)
class Help:
    """What a key is, in the words of the script's ``--help``."""

    text: str


# Common to the three clouds: RFC 1035 labels, GCP's rule and the strictest.
SizeInGib = Annotated[int, Size]
VmName = Annotated[str, Text(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", "cvm-test")]
_BYTE = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_CIDR = rf"{_BYTE}(\.{_BYTE}){{3}}/(3[0-2]|[12]?[0-9])|[0-9a-f]*:[0-9a-f:]*/(12[0-8]|1[01][0-9]|[1-9]?[0-9])"
Cidr = Annotated[str, Text(_CIDR, "203.0.113.0/24")]
# Microsoft, "Naming rules and restrictions for Azure resources".
Location = Annotated[str, Text(r"[a-z][a-z0-9]{2,30}", "eastus")]
ResourceGroup = Annotated[str, Text(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,88}[A-Za-z0-9_-])?", "cvm-test_rg")]
StorageAccount = Annotated[str, Text(r"[a-z0-9]{3,24}", "goldsmithdisks")]
Container = Annotated[str, Text(r"[a-z0-9](-?[a-z0-9]){2,62}", "disks")]
Gallery = Annotated[str, Text(r"[A-Za-z0-9]([A-Za-z0-9.]{0,78}[A-Za-z0-9])?", "goldsmith")]
Definition = Annotated[str, Text(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,78}[A-Za-z0-9])?", "debian-cvm")]
AzureVersion = Annotated[str, Text(r"(0|[1-9][0-9]{0,8})(\.(0|[1-9][0-9]{0,8})){2}", "1.0.0")]
AzureSize = Annotated[str, Text(r"Standard_[A-Za-z0-9_-]{2,60}", "Standard_DC2es_v6")]
Subscription = Annotated[
    str, Text(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "00000000-0000-0000-0000-000000000000")
]
# Google Cloud, "Creating and managing projects"; "Cloud Storage, About buckets: Bucket names".
Project = Annotated[str, Text(r"[a-z][a-z0-9-]{4,28}[a-z0-9]", "my-project-1")]
Bucket = Annotated[str, Text(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", "my-images")]
Zone = Annotated[str, Text(r"[a-z]+-[a-z]+[0-9]+-[a-z]", "asia-southeast1-b")]
GcpRegion = Annotated[str, Text(r"[a-z]+(-[a-z]+[0-9]+)?", "asia-southeast1")]
MachineType = Annotated[str, Text(r"[a-z][a-z0-9]{1,5}-[a-z0-9-]{3,40}", "c3-standard-4")]
Network = Annotated[str, Text(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", "default")]
DiskType = Annotated[str, Text(r"(pd|hyperdisk)-[a-z-]{2,30}", "pd-balanced")]
# Amazon Web Services, "Regions"; "Amazon EC2 instance types, naming conventions"; IAM, "Quotas: names".
Region = Annotated[str, Text(r"[a-z]{2}(-[a-z]+)+-[0-9]{1,2}", "us-east-2")]
InstanceType = Annotated[str, Text(r"[a-z][a-z0-9-]{1,20}\.[a-z0-9-]{2,20}", "m6a.large")]
Role = Annotated[str, Text(r"[A-Za-z0-9_][A-Za-z0-9_+=,.@-]{0,63}", "vmimport")]
SubnetId = Annotated[str, Text(r"subnet-[0-9a-f]{8,17}", "subnet-0123456789abcdef0")]
Profile = Annotated[str, Text(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}", "release")]


class Tee(Enum):
    """What keeps the host out of the machine."""

    TDX = "tdx"
    SEV_SNP = "sev-snp"
    NONE = "none"


class AwsTee(Enum):
    """The same on AWS, which has no TDX machines. Spec: Amazon EC2 User Guide, "AMD SEV-SNP"."""

    SEV_SNP = "sev-snp"
    NONE = "none"


class DiskEncryption(Enum):
    """What Azure encrypts. Spec: az vm create --os-disk-security-encryption-type, azure-cli 2.91."""

    STATE_ONLY = "VMGuestStateOnly"
    NO_PERSISTENT_TPM = "NonPersistedTPM"
    DISK_AND_STATE = "DiskWithVMGuestState"


class SecurityFeature(Enum):
    """What an Azure image definition may be used for. Spec: az sig image-definition create --features."""

    BOTH = "TrustedLaunchAndConfidentialVmSupported"
    CONFIDENTIAL = "ConfidentialVmSupported"


class AuthMode(Enum):
    """How az reaches a storage account. Spec: az storage blob upload --auth-mode, azure-cli 2.91."""

    KEY = "key"
    LOGIN = "login"


class GuestFeature(Enum):
    """What a GCP image says it can do. Spec: gcloud compute images create --guest-os-features, SDK 528."""

    UEFI_COMPATIBLE = "UEFI_COMPATIBLE"
    GVNIC = "GVNIC"
    IDPF = "IDPF"
    TDX_CAPABLE = "TDX_CAPABLE"
    SEV_CAPABLE = "SEV_CAPABLE"
    SEV_SNP_CAPABLE = "SEV_SNP_CAPABLE"
    SEV_LIVE_MIGRATABLE_V2 = "SEV_LIVE_MIGRATABLE_V2"
    VIRTIO_SCSI_MULTIQUEUE = "VIRTIO_SCSI_MULTIQUEUE"


class VolumeType(Enum):
    """What an AWS root volume is kept on. Spec: aws ec2 register-image, Ebs.VolumeType.

    Those that need a number of operations (``io1``, ``io2``) are not among them: no key gives one.
    """

    GP3 = "gp3"
    GP2 = "gp2"


@dataclass(frozen=True, kw_only=True)
class CloudSpec:
    """What is said for every cloud alike."""

    vm: Annotated[VmName, Help("name of the machine")] = "cvm-test"
    ports: Annotated[tuple[int, ...], Help("TCP ports that may be reached from outside")] = ()
    source: Annotated[Cidr, Help("addresses that may reach them")] = "0.0.0.0/0"
    disk_size: Annotated[
        SizeInGib | None, Help("of the machine, in GiB; if empty as few as the image needs")
    ] = None
    secure_boot: Annotated[bool, Help("enrol the keys of this image and verify what boots")] = True
    vtpm: Annotated[bool, Help("give the machine a TPM")] = True


@dataclass(frozen=True, kw_only=True)
class AzureSpec(CloudSpec):
    """Azure: a fixed VHD as a page blob, an image version of it in a gallery, a machine."""

    BY_TEE: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"tdx": "Standard_DC2es_v6", "sev-snp": "Standard_DC2as_v5", "none": "Standard_D2s_v5"}
    )
    location: Annotated[Location, Help("region")] = "eastus"
    resource_group: Annotated[ResourceGroup | None, Help("if empty the name of the machine and _rg")] = None
    subscription: Annotated[Subscription | None, Help("if empty the one that az is set to")] = None
    tee: Annotated[Tee, Help("what keeps the host out; the size decides")] = Tee.TDX
    size: Annotated[AzureSize | None, Help("of the machine; if empty the smallest with that tee")] = None
    storage_account: Annotated[
        StorageAccount | None, Help("if empty derived of subscription and resource group")
    ] = None
    container: Annotated[Container, Help("of the storage account")] = "disks"
    auth_mode: Annotated[
        AuthMode, Help("key: az gets the account's key; login: you have a data role on it")
    ] = AuthMode.KEY
    gallery: Annotated[Gallery, Help("of images")] = "goldsmith"
    definition: Annotated[Definition | None, Help("image definition; if empty the image's name")] = None
    image_version: Annotated[AzureVersion | None, Help("three numbers; if empty the recipe's version")] = None
    publisher: Annotated[Definition, Help("of the image definition")] = "goldsmith"
    security_feature: Annotated[SecurityFeature, Help("of the image definition")] = SecurityFeature.BOTH
    os_disk_encryption: Annotated[
        DiskEncryption, Help("value of az vm create --os-disk-security-encryption-type")
    ] = DiskEncryption.STATE_ONLY


@dataclass(frozen=True, kw_only=True)
class GcpSpec(CloudSpec):
    """Google Cloud: ``disk.raw`` in a tar.gz in a bucket, an image of it, a machine."""

    BY_TEE: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"tdx": "c3-standard-4", "sev-snp": "n2d-standard-4", "none": "n2-standard-4"}
    )
    project: Annotated[Project | None, Help("if empty the one that gcloud is set to")] = None
    zone: Annotated[Zone, Help("where the machine runs")] = "asia-southeast1-b"
    tee: Annotated[Tee, Help("what keeps the host out")] = Tee.TDX
    machine_type: Annotated[MachineType | None, Help("of the machine; if empty one with that tee")] = None
    bucket: Annotated[Bucket | None, Help("if empty the project's id and -goldsmith")] = None
    storage_location: Annotated[
        GcpRegion | None, Help("where bucket and image are; if empty the zone's region")
    ] = None
    network: Annotated[Network, Help("of the machine")] = "default"
    disk_type: Annotated[DiskType, Help("of the machine's disk")] = "pd-balanced"
    guest_os_features: Annotated[tuple[GuestFeature, ...], Help("of the image")] = (
        GuestFeature.TDX_CAPABLE,
        GuestFeature.SEV_SNP_CAPABLE,
        GuestFeature.GVNIC,
        GuestFeature.UEFI_COMPATIBLE,
        GuestFeature.VIRTIO_SCSI_MULTIQUEUE,
    )
    integrity_monitoring: Annotated[bool, Help("compare each boot with the first one")] = True


@dataclass(frozen=True, kw_only=True)
class AwsSpec(CloudSpec):
    """AWS: a VMDK in a bucket, a snapshot imported of it, an AMI, a machine.

    ``import-snapshot`` and never ``import-image``, which edits what is on the disk.
    """

    region: Annotated[Region, Help("SEV-SNP is in us-east-2 and eu-west-1")] = "us-east-2"
    tee: Annotated[AwsTee, Help("what keeps the host out")] = AwsTee.SEV_SNP
    instance_type: Annotated[InstanceType, Help("SEV-SNP is for m6a, c6a and r6a")] = "m6a.large"
    bucket: Annotated[Bucket | None, Help("if empty goldsmith, the account's number and the region")] = None
    role: Annotated[Role, Help("that lets the import read the bucket")] = "vmimport"
    subnet: Annotated[SubnetId | None, Help("if empty one of the default VPC")] = None
    profile: Annotated[Profile | None, Help("of the AWS configuration")] = None
    volume_type: Annotated[VolumeType, Help("of the machine's disk")] = VolumeType.GP3


@dataclass(frozen=True, kw_only=True)
class PublishSpec:
    """The clouds that an image is prepared for; one with no keys of its own is ``{}``."""

    azure: AzureSpec | None = None
    gcp: GcpSpec | None = None
    aws: AwsSpec | None = None

    @property
    def clouds(self) -> tuple[tuple[str, AzureSpec | GcpSpec | AwsSpec], ...]:
        """Name and keys of each cloud that the recipe lists."""
        every = (("azure", self.azure), ("gcp", self.gcp), ("aws", self.aws))
        return tuple((name, spec) for name, spec in every if spec is not None)


class Published(Protocol):
    """A recipe of which clouds get an image."""

    @property
    def publish(self) -> PublishSpec:
        """The clouds."""

    @property
    def version(self) -> str:
        """The image's version."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One key of a cloud as a script's option.

    Attributes:
        value: as a word of a command line; empty where the recipe leaves it to the script.
        pattern: extended regular expression that every value matches, but the empty one of an optional key.
    """

    name: str
    value: str
    help: str
    pattern: str
    example: str
    optional: bool

    @property
    def option(self) -> str:
        """The option's name without the dashes in front."""
        return self.name.replace("_", "-")


def parameters(spec: CloudSpec) -> tuple[Parameter, ...]:
    """Every key of a cloud as an option, in the order in which they are declared."""
    hints = get_type_hints(type(spec), include_extras=True)
    found = []
    for item in fields(spec):
        text = next(mark.text for mark in get_args(hints[item.name])[1:] if isinstance(mark, Help))
        pattern, example = _rule(hints[item.name])
        found.append(
            Parameter(
                name=item.name,
                value=_word(item.name, getattr(spec, item.name)),
                help=text,
                pattern=pattern,
                example=example,
                optional=type(None) in get_args(get_args(hints[item.name])[0]),
            )
        )
    return tuple(found)


def _rule(kind: Any) -> tuple[str, str]:  # noqa: ANN401 - whatever type a field declares
    """Pattern and example of the values of a type."""
    first, *marks = get_args(kind) or (kind,)
    rule = next((mark for mark in marks if isinstance(mark, Text)), None)
    if rule is not None:
        return rule.pattern, rule.example
    if first is int and Size in marks:
        return "[1-9][0-9]{0,4}", "64"
    if first is int and kind is not int:
        return "([1-9][0-9]{0,4}(,[1-9][0-9]{0,4}){0,49})?", "22,8000"
    if kind is bool or first is bool:
        return "true|false", "true"
    if isinstance(first, type) and issubclass(first, Enum):
        names = [str(item.value) for item in first]
        one = "|".join(names)
        return (one if first is kind or Ellipsis not in marks else f"({one})(,({one}))*"), names[0]
    return _rule(first)


def _word(name: str, value: object) -> str:
    if value is None:
        return ""
    if name == "disk_size":
        assert isinstance(value, int)
        return str(value // GIB)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(_word(name, item) for item in value)
    return str(value.value if isinstance(value, Enum) else value)


def azure_version(version: str) -> str | None:
    """A recipe's version as the three numbers that a gallery wants, or None where it is no such thing."""
    number = "(0|[1-9][0-9]{0,8})"
    if re.fullmatch(rf"{number}(\.{number}){{0,2}}", version, re.ASCII) is None:
        return None
    return ".".join([*version.split("."), "0", "0"][:3])


def check_publish(marks: Marks, recipe: Published) -> None:
    """Notes what no cloud takes, as far as the keys alone show it."""
    for name, spec in recipe.publish.clouds:
        place = ("publish", name)
        _check_ports(marks, (*place, "ports"), spec.ports)
        _check_source(marks, name, spec.source)
        if spec.disk_size is not None and (spec.disk_size % GIB or spec.disk_size == 0):
            marks.add((*place, "disk_size"), f"publish.{name}.disk_size must be whole GiB")
        if not spec.vtpm and spec.tee not in (Tee.NONE, AwsTee.NONE):
            what = f"publish.{name}.vtpm: without a TPM nothing that boots is measured"
            marks.add((*place, "vtpm"), f"{what}; leave it true, or write tee: none")
        if not spec.vtpm and spec.secure_boot and name == "azure":
            what = "publish.azure.vtpm: Azure verifies what boots only where there is a TPM"
            marks.add((*place, "vtpm"), f"{what}; leave it true, or write secure_boot: false")
    azure = recipe.publish.azure
    if azure is not None and azure.image_version is None and azure_version(recipe.version) is None:
        what = f"version {recipe.version!r} is not one to three numbers, which is all an Azure gallery takes"
        what += "; azure answers InvalidParameter (the image version name is invalid)"
        marks.add(("version",), f"{what}; set publish.azure.image_version, such as 1.0.0")


# What a cloud says of addresses that are none, or have bits behind the prefix. The words are in
# Azure/azure-powershell#4557, cloudflare/terraform-provider-cloudflare#86 and cloud-barista/cb-spider#386.
_BAD_SOURCE = {
    "azure": "azure answers SecurityRuleInvalidAddressPrefix",
    "gcp": "gcp answers Invalid value for field 'resource.sourceRanges[0]'",
    "aws": "aws answers InvalidParameterValue (CIDR block is malformed), or opens another range than this",
}


def _check_source(marks: Marks, cloud: str, source: str) -> None:
    """Notes addresses that are none, or are not written as a cloud gives them back."""
    if re.fullmatch(_CIDR, source) is None:
        return  # The reader has said so.
    key = f"publish.{cloud}.source"
    try:
        network = ipaddress.ip_network(source, strict=False)
    except ValueError:
        what = f"{key}: {source!r} is no range of addresses; {_BAD_SOURCE[cloud]}"
        marks.add(("publish", cloud, "source"), f"{what}; write for example 203.0.113.0/24")
        return
    if str(network) != source:
        what = f"{key}: {source!r} has bits behind its prefix, or could be shorter; {_BAD_SOURCE[cloud]}"
        marks.add(("publish", cloud, "source"), f"{what}; write {network}")


def _check_ports(marks: Marks, place: Place, ports: tuple[int, ...]) -> None:
    check_unique(marks, place, ports, "port")
    for index, port in enumerate(ports):
        if not 1 <= port <= 65535:
            marks.add((*place, index), f"port {port} is not 1 to 65535")
