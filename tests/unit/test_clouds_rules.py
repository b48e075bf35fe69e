"""Shipments that clouds take, and whole messages about those that they do not."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from recipes.clouds import aws, azure, gcp
from recipes.clouds.cloud import Finding, Shipment
from recipes.clouds.registry import CLOUDS, lookup
from recipes.errors import SpecError
from recipes.units import GIB, KIB, MIB
from tests.support import ROOT

Names = tuple[tuple[str, str], ...]

AZURE = Shipment(
    image="debian-cvm",
    version="1.0.0",
    architecture="x86_64",
    firmware="uefi",
    disk_format="vhd",
    disk_size=700 * MIB,
    tee="tdx",
    secure_boot=True,
    names=(
        ("vm", "cvm_test"),
        ("resource-group", "cvm_test_rg"),
        ("storage-account", "cvmtest"),
        ("container", "disks"),
        ("blob", "debian-cvm-1.0.0.vhd"),
        ("gallery", "goldsmith"),
        ("image-definition", "debian-cvm"),
        ("image-version", "1.0.0"),
        ("network-security-group", "cvm_testNSG"),
        ("region", "East US 2"),
        ("vm-size", "Standard_DC2es_v5"),
        ("os-disk-security", "VMGuestStateOnly"),
        ("security-feature", "TrustedLaunchAndConfidentialVmSupported"),
    ),
)
GCP = Shipment(
    image="debian-cvm",
    version="1.0.0",
    architecture="x86_64",
    firmware="uefi",
    disk_format="gce",
    disk_size=GIB,
    tee="tdx",
    secure_boot=True,
    names=(
        ("vm", "cvm-test"),
        ("image", "debian-cvm-1-0-0"),
        ("image-family", "debian-cvm"),
        ("disk", "cvm-test"),
        ("network", "default"),
        ("firewall-rule", "cvm-test-8000"),
        ("bucket", "cvm-test_images"),
        ("object", "debian-cvm/disk.tar.gz"),
        ("project", "example-project-1"),
        ("zone", "asia-southeast1-b"),
        ("storage-location", "asia"),
        ("machine-type", "c3-standard-4"),
        ("disk-type", "pd-balanced"),
        ("guest-os-features", "TDX_CAPABLE,SEV_SNP_CAPABLE,GVNIC,UEFI_COMPATIBLE,VIRTIO_SCSI_MULTIQUEUE"),
    ),
)
AWS = Shipment(
    image="debian-cvm",
    version="1.0.0",
    architecture="x86_64",
    firmware="uefi",
    disk_format="vmdk",
    disk_size=700 * MIB,
    tee="sev-snp",
    secure_boot=True,
    names=(
        ("ami", "debian-cvm 1.0.0 (test)"),
        ("bucket", "cvm-test.images"),
        ("object", "debian-cvm/disk.vmdk"),
        ("region", "us-east-2"),
        ("instance-type", "m6a.large"),
        ("vm", "cvm-test"),
        ("snapshot", "debian-cvm 1.0.0"),
        ("role", "vmimport"),
        ("security-group", "cvm-test"),
        ("root-device", "/dev/xvda"),
        ("volume-type", "gp3"),
    ),
)
GOOD = {"azure": AZURE, "gcp": GCP, "aws": AWS}


def named(shipment: Shipment, *names: tuple[str, str]) -> Shipment:
    """The shipment with other names of these kinds."""
    kinds = {kind for kind, _ in names}
    return replace(shipment, names=(*names, *(item for item in shipment.names if item[0] not in kinds)))


def said(cloud: str, shipment: Shipment) -> list[str]:
    return [str(finding) for finding in lookup(cloud).problems(shipment)]


def test_the_clouds() -> None:
    assert [cloud.name for cloud in CLOUDS] == ["azure", "gcp", "aws"]
    assert [cloud.disk_format for cloud in CLOUDS] == ["vhd", "gce", "vmdk"]
    with pytest.raises(SpecError) as caught:
        lookup("azur")
    assert str(caught.value) == "cloud 'azur' is not known; did you mean 'azure'?"


@pytest.mark.parametrize("cloud", sorted(GOOD))
def test_a_good_shipment_names_everything_once(cloud: str) -> None:
    shipment = GOOD[cloud]
    assert said(cloud, shipment) == []
    kinds = [kind for kind, _ in shipment.names]
    assert len(set(kinds)) == len(kinds)
    assert set(kinds) == set(lookup(cloud).name_kinds)


@pytest.mark.parametrize(
    ("cloud", "shipment"),
    [
        ("azure", named(replace(AZURE, tee="sev-snp"), ("vm-size", "Standard_EC4ads_v5"))),
        ("azure", named(replace(AZURE, tee="sev-snp"), ("vm-size", "Standard_DC2as_v6"))),
        (
            "azure",
            named(AZURE, ("vm-size", "Standard_DC2es_v6"), ("os-disk-security", "DiskWithVMGuestState")),
        ),
        ("azure", replace(AZURE, disk_size=20 * MIB)),
        ("azure", replace(AZURE, disk_size=4095 * GIB)),
        ("azure", replace(AZURE, names=())),
        (
            "azure",
            replace(AZURE, tee="none", architecture="aarch64", names=(("vm-size", "Standard_D2ps_v5"),)),
        ),
        ("azure", named(replace(AZURE, secure_boot=False), ("region", "uk west"))),
        (
            "gcp",
            named(replace(GCP, tee="sev-snp"), ("machine-type", "n2d-standard-2")),
        ),
        ("gcp", replace(GCP, disk_size=64 * 1024 * GIB)),
        (
            "gcp",
            replace(GCP, tee="none", architecture="aarch64", names=(("machine-type", "c4a-standard-1"),)),
        ),
        ("gcp", named(GCP, ("project", "example.com:project-1"))),
        ("gcp", replace(GCP, machine_disk=10 * GIB)),
        ("gcp", named(replace(GCP, machine_disk=4 * GIB), ("disk-type", "hyperdisk-balanced"))),
        ("gcp", replace(GCP, disk_size=11 * GIB, machine_disk=11 * GIB)),
        ("azure", replace(AZURE, disk_size=4095 * GIB, machine_disk=4095 * GIB)),
        ("azure", replace(AZURE, machine_disk=GIB)),
        (
            "azure",
            named(replace(AZURE, secure_boot=False), ("security-feature", "ConfidentialVmSupported")),
        ),
        ("aws", named(replace(AWS, machine_disk=16384 * GIB), ("volume-type", "gp2"))),
        ("aws", named(AWS, ("instance-type", "c6a.16xlarge"), ("region", "eu-west-1"))),
        ("aws", replace(AWS, tee="none", architecture="aarch64", names=(("instance-type", "c7gn.large"),))),
        (
            "aws",
            replace(AWS, tee="none", names=(("instance-type", "g6.xlarge"), ("region", "us-gov-west-1"))),
        ),
    ],
)
def test_what_is_taken(cloud: str, shipment: Shipment) -> None:
    assert said(cloud, shipment) == []


OTHERWISE = [
    (
        "azure",
        replace(AZURE, tee="snp"),
        "tee: 'snp' is not known; did you mean 'sev-snp'?",
    ),
    (
        "gcp",
        replace(GCP, architecture="x86-64"),
        "architecture: 'x86-64' is not known; did you mean 'x86_64'?",
    ),
    (
        "azure",
        replace(AZURE, disk_format="qcow2"),
        "disk: azure is given a disk in format vhd, not qcow2; add vhd to disk.formats of the recipe",
    ),
    (
        "gcp",
        replace(GCP, disk_format="raw"),
        "disk: gcp is given a disk in format gce, not raw; add gce to disk.formats of the recipe",
    ),
    (
        "aws",
        replace(AWS, firmware="bios"),
        (
            "firmware: confidential machines, vTPM and Secure Boot of aws need UEFI, not bios;"
            " aws ec2 register-image takes --tpm-support with --boot-mode uefi alone; build the"
            " image with a UKI"
        ),
    ),
    (
        "azure",
        replace(AZURE, firmware="bios"),
        (
            "firmware: confidential machines, vTPM and Secure Boot of azure need UEFI, not bios;"
            " azure answers"
            " BadRequest (the selected VM size cannot boot Hypervisor Generation '1'); build the"
            " image with a UKI"
        ),
    ),
    (
        "gcp",
        replace(GCP, firmware="bios"),
        (
            "firmware: confidential machines, vTPM and Secure Boot of gcp need UEFI, not bios; the console of"
            " such a machine says UEFI: Failed to load image; build the image with a UKI"
        ),
    ),
    (
        "aws",
        replace(AWS, architecture="aarch64", names=()),
        (
            "tee: aws has no confidential machines with aarch64 processors; publish an x86_64 image, or with"
            " tee none"
        ),
    ),
    (
        "azure",
        named(AZURE, ("galery", "x")),
        "galery: azure has no such kind of name; did you mean 'gallery'?",
    ),
    # Azure: sizes.
    (
        "azure",
        replace(AZURE, disk_size=700 * MIB + 512),
        (
            "disk: a disk of 734003712 bytes (700.0 MiB) is not a multiple of 1 MiB; azure answers"
            " InvalidParameter"
            " (unsupported virtual size; it must be a whole number in MBs); ship it in the format made for"
            " azure"
            " [Microsoft Learn, Prepare a Windows VHD or VHDX to upload to Azure, Convert the virtual disk]"
        ),
    ),
    (
        "azure",
        replace(AZURE, disk_size=19 * MIB),
        (
            "disk: with its footer the disk has 19923456 bytes (19.0 MiB), and an upload 20972032 to"
            " 35183298347520;"
            " the PUT of the image version (az rest) would fail; make the disk larger or smaller"
            " [azure-cli, az disk create]"
        ),
    ),
    (
        "azure",
        replace(AZURE, disk_size=4096 * GIB),
        (
            "disk: a disk of 4398046511104 bytes (4096 GiB), and a disk that is booted from has at most"
            " 4095 GiB;"
            " az vm create would refuse it; make it smaller [Microsoft Learn, Introduction to"
            " Azure managed disks, OS disk]"
        ),
    ),
    # Azure: machines.
    (
        "azure",
        named(AZURE, ("vm-size", "Standard_DC2as_v5")),
        (
            "vm-size: 'Standard_DC2as_v5' offers sev-snp, and the image wants tdx; azure answers"
            " BadRequest (the VM"
            " size is not supported with security type ConfidentialVM); use for example Standard_DC2es_v6"
            " [Microsoft Learn, About Azure confidential VMs, Size support]"
        ),
    ),
    (
        "azure",
        named(replace(AZURE, tee="sev-snp"), ("vm-size", "Standard_D2s_v5")),
        (
            "vm-size: 'Standard_D2s_v5' offers neither sev-snp nor tdx, and the image wants sev-snp; azure"
            " answers"
            " BadRequest (the VM size is not supported with security type ConfidentialVM); use for example"
            " Standard_DC2as_v5 [Microsoft Learn, About Azure confidential VMs, Size support]"
        ),
    ),
    (
        "azure",
        replace(AZURE, tee="none", names=(("vm-size", "Standard_D2ps_v5"),)),
        "vm-size: 'Standard_D2ps_v5' has an Arm processor, and the image is for x86_64; choose another",
    ),
    (
        "azure",
        named(replace(AZURE, secure_boot=False), ("os-disk-security", "DiskWithVMGuestState")),
        (
            "os-disk-security: DiskWithVMGuestState needs Secure Boot, and the image has none; azure answers"
            " BadRequest; use VMGuestStateOnly or"
            " sign the image [Microsoft Learn, About Azure confidential VMs, Confidential OS disk encryption]"
        ),
    ),
    (
        "azure",
        replace(AZURE, tee="none", names=(("os-disk-security", "NonPersistedTPM"),)),
        (
            "os-disk-security: NonPersistedTPM is for confidential machines, and the image has tee none;"
            " azure answers BadRequest (the parameter 'managedDisk.securityProfile' can only be set for"
            " Confidential VMs); leave it out"
            " [azure-cli, az vm create]"
        ),
    ),
    (
        "azure",
        named(AZURE, ("region", "Mexico Central")),
        (
            "region: Mexico Central takes no Secure Boot keys of our own, and the image is signed with"
            " them; the PUT of the image version (az rest) would fail; choose"
            " another region, or ship without Secure Boot [Microsoft Learn, Secure Boot UEFI keys,"
            " Considerations]"
        ),
    ),
    (
        "azure",
        named(AZURE, ("region", "usgovvirginia")),
        (
            "region: usgovvirginia is of a cloud that takes no Secure Boot keys of our own; the PUT of the"
            " image version (az rest) would fail; choose a region of the"
            " public cloud [Microsoft Learn, Secure Boot UEFI keys, Considerations]"
        ),
    ),
    # Azure: names.
    (
        "azure",
        named(AZURE, ("vm", "cvm-")),
        (
            "vm: 'cvm-' is not 1 to 64 letters, digits, '.', '_' or '-', a letter or digit in front and no"
            " '.' or '-'"
            " at the end; azure answers InvalidParameter (the entity name is invalid according to its"
            " validation"
            " rule); choose another [Microsoft Learn, Naming rules and restrictions for Azure resources,"
            " Microsoft.Compute]"
        ),
    ),
    (
        "azure",
        named(AZURE, ("storage-account", "cvm_test")),
        (
            "storage-account: 'cvm_test' is not 3 to 24 small letters and digits; azure answers"
            " AccountNameInvalid;"
            " choose another [Microsoft Learn, Naming rules and restrictions for Azure resources,"
            " Microsoft.Storage]"
        ),
    ),
    (
        "azure",
        named(AZURE, ("image-version", "1.0.2147483648")),
        (
            "image-version: 2147483648 in '1.0.2147483648' is more than 2147483647, the largest 32-bit"
            " integer; azure answers InvalidParameter (the image version name should follow"
            " Major(int).Minor(int).Patch(int) format, where int is between 0 and 2,147,483,647"
            " (inclusive)); use"
            " smaller numbers [Microsoft Learn, Naming rules and restrictions for Azure resources,"
            " Microsoft.Compute]"
        ),
    ),
    # Google Cloud.
    (
        "gcp",
        replace(GCP, disk_size=GIB + MIB),
        (
            "disk: a disk of 1074790400 bytes (1.0 GiB) is not a multiple of 1 GiB; gcp answers that the"
            " tar archive is"
            " not a valid image; ship it in the format made for gcp [Google Cloud, Compute Engine,"
            " Manually import"
            " boot disks]"
        ),
    ),
    (
        "gcp",
        replace(GCP, disk_size=(64 * 1024 + 1) * GIB),
        (
            "disk: a disk of 70369817919488 bytes (65537 GiB), and the largest has 64 TiB; gcloud compute"
            " images create would refuse it; make it smaller"
            " [Google Cloud, Compute Engine, Persistent Disk]"
        ),
    ),
    (
        "gcp",
        named(GCP, ("image", "debian_cvm")),
        (
            "image: 'debian_cvm' is not 1 to 63 small letters, digits and hyphens with a letter in front"
            " and no hyphen"
            " at the end; gcp answers Invalid value for field 'resource.name' (must be a match of regex"
            " '[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?'); choose another [Google Cloud, Compute Engine, Naming"
            " resources]"
        ),
    ),
    (
        "gcp",
        named(GCP, ("machine-type", "n2d-standard-2")),
        (
            "machine-type: 'n2d-standard-2' offers sev-snp, and the image wants tdx; gcp answers that the"
            " confidential"
            " instance type is not supported for the machine type; use for example c3-standard-4"
            " [Google Cloud, Confidential VM, Supported configurations]"
        ),
    ),
    (
        "gcp",
        named(replace(GCP, tee="sev-snp"), ("machine-type", "c3d-standard-4")),
        (
            "machine-type: 'c3d-standard-4' offers neither sev-snp nor tdx, and the image wants sev-snp;"
            " gcp answers"
            " that the confidential instance type is not supported for the machine type; use for example"
            " n2d-standard-2 [Google Cloud, Confidential VM, Supported configurations]"
        ),
    ),
    (
        "gcp",
        named(GCP, ("guest-os-features", "GVNIC,UEFI_COMPATIBLE,SEV_SNP_CAPABLE")),
        (
            "guest-os-features: TDX_CAPABLE is missing; gcp would not start a machine with tee tdx; add it"
            " [gcloud compute images create --guest-os-features]"
        ),
    ),
    # AWS.
    (
        "aws",
        replace(AWS, disk_size=100),
        (
            "disk: a disk of 100 bytes is not whole sectors of 512 bytes; aws answers that disk validation"
            " failed;"
            " rebuild it [AWS, VM Import/Export User Guide, Limitations]"
        ),
    ),
    (
        "aws",
        replace(AWS, disk_size=8193 * GIB),
        (
            "disk: a disk of 8797166764032 bytes (8193 GiB), and beyond 8 TiB an import needs a manifest;"
            " aws ec2 import-snapshot would refuse it; make it"
            " smaller [AWS, VM Import/Export User Guide, Limitations]"
        ),
    ),
    (
        "aws",
        replace(AWS, tee="tdx"),
        (
            "tee: aws has no machines with TDX, and --cpu-options of aws ec2 run-instances no word for them;"
            " publish there with sev-snp, or publish to azure or gcp"
            " [Amazon EC2 API Reference, CpuOptionsRequest]"
        ),
    ),
    # What an Azure image is for.
    (
        "azure",
        named(
            replace(AZURE, tee="none", secure_boot=False, names=()),
            ("vm-size", "Standard_D2s_v5"),
            ("security-feature", "ConfidentialVmSupported"),
        ),
        (
            "security-feature: of an image with ConfidentialVmSupported no machine with Trusted"
            " Launch is made,"
            " and the image has tee none; azure answers BadRequest (use of TrustedLaunch setting is not"
            " supported for the provided image); use TrustedLaunchAndConfidentialVmSupported"
            " [Microsoft Learn,"
            " Deploy confidential VM from an Azure Compute Gallery image, Create"
            " ConfidentialVMSupported image]"
        ),
    ),
    (
        "azure",
        named(AZURE, ("security-feature", "ConfidentialVmSupported")),
        (
            "security-feature: an image with ConfidentialVmSupported takes no Secure Boot keys"
            " of our own, and"
            " the image is signed with them; the PUT of the image version (az rest) would fail; use"
            " TrustedLaunchAndConfidentialVmSupported, or ship without Secure Boot"
            " [Microsoft Learn, Secure Boot UEFI keys, Prerequisites]"
        ),
    ),
    # A machine's own disk.
    (
        "azure",
        replace(AZURE, machine_disk=4096 * GIB),
        (
            "disk-size: the machine's disk has 4096 GiB, more than the 4095 of a disk that is"
            " booted from; az vm"
            " create would refuse it; make it smaller or leave it out"
            " [Microsoft Learn, Introduction to Azure managed disks, OS disk]"
        ),
    ),
    (
        "azure",
        replace(AZURE, disk_size=3 * GIB + MIB, machine_disk=3 * GIB),
        (
            "disk-size: the machine's disk has 3 GiB, and the image alone needs 4; azure answers"
            " OperationNotAllowed (the specified disk size is smaller than the size of the corresponding disk"
            " in the VM image); make it larger or leave it out"
        ),
    ),
    (
        "gcp",
        replace(GCP, machine_disk=9 * GIB),
        (
            "disk-size: the machine's disk has 9 GiB, less than the 10 of a disk of type pd-balanced; gcloud"
            " answers that --boot-disk-size: Value must be greater than or equal to 10 GB; make it larger or"
            " leave it out [Google Cloud, Compute Engine, Persistent Disk]"
        ),
    ),
    (
        "gcp",
        replace(GCP, machine_disk=65537 * GIB),
        (
            "disk-size: the machine's disk has 65537 GiB, more than the 65536 of a disk of type pd-balanced;"
            " gcloud compute instances create would refuse it; make it smaller or leave it out"
            " [Google Cloud, Compute Engine, Persistent Disk]"
        ),
    ),
    (
        "gcp",
        replace(GCP, disk_size=12 * GIB, machine_disk=11 * GIB),
        (
            "disk-size: the machine's disk has 11 GiB, and the image alone needs 12; gcp answers"
            " Requested disk"
            " size cannot be smaller than the image size; make it larger or leave it out"
        ),
    ),
    (
        "aws",
        replace(AWS, machine_disk=70000 * GIB),
        (
            "disk-size: the machine's disk has 70000 GiB, more than the 65536 of a volume of"
            " type gp3; aws ec2"
            " run-instances would refuse it; make it smaller or leave it out"
            " [Amazon EBS User Guide, Amazon EBS volume types]"
        ),
    ),
    (
        "aws",
        named(replace(AWS, machine_disk=16385 * GIB), ("volume-type", "gp2")),
        (
            "disk-size: the machine's disk has 16385 GiB, more than the 16384 of a volume of"
            " type gp2; aws ec2"
            " run-instances would refuse it; make it smaller or leave it out"
            " [Amazon EBS User Guide, Amazon EBS volume types]"
        ),
    ),
    (
        "aws",
        replace(AWS, disk_size=2 * GIB + 512, machine_disk=2 * GIB),
        (
            "disk-size: the machine's disk has 2 GiB, and the image alone needs 3; aws answers"
            " InvalidBlockDeviceMapping (volume is smaller than snapshot); make it larger or leave it out"
        ),
    ),
    (
        "aws",
        named(AWS, ("region", "us-east-1")),
        (
            "region: 'us-east-1' has no SEV-SNP; aws answers UnsupportedOperation; use us-east-2 or eu-west-1"
            " [Amazon EC2 User Guide, AMD SEV-SNP for Amazon EC2 instances, Requirements]"
        ),
    ),
    (
        "aws",
        named(AWS, ("instance-type", "m6a.16xlarge")),
        (
            "instance-type: 'm6a.16xlarge' has no SEV-SNP; aws answers InvalidParameterCombination; use"
            " m6a: large, xlarge, 2xlarge, 4xlarge, 8xlarge;"
            " c6a: large, xlarge, 2xlarge, 4xlarge, 8xlarge, 12xlarge, 16xlarge;"
            " r6a: large, xlarge, 2xlarge, 4xlarge"
            " [Amazon EC2 User Guide, AMD SEV-SNP for Amazon EC2 instances, Requirements]"
        ),
    ),
    (
        "aws",
        replace(AWS, tee="none", names=(("instance-type", "m7g.large"),)),
        "instance-type: 'm7g.large' has an Arm processor, and the image is for x86_64; choose another",
    ),
    (
        "aws",
        named(AWS, ("ami", "debian+cvm")),
        (
            "ami: 'debian+cvm' is not 3 to 128 letters, digits, spaces or ( ) [ ] . / - ' @ _; aws answers"
            " InvalidAMIName.Malformed; choose another [Amazon EC2 API Reference, RegisterImage, Name]"
        ),
    ),
]


@pytest.mark.parametrize(("cloud", "shipment", "message"), OTHERWISE)
def test_what_is_refused(cloud: str, shipment: Shipment, message: str) -> None:
    assert said(cloud, shipment) == [message]


# For each cloud and kind: names that are taken, and names that are not.
EDGES: dict[tuple[str, str], tuple[list[str], list[str]]] = {
    ("azure", "vm"): (["a", "a" * 64, "A.b_c-9", "x_"], ["", "a" * 65, "_a", "-a", "a.", "a b", "a/b", "ä"]),
    ("azure", "resource-group"): (["(a)", "a" * 90, "-"], ["", "a.", "a" * 91, "a b", "a/b"]),
    ("azure", "storage-account"): (["abc", "a1b2" * 6], ["ab", "a" * 25, "Abc", "a-b"]),
    ("azure", "container"): (["a-b", "1" * 63], ["ab", "a--b", "-ab", "ab-", "a_b", "Abc", "a" * 64]),
    ("azure", "blob"): (
        ["a.vhd", "d/a.vhd", "a" * 1020 + ".vhd"],
        ["a.vhdx", ".vhd", "d/.vhd", "a b.vhd", "a" * 1021 + ".vhd"],
    ),
    ("azure", "gallery"): (["a", "a.b", "a" * 80], ["a-b", "a_b", ".a", "a.", "a" * 81]),
    ("azure", "image-definition"): (["a-b_c.d"], ["-a", "a-", "a b", "a" * 81]),
    ("azure", "image-version"): (
        ["0.0.1", "1.2.2147483647"],
        ["1.0", "1.0.0.0", "v1.0.0", "1.0.0-rc1", "1..0"],
    ),
    ("azure", "region"): (["eastus", "East US 2"], ["", "east-us", "2us"]),
    ("gcp", "vm"): (["a", "a" * 63, "a-1"], ["", "a" * 64, "1a", "a-", "A", "a_b", "a.b", "a\n"]),
    ("gcp", "bucket"): (
        ["abc", "0" * 63, "a_b-c"],
        [
            "ab",
            "a" * 64,
            "-ab",
            "ab_",
            "Abc",
            "a.b.c",
            "192.168.5.4",
            "goog-a",
            "my-google-x",
            "g00gle",
            "a b",
        ],
    ),
    ("gcp", "object"): (
        ["a.tar.gz", "d/ü.tar.gz"],
        [".tar.gz", "a.tar", "a.tgz", "a\n.tar.gz", "a" * 1018 + ".tar.gz"],
    ),
    ("gcp", "project"): (["abcdef", "a" + "1" * 29], ["abcde", "1bcdef", "abcde-", "a" * 31, "Abcdef"]),
    ("gcp", "zone"): (
        ["us-central1-a", "northamerica-northeast1-c"],
        ["us-central1", "us-central-a", "US-central1-a"],
    ),
    ("gcp", "storage-location"): (["us", "europe-west4"], ["europe", "us-central1-a"]),
    ("aws", "ami"): (["abc", "a" * 128, "()[] ./-'@_"], ["ab", "a" * 129, "a:b", "aäb", "abc\n"]),
    ("aws", "bucket"): (
        ["abc", "a.b-c", "0" * 63],
        [
            *(
                "ab",
                "a" * 64,
                "A-b",
                "a_b",
                "-ab",
                "ab-",
                "ab.",
                "a..b",
                "192.168.5.4",
                "xn--abc",
                "sthree-a",
            ),
            *("amzn-s3-demo-a", "a-s3alias", "a--ol-s3", "a.mrap", "a--x-s3", "a--table-s3"),
        ],
    ),
    ("aws", "object"): (["a", "a" * 1024], ["", "a" * 1025, "a\tb"]),
    ("aws", "region"): (["us-gov-west-1"], ["us-east", "us-east-2a", "useast2"]),
    ("aws", "vm"): (["cvm test/1"], ["", "a" * 257, "aws:x"]),
    ("aws", "role"): (["vmimport", "a+=,.@-_"], ["", "a b", "a" * 65]),
    ("aws", "security-group"): (["a b_1"], ["sg-1", "", "a" * 256, "ä"]),
    ("aws", "root-device"): (["/dev/sda1"], ["xvda", "/dev/sdf"]),
    ("aws", "volume-type"): (["gp2", "gp3"], ["gp4", "io2", "standard"]),
    ("azure", "security-feature"): (["TrustedLaunchAndConfidentialVmSupported"], ["Standard", ""]),
    ("gcp", "disk-type"): (["pd-ssd", "hyperdisk-balanced-high-availability"], ["pd", "ssd", "pd-"]),
}


@pytest.mark.parametrize(("cloud", "kind"), sorted(EDGES))
def test_names_at_the_edge(cloud: str, kind: str) -> None:
    taken, refused = EDGES[cloud, kind]
    base = replace(GOOD[cloud], tee="none", secure_boot=False, names=())

    def subjects(name: str) -> list[str]:
        return [finding.subject for finding in lookup(cloud).problems(replace(base, names=((kind, name),)))]

    assert [name for name in taken if subjects(name)] == []
    assert [name for name in refused if subjects(name) != [kind]] == []


def test_a_long_name_is_cut_in_the_message() -> None:
    (message,) = said("gcp", named(GCP, ("vm", "a" * 5000)))
    assert message.startswith(f"vm: '{'a' * 80}...' is not 1 to 63")


def test_all_problems_at_once() -> None:
    names = (("bucket", "X"), ("region", "nowhere"))
    shipment = replace(AWS, disk_format="raw", disk_size=1, tee="tdx", names=names)
    assert [finding.subject for finding in lookup("aws").problems(shipment)] == [
        *("disk", "disk", "bucket", "region", "tee"),
    ]


def test_findings_read_well_without_a_document() -> None:
    assert str(Finding("disk", "too large")) == "disk: too large"


@pytest.mark.parametrize(("size", "gib"), [(1, 1), (GIB, 1), (GIB + 1, 2), (10 * GIB, 10), (512 * KIB, 1)])
def test_volumes_are_whole_gib(size: int, gib: int) -> None:
    assert aws.volume_size(size) == gib


def test_features_that_an_image_declares() -> None:
    assert gcp.needed_features("tdx") == ("UEFI_COMPATIBLE", "GVNIC", "TDX_CAPABLE")


def test_limits_of_uploads() -> None:
    """As the help of az has them, in bytes."""
    assert (azure.MIN_UPLOAD, azure.MAX_UPLOAD) == (20972032, 35183298347520)


def test_rules_load_nothing_heavy() -> None:
    """They are asked while the task graph is made."""
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import recipes.clouds.registry;"
        " print(*(name for name in sys.modules if name.startswith('recipes')"
        " or name.split('.')[0] in ('cryptography', 'zstandard')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {
        *("recipes", "recipes.errors", "recipes.units", "recipes.record", "recipes.clouds"),
        *("recipes.clouds.cloud", "recipes.clouds.registry"),
        *("recipes.clouds.azure", "recipes.clouds.gcp", "recipes.clouds.aws"),
    }
