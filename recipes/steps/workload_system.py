"""What an image with a workload has in its root file system, and where its partitions are."""

from __future__ import annotations

from ..record import replace
from ..schema import DiskImage, Image, RootfsSpec
from ..schema.workload import IDENTITY_REGISTER
from .seeds import derived_uuid

# What is laid over the root file system of an image with a workload, and what of it starts at boot.
OVERLAY = "workload-podman"
UNITS = ("workload-measure.service", "workload.service")
# What the packages of podman and its network would start: an API, image updates, containers of other boots.
MASKED_UNITS = (
    *("podman.service", "podman.socket", "podman-auto-update.service", "podman-auto-update.timer"),
    *("podman-restart.service", "podman-clean-transient.service"),
    *("netavark-dhcp-proxy.service", "netavark-dhcp-proxy.socket", "netavark-firewalld-reload.service"),
)
# systemd's own words in PCR 15: identities that no build knows.
IDENTITY_UNITS = ("systemd-pcrmachine.service", "systemd-pcrfs-root.service", "systemd-pcrfs@.service")
# The settings of that overlay's script, which the build writes.
SETTINGS = "usr/lib/goldsmith/workload.conf"


def partition(image: DiskImage) -> str:
    """UUID of the workload's partition."""
    return str(derived_uuid(image, "workload"))


def hash_partition(image: DiskImage) -> str:
    """UUID of the partition with its hash tree."""
    return str(derived_uuid(image, "workload-verity"))


def settings(image: Image) -> tuple[tuple[str, str], ...]:
    """What the guest's script is told, ``KEY=value``; the same with and without a hash tree."""
    spec = image.recipe.workload
    if spec is None:
        return ()
    return ("WORKLOAD", spec.name), ("REGISTER", str(spec.register)), ("PARTITION", partition(image))


def with_workload(image: Image, spec: RootfsSpec) -> RootfsSpec:
    """What measures and starts the workload belongs to every image that has one."""
    chosen = image.recipe.workload
    if chosen is None:
        return spec
    masked = (*MASKED_UNITS, *(IDENTITY_UNITS if chosen.register == IDENTITY_REGISTER else ()))
    return replace(
        spec,
        overlays=(*spec.overlays, *(() if OVERLAY in spec.overlays else (OVERLAY,))),
        enable=(*spec.enable, *(name for name in UNITS if name not in spec.enable)),
        mask=(*spec.mask, *(name for name in masked if name not in spec.mask)),
    )
