"""What a user types into Islet's warden client to provision and start a realm.

The lines say the same machine as the command line of kvmtool that warden makes of them.

Spec: islet-project/realm-manager 79b74b6 warden (client commands) and lkvm.rs.
"""

from __future__ import annotations

import shlex
import uuid
from dataclasses import dataclass

from ..errors import MeasureError
from ..machine import KvmtoolMachine
from ..units import MIB


@dataclass(frozen=True, kw_only=True)
class WardenFiles:
    """Paths as warden sees them."""

    kernel: str
    initramfs: str
    metadata: str


@dataclass(frozen=True, kw_only=True)
class WardenApplication:
    """An application as warden provisions it.

    Attributes:
        version: tag or digest in the registry.
        image_size: bytes of its image partition, whole MiB.
        data_size: bytes of its data partition, whole MiB.
    """

    name: str
    version: str
    registry: str
    image_size: int
    data_size: int


def create_realm(machine: KvmtoolMachine, realm: uuid.UUID, files: WardenFiles) -> str:
    """The line that creates the realm.

    Raises:
        MeasureError: warden cannot start this machine.
    """
    networks = machine.networks or ()
    pairs = [item.partition("=") for item in networks[0].options.split(",")] if networks else []
    network = {key: value for key, _, value in pairs}
    if len(networks) != 1 or not {"tapif", "guest_mac"} <= network.keys():
        raise MeasureError(f"{machine.name}: warden starts realms with one tap device and its MAC address")
    if machine.algorithm != "sha256":
        raise MeasureError(f"{machine.name}: warden starts realms with sha256 only")
    words = ["create-realm", "-n", str(machine.vcpus), "-r", str(machine.memory // MIB)]
    words += ["-k", files.kernel, "-i", files.initramfs]
    if machine.parameters is not None:
        # Warden puts the quotation marks back.
        words += ["-o", machine.parameters.removeprefix('"').removesuffix('"')]
    words += ["-v", str(machine.vsock), "-d", files.metadata, "-z", str(realm)]
    return shlex.join([*words, "-t", network["tapif"], "-a", network["guest_mac"]])


def create_application(realm: uuid.UUID, application: WardenApplication) -> str:
    """The line that provisions an application."""
    return shlex.join(
        [
            *("create-application", "-r", str(realm), "-n", application.name, "-v", application.version),
            *("-i", application.registry, "-o", str(application.image_size // MIB)),
            *("-d", str(application.data_size // MIB)),
        ]
    )


def start_realm(realm: uuid.UUID) -> str:
    """The line that starts the realm."""
    return shlex.join(["start-realm", "-r", str(realm)])
