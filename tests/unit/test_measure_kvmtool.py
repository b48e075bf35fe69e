"""Launches under kvmtool by each profile's rules, folded again here by the tables of the specification."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest

from recipes.errors import FormatError, MeasureError
from recipes.formats.fdt import Node, Property, encode
from recipes.machine import HostFeatures, Irqchip, KvmtoolMachine, VirtioTransport
from recipes.machine.kvmtool_profiles import PROFILES
from recipes.measure import kvmtool
from recipes.measure.granules import BytesBlob
from recipes.measure.kvmtool import RealmPrediction
from recipes.measure.kvmtool_params import memory_option
from recipes.measure.trace import Established
from recipes.vmm.kvmtool_parse import parse

MIB = 1 << 20
MACHINE = KvmtoolMachine(
    name="m", profile="kvmtool-eac5", vcpus=1, memory=256 * MIB, irqchip=Irqchip.GICV3, networks=()
)
TF_RMM = replace(MACHINE, profile="kvmtool-eac5-tf-rmm")
REL0 = replace(MACHINE, profile="kvmtool-rel0-islet")
REL0_TF_RMM = replace(
    MACHINE, profile="kvmtool-rel0-tf-rmm", host=HostFeatures(num_bps=16, num_wps=4, sve_vl=0)
)


def image(size: int, image_size: int, text_offset: int = 0) -> BytesBlob:
    """A file with an arm64 header; all of it is told apart by what stands in each page."""
    numbers = text_offset, image_size, 10, 0, 0, 0
    header = bytes(8) + b"".join(number.to_bytes(8, "little") for number in numbers) + b"ARM\x64" + bytes(4)
    return BytesBlob("Image", header + bytes(index >> 12 & 0xFF for index in range(64, size)))


KERNEL = image(10_000, 20_000)
INITRD = BytesBlob("initramfs", b"initramfs" * 1000)
# A tree that says what MACHINE's launch would: captured trees are held against the launch.
CAPTURE = Node(
    "",
    children=(
        Node(
            "chosen",
            (
                Property("bootargs", b" console=ttyS0 root=/dev/vda rw \0"),
                # 0x8fe00000 - 9000 - 4, and 9000 on.
                Property("linux,initrd-start", (0x8FDF_DCD4).to_bytes(8, "big")),
                Property("linux,initrd-end", (0x8FDF_FFFC).to_bytes(8, "big")),
            ),
        ),
        Node("memory@80000000", (Property("reg", bytes.fromhex("0000000080000000 0000000010000000")),)),
        Node("cpus", children=(Node("cpu@0"),)),
        Node("intc", (Property("compatible", b"arm,gic-v3\0"),)),
    ),
)
REGION = encode(CAPTURE).ljust(65536, b"\0")
# Said of each captured tree that cannot be held against a whole one.
NO_DEVICES = (
    "--dtb: the devices in it (-d, -n, --9p, --vsock, --rng ...) are not compared with this launch; "
    "capture the tree of this very command line"
)


@dataclass
class Fold:
    """The RIM by section 1 of the specification, one descriptor of 256 bytes after the other."""

    flags: int = 0
    s2sz: int = 33
    sve_vl: int = 0
    num_bps: int = 0
    num_wps: int = 0
    pmu: int = 0
    rim: bytes = field(init=False)

    def __post_init__(self) -> None:
        page = bytearray(4096)
        page[0] = self.flags
        for at, value in zip(
            range(8, 0x30, 8), (self.s2sz, self.sve_vl, self.num_bps, self.num_wps, self.pmu), strict=True
        ):
            page[at] = value
        self.rim = hashlib.sha256(page).digest()

    def extend(self, kind: int, rest: bytes) -> Fold:
        head = kind.to_bytes(8, "little") + (0x100).to_bytes(8, "little") + self.rim.ljust(64, b"\0")
        self.rim = hashlib.sha256((head + rest).ljust(256, b"\0")).digest()
        return self

    def ripas(self, base: int, top: int) -> Fold:
        return self.extend(2, base.to_bytes(8, "little") + top.to_bytes(8, "little"))

    def data(self, address: int, content: bytes) -> Fold:
        first = address & ~0xFFF
        pages = bytes(address - first) + content
        for at in range(0, len(pages), 4096):
            digest = hashlib.sha256(pages[at : at + 4096].ljust(4096, b"\0")).digest()
            place = (first + at).to_bytes(8, "little") + (1).to_bytes(8, "little")
            self.extend(0, place + digest)
        return self

    def unmeasured(self, address: int) -> Fold:
        return self.extend(0, address.to_bytes(8, "little"))

    def rec(self, flags: int = 0, pc: int = 0, x0: int = 0) -> Fold:
        page = bytearray(4096)
        page[0] = flags
        page[0x200:0x208] = pc.to_bytes(8, "little")
        page[0x300:0x308] = x0.to_bytes(8, "little")
        return self.extend(1, hashlib.sha256(page).digest())


def replay(
    machine: KvmtoolMachine, *, dtb: bytes | None = None, kernel: BytesBlob = KERNEL
) -> RealmPrediction:
    return kvmtool.replay(machine, kernel, INITRD, dtb=dtb)


def first(fold: Fold) -> Fold:
    """The contents of MACHINE's launch, and its first REC."""
    fold.data(0x8000_0000, KERNEL.data).data(0x8FDF_DCD4, INITRD.data).data(0x8FE0_0000, REGION)
    return fold.rec(1, 0x8000_0000, 0x8FE0_0000)


def test_measurer() -> None:
    prediction = replay(replace(MACHINE, vcpus=2), dtb=REGION)
    fold = Fold(num_bps=2, num_wps=2).data(0x8000_0000, KERNEL.data)
    # 10000 bytes end in the third page, 20000 in the fifth.
    fold.ripas(0x8000_3000, 0x8000_4000).ripas(0x8000_4000, 0x8000_5000)
    fold.data(0x8FDF_DCD4, INITRD.data).data(0x8FE0_0000, REGION).rec(1, 0x8000_0000, 0x8FE0_0000)
    assert prediction.rim == fold.rec().rim
    assert [(step.operation, step.address, step.count, step.source) for step in prediction.trace.steps] == [
        ("REALM_CREATE", None, 1, "--measurement-algo sha256"),
        ("DATA_CREATE", 0x8000_0000, 3, "Image"),
        ("RTT_INIT_RIPAS", 0x8000_3000, 2, "Image"),
        ("DATA_CREATE", 0x8FDF_D000, 3, "initramfs"),
        ("DATA_CREATE", 0x8FE0_0000, 16, "--dtb"),
        ("REC_CREATE", None, 1, "-c 2"),
        ("REC_CREATE", None, 1, "-c 2"),
    ]


def test_tf_rmm_measures_blocks_and_one_rec() -> None:
    kernel = image(10_000, 5 * MIB)
    prediction = replay(replace(TF_RMM, vcpus=3), dtb=REGION, kernel=kernel)
    fold = Fold(num_bps=2, num_wps=2).data(0x8000_0000, kernel.data)
    for page in range(0x8000_3000, 0x8020_0000, 4096):
        fold.ripas(page, page + 4096)
    fold.ripas(0x8020_0000, 0x8040_0000)
    for page in range(0x8040_0000, 0x8050_0000, 4096):
        fold.ripas(page, page + 4096)
    fold.data(0x8FDF_DCD4, INITRD.data).data(0x8FE0_0000, REGION)
    assert prediction.rim == fold.rec(1, 0x8000_0000, 0x8FE0_0000).rim
    assert prediction.established is Established.SPEC_ONLY


def test_text_offset_enters_the_realm_behind_it() -> None:
    kernel = image(5000, 5000, text_offset=524_800)
    prediction = replay(MACHINE, dtb=REGION, kernel=kernel)
    fold = Fold(num_bps=2, num_wps=2).data(0x8008_0200, kernel.data)
    fold.data(0x8FDF_DCD4, INITRD.data).data(0x8FE0_0000, REGION)
    assert prediction.rim == fold.rec(1, 0x8008_0200, 0x8FE0_0000).rim


def test_newer_measurer_takes_all_of_ram_first() -> None:
    prediction = replay(replace(REL0, vcpus=2), dtb=REGION)
    fold = Fold(flags=2, sve_vl=3)
    for block in range(0x8000_0000, 0x9000_0000, 2 * MIB):
        fold.ripas(block, block + 2 * MIB)
    assert prediction.rim == first(fold).rec().rim
    assert [step.count for step in prediction.trace.steps] == [1, 128, 3, 3, 16, 1, 1]


def test_newer_tf_rmm() -> None:
    """Breakpoints are encoded as one less, one REC is measured, and the log's pages without content."""
    machine = replace(REL0_TF_RMM, vcpus=2, pmu_counters=6, measurement_log=True)
    prediction = replay(machine, dtb=REGION)
    fold = Fold(flags=4, num_bps=15, num_wps=3, pmu=6)
    for block in range(0x8000_0000, 0x9000_0000, 2 * MIB):
        fold.ripas(block, block + 2 * MIB)
    first(fold)
    for page in range(0x8FFF_0000, 0x9000_0000, 4096):
        fold.unmeasured(page)
    assert prediction.rim == fold.rim
    assert prediction.layout.log == 0x8FFF_0000
    assert prediction.established is Established.SPEC_ONLY


def test_memory_that_is_not_made_of_blocks() -> None:
    """0x7e01000 bytes: 63 blocks and a granule; the recorded list of the newer measurer says the same."""
    machine = replace(REL0, memory=0x7E0_1000, disable_sve=True)
    prediction = replay(machine, dtb=REGION)
    fold = Fold()
    for block in range(0x8000_0000, 0x87E0_0000, 2 * MIB):
        fold.ripas(block, block + 2 * MIB)
    fold.ripas(0x87E0_0000, 0x87E0_1000)
    assert prediction.trace.steps[1].after == fold.rim
    assert prediction.trace.steps[1].count == 64


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        (MACHINE, Fold(num_bps=2, num_wps=2)),
        (replace(MACHINE, islet=True), Fold()),
        (replace(MACHINE, disable_sve=True), Fold(num_bps=2, num_wps=2)),
        (replace(MACHINE, sve_vl=128), Fold(num_bps=2, num_wps=2, flags=2)),
        (
            replace(MACHINE, sve_vl=2048, pmu_counters=31),
            Fold(num_bps=2, num_wps=2, flags=6, sve_vl=15, pmu=31),
        ),
        (replace(MACHINE, pmu=True), Fold(num_bps=2, num_wps=2)),
        (replace(MACHINE, host=HostFeatures(num_bps=0, num_wps=5)), Fold(num_wps=5)),
        # The measurer's constant, and what kvmtool computes: 0x13fffffff has 33 bits, 0x17fffffff too.
        (replace(MACHINE, memory=3072 * MIB), Fold(num_bps=2, num_wps=2)),
        (replace(TF_RMM, memory=2048 * MIB), Fold(num_bps=2, num_wps=2)),
        (replace(TF_RMM, memory=3072 * MIB), Fold(num_bps=2, num_wps=2, s2sz=34)),
        (replace(TF_RMM, memory=14 << 30), Fold(num_bps=2, num_wps=2, s2sz=35)),
        (replace(REL0, memory=3072 * MIB), Fold(flags=2, sve_vl=3, s2sz=34)),
        (replace(REL0, ipa_bits=40), Fold(flags=2, sve_vl=3, s2sz=40)),
        (replace(REL0, sve_vl=256), Fold(flags=2, sve_vl=1)),
        (replace(REL0, host=HostFeatures(sve_vl=2048, num_bps=5, num_wps=3)), Fold(2, 33, 15, 5, 3)),
        (replace(REL0, host=HostFeatures(sve_vl=0)), Fold()),
        (replace(REL0, host=HostFeatures(lpa2=True), ipa_bits=52), Fold(flags=3, sve_vl=3, s2sz=52)),
        (replace(REL0_TF_RMM, disable_sve=True), Fold(num_bps=15, num_wps=3)),
        (
            replace(REL0_TF_RMM, host=HostFeatures(num_bps=1, num_wps=64, sve_vl=128)),
            Fold(flags=2, num_bps=0, num_wps=63),
        ),
    ],
)
def test_parameters(machine: KvmtoolMachine, expected: Fold) -> None:
    dtb = None if machine.profile.startswith("kvmtool-eac5") else REGION
    assert replay(machine, dtb=dtb).trace.steps[0].after == expected.rim


@pytest.mark.parametrize(
    ("machine", "source"),
    [
        (replace(MACHINE, islet=True, disable_sve=True), "--measurement-algo sha256, --islet"),
        (
            replace(MACHINE, sve_vl=256, pmu_counters=6),
            "--measurement-algo sha256, --sve-vl 256, --pmu-counters 6",
        ),
        (replace(TF_RMM, memory=3 << 30), "--measurement-algo sha256, -m 3G"),
        (
            replace(REL0, sve_vl=256, ipa_bits=40, host=HostFeatures(lpa2=True)),
            "--measurement-algo sha256, --sve-max-vl 256, --ipa-size 40, --host lpa2",
        ),
        (
            REL0_TF_RMM,
            "--measurement-algo sha256, --host num_bps=16, --host num_wps=4, --host sve_vl=0",
        ),
        (
            replace(REL0_TF_RMM, disable_sve=True),
            "--measurement-algo sha256, --disable-sve, --host num_bps=16, --host num_wps=4",
        ),
    ],
)
def test_source_of_parameters(machine: KvmtoolMachine, source: str) -> None:
    dtb = None if machine.profile.startswith("kvmtool-eac5") else REGION
    assert replay(machine, dtb=dtb).trace.steps[0].source == source


@pytest.mark.parametrize(
    ("memory", "ram_base", "text"),
    [
        (256 * MIB, 0x8000_0000, "-m 256"),
        (2048 * MIB, 0x8000_0000, "-m 2G"),
        (267_389_952, 0x8000_0000, "-m 261123K"),
        (4097, 0x8000_0000, "-m 4097B"),
        (64 * MIB, 0x1_0000_0000, "-m 64@4G"),
        (256 * MIB, 0x9000_0000, "-m 256@2304M"),
        (64 * MIB, 0x8000_1000, "-m 64@2097156K"),
    ],
)
def test_memory_option(memory: int, ram_base: int, text: str) -> None:
    assert memory_option(replace(MACHINE, memory=memory, ram_base=ram_base)) == text
    again = parse(["lkvm", "run", "-c", "1", "-k", "Image", "-i", "initrd", "--realm", *text.split()]).machine
    assert (again.memory, again.ram_base) == (memory, ram_base)


@pytest.mark.parametrize(
    ("machine", "dtb", "kernel", "label", "notes"),
    [
        (MACHINE, None, KERNEL, Established.ORACLE, []),
        (replace(MACHINE, islet=True, vcpus=16), None, KERNEL, Established.ORACLE, []),
        (replace(TF_RMM, vcpus=16), None, KERNEL, Established.ORACLE, []),
        (REL0, REGION, KERNEL, Established.SPEC_ONLY, [NO_DEVICES]),
        (
            MACHINE,
            None,
            BytesBlob("metadata.bin", b"raw!" * 100),
            Established.ORACLE,
            [
                (
                    "metadata.bin: no arm64 Image header; the file is loaded at offset 0x80000 as kvmtool "
                    "does; the realm boots only if it is a raw arm64 program"
                )
            ],
        ),
        (
            replace(MACHINE, memory=16 * MIB),
            None,
            image(MIB, 15 * MIB),
            Established.SPEC_ONLY,
            [
                (
                    "kernel: its bss at 0x80100000 to 0x80f00000 holds an aligned block of 2 MiB; it is "
                    "counted granule by granule as the measurer does, an RMM measures the block at once "
                    "where KVM does not split it"
                ),
                (
                    "initramfs: it begins at 0x80dfdcd4, before the end of the kernel's bss at "
                    "0x80f00000; the measurer takes that, but the kernel clears it at start; give more "
                    "memory with -m"
                ),
                (
                    "device tree: it begins at 0x80e00000, before the end of the kernel's bss at "
                    "0x80f00000; the measurer takes that, but the kernel clears it at start; give more "
                    "memory with -m"
                ),
            ],
        ),
        (replace(MACHINE, parameters="x" * 2014), None, KERNEL, Established.ORACLE, []),
        (
            replace(MACHINE, parameters="x" * 3000),
            None,
            KERNEL,
            Established.SPEC_ONLY,
            [
                (
                    "-p: the last 986 bytes do not fit kvmtool's buffer for the command line and are cut "
                    "off; no other program computed a value of such a line; shorten -p"
                )
            ],
        ),
        (
            replace(MACHINE, vcpus=2),
            None,
            KERNEL,
            Established.ORACLE,
            [
                (
                    "-c 2: the measurer counts every REC, TF-RMM the first alone; if the realm runs on "
                    "TF-RMM take --profile kvmtool-eac5-tf-rmm"
                )
            ],
        ),
        (
            replace(MACHINE, memory=3072 * MIB),
            None,
            KERNEL,
            Established.ORACLE,
            [
                (
                    "-m: RAM ends above 4 GiB; the measurer keeps s2sz at 33, which is the value here, "
                    "but a kvmtool that starts the realm takes more, and then the RIM differs"
                )
            ],
        ),
        (
            replace(TF_RMM, memory=3072 * MIB),
            None,
            KERNEL,
            Established.SPEC_ONLY,
            [
                (
                    "-m: RAM ends above 4 GiB; s2sz is 34 as kvmtool's source has it, and no other "
                    "program computed a value with it"
                )
            ],
        ),
        (replace(MACHINE, memory=2048 * MIB), None, KERNEL, Established.ORACLE, []),
        (
            replace(MACHINE, memory=128 * MIB + 1024),
            None,
            KERNEL,
            Established.ORACLE,
            ["-m: 134218752 bytes are no whole pages of 4096; the measurer takes that, KVM does not"],
        ),
        (
            MACHINE,
            None,
            image(10_000, 4 * MIB),
            Established.ORACLE,
            [
                (
                    "kernel: its bss at 0x80003000 to 0x80400000 holds an aligned block of 2 MiB; it is "
                    "counted granule by granule as the measurer does, an RMM measures the block at once "
                    "where KVM does not split it"
                )
            ],
        ),
        (
            TF_RMM,
            None,
            image(10_000, 4 * MIB),
            Established.SPEC_ONLY,
            [
                (
                    "kernel: its bss at 0x80003000 to 0x80400000 holds an aligned block of 2 MiB; it is "
                    "measured at once, as TF-RMM's source has it, and no other program did so"
                )
            ],
        ),
        (TF_RMM, None, image(10_000, 4 * MIB - 4096), Established.ORACLE, []),
        (
            replace(MACHINE, memory=3 * MIB),
            None,
            image(10_000, 2 * MIB - 4096),
            Established.SPEC_ONLY,
            [
                (
                    "initramfs: it begins at 0x801fdcd4, before the end of the kernel's bss at "
                    "0x801ff000; the measurer takes that, but the kernel clears it at start; give more "
                    "memory with -m"
                )
            ],
        ),
        (
            replace(MACHINE, host=HostFeatures(num_bps=6, num_wps=4)),
            None,
            KERNEL,
            Established.SPEC_ONLY,
            ["--host: 6 breakpoints and 4 watchpoints are values that no other program measured with"],
        ),
        (
            replace(MACHINE, scsi_disks=("naa.1",)),
            None,
            KERNEL,
            Established.SPEC_ONLY,
            ["-d scsi: the order of such disks among the devices is read from source, not compared"],
        ),
        (
            replace(REL0, pmu=True),
            REGION,
            KERNEL,
            Established.SPEC_ONLY,
            [
                (
                    "--pmu without --pmu-counters: the realm may get as many counters as the host has; "
                    "say how many with --pmu-counters"
                ),
                (
                    "--dtb: the PMU is not there in the device tree and there in this launch; capture the "
                    "tree of this very command line"
                ),
                NO_DEVICES,
            ],
        ),
        (
            replace(REL0, irqchip=Irqchip.GICV3_ITS, kaslr_seed=9),
            REGION,
            KERNEL,
            Established.SPEC_ONLY,
            [
                (
                    "--dtb: --kaslr-seed is 0x0 in the device tree and 0x9 in this launch; capture the "
                    "tree of this very command line"
                ),
                (
                    "--dtb: the interrupt controller is arm,gic-v3 in the device tree and arm,gic-v3 + "
                    "arm,gic-v3-its in this launch; capture the tree of this very command line"
                ),
                NO_DEVICES,
            ],
        ),
        (
            replace(REL0, vcpus=2, memory=128 * MIB, parameters="quiet"),
            REGION[:-1],
            KERNEL,
            Established.SPEC_ONLY,
            [
                (
                    "--dtb: 65535 bytes, filled up with zeros to 65536; kvmtool leaves 8 more bytes "
                    "behind a tree that it wrote itself, which --dump-dtb has and other ways of "
                    "capturing have not"
                ),
                (
                    "--dtb: the command line is ' console=ttyS0 root=/dev/vda rw ' in the device tree "
                    "and ' console=ttyS0 root=/dev/vda rw  quiet' in this launch; capture the tree of "
                    "this very command line"
                ),
                (
                    "--dtb: RAM is 00000000800000000000000010000000 in the device tree and "
                    "00000000800000000000000008000000 in this launch; capture the tree of this very "
                    "command line"
                ),
                (
                    "--dtb: the number of vCPUs is 1 in the device tree and 2 in this launch; capture "
                    "the tree of this very command line"
                ),
                (
                    "--dtb: the start of the initramfs is 0x8fdfdcd4 in the device tree and 0x87dfdcd4 "
                    "in this launch; capture the tree of this very command line"
                ),
                (
                    "--dtb: the end of the initramfs is 0x8fdffffc in the device tree and 0x87dffffc in "
                    "this launch; capture the tree of this very command line"
                ),
                NO_DEVICES,
            ],
        ),
    ],
)
def test_doubts(
    machine: KvmtoolMachine, dtb: bytes | None, kernel: BytesBlob, label: Established, notes: list[str]
) -> None:
    prediction = replay(machine, dtb=dtb, kernel=kernel)
    assert list(prediction.notes) == notes
    assert prediction.established is label
    assert prediction.profile == machine.profile


def test_captured_tree_without_anything() -> None:
    empty = encode(Node(""))
    notes = replay(REL0, dtb=empty).notes
    assert notes[1].startswith("--dtb: the command line is not there in the device tree and ' console=")
    # The size, six things that are not there, and what is not compared.
    assert len(notes) == 8
    assert replay(REL0, dtb=empty).dtb == empty.ljust(65536, b"\0")


def test_generated_tree_is_its_own_capture() -> None:
    made = replay(MACHINE)
    again = replay(MACHINE, dtb=made.dtb)
    assert (again.rim, again.notes, again.device_tree) == (made.rim, (), made.device_tree)
    assert again.established is Established.ORACLE
    # Zeros at the end may be left out, and a file of the whole length says as much.
    short = replay(MACHINE, dtb=made.dtb.rstrip(b"\0") + b"\0")
    assert (short.rim, short.notes, short.established) == (made.rim, (), Established.ORACLE)


def capture_note(machine: KvmtoolMachine, dtb: bytes) -> str:
    """What is said of a captured tree that is not the launch's own; the label says it, too."""
    prediction = replay(machine, dtb=dtb)
    assert prediction.established is Established.SPEC_ONLY
    (note,) = prediction.notes
    return note


@pytest.mark.parametrize(
    ("launched", "where"),
    [
        (replace(MACHINE, kaslr_seed=9), "/chosen kaslr-seed"),
        (replace(MACHINE, disks=2), "/pci interrupt-map, interrupt-map-mask"),
        (replace(MACHINE, pmu=True), "/pmu (not in --dtb)"),
        (
            replace(MACHINE, irqchip=Irqchip.GICV3_ITS),
            "/intc ranges; /pci msi-parent; /intc/msic (not in --dtb)",
        ),
        (
            replace(MACHINE, irqchip=Irqchip.GICV2),
            "/intc compatible; /timer interrupts",
        ),
        (
            replace(MACHINE, parameters="quiet", vsock=3),
            "/chosen bootargs; /pci interrupt-map, interrupt-map-mask",
        ),
        (
            replace(MACHINE, transport=VirtioTransport.MMIO, disks=1),
            "/virtio@3000000 (not in --dtb)",
        ),
        (replace(MACHINE, counter_frequency=5), "/timer clock-frequency"),
        (
            replace(MACHINE, vcpus=2),
            "/cpus/cpu@0 enable-method; /intc reg; /cpus/cpu@1 (not in --dtb)",
        ),
    ],
)
def test_capture_of_another_launch(launched: KvmtoolMachine, where: str) -> None:
    """Section 3.2 of the specification says what each option adds to the tree."""
    own = replay(MACHINE).dtb
    advice = "capture the tree of this very command line"
    if launched.vcpus == 1:
        assert (
            capture_note(launched, own)
            == f"--dtb: it differs from the tree of this launch in {where}; {advice}"
        )
    else:
        notes = replay(launched, dtb=own).notes
        assert notes[-1] == f"--dtb: it differs from the tree of this launch in {where}; {advice}"


def test_capture_with_more_than_the_launch() -> None:
    own = replay(replace(MACHINE, pmu=True, flash=4096)).dtb
    assert capture_note(MACHINE, own) == (
        "--dtb: it differs from the tree of this launch in /pmu (only in --dtb); /flash (only in --dtb); "
        "capture the tree of this very command line"
    )


def test_capture_that_differs_everywhere() -> None:
    note = capture_note(MACHINE, encode(Node("")).ljust(65536, b"\0"))
    # The root's four properties, and of 14 nodes the first eleven.
    assert note.startswith(
        "--dtb: it differs from the tree of this launch in / interrupt-parent, compatible, #address-cells, "
        "#size-cells; /chosen (not in --dtb); /memory (not in --dtb); "
    )
    assert note.endswith("; /pci (not in --dtb); and 2 more; capture the tree of this very command line")
    assert note.count("(not in --dtb)") == 11


def test_capture_in_other_bytes() -> None:
    own = replay(MACHINE).dtb
    tail = own.rstrip(b"\0")
    assert capture_note(MACHINE, tail[:-1].ljust(65536, b"\0")) == (
        "--dtb: it says what the tree of this launch says, in other bytes; another kvmtool wrote it"
    )
    # Without what stands behind the tree it has 8 bytes less, and that is the reason.
    blob = tail[: int.from_bytes(own[4:8], "big")]
    assert capture_note(MACHINE, blob).startswith(
        f"--dtb: {len(blob)} bytes, filled up with zeros to 65536; "
    )


def test_capture_in_another_order() -> None:
    tree = replay(MACHINE).device_tree
    chosen, memory, *rest = tree.children
    turned = replace(memory, properties=memory.properties[::-1])
    swapped = replace(tree, children=(turned, chosen, *rest))
    assert capture_note(MACHINE, encode(swapped).ljust(65536, b"\0")) == (
        "--dtb: it differs from the tree of this launch in / (in another order); /memory (in another order); "
        "capture the tree of this very command line"
    )


def test_capture_where_the_tree_is_not_modelled() -> None:
    shares = tuple(f"/{index},t" for index in range(33))
    assert capture_note(replace(MACHINE, shares=shares), REGION) == (
        "--dtb: not compared with the tree of this launch: command line: 33 PCI virtio devices, up to 32 are "
        "modelled; remove some of -d, -n and --9p"
    )


@pytest.mark.parametrize(
    ("machine", "message"),
    [
        (
            replace(MACHINE, profile="qemu"),
            "profile 'qemu' is not known; use one of " + ", ".join(profile.name for profile in PROFILES),
        ),
        (
            replace(MACHINE, algorithm="sha384"),
            "--measurement-algo sha384: RMM 1.0 does not measure with it; use sha256 or sha512",
        ),
        (replace(MACHINE, vcpus=17), "-c 17: a realm has 1 to 16 vCPUs; give such a number"),
        (replace(MACHINE, vcpus=0), "-c 0: a realm has 1 to 16 vCPUs; give such a number"),
        (replace(MACHINE, disks=4, scsi_disks=("x", "y")), "-d: 6 disks, kvmtool takes 4; remove 2"),
        (
            replace(MACHINE, mpidrs=(0, 1)),
            "--mpidrs: 2 given for 1 vCPUs; give one for each, or none",
        ),
        (
            replace(MACHINE, vcpus=2, mpidrs=(7, 7)),
            "--mpidrs: two vCPUs with one number; give each its own",
        ),
        (
            replace(MACHINE, pmu_counters=32),
            "--pmu-counters 32: a PMU has up to 31 counters; give fewer",
        ),
        (
            replace(MACHINE, sve_vl=100),
            "SVE vector length of 100 bits: give a multiple of 128 up to 2048, or --disable-sve",
        ),
        (
            replace(MACHINE, sve_vl=2176),
            "SVE vector length of 2176 bits: give a multiple of 128 up to 2048, or --disable-sve",
        ),
        (
            replace(MACHINE, sve_vl=512, host=HostFeatures(sve_vl=256)),
            "SVE vector length of 512 bits: the host has 256; give that or less",
        ),
        (
            replace(MACHINE, sve_vl=128, disable_sve=True),
            "--disable-sve: an SVE vector length of 128 bits is asked for as well; drop one",
        ),
        (
            replace(MACHINE, islet=True, host=HostFeatures(num_bps=2)),
            "--host num_bps=2: realms with --islet have none; drop one of the two",
        ),
        (
            replace(MACHINE, host=HostFeatures(num_wps=65)),
            "--host num_wps=65: no such number; give 0 to 64",
        ),
        (
            replace(MACHINE, host=HostFeatures(ipa_bits=32)),
            "-m: RAM up to 0x8fffffff needs 33 IPA bits, the host has 32; give less memory",
        ),
        (
            replace(MACHINE, measurement_log=True),
            (
                "--measurement-log: the kvmtool of profile kvmtool-eac5 does not know it; remove it, or "
                "take another profile with --profile"
            ),
        ),
        (
            replace(REL0, islet=True),
            (
                "--islet: the kvmtool of profile kvmtool-rel0-islet does not know it; remove it, or take "
                "another profile with --profile"
            ),
        ),
        (
            REL0,
            (
                "kvmtool-rel0-islet: the device tree of this kvmtool is not modelled; start the realm "
                "once with --dump-dtb FILE and give that file with --dtb FILE"
            ),
        ),
        (
            replace(REL0, memory=128 * MIB + 1),
            (
                "-m: 134217729 bytes are no whole pages of 4096, and all of RAM is made of them; give a "
                "size in MiB"
            ),
        ),
    ],
)
def test_refused(machine: KvmtoolMachine, message: str) -> None:
    with pytest.raises(MeasureError) as caught:
        replay(machine)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("machine", "message"),
    [
        (
            replace(REL0_TF_RMM, host=HostFeatures(num_wps=4, sve_vl=0)),
            (
                "kvmtool-rel0-tf-rmm: the number of breakpoints follows from the host; give "
                "--host num_bps=NUMBER"
            ),
        ),
        (
            replace(REL0_TF_RMM, host=HostFeatures(num_bps=0, num_wps=4, sve_vl=0)),
            "--host num_bps=0: no such number; give 1 to 64",
        ),
        (
            replace(REL0_TF_RMM, host=HostFeatures(num_bps=4, num_wps=4)),
            (
                "kvmtool-rel0-tf-rmm: the SVE vector length follows from the host; give --host "
                "sve_vl=BITS (0: none) or --disable-sve"
            ),
        ),
    ],
)
def test_hosts_that_are_not_known(machine: KvmtoolMachine, message: str) -> None:
    with pytest.raises(MeasureError) as caught:
        replay(machine, dtb=REGION)
    assert str(caught.value) == message


def test_tree_that_does_not_fit() -> None:
    with pytest.raises(
        MeasureError, match=r"^device tree: .* 65536 bytes .*; shorten the kernel command line"
    ):
        replay(replace(MACHINE, parameters="x" * 65_000, nodefaults=True))


def test_neither_initramfs_nor_disk() -> None:
    with pytest.raises(MeasureError) as caught:
        kvmtool.replay(MACHINE, KERNEL, None)
    assert str(caught.value) == (
        "command line: neither initramfs nor disk, and a root file system in a folder of the host is "
        "not modelled; give -i FILE, -d FILE or --nodefaults"
    )
    for machine in (replace(MACHINE, disks=1), replace(MACHINE, nodefaults=True)):
        assert kvmtool.replay(machine, KERNEL, None).layout.initrd is None


def test_captured_tree_that_is_none() -> None:
    with pytest.raises(FormatError, match="--dtb"):
        replay(REL0, dtb=b"\0" * 65536)
    with pytest.raises(MeasureError) as caught:
        replay(REL0, dtb=REGION + b"\0")
    assert str(caught.value) == (
        "--dtb: 65537 bytes, kvmtool gives the device tree 65536; capture it with --dump-dtb"
    )


def test_kernels_that_are_none() -> None:
    for data in (b"\x1f\x8b\x08" + bytes(100), b"short"):
        with pytest.raises(FormatError, match="arm64 kernel Image"):
            replay(MACHINE, kernel=BytesBlob("vmlinuz", data))
    # A raw file is taken as it is, 512 KiB behind the start of RAM.
    assert replay(MACHINE, kernel=BytesBlob("raw", b"raw!" * 100)).layout.kernel == 0x8008_0000


def test_header_is_read_once_and_whatever_the_windows() -> None:
    class Dribble(BytesBlob):
        """Hands out its bytes in pieces shorter than a header."""

        count = 0

        def windows(self) -> Iterator[bytes | memoryview]:
            Dribble.count += 1
            return (self.data[at : at + 7] for at in range(0, len(self.data), 7))

    blob = Dribble("Image", KERNEL.data)
    for _ in range(2):
        header = kvmtool.kernel_header(blob)
        assert header is not None
        assert (header.text_offset, header.image_size) == (0, 20_000)
    assert Dribble.count == 1
