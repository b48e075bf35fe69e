"""The kernel command line that HATs' launcher writes, and the expression that a verifier judges it by.

Spec: private-compute-infra-toolkit/hats 7d61840, client/launcher/qemu.cc ``Qemu::Create``; policies of
tvs/appraisal_policies.
"""

from __future__ import annotations

import re

from ..machine.hats import HatsNetwork, HatsShape, NetworkMode, RegexForm
from ..units import KIB

# What QEMU's user network calls the guest and its way out. Spec: qemu.cc kVmLocalAddress, NetworkMode.
GUEST, GATEWAY = "10.0.2.15", "10.0.2.2"
# What stands for the vsock port, which the launcher draws at each start.
PORT_WORD = "PORT"
_SPECIAL = re.compile(r"[\\.+*?()|\[\]{}^$]")


def command_line(shape: HatsShape, port: str = PORT_WORD) -> str:
    """What ``-append`` gets, with the space that it starts with.

    Args:
        port: of the launcher's vsock service; only at a start it is known.
    """
    debug = "debug " if shape.debug_port else ""
    disk = f"brd.rd_nr=1 brd.rd_size={shape.ramdrive // KIB} brd.max_part=1"
    words = f"console=ttyS0 panic=-1 {disk} {_address(shape.network)} quiet"
    return f"{debug} {words} -- --launcher-addr=vsock://2:{port}"


def regex(shape: HatsShape, form: RegexForm) -> str:
    """The expression for a policy; Rust's ``regex`` crate reads it."""
    if form is RegexForm.HATS:
        # Full stops stand as they are, and match any character; published policies have them so.
        return f"^{command_line(shape, '')}.*$"
    return f"^{_SPECIAL.sub(lambda found: chr(92) + found[0], command_line(shape, ''))}[0-9]+$"


def _address(network: HatsNetwork) -> str:
    """``ip=`` as Linux takes it: client, server, gateway, mask, name, device, no auto-configuration.

    Spec: Linux 6.12 Documentation/admin-guide/nfs/nfsroot.rst, ``ip=``.
    """
    address, gateway = {
        NetworkMode.INBOUND_ONLY: (GUEST, ""),
        NetworkMode.INBOUND_AND_OUTBOUND: (GUEST, GATEWAY),
        NetworkMode.VIRTUAL_BRIDGE: (network.address, network.gateway),
    }[network.mode]
    return f"ip={address}::{gateway}:255.255.255.0::enp0s1:off"
