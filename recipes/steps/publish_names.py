"""What an image and its parts are called in a cloud, and how a cloud's findings get to the recipe's lines."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..reader import Marks, Place
from ..schema.publish import AwsSpec, AzureSpec, CloudSpec, GcpSpec, azure_version
from .disk_formats import FIRMWARE

if TYPE_CHECKING:
    from ..clouds.cloud import Finding, Shipment

# The longest name that every cloud takes: RFC 1035, a label. Digits of the disk's SHA-256 at its end.
_LABEL = 63
_DIGITS = 16
# Keys of recipes that are not called like the kind of name they give.
_KEYS = {
    "azure": {
        "vm-size": "size",
        "region": "location",
        "image-definition": "definition",
        "os-disk-security": "os_disk_encryption",
        "network-security-group": "vm",
    },
    "gcp": {"firewall-rule": "vm"},
    "aws": {"security-group": "vm"},
}
# Where it is the disk that a cloud does not take.
_DISK = ("disk", "formats")


def disk_name(image: str, version: str, sha256: str) -> str:
    """What a disk is called in a cloud: another one for another disk, and a label for Google Cloud.

    Args:
        sha256: of the disk's file, in hex.
    """
    words = re.sub(r"[^a-z0-9]+", "-", f"{image}-{version}".lower()).strip("-")
    if not words[:1].isalpha():
        words = f"image-{words}"
    return f"{words[: _LABEL - _DIGITS - 1].strip('-')}-{sha256[:_DIGITS]}"


def shipment(
    image: str, version: str, architecture: str, spec: CloudSpec, disk_format: str, disk_size: int, name: str
) -> Shipment:
    """What is about to be published, for the rules of its cloud.

    Args:
        disk_size: bytes of the disk that a machine sees.
        name: what the disk is called there.
    """
    from ..clouds.cloud import Shipment

    names, tee = _names(image, version, spec, name)
    return Shipment(
        image=image,
        version=version,
        architecture=architecture,
        disk_format=disk_format,
        disk_size=disk_size,
        firmware=FIRMWARE,
        tee=tee,
        secure_boot=spec.secure_boot,
        names=tuple((kind, value) for kind, value in names if value),
        machine_disk=spec.disk_size,
    )


def _names(image: str, version: str, spec: CloudSpec, name: str) -> tuple[list[tuple[str, str | None]], str]:
    """Names by kind, None for those that only the script knows; and what keeps the host out."""
    if isinstance(spec, AzureSpec):
        return _azure(image, version, spec, name), spec.tee.value
    if isinstance(spec, GcpSpec):
        return _gcp(image, spec, name), spec.tee.value
    assert isinstance(spec, AwsSpec)
    return _aws(spec, name), spec.tee.value


def _azure(image: str, version: str, spec: AzureSpec, name: str) -> list[tuple[str, str | None]]:
    return [
        ("vm", spec.vm),
        ("resource-group", spec.resource_group or f"{spec.vm}_rg"),
        ("storage-account", spec.storage_account),
        ("container", spec.container),
        ("blob", f"{name}.vhd"),
        ("gallery", spec.gallery),
        ("image-definition", spec.definition or image),
        ("image-version", spec.image_version or azure_version(version)),
        ("network-security-group", f"{spec.vm}-nsg"),
        ("region", spec.location),
        ("vm-size", spec.size or spec.BY_TEE[spec.tee.value]),
        ("security-feature", spec.security_feature.value),
        ("os-disk-security", spec.os_disk_encryption.value if spec.tee.value != "none" else None),
    ]


def _gcp(image: str, spec: GcpSpec, name: str) -> list[tuple[str, str | None]]:
    return [
        ("vm", spec.vm),
        ("image", name),
        ("image-family", image),
        ("network", spec.network),
        ("firewall-rule", f"{spec.vm}-ports"),
        ("bucket", spec.bucket),
        ("object", f"{name}.tar.gz"),
        ("project", spec.project),
        ("zone", spec.zone),
        ("storage-location", spec.storage_location or spec.zone.rpartition("-")[0]),
        ("machine-type", spec.machine_type or spec.BY_TEE[spec.tee.value]),
        ("disk-type", spec.disk_type),
        ("guest-os-features", ",".join(item.value for item in spec.guest_os_features)),
    ]


def _aws(spec: AwsSpec, name: str) -> list[tuple[str, str | None]]:
    return [
        ("vm", spec.vm),
        ("ami", name),
        ("bucket", spec.bucket),
        ("object", f"{name}.vmdk"),
        ("region", spec.region),
        ("instance-type", spec.instance_type),
        ("snapshot", name),
        ("role", spec.role),
        ("security-group", spec.vm),
        ("root-device", "/dev/xvda"),
        ("volume-type", spec.volume_type.value),
    ]


def note(noted: Marks, cloud: str, findings: Iterable[Finding]) -> None:
    """Notes what a cloud would refuse where the recipe says it, or would."""
    for finding in findings:
        key = _KEYS[cloud].get(finding.subject, finding.subject.replace("-", "_"))
        place: Place = _DISK if finding.subject == "disk" else ("publish", cloud, key)
        spec = f" [{finding.spec}]" if finding.spec else ""
        noted.add(place, f"publish.{cloud}: {finding.subject}: {finding.message}{spec}")
