"""What HATs' launcher is told, and the command lines of launcher and QEMU that it leads to.

Spec: private-compute-infra-toolkit/hats 7d61840, client/launcher/{launcher_main,launcher,qemu}.cc and
client/proto/launcher_config.proto.
"""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf import json_format, text_format

from ..machine.hats import CvmType, HatsNetwork, HatsShape, NetworkMode
from ..units import KIB
from .command_line import GUEST, PORT_WORD, command_line
from .proto_file import message_classes

# Drawn by the launcher at each start; none of them is measured. Spec: qemu.cc Qemu::Create.
CID_WORD, TAP_WORD, SCRIPT_WORD, MAC_WORD = "CID", "TAP", "SCRIPT", "d6:ef:77:16:a5:XX"
# Members of the system bundle, which the launcher unpacks into a folder. Spec: launcher.cc UntarHatsBundle.
STAGE0, KERNEL, INITRD, SYSTEM = "stage0_bin", "kernel_bin", "initrd.cpio.xz", "system.tar.xz"
_NET = "virtio-net-pci,disable-legacy=on,iommu_platform=true,netdev=netdev,romfile="
_MESSAGES = message_classes("launcher_config.proto")


@dataclass(frozen=True, kw_only=True)
class BundlePaths:
    """Where the launcher finds the two bundles, relative to where it runs."""

    system: str
    runtime: str


def config_text(shape: HatsShape, bundles: BundlePaths) -> str:
    """``launcher_config.txtpb`` for one VM."""
    network = shape.network
    values: dict[str, object] = {
        "cvm_type": shape.cvm_type.value,
        "runc_runtime_bundle": bundles.runtime,
        "hats_system_bundle": bundles.system,
        "num_cpus": shape.vcpus,
        "ramdrive_size_kb": shape.ramdrive // KIB,
        "ram_size_kb": shape.memory // KIB,
        "vmm_binary": shape.vmm,
        "network_config": {network.mode.value: _network(network)},
    }
    if shape.debug_port:
        values["debug_telnet_port"] = shape.debug_port
    if shape.guest_cid is not None:
        values["virtio_guest_cid"] = shape.guest_cid
    message = _MESSAGES["LauncherConfig"]()
    json_format.ParseDict({"cvm_config": values}, message)
    # The first value of an enum is not written by itself, and it is the one that must not be overlooked.
    text = text_format.MessageToString(message)
    if shape.cvm_type is CvmType.DEFAULT:
        return text.replace("cvm_config {\n", f"cvm_config {{\n  cvm_type: {shape.cvm_type.value}\n", 1)
    return text


def _network(network: HatsNetwork) -> dict[str, object]:
    if network.mode is not NetworkMode.VIRTUAL_BRIDGE:
        return {"host_enclave_app_proxy_port": network.port}
    return {
        "virtual_bridge_device": network.bridge,
        "cvm_ip_addr": network.address,
        "cvm_gateway_addr": network.gateway,
    }


def launcher_line(shape: HatsShape, config: str) -> tuple[str, ...]:
    """The words that start the launcher; what is in capital letters is the user's to fill in."""
    microvm = ("--qemu_use_microvm",) if shape.microvm and shape.cvm_type is CvmType.SEVSNP else ()
    return (
        "./launcher_main",
        "--tvs_addresses=TVS_HOST:PORT",
        "--use_tls=false",
        f"--launcher_config_path={config}",
        "--tvs_authentication_key=HEX_PRIVATE_KEY",
        *microvm,
    )


def qemu_line(shape: HatsShape, folder: str = "") -> tuple[str, ...]:
    """The words that the launcher starts QEMU with.

    Args:
        folder: that the launcher has unpacked the system bundle into, with a slash at its end.
    """
    memory = f"{shape.memory // KIB}K"
    serial = f"telnet:localhost:{shape.debug_port},server" if shape.debug_port else "stdio"
    cid = CID_WORD if shape.guest_cid is None else str(shape.guest_cid)
    return (
        *(shape.vmm, "-enable-kvm", "-cpu", "host", "-m", memory, "-smp", str(shape.vcpus)),
        *("-nodefaults", "-nographic", "-no-reboot"),
        *_machine(shape, memory),
        *_network_words(shape.network),
        *("-device", f"vhost-vsock-pci,guest-cid={cid},rombar=0"),
        *("-bios", f"{folder}{STAGE0}", "-kernel", f"{folder}{KERNEL}", "-initrd", f"{folder}{INITRD}"),
        *("-append", command_line(shape, PORT_WORD), "-serial", serial),
    )


def _machine(shape: HatsShape, memory: str) -> tuple[str, ...]:
    machine = "microvm,acpi=on,pcie=on" if shape.on_microvm else "q35,acpi=on"
    if shape.cvm_type is CvmType.DEFAULT:
        return ("-machine", machine)
    return (
        *("-machine", f"{machine},memory-backend=ram1,confidential-guest-support=sev0"),
        *("-object", f"memory-backend-memfd,id=ram1,size={memory},share=true,reserve=false"),
        *("-object", "sev-snp-guest,id=sev0,cbitpos=51,reduced-phys-bits=1,id-auth=1"),
    )


def _network_words(network: HatsNetwork) -> tuple[str, ...]:
    if network.mode is NetworkMode.VIRTUAL_BRIDGE:
        return (
            *("-netdev", f"tap,id={TAP_WORD},ifname={TAP_WORD},script={SCRIPT_WORD}"),
            *("-device", f"{_NET},netdev={TAP_WORD},mac={MAC_WORD}"),
        )
    # A launcher that serves workloads adds a guestfwd to its own port (qemu.cc, workload_service_port); no
    # configuration written here asks for one, and nothing measured depends on it.
    forwarded = f"user,id=netdev,hostfwd=tcp:127.0.0.1:{network.port}-{GUEST}:8080"
    return ("-netdev", forwarded, "-device", _NET)
