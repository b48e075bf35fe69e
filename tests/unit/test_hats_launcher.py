"""What the launcher is told, and what it makes of that: written out, as HATs' sources have it."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from recipes.errors import FormatError
from recipes.hats import proto_file
from recipes.hats.command_line import command_line, regex
from recipes.hats.launcher import BundlePaths, config_text, launcher_line, qemu_line
from recipes.machine.hats import CvmType, HatsNetwork, HatsShape, NetworkMode, RegexForm, TcbVersion
from recipes.machine.sev_cpus import CpuSignature
from recipes.units import GIB, KIB

SHAPE = HatsShape(
    machine="genoa",
    cvm_type=CvmType.SEVSNP,
    cpu=CpuSignature(25, 17, 1),
    tcb=TcbVersion(boot_loader=7, snp=15, microcode=62),
    vcpus=4,
    memory=8000000 * KIB,
    ramdrive=10 * GIB,
    network=HatsNetwork(mode=NetworkMode.INBOUND_ONLY, port=8050),
    vmm="/usr/bin/qemu-system-x86_64",
)
OUTBOUND = replace(SHAPE, network=HatsNetwork(mode=NetworkMode.INBOUND_AND_OUTBOUND, port=81))
BRIDGED = replace(
    SHAPE,
    network=HatsNetwork(
        mode=NetworkMode.VIRTUAL_BRIDGE, bridge="virbr0", address="10.1.2.3", gateway="10.1.2.1"
    ),
)
TEST = replace(SHAPE, machine="test", cvm_type=CvmType.DEFAULT, cpu=None, tcb=None)
BUNDLES = BundlePaths(system="./system_bundle.tar", runtime="./runtime_bundle.tar")
HEAD = " console=ttyS0 panic=-1 brd.rd_nr=1 brd.rd_size=10485760 brd.max_part=1 "
TAIL = " quiet -- --launcher-addr=vsock://2:"


def test_the_names_of_shapes() -> None:
    assert SHAPE.name == "genoa-4cpu-8000000k-inbound_only"
    assert BRIDGED.name == "genoa-4cpu-8000000k-virtual_bridge"
    assert [shape.on_microvm for shape in (SHAPE, TEST, replace(SHAPE, microvm=True))] == [False, True, True]


@pytest.mark.parametrize(
    ("shape", "address"),
    [
        (SHAPE, "ip=10.0.2.15:::255.255.255.0::enp0s1:off"),
        (OUTBOUND, "ip=10.0.2.15::10.0.2.2:255.255.255.0::enp0s1:off"),
        (BRIDGED, "ip=10.1.2.3::10.1.2.1:255.255.255.0::enp0s1:off"),
    ],
)
def test_the_command_line_of_each_network(shape: HatsShape, address: str) -> None:
    assert command_line(shape, "1061704823") == f"{HEAD}{address}{TAIL}1061704823"
    assert regex(shape, RegexForm.HATS) == f"^{HEAD}{address}{TAIL}.*$"


def test_a_port_for_debugging_is_seen() -> None:
    assert command_line(replace(SHAPE, debug_port=5000), "1").startswith("debug  console=ttyS0 ")


@pytest.mark.parametrize("shape", [SHAPE, OUTBOUND, BRIDGED, replace(SHAPE, debug_port=1)])
def test_both_expressions_take_the_command_line(shape: HatsShape) -> None:
    for form in RegexForm:
        # What both languages have of expressions is the same in these.
        assert re.search(regex(shape, form), command_line(shape, "1061704823"))
    other = BRIDGED if shape is not BRIDGED else SHAPE
    assert not re.search(regex(shape, RegexForm.HATS), command_line(other, "1"))


def test_only_the_strict_expression_refuses_more_arguments() -> None:
    longer = command_line(SHAPE, "1 -- init=/bin/sh")
    assert re.search(regex(SHAPE, RegexForm.HATS), longer)
    assert not re.search(regex(SHAPE, RegexForm.STRICT), longer)
    # A full stop is any character in the one, and a full stop in the other.
    changed = command_line(SHAPE, "1").replace("brd.rd_nr", "brdXrd_nr")
    assert re.search(regex(SHAPE, RegexForm.HATS), changed)
    assert not re.search(regex(SHAPE, RegexForm.STRICT), changed)


CONFIG = """cvm_config {
  cvm_type: CVMTYPE_SEVSNP
  runc_runtime_bundle: "./runtime_bundle.tar"
  hats_system_bundle: "./system_bundle.tar"
  num_cpus: 4
  ramdrive_size_kb: 10485760
  ram_size_kb: 8000000
  vmm_binary: "/usr/bin/qemu-system-x86_64"
  network_config {
    inbound_only {
      host_enclave_app_proxy_port: 8050
    }
  }
}
"""


def test_the_configuration() -> None:
    assert config_text(SHAPE, BUNDLES) == CONFIG
    assert config_text(TEST, BUNDLES) == CONFIG.replace("SEVSNP", "DEFAULT")


def test_the_configuration_of_everything_else() -> None:
    text = config_text(replace(BRIDGED, debug_port=5000, guest_cid=7), BUNDLES)
    expected = CONFIG.replace("  vmm_binary", "  debug_telnet_port: 5000\n  vmm_binary")
    before, _, _ = expected.partition("    inbound_only")
    assert text == before + (
        "    virtual_bridge {\n"
        '      virtual_bridge_device: "virbr0"\n'
        '      cvm_ip_addr: "10.1.2.3"\n'
        '      cvm_gateway_addr: "10.1.2.1"\n'
        "    }\n  }\n  virtio_guest_cid: 7\n}\n"
    )


NET = "virtio-net-pci,disable-legacy=on,iommu_platform=true,netdev=netdev,romfile="
START = (
    *("/usr/bin/qemu-system-x86_64", "-enable-kvm", "-cpu", "host", "-m", "8000000K", "-smp", "4"),
    *("-nodefaults", "-nographic", "-no-reboot"),
)
SEV = (
    *("-object", "memory-backend-memfd,id=ram1,size=8000000K,share=true,reserve=false"),
    *("-object", "sev-snp-guest,id=sev0,cbitpos=51,reduced-phys-bits=1,id-auth=1"),
)
USER = ("-netdev", "user,id=netdev,hostfwd=tcp:127.0.0.1:8050-10.0.2.15:8080", "-device", NET)
SOCKET = ("-device", "vhost-vsock-pci,guest-cid=CID,rombar=0")
FILES = ("-bios", "d/stage0_bin", "-kernel", "d/kernel_bin", "-initrd", "d/initrd.cpio.xz")
SUFFIX = "memory-backend=ram1,confidential-guest-support=sev0"


def test_qemu_with_sev_snp() -> None:
    expected = (*START, "-machine", f"q35,acpi=on,{SUFFIX}", *SEV, *USER, *SOCKET, *FILES)
    end = ("-append", command_line(SHAPE, "PORT"), "-serial", "stdio")
    assert qemu_line(SHAPE, "d/") == (*expected, *end)
    microvm = (*START, "-machine", f"microvm,acpi=on,pcie=on,{SUFFIX}", *SEV, *USER, *SOCKET, *FILES)
    assert qemu_line(replace(SHAPE, microvm=True), "d/") == (*microvm, *end)


def test_qemu_for_tests() -> None:
    expected = (*START, "-machine", "microvm,acpi=on,pcie=on", *USER, *SOCKET, *FILES)
    assert qemu_line(TEST, "d/")[: len(expected)] == expected


def test_qemu_on_a_bridge_with_a_port_for_debugging() -> None:
    shape = replace(BRIDGED, debug_port=5000, guest_cid=9)
    words = qemu_line(shape)
    net = ("-netdev", "tap,id=TAP,ifname=TAP,script=SCRIPT")
    device = ("-device", f"{NET},netdev=TAP,mac=d6:ef:77:16:a5:XX")
    start = len(START) + 2 + len(SEV)
    assert words[start : start + 6] == (*net, *device, "-device", "vhost-vsock-pci,guest-cid=9,rombar=0")
    assert words[-2:] == ("-serial", "telnet:localhost:5000,server")
    assert words[-4:-2] == ("-append", "debug " + command_line(BRIDGED, "PORT"))


def test_the_launcher() -> None:
    words = (
        *("./launcher_main", "--tvs_addresses=TVS_HOST:PORT", "--use_tls=false"),
        *("--launcher_config_path=c.txtpb", "--tvs_authentication_key=HEX_PRIVATE_KEY"),
    )
    assert launcher_line(SHAPE, "c.txtpb") == words
    assert launcher_line(TEST, "c.txtpb") == words
    assert launcher_line(replace(SHAPE, microvm=True), "c.txtpb") == (*words, "--qemu_use_microvm")


BAD_LINES = {
    "message A {\n  fancy x = 1;\n  group B = 2 {\n}": "p:3: 'group B = 2 {' is not understood",
    "service A {\n}": "p:1: 'service A {' is not understood",
    "enum A {\n  X = -1;\n}": "p:2: 'X = -1;' is not understood",
    'import "b.proto";': "p:1: 'import \"b.proto\";' is not understood",
}


@pytest.mark.parametrize("text", BAD_LINES)
def test_a_line_that_is_not_understood(text: str) -> None:
    with pytest.raises(FormatError) as caught:
        proto_file.file_descriptor(text, "p")
    assert str(caught.value) == BAD_LINES[text]
