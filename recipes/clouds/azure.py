"""Microsoft Azure: names, sizes and machines for an image in a compute gallery and a confidential machine.

Documents, all of Microsoft Learn, as of 2025: "Naming rules and restrictions for Azure resources"; "Upload a
VHD to Azure"; "Prepare a Windows VHD or VHDX to upload to Azure"; "Introduction to Azure managed disks";
"About Azure confidential VMs"; "Secure Boot UEFI keys"; the source of the command line, azure-cli 2.x.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ..record import dataclass
from ..units import GIB, MIB
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
    shown,
    size_text,
)

NAMING = "Microsoft Learn, Naming rules and restrictions for Azure resources"
CUSTOM_KEYS = "Microsoft Learn, Secure Boot UEFI keys, Considerations"
_CONFIDENTIAL = "Microsoft Learn, About Azure confidential VMs, Size support"
_DISKS = "Microsoft Learn, Introduction to Azure managed disks, OS disk"
_GALLERY_IMAGE = "Microsoft Learn, Deploy confidential VM from an Azure Compute Gallery image"
_FOOTER = 512

# Bytes of the uploaded file with its footer: 20972032 and 35183298347520. The reference of the API calls the
# latter 32 TiB, and it is 1 GiB less. Spec: azure-cli, az disk create --upload-size-bytes.
MIN_UPLOAD = 20 * MIB + _FOOTER
MAX_UPLOAD = 32767 * GIB + _FOOTER
MAX_OS_DISK = 4095 * GIB
# The words are in loft-sh/devpod#731.
_WITHOUT_UEFI = "azure answers BadRequest (the selected VM size cannot boot Hypervisor Generation '1')"
# The words are in Azure/az-hop#707.
VERSION_ANSWER = (
    "InvalidParameter (the image version name should follow Major(int).Minor(int).Patch(int) format, where"
    " int is between 0 and 2,147,483,647 (inclusive))"
)
# Each number of a version is a 32-bit integer: NAMING, Microsoft.Compute, galleries/images/versions.
_MAX_NUMBER = 2**31 - 1

CONFIDENTIAL_ALONE = "ConfidentialVmSupported"
CONFIDENTIAL_OR_NOT = "TrustedLaunchAndConfidentialVmSupported"
OS_DISK_SECURITY = ("VMGuestStateOnly", "DiskWithVMGuestState", "NonPersistedTPM")

# Sizes by what protects them: D and E series with AMD (a) and with Intel (e) processors. Those with ``cc``
# are parents of confidential child machines and the isolated ones (i) whole hosts; neither is one itself.
_SIZES = {
    "sev-snp": r"Standard_[DE]C[0-9]+ad?s_v[56]",
    "tdx": r"Standard_[DE]C[0-9]+ed?s_v[56]",
}
_EXAMPLES = {"sev-snp": "Standard_DC2as_v5", "tdx": "Standard_DC2es_v6"}
_SIZE = r"Standard_[A-Z]+[0-9]+(?:-[0-9]+)?(?P<features>[a-z]*)(?:_[A-Za-z0-9]+)*"

# Regions without custom UEFI keys, in small letters and without spaces. Spec: CUSTOM_KEYS.
NO_CUSTOM_KEYS = frozenset(
    [
        *("austriaeast", "belgiumcentral", "chilecentral", "indonesiacentral", "israelnorthwest"),
        *("jioindiacentral", "jioindiawest", "malaysiasouth", "malaysiawest", "mexicocentral"),
        *("qatarcentral", "southcentralus2", "southeastus", "southeastus3", "switzerlandwest"),
        *("taiwannorth", "taiwannorthwest", "ukwest", "westindia"),
    ]
)

_RULES = (
    NameRule(
        "vm",
        r"(?=.{1,64}\Z)[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?",
        "1 to 64 letters, digits, '.', '_' or '-', a letter or digit in front and no '.' or '-' at the end",
        "InvalidParameter (the entity name is invalid according to its validation rule)",
        f"{NAMING}, Microsoft.Compute",
    ),
    NameRule(
        "resource-group",
        r"[\w().-]{0,89}[\w()-]",
        "1 to 90 letters, digits, '_', '-', '.' or parentheses that do not end with '.'",
        "InvalidResourceGroup",
        f"{NAMING}, Microsoft.Resources",
    ),
    NameRule(
        "storage-account",
        r"[a-z0-9]{3,24}",
        "3 to 24 small letters and digits",
        "AccountNameInvalid",
        f"{NAMING}, Microsoft.Storage",
    ),
    NameRule(
        "container",
        r"(?=.{3,63}\Z)[a-z0-9]+(?:-[a-z0-9]+)*",
        "3 to 63 small letters, digits and single hyphens between them",
        "InvalidResourceName",
        f"{NAMING}, Microsoft.Storage",
    ),
    NameRule(
        "blob",
        r"(?=.{5,1024}\Z)[A-Za-z0-9._~/-]*[A-Za-z0-9_~-]\.vhd",
        "up to 1024 letters, digits or . _ ~ / - that end in .vhd",
        "InvalidParameter (the blob name in the URL must end with '.vhd')",
        f"{NAMING}, Microsoft.Storage",
    ),
    NameRule(
        "gallery",
        r"(?=.{1,80}\Z)[A-Za-z0-9](?:[A-Za-z0-9.]*[A-Za-z0-9])?",
        "1 to 80 letters, digits and periods between them",
        "InvalidParameter",
        f"{NAMING}, Microsoft.Compute",
    ),
    NameRule(
        "image-definition",
        r"(?=.{1,80}\Z)[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?",
        "1 to 80 letters and digits with '.', '_' or '-' between them",
        "InvalidParameter",
        f"{NAMING}, Microsoft.Compute",
    ),
    NameRule(
        "image-version",
        r"[0-9]{1,10}\.[0-9]{1,10}\.[0-9]{1,10}",
        "three numbers with periods between them, such as 1.0.0",
        VERSION_ANSWER,
        f"{NAMING}, Microsoft.Compute",
    ),
    NameRule(
        "network-security-group",
        r"(?=.{1,80}\Z)[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?",
        "1 to 80 letters, digits, '.', '_' or '-', a letter or digit in front and no '.' or '-' at the end",
        "InvalidResourceName",
        f"{NAMING}, Microsoft.Network",
    ),
    NameRule(
        "region",
        r"[A-Za-z][A-Za-z0-9 ]{2,39}",
        "the name of a region, such as eastus or East US 2",
        "LocationNotAvailableForResourceType",
        "az account list-locations",
    ),
    NameRule(
        "vm-size", _SIZE, "the name of a size, such as Standard_DC2as_v5", "InvalidParameter", _CONFIDENTIAL
    ),
    NameRule(
        "os-disk-security",
        "|".join(OS_DISK_SECURITY),
        f"one of {', '.join(OS_DISK_SECURITY)}",
        "InvalidParameter",
        "azure-cli, az vm create --os-disk-security-encryption-type",
    ),
    NameRule(
        "security-feature",
        f"{CONFIDENTIAL_ALONE}|{CONFIDENTIAL_OR_NOT}",
        f"{CONFIDENTIAL_ALONE} or {CONFIDENTIAL_OR_NOT}",
        "InvalidParameter",
        "azure-cli, az sig image-definition create --features",
    ),
)


@dataclass(frozen=True)
class Azure:
    """An image version of a gallery, made of a page blob, and a generation 2 machine."""

    name: str = "azure"
    disk_formats: tuple[str, ...] = ("vhd",)
    machine_disks: MachineDisks = MachineDisks(
        what="a disk that is booted from",
        sizes=(DiskSizes("*", 1, MAX_OS_DISK // GIB),),
        too_large="az vm create would refuse it",
        # The words are in skypilot-org/skypilot#2219.
        below_image="azure answers OperationNotAllowed (the specified disk size is smaller than the size of"
        " the corresponding disk in the VM image)",
        spec=_DISKS,
    )

    @property
    def disk_format(self) -> str:
        """The format of the page blob."""
        return self.disk_formats[0]

    @property
    def name_kinds(self) -> tuple[str, ...]:
        """Kinds of names that there are rules for."""
        return tuple(rule.kind for rule in _RULES)

    def problems(self, shipment: Shipment) -> tuple[Finding, ...]:
        """What Azure would refuse."""
        return (
            *common_findings(self.name, self.disk_formats, shipment, without_uefi=_WITHOUT_UEFI),
            *_disk(shipment.disk_size),
            *machine_disk_findings(shipment, self.machine_disks),
            *name_findings(self.name, _RULES, shipment.names),
            *_version(shipment),
            *_size(shipment),
            *_security(shipment),
            *_feature(shipment),
            *_region(shipment),
        )

    def file_problems(self, shipment: Shipment, path: Path) -> tuple[Finding, ...]:
        """What Azure would refuse of the VHD: its footer is read, all 512 bytes.

        Raises:
            OSError: the file cannot be read.
        """
        from .vhd_file import findings

        with path.open("rb") as file:
            return findings(file, shipment.disk_size)


def _disk(size: int) -> Iterator[Finding]:
    answer = "InvalidParameter (unsupported virtual size; it must be a whole number in MBs)"
    spec = "Microsoft Learn, Prepare a Windows VHD or VHDX to upload to Azure, Convert the virtual disk"
    yield from alignment_findings("azure", size, MIB, answer, spec)
    upload = size + _FOOTER
    if not MIN_UPLOAD <= upload <= MAX_UPLOAD:
        what = f"with its footer the disk has {size_text(upload)}, and an upload {MIN_UPLOAD} to {MAX_UPLOAD}"
        what += "; the PUT of the image version (az rest) would fail; make the disk larger or smaller"
        yield Finding("disk", what, "azure-cli, az disk create")
    if size > MAX_OS_DISK:
        what = f"a disk of {size_text(size)}, and a disk that is booted from has at most 4095 GiB"
        yield Finding("disk", f"{what}; az vm create would refuse it; make it smaller", _DISKS)


def _version(shipment: Shipment) -> Iterator[Finding]:
    version = shipment.value("image-version") or ""
    numbers = re.findall(r"[0-9]+", version) if re.fullmatch(r"[0-9.]{1,40}", version) else []
    for number in numbers:
        if int(number) > _MAX_NUMBER:
            what = f"{number} in {shown(version)} is more than {_MAX_NUMBER}, the largest 32-bit integer"
            what += f"; azure answers {VERSION_ANSWER}; use smaller numbers"
            yield Finding("image-version", what, f"{NAMING}, Microsoft.Compute")


def _size(shipment: Shipment) -> Iterator[Finding]:
    size = shipment.value("vm-size") or ""
    match = re.fullmatch(_SIZE, size)
    if match is not None:
        answer = "azure answers BadRequest (the VM size is not supported with security type ConfidentialVM)"
        answer += f"; use for example {_EXAMPLES.get(shipment.tee)}"
        yield from protection_findings("vm-size", size, shipment, _SIZES, answer, _CONFIDENTIAL)
        arm = "p" in match["features"]
        yield from processor_findings("vm-size", size, arm=arm, architecture=shipment.architecture)


def _security(shipment: Shipment) -> Iterator[Finding]:
    security = shipment.value("os-disk-security")
    if security is None:
        return
    if shipment.tee == "none" and security in OS_DISK_SECURITY:
        what = f"{security} is for confidential machines, and the image has tee none"
        # The words are in hashicorp/terraform-provider-azurerm#30782.
        what += "; azure answers BadRequest (the parameter 'managedDisk.securityProfile' can only be set for"
        what += " Confidential VMs); leave it out"
        yield Finding("os-disk-security", what, "azure-cli, az vm create")
    if security == "DiskWithVMGuestState" and not shipment.secure_boot:
        what = "DiskWithVMGuestState needs Secure Boot, and the image has none"
        spec = "Microsoft Learn, About Azure confidential VMs, Confidential OS disk encryption"
        # Its code is in openshift/api#1403, and no words.
        what += "; azure answers BadRequest; use VMGuestStateOnly or sign the image"
        yield Finding("os-disk-security", what, spec)


def _feature(shipment: Shipment) -> Iterator[Finding]:
    if shipment.value("security-feature") != CONFIDENTIAL_ALONE:
        return
    if shipment.tee == "none":
        what = f"of an image with {CONFIDENTIAL_ALONE} no machine with Trusted Launch is made, and the image"
        # The words are in Azure/azure-cli#28005.
        what += " has tee none; azure answers BadRequest (use of TrustedLaunch setting is not supported for"
        what += f" the provided image); use {CONFIDENTIAL_OR_NOT}"
        yield Finding("security-feature", what, f"{_GALLERY_IMAGE}, Create ConfidentialVMSupported image")
    if shipment.secure_boot:
        what = f"an image with {CONFIDENTIAL_ALONE} takes no Secure Boot keys of our own, and the image is"
        what += " signed with them; the PUT of the image version (az rest) would fail;"
        what += f" use {CONFIDENTIAL_OR_NOT}, or ship without Secure Boot"
        yield Finding("security-feature", what, "Microsoft Learn, Secure Boot UEFI keys, Prerequisites")


# What the answer says is not on record.
_NO_KEYS = "the PUT of the image version (az rest) would fail"


def _region(shipment: Shipment) -> Iterator[Finding]:
    region = shipment.value("region")
    if region is None or not shipment.secure_boot:
        return
    plain = region.replace(" ", "").lower()
    if plain in NO_CUSTOM_KEYS:
        what = f"{region} takes no Secure Boot keys of our own, and the image is signed with them; {_NO_KEYS}"
        yield Finding("region", f"{what}; choose another region, or ship without Secure Boot", CUSTOM_KEYS)
    elif plain.startswith(("usgov", "usdod", "china")):
        what = f"{region} is of a cloud that takes no Secure Boot keys of our own; {_NO_KEYS}"
        yield Finding("region", f"{what}; choose a region of the public cloud", CUSTOM_KEYS)
