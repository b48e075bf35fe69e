"""Google Cloud: names, sizes and machines for an image made of ``disk.raw`` and a Confidential VM.

Documents of Google Cloud, as of 2025 and 2026: Compute Engine, "Manually import boot disks", "Naming
resources", "Create custom shielded images"; Cloud Storage, "About Cloud Storage buckets" and "About Cloud
Storage objects"; Confidential VM, "Supported configurations"; Resource Manager, "Creating and managing
projects"; the help of gcloud.
"""

from __future__ import annotations

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
    alignment_findings,
    common_findings,
    machine_disk_findings,
    name_findings,
    processor_findings,
    protection_findings,
    size_text,
)

_IMPORT = "Google Cloud, Compute Engine, Manually import boot disks"
_RESOURCES = "Google Cloud, Compute Engine, Naming resources"
_BUCKETS = "Google Cloud, Cloud Storage, About Cloud Storage buckets, Bucket names"
_OBJECTS = "Google Cloud, Cloud Storage, About Cloud Storage objects, Object names"
_CONFIDENTIAL = "Google Cloud, Confidential VM, Supported configurations"
_FEATURES = "gcloud compute images create --guest-os-features"

_DISKS = "Google Cloud, Compute Engine, Persistent Disk"

# The largest disk. Spec: _DISKS.
MAX_DISK = 64 * 1024 * GIB
# Seen by GoogleCloudPlatform/compute-archlinux-image-builder#44; no call says so.
_WITHOUT_UEFI = "the console of such a machine says UEFI: Failed to load image"

# Machine types by what protects them. C3D, C2D and C4D offer AMD SEV, but not SEV-SNP.
_MACHINES = {
    "sev-snp": r"n2d-(?:standard|highmem|highcpu)-[0-9]+",
    "tdx": r"c3-standard-[0-9]+(?:-lssd)?|c4-standard-[0-9]+(?:-lssd)?|a3-highgpu-1g",
}
_EXAMPLES = {"sev-snp": "n2d-standard-2", "tdx": "c3-standard-4"}
# Series with Arm processors: Compute Engine, "Arm VMs on Compute".
_ARM_SERIES = frozenset({"t2a", "c4a", "n4a"})

# What an image has to declare to be started on such a machine.
_NEEDED_FEATURES = {
    "sev-snp": ("UEFI_COMPATIBLE", "GVNIC", "SEV_SNP_CAPABLE"),
    "tdx": ("UEFI_COMPATIBLE", "GVNIC", "TDX_CAPABLE"),
    "none": ("UEFI_COMPATIBLE",),
}

# RFC 1035, as the API checks it.
_LABEL = r"[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?"
_LABEL_WORDS = "1 to 63 small letters, digits and hyphens with a letter in front and no hyphen at the end"
_LABEL_ANSWER = f"Invalid value for field 'resource.name' (must be a match of regex '{_LABEL}')"
_ADDRESS = r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}"


def _resource(kind: str) -> NameRule:
    return NameRule(kind, _LABEL, _LABEL_WORDS, _LABEL_ANSWER, _RESOURCES)


_RULES = (
    *(_resource(kind) for kind in ("vm", "image", "image-family", "disk", "network", "firewall-rule")),
    NameRule(
        "bucket",
        rf"(?=.{{3,63}}\Z)(?!goog)(?!{_ADDRESS}\Z)(?!.*(?:google|g00gle))[a-z0-9](?:[a-z0-9_-]*[a-z0-9])?",
        "3 to 63 small letters, digits, '-' or '_' with a letter or digit at both ends, without 'google' and"
        " without 'goog' in front (names with periods are for domains)",
        "400 Invalid bucket name",
        _BUCKETS,
    ),
    NameRule(
        "object",
        r"(?!\.well-known/acme-challenge/)[^\r\n]{1,1017}\.tar\.gz",
        "up to 1024 characters without line breaks that end in .tar.gz",
        "Invalid value for field 'resource.rawDisk.source'",
        f"{_OBJECTS}; gcloud compute images create --source-uri",
    ),
    NameRule(
        "project",
        r"(?:[a-z0-9.-]{1,253}:)?[a-z][a-z0-9-]{4,28}[a-z0-9]",
        "6 to 30 small letters, digits and hyphens that start with a letter and do not end with a hyphen",
        "INVALID_ARGUMENT",
        "Google Cloud, Resource Manager, Creating and managing projects",
    ),
    NameRule(
        "zone",
        r"[a-z]+-[a-z]+[0-9]+-[a-z]",
        "the name of a zone, such as asia-southeast1-b",
        "Invalid value for field 'zone'",
        "Google Cloud, Compute Engine, Regions and zones",
    ),
    NameRule(
        "storage-location",
        r"[a-z]+-[a-z]+[0-9]+|asia|eu|us",
        "a region such as asia-southeast1, or asia, eu or us",
        "Invalid value for field 'resource.storageLocations'",
        "Google Cloud, Compute Engine, Regions and zones",
    ),
    NameRule(
        "machine-type",
        r"[a-z][0-9a-z]*-[a-z0-9]+(?:-[a-z0-9]+)*",
        "the name of a machine type, such as c3-standard-4",
        "Invalid value for field 'resource.machineType'",
        "Google Cloud, Compute Engine, Machine families resource and comparison guide",
    ),
    NameRule(
        "disk-type",
        r"(?:pd|hyperdisk)-[a-z]+(?:-[a-z]+)*",
        "the name of a type of disk, such as pd-balanced",
        "Invalid value for field 'resource.disks[0].initializeParams.diskType'",
        "Google Cloud, Compute Engine, Choose a disk type",
    ),
    NameRule(
        "guest-os-features",
        r"[A-Z][A-Z0-9_]*(?:,[A-Z][A-Z0-9_]*)*",
        "features with commas between them, such as UEFI_COMPATIBLE,GVNIC",
        "Invalid value for field 'resource.guestOsFeatures'",
        _FEATURES,
    ),
)


def needed_features(tee: str) -> tuple[str, ...]:
    """Guest OS features that an image has to declare for a machine with that protection."""
    return _NEEDED_FEATURES[tee]


@dataclass(frozen=True)
class Gcp:
    """An image made of an archive in a bucket, and a Confidential VM."""

    name: str = "gcp"
    disk_formats: tuple[str, ...] = ("gce",)
    machine_disks: MachineDisks = MachineDisks(
        what="a disk",
        type="disk-type",
        # The least size of Hyperdisks is another for each type.
        sizes=(DiskSizes("pd-*", 10, MAX_DISK // GIB), DiskSizes("*", 1, MAX_DISK // GIB)),
        # Google Cloud SDK 528, command_lib/compute/instances/flags.py.
        too_small="gcloud answers that --boot-disk-size: Value must be greater than or equal to 10 GB",
        too_large="gcloud compute instances create would refuse it",
        # The words are in elasticluster/elasticluster#716.
        below_image="gcp answers Requested disk size cannot be smaller than the image size",
        spec=_DISKS,
    )

    @property
    def disk_format(self) -> str:
        """The format of the archive."""
        return self.disk_formats[0]

    @property
    def name_kinds(self) -> tuple[str, ...]:
        """Kinds of names that there are rules for."""
        return tuple(rule.kind for rule in _RULES)

    def problems(self, shipment: Shipment) -> tuple[Finding, ...]:
        """What Google Cloud would refuse."""
        return (
            *common_findings(self.name, self.disk_formats, shipment, without_uefi=_WITHOUT_UEFI),
            *_disk(shipment.disk_size),
            *machine_disk_findings(shipment, self.machine_disks),
            *name_findings(self.name, _RULES, shipment.names),
            *_machine(shipment),
            *_features(shipment),
        )

    def file_problems(self, shipment: Shipment, path: Path) -> tuple[Finding, ...]:
        """What Google Cloud would refuse of the archive: its headers are unpacked, and its end is read.

        Raises:
            OSError: the file cannot be read.
        """
        from .tar_file import findings

        with path.open("rb") as file:
            return findings(file, shipment.disk_size)


def _disk(size: int) -> Iterator[Finding]:
    yield from alignment_findings("gcp", size, GIB, "that the tar archive is not a valid image", _IMPORT)
    if size > MAX_DISK:
        what = f"a disk of {size_text(size)}, and the largest has 64 TiB"
        yield Finding(
            "disk", f"{what}; gcloud compute images create would refuse it; make it smaller", _DISKS
        )


def _machine(shipment: Shipment) -> Iterator[Finding]:
    machine = shipment.value("machine-type") or ""
    if "-" in machine:
        answer = "gcp answers that the confidential instance type is not supported for the machine type"
        answer += f"; use for example {_EXAMPLES.get(shipment.tee)}"
        yield from protection_findings("machine-type", machine, shipment, _MACHINES, answer, _CONFIDENTIAL)
        arm = machine.split("-")[0] in _ARM_SERIES
        yield from processor_findings("machine-type", machine, arm=arm, architecture=shipment.architecture)


def _features(shipment: Shipment) -> Iterator[Finding]:
    text = shipment.value("guest-os-features")
    if text is None:
        return
    given = text.split(",")
    for feature in _NEEDED_FEATURES.get(shipment.tee, ()):
        if feature not in given:
            what = f"{feature} is missing; gcp would not start a machine with tee {shipment.tee}; add it"
            yield Finding("guest-os-features", what, _FEATURES)
