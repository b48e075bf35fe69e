from __future__ import annotations

from pathlib import Path

import pytest

from recipes.errors import MeasureError, SpecError
from recipes.machine.hats import CvmType, NetworkMode, RegexForm
from recipes.machine.qemu import Accelerator
from recipes.machine.stage0 import Stage0Generation, Stage0Machine
from recipes.measure.e820 import memory_map
from recipes.schema import HatsImage, hats_machines, load_project
from recipes.units import KIB
from tests.support import ROOT

DIGITS = "ab" * 32
RECIPE = f"""\
architecture: x86_64
debian: {{suite: trixie}}
kernel: {{package: linux-image-cloud-amd64}}
stage0: {{generation: oak-d6f890b7, path: inputs/stage0_bin, sha256: {DIGITS}}}
stage1: {{path: inputs/initrd.cpio.xz, sha256: {DIGITS}}}
system: {{path: inputs/system.tar.xz, sha256: {DIGITS}}}
application: {{packages: [busybox-static], command: [/bin/sh]}}
host: {{qemu: 10.0.2, phys_bits: 48}}
launcher: {{vmm_binary: /usr/bin/qemu-system-x86_64, ramdrive_size: 10GiB}}
networks: {{inbound_only: {{port: 8050}}}}
machines:
  - {{name: g, cvm_type: CVMTYPE_SEVSNP, cpu: {{family: 25, model: 17, stepping: 1}}, vcpus: 1, memory: 2GiB,
     min_tcb_version: {{boot_loader: 7, snp: 15, microcode: 62}}}}
"""
TEST = "  - {name: t, cvm_type: CVMTYPE_DEFAULT, vcpus: 1, memory: 2GiB}\n"


def load(folder: Path, text: str, name: str = "h") -> HatsImage:
    for part in ("recipes/images", "recipes/kernels", "rootfs/base"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / f"recipes/images/{name}.yaml").write_text(text)
    (image,) = load_project(folder).hats
    return image


def mistakes(folder: Path, text: str) -> str:
    with pytest.raises(SpecError) as caught:
        load(folder, text)
    return str(caught.value)


def test_the_committed_recipe() -> None:
    (image,) = load_project(ROOT).hats
    assert image.name == "hats-snp"
    assert image.captures_path.exists()
    assert image.recipe.stage0.generation is Stage0Generation.OAK_D6F890B7
    found = {(item.cvm_type, item.vcpus, item.memory // KIB, item.network.mode) for item in image.machines}
    assert {mode for *_, mode in found} == set(NetworkMode)
    assert (CvmType.DEFAULT, 4, 8000000, NetworkMode.INBOUND_ONLY) in found
    assert len(found) == 9
    assert len({item.name for item in image.machines}) == 10
    # A TVS looks at ten policies of one container.
    assert sum(item.tcb is not None for item in image.machines) <= 10


def test_every_combination_is_a_machine(tmp_path: Path) -> None:
    text = RECIPE.replace("vcpus: 1, memory: 2GiB", "vcpus: [2, 1], memory: [3GiB, 2000000KiB]", 1)
    networks = (
        "{inbound_only: {port: 1}, virtual_bridge: {device: br0, address: 10.1.2.3, gateway: 10.1.2.1}}"
    )
    image = load(tmp_path, text.replace("{inbound_only: {port: 8050}}", networks) + TEST)
    assert [item.name for item in image.machines] == [
        "g-2cpu-3145728k-inbound_only",
        "g-2cpu-3145728k-virtual_bridge",
        "g-2cpu-2000000k-inbound_only",
        "g-2cpu-2000000k-virtual_bridge",
        "g-1cpu-3145728k-inbound_only",
        "g-1cpu-3145728k-virtual_bridge",
        "g-1cpu-2000000k-inbound_only",
        "g-1cpu-2000000k-virtual_bridge",
        "t-1cpu-2097152k-inbound_only",
        "t-1cpu-2097152k-virtual_bridge",
    ]
    bridged = image.machines[1].network
    assert (bridged.bridge, bridged.address, bridged.gateway) == ("br0", "10.1.2.3", "10.1.2.1")
    assert image.recipe.policy.regex is RegexForm.HATS
    assert image.machines[-1].tcb is None


def test_a_machine_can_name_its_networks(tmp_path: Path) -> None:
    networks = "{inbound_only: {port: 1}, inbound_and_outbound: {port: 2}}"
    text = RECIPE.replace("{inbound_only: {port: 8050}}", networks)
    image = load(
        tmp_path, text + TEST.replace("memory: 2GiB", "memory: 2GiB, networks: inbound_and_outbound")
    )
    assert [item.network.port for item in image.machines] == [1, 2, 2]


BRIDGE = "{virtual_bridge: {device: br0, address: 10.1.2.3, gateway: 10.1.2.1}}"
ONE = "{inbound_only: {port: 8050}}"
APPLICATION = "{packages: [busybox-static], command: [/bin/sh]}"
BUNDLE = f"{{path: b.tar, sha256: {DIGITS}}}"
ASIDE = "set aside (RFC 6890)"
# What is replaced, by what, and each mistake behind the word that it stands at.
MISTAKES: list[tuple[str, str, list[str]]] = [
    (
        "x86_64",
        "aarch64",
        [
            "aarch64|SEV-SNP machines are x86_64",
        ],
    ),
    (
        "oak-d6f890b7",
        "oak-d6f8",
        [
            ("oak-d6f8|stage0.generation: 'oak-d6f8' is not known; did you mean 'oak-d6f890b7'?"),
        ],
    ),
    (
        "inputs/stage0_bin",
        "../stage0_bin",
        [
            ("../stage0|path: ../stage0_bin does not lie in the project; give a path relative to it"),
        ],
    ),
    (
        "inputs/initrd.cpio.xz",
        "/initrd",
        [
            "/initrd|path: /initrd does not lie in the project; give a path relative to it",
        ],
    ),
    (
        f"system.tar.xz, sha256: {DIGITS}",
        "system.tar.xz, sha256: AB",
        [
            ("AB|system.sha256: 'AB' is not allowed; write for example 64 hexadecimal digits in lower case"),
        ],
    ),
    (
        APPLICATION,
        f"{{packages: [p-x], bundle: {BUNDLE}, command: [/x]}}",
        [
            (
                "{packages|an application is brought (bundle) or made here (packages, "
                "overlay); write one of them"
            ),
            "[/x]|a bundle says itself what it starts; remove command",
        ],
    ),
    (
        APPLICATION,
        "{}",
        [
            ("{}|an application is brought (bundle) or made here (packages, overlay); write one of them"),
        ],
    ),
    (
        APPLICATION,
        "{overlay: base}",
        [
            "{overlay|command is missing: what the application starts",
        ],
    ),
    (
        APPLICATION,
        "{overlay: bas, command: [/x]}",
        [
            "bas,|there is no overlay rootfs/bas; did you mean 'base'?",
        ],
    ),
    (
        "qemu: 10.0.2",
        "qemu: 10.0",
        [
            ("10.0,|host.qemu: expected text, found a number ('10.0'); write for example 10.0.2"),
        ],
    ),
    (
        "phys_bits: 48",
        "phys_bits: 65",
        [
            ("65}|phys_bits: 65 is not 36 to 52; /proc/cpuinfo of the host says it, `address sizes`"),
        ],
    ),
    (
        "ramdrive_size: 10GiB",
        "ramdrive_size: 11",
        [
            ("11}|launcher.ramdrive_size: '11' is not a size; write for example 512MiB or 2GiB"),
        ],
    ),
    (
        "ramdrive_size: 10GiB",
        "ramdrive_size: 10GiB, guest_cid: 2",
        [
            "2}\nnetworks|guest_cid: 2 is not 3 to 4294967294",
        ],
    ),
    (
        "ramdrive_size: 10GiB",
        "ramdrive_size: 10GiB, debug_telnet_port: 65536",
        [
            "65536|debug_telnet_port: 65536 is not a port, 1 to 65535, or 0 for none",
        ],
    ),
    (
        "/usr/bin/qemu-system-x86_64",
        "'/usr/b,in'",
        [
            (
                "'/usr/b,in|launcher.vmm_binary: '/usr/b,in' is not allowed; write for example "
                "/usr/local/bin/qemu-system-x86_64"
            ),
        ],
    ),
    (
        ONE,
        "{}",
        [
            "{}|networks: name one mode at least",
        ],
    ),
    (
        "port: 8050",
        "port: 0",
        [
            "0}}|port: 0 is not 1 to 65535",
        ],
    ),
    (
        ONE,
        BRIDGE.replace("10.1.2.3", "10.1.2.300"),
        [
            ("10.1.2.300|address: '10.1.2.300' is no IPv4 address; write for example 10.1.2.3"),
        ],
    ),
    (
        ONE,
        BRIDGE.replace("10.1.2.1}", "10.1.3.1}"),
        [
            ("10.1.3.1|gateway: 10.1.3.1 is not in the network 10.1.2.3/24, which is what HATs sets up"),
        ],
    ),
    (
        ONE,
        BRIDGE.replace("br0", "'br0,x'"),
        [
            ("'br0,x|networks.virtual_bridge.device: 'br0,x' is not allowed; write for example virbr0"),
        ],
    ),
    (
        "vcpus: 1",
        "vcpus: 0",
        [
            "0, memory|vcpus: 0 is not 1 to 255",
        ],
    ),
    (
        "vcpus: 1",
        "vcpus: [3, 3]",
        [
            "3], memory|vcpus: listed twice",
        ],
    ),
    (
        "vcpus: 1",
        "vcpus: []",
        [
            "[], memory|vcpus: the list is empty",
        ],
    ),
    (
        "memory: 2GiB",
        "memory: 128MiB",
        [
            "128MiB|memory: must be 256MiB to 1024GiB",
        ],
    ),
    (
        "memory: 2GiB",
        "memory: 2GiB, networks: virtual_bridge",
        [
            (
                "virtual_bridge|networks: virtual_bridge is not described under networks of "
                "the recipe; known: inbound_only"
            ),
        ],
    ),
    (
        "CVMTYPE_SEVSNP",
        "CVMTYPE_SEV",
        [
            ("CVMTYPE_SEV|machines[0].cvm_type: 'CVMTYPE_SEV' is not known; did you mean 'CVMTYPE_SEVSNP'?"),
        ],
    ),
    (
        "CVMTYPE_SEVSNP",
        "CVMTYPE_DEFAULT",
        [
            "{family|cpu: nothing vouches for a machine of CVMTYPE_DEFAULT; remove it",
            ("{boot_loader|min_tcb_version: nothing vouches for a machine of CVMTYPE_DEFAULT; remove it"),
        ],
    ),
    (
        "cpu: {family: 25, model: 17, stepping: 1}, ",
        "",
        [
            "{name|cpu is missing; a policy for CVMTYPE_SEVSNP needs it",
        ],
    ),
    (
        "family: 25",
        "family: 999",
        [
            "{family|cpu: family 999 is not from 0 to 270",
        ],
    ),
    (
        "snp: 15",
        "snp: 257",
        [
            "257|snp: 257 is not 0 to 255",
        ],
    ),
    (
        "machines:\n",
        "policy: {regex: strickt}\nmachines:\n",
        [
            "strickt|policy.regex: 'strickt' is not known; did you mean 'strict'?",
        ],
    ),
    (
        "machines:\n",
        "policy: {signature: {key: keys/db.key}}\nmachines:\n",
        [
            ("keys/db|key: 'keys/db.key' is not keys/hats-NAME.pem; put the key there under such a name"),
        ],
    ),
    (
        "memory: 2GiB",
        "memory: [2GiB, 1020GiB]",
        [
            (
                "1020GiB|memory: with 1020 GiB QEMU moves RAM above 1 TiB on AMD CPUs, which is not "
                "modelled; give at most 978 GiB"
            ),
        ],
    ),
    (
        "inputs/stage0_bin",
        "./keys/db.key",
        [
            (
                "./keys|path: ./keys/db.key lies in keys/, of which no product may hold anything; "
                "put the file elsewhere, such as recipes/inputs/"
            ),
        ],
    ),
    (
        "inputs/system.tar.xz",
        "rootfs",
        [
            "rootfs|path: rootfs is a folder; give the path of a file",
        ],
    ),
    (
        "inputs/system.tar.xz",
        "inputs/",
        [
            "inputs/,|path: inputs/ is a folder; give the path of a file",
        ],
    ),
    (
        "inputs/system.tar.xz",
        '"a\\0b"',
        [
            "\"a\\0b|path: 'a\\x00b' holds a character that is not printable; rename the file",
        ],
    ),
    (
        "inputs/system.tar.xz",
        '"a\\nb"',
        [
            "\"a\\nb|path: 'a\\nb' holds a character that is not printable; rename the file",
        ],
    ),
    (
        "[/bin/sh]",
        "[sh]",
        [
            (
                "sh]|command: 'sh' is not the absolute path of a program in the container; "
                "write for example /usr/bin/hello"
            ),
        ],
    ),
    (
        "[/bin/sh]",
        "['', -c]",
        [
            (
                "''|command: '' is not the absolute path of a program in the container; "
                "write for example /usr/bin/hello"
            ),
        ],
    ),
    (
        "[/bin/sh]",
        '[/bin/sh, "a\\0"]',
        [
            "\"a\\0|command: 'a\\x00' holds a NUL, behind which nothing is seen; leave it out",
        ],
    ),
    (
        "/usr/bin/qemu-system-x86_64",
        "-qemu",
        [
            (
                "-qemu|launcher.vmm_binary: '-qemu' is not allowed; write for example "
                "/usr/local/bin/qemu-system-x86_64"
            ),
        ],
    ),
    (
        "/usr/bin/qemu-system-x86_64",
        "bin/qemu",
        [
            (
                "bin/qemu|launcher.vmm_binary: 'bin/qemu' is not allowed; write for example "
                "/usr/local/bin/qemu-system-x86_64"
            ),
        ],
    ),
    (
        ONE,
        BRIDGE.replace("10.1.2.1}", "10.1.2.3}"),
        [
            "10.1.2.3}|gateway: 10.1.2.3 is the VM's own address; give the one that the bridge has",
        ],
    ),
    (
        ONE,
        BRIDGE.replace("10.1.2.3", "224.1.2.3").replace("10.1.2.1}", "224.1.2.255}"),
        [
            "224.1.2.3|address: 224.1.2.3 is for multicast, and no machine's; write for example 10.1.2.3",
            "224.1.2.255|gateway: 224.1.2.255 is for multicast, and no machine's; write for example 10.1.2.3",
        ],
    ),
    (
        ONE,
        BRIDGE.replace("10.1.2.3", "10.1.2.255").replace("10.1.2.1}", "10.1.2.0}"),
        [
            "10.1.2.255|address: 10.1.2.255 is for broadcast, and no machine's; write for example 10.1.2.3",
            "10.1.2.0|gateway: 10.1.2.0 is the network itself, and no machine's; write for example 10.1.2.3",
        ],
    ),
    (
        ONE,
        BRIDGE.replace("10.1.2.3", "127.0.0.2").replace("10.1.2.1}", "127.0.0.1}"),
        [
            f"127.0.0.2|address: 127.0.0.2 is {ASIDE}, and no machine's; write for example 10.1.2.3",
            f"127.0.0.1|gateway: 127.0.0.1 is {ASIDE}, and no machine's; write for example 10.1.2.3",
        ],
    ),
    (
        "phys_bits: 48}",
        "phys_bits: 48, debug_swap: true}\npolicy: {dynamic: true}",
        [
            (
                "true}\nlauncher|dynamic: a TVS computes launch digests with SEV_FEATURES 0x1, and "
                "host.debug_swap gives 0x21; take one of the two out"
            ),
        ],
    ),
    (
        "machines:\n",
        "policy: {insecure: apar}\nmachines:\n",
        [
            "apar}|policy.insecure: 'apar' is not known; did you mean 'apart'?",
        ],
    ),
    (
        "stage1:",
        "stage2:",
        [
            "stage2|unknown key 'stage2'; did you mean 'stage1'?",
        ],
    ),
]


@pytest.mark.parametrize(("before", "after", "expected"), MISTAKES)
def test_a_mistake_has_a_place(tmp_path: Path, before: str, after: str, expected: list[str]) -> None:
    text = RECIPE.replace(before, after, 1)
    lines = []
    for item in expected:
        word, _, what = item.partition("|")
        start = text.index(word)
        line, column = text.count("\n", 0, start) + 1, start - text.rfind("\n", 0, start)
        lines.append(f"recipes/images/h.yaml:{line}:{column}: {what}")
    assert mistakes(tmp_path, text) == "\n".join(lines)


def test_two_machines_of_one_name(tmp_path: Path) -> None:
    said = mistakes(tmp_path, RECIPE + TEST + TEST)
    assert said == "recipes/images/h.yaml:15:12: two machines are called 't-1cpu-2097152k-inbound_only'"


def test_no_machine(tmp_path: Path) -> None:
    text = RECIPE[: RECIPE.index("machines:")] + "machines: []\n"
    assert (
        mistakes(tmp_path, text)
        == "recipes/images/h.yaml:11:11: machines: the list is empty; name one at least"
    )


def test_every_mistake_at_once(tmp_path: Path) -> None:
    text = RECIPE.replace("phys_bits: 48", "phys_bits: 1").replace("port: 8050", "port: 99999")
    assert len(mistakes(tmp_path, text).splitlines()) == 2


def test_memory_is_judged_for_the_machine_type(tmp_path: Path) -> None:
    """QEMU's microvm has no HyperTransport range, but both have to fit the address bits."""
    text = RECIPE.replace("memory: 2GiB", "memory: 1020GiB")
    assert load(tmp_path, text.replace("10GiB}", "10GiB, microvm: true}")).machines[0].microvm
    said = mistakes(tmp_path, text.replace("phys_bits: 48", "phys_bits: 39"))
    what = "memory: 1020 GiB and what lies behind need more than 39 address bits"
    column = text.splitlines()[11].index("1020GiB") + 1
    assert said == f"recipes/images/h.yaml:12:{column}: {what}; give less, or a CPU with more bits"


@pytest.mark.parametrize("kind", ["q35", "microvm"])
@pytest.mark.parametrize("bits", [36, 40, 48])
def test_memory_is_judged_as_the_replay_does(kind: str, bits: int) -> None:
    edges = [0xB000_0000, 3 << 30, 30 << 30, 33 << 30, 62 << 30, 978 << 30, 985 << 30, 1023 << 30]
    for memory in (edge + step * KIB for edge in edges for step in (-8, -4, 0, 8)):
        machine = Stage0Machine(
            name="m",
            type=kind,
            accelerator=Accelerator.KVM,
            vcpus=1,
            max_vcpus=1,
            memory=memory,
            amd=True,
            phys_bits=bits,
        )
        said = ""
        try:
            memory_map(machine)
        except MeasureError as error:
            said = str(error)
        assert hats_machines._no_layout(kind, memory, bits) == said.removeprefix("memory: ")


def test_a_link_does_not_lead_to_keys(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs/stage0_bin").symlink_to("../keys/hats-policy.pem")
    said = mistakes(tmp_path, RECIPE)
    assert "inputs/stage0_bin lies in keys/, of which no product may hold anything" in said


def test_a_program_is_found_by_its_name_too(tmp_path: Path) -> None:
    text = RECIPE.replace("/usr/bin/qemu-system-x86_64", "qemu-9.2")
    assert load(tmp_path, text).recipe.launcher.vmm_binary == "qemu-9.2"
