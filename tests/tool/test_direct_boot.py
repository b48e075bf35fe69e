"""What QEMU really hands to firmware of a directly booted kernel, next to what we say it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from recipes.errors import MeasureError, ToolError
from recipes.machine.qemu import Accelerator
from recipes.machine.stage0 import Stage0Chipset, Stage0Machine
from recipes.measure.direct_boot import LinuxKernel, initrd_address, patched_setup
from recipes.measure.e820 import memory_map
from recipes.units import GIB, KIB, MIB
from recipes.vmm.fwcfg import parse_e820, read_directory
from recipes.vmm.launch import Qemu
from recipes.vmm.pci import functions
from recipes.vmm.qtest import QTest
from tests.support import require_tool
from tests.unit.bzimages import bzimage

pytestmark = pytest.mark.tool

# Items of fw_cfg. Spec: QEMU 7.2 include/standard-headers/linux/qemu_fw_cfg.h.
INITRD_ADDR, KERNEL_SIZE, INITRD_SIZE, KERNEL_DATA = 0x0A, 0x08, 0x0B, 0x11
CMDLINE_SIZE, CMDLINE_DATA, SETUP_SIZE, SETUP_DATA = 0x14, 0x15, 0x17, 0x18
BELOW, ABOVE = 2 * GIB + 512 * MIB, 8 * GIB
INITRD = 0x12345
MICROVM = "microvm,acpi=on,pcie=on"


@dataclass(frozen=True)
class Seen:
    """What the guest of a paused QEMU reads."""

    setup: bytes
    kernel: bytes
    initrd: tuple[int, int]
    cmdline: bytes
    e820: tuple[tuple[int, int, int], ...]


Look = Callable[..., Seen]


@pytest.fixture
def look(tmp_path: Path) -> Look:
    """A function that starts QEMU with a kernel and looks."""
    require_tool("qemu-system-x86_64")
    # The firmware never runs; stage0's are as large.
    (tmp_path / "bios").write_bytes(bytes(512 * KIB))

    def run(
        machine: str,
        memory: int,
        kernel: bytes,
        *,
        initrd: int = INITRD,
        cmdline: str = "",
        cpu: str = "max",
        more: tuple[str, ...] = (),
    ) -> Seen:
        (tmp_path / "kernel").write_bytes(kernel)
        argv = ["qemu-system-x86_64", "-machine", machine, "-accel", "tcg", "-cpu", cpu, "-S", "-nodefaults"]
        argv += ["-display", "none", "-m", f"{memory // KIB}K", "-bios", str(tmp_path / "bios")]
        argv += ["-kernel", str(tmp_path / "kernel")]
        if initrd:
            with (tmp_path / "initrd").open("wb") as file:
                file.truncate(initrd)
            argv += ["-initrd", str(tmp_path / "initrd")]
        with paused([*argv, "-append", cmdline, *more]) as port:
            return seen(port, with_initrd=bool(initrd))

    return run


@contextmanager
def paused(argv: list[str]) -> Iterator[QTest]:
    qemu = Qemu(argv)
    qemu.add_channel("qtest", "-qtest")
    with qemu:
        port = QTest(qemu)
        try:
            yield port
        finally:
            port.close()


def seen(port: QTest, *, with_initrd: bool) -> Seen:
    def number(item: int) -> int:
        return int.from_bytes(port.read(item, 4), "little")

    return Seen(
        setup=port.read(SETUP_DATA, number(SETUP_SIZE)),
        kernel=port.read(KERNEL_DATA, number(KERNEL_SIZE)),
        initrd=(number(INITRD_ADDR), number(INITRD_SIZE)) if with_initrd else (0, 0),
        cmdline=port.read(CMDLINE_DATA, number(CMDLINE_SIZE)),
        e820=tuple(sorted((item.address, item.length, item.type) for item in parse_e820(read_e820(port)))),
    )


def read_e820(port: QTest) -> bytes:
    return read_directory(port).read("etc/e820")


def expected_map(machine: str, memory: int, *, amd: bool = True, phys_bits: int | None = None) -> object:
    value = Stage0Machine(
        name="test",
        type=machine.partition(",")[0],
        accelerator=Accelerator.TCG,
        vcpus=1,
        max_vcpus=1,
        memory=memory,
        amd=amd,
        phys_bits=phys_bits,
    )
    return tuple((item.address, item.size, int(item.type)) for item in memory_map(value))


@pytest.mark.parametrize("xloadflags", [0, 0x2, 0x40, 0x42])
@pytest.mark.parametrize("initrd_max", [0x37FF_FFFF, 0x7FFF_FFFF, 0xFFFF_FFFF])
@pytest.mark.parametrize("memory", [BELOW, ABOVE], ids=["below", "above"])
@pytest.mark.parametrize("machine", ["q35", MICROVM], ids=["q35", "microvm"])
def test_boot(look: Look, machine: str, memory: int, initrd_max: int, xloadflags: int) -> None:
    chipset = Stage0Chipset(machine.partition(",")[0])
    data = bzimage(xloadflags=xloadflags, initrd_max=initrd_max)
    kernel = LinuxKernel.parse(data, len(data), "kernel")
    found = look(machine, memory, data, cmdline="console=ttyS0")
    place = initrd_address(kernel, INITRD, chipset, memory)
    assert found.initrd == (place, INITRD)
    assert found.setup == patched_setup(data[: kernel.setup_size], initrd=(place, INITRD))
    assert found.kernel == data[kernel.setup_size :]
    assert found.cmdline == b"console=ttyS0\0"
    assert found.e820 == expected_map(machine, memory)


KERNELS = {
    "oldest": bzimage(protocol=0x206, xloadflags=0x2),
    "before xloadflags": bzimage(protocol=0x20B, xloadflags=0x2),
    "with xloadflags": bzimage(protocol=0x20C, xloadflags=0x2),
    "no setup_sects": bzimage(setup_sects=0),
    "short": bzimage(setup_sects=1),
    "longer than QEMU's buffer": bzimage(setup_sects=39),
    "no body": bzimage(body=0),
    "heap known": bzimage(loadflags=0x81),
}


@pytest.mark.parametrize("name", KERNELS)
def test_kernels(look: Look, name: str) -> None:
    data = KERNELS[name]
    kernel = LinuxKernel.parse(data, len(data), name)
    found = look("q35", ABOVE, data)
    place = initrd_address(kernel, INITRD, Stage0Chipset.Q35, ABOVE)
    assert found.initrd == (place, INITRD)
    assert found.setup == patched_setup(data[: kernel.setup_size], initrd=(place, INITRD))
    assert found.kernel == data[kernel.setup_size :]


@pytest.mark.parametrize(
    "cmdline",
    ["", "vga=normal", "a vga=ext b", "xvga=asking", "vga=0x317 quiet", "vga=0755", "vga=791", "vga=0"],
)
def test_video_mode_without_initrd(look: Look, cmdline: str) -> None:
    data = bzimage()
    kernel = LinuxKernel.parse(data, len(data), "kernel")
    found = look("q35", BELOW, data, initrd=0, cmdline=cmdline)
    assert found.setup == patched_setup(data[: kernel.setup_size], initrd=None, cmdline=cmdline)
    assert found.cmdline == cmdline.encode() + b"\0"


@pytest.mark.parametrize("cmdline", ["vga=", "vga=vesa", "vga=0b11", "vga=7x", "vga=4294967296"])
def test_qemu_refuses_such_a_video_mode_too(look: Look, cmdline: str) -> None:
    with pytest.raises(MeasureError, match="is no video mode"):
        patched_setup(bzimage()[:2560], initrd=None, cmdline=cmdline)
    with pytest.raises(ToolError, match="invalid 'vga=' kernel parameter"):
        look("q35", BELOW, bzimage(), cmdline=cmdline)


@pytest.mark.parametrize("machine", ["q35", MICROVM], ids=["q35", "microvm"])
def test_the_largest_initrd(look: Look, machine: str) -> None:
    chipset, data, memory = Stage0Chipset(machine.partition(",")[0]), bzimage(), 64 * MIB
    kernel = LinuxKernel.parse(data, len(data), "kernel")
    size = memory - {Stage0Chipset.Q35: 0x28000, Stage0Chipset.MICROVM: 0}[chipset] - 2
    assert look(machine, memory, data, initrd=size).initrd == (
        initrd_address(kernel, size, chipset, memory),
        size,
    )
    with pytest.raises(MeasureError, match="do not fit below"):
        initrd_address(kernel, size + 1, chipset, memory)
    with pytest.raises(ToolError, match="initrd is too large"):
        look(machine, memory, data, initrd=size + 1)


@pytest.mark.parametrize(
    ("machine", "memory"),
    [
        ("q35", 0xB000_0000 - 8 * KIB),
        ("q35", 0xB000_0000),
        ("q35", 8_000_000 * KIB),
        ("q35", 4 * GIB),
        ("q35", 32 * MIB),
        (MICROVM, 3 * GIB),
        (MICROVM, 3 * GIB + 8 * KIB),
        (MICROVM, 4_000_000 * KIB),
    ],
)
def test_memory(look: Look, machine: str, memory: int) -> None:
    assert look(machine, memory, bzimage(), initrd=0).e820 == expected_map(machine, memory)


@pytest.mark.parametrize(
    ("machine", "cpu", "amd", "phys_bits"),
    [
        ("q35", "EPYC-Milan-v1", True, 40),
        ("q35", "qemu64", True, None),
        ("q35", "Skylake-Client-v4", False, 40),
        ("q35", "max,phys-bits=39", True, 39),
        ("pc-q35-7.1", "max", True, None),
        ("pc-q35-7.0", "max", True, None),
        (MICROVM, "EPYC-Milan-v1", True, None),
    ],
)
def test_processors(look: Look, machine: str, cpu: str, amd: bool, phys_bits: int | None) -> None:
    found = look(machine, ABOVE, bzimage(), initrd=0, cpu=cpu)
    assert found.e820 == expected_map(machine, ABOVE, amd=amd, phys_bits=phys_bits)


def test_memory_that_qemu_moves_is_refused(look: Look) -> None:
    def run(memory: int, cpu: str) -> Seen:
        # Nothing of it is ever touched, and the host need not have it.
        backend = f"memory-backend-ram,id=ram,size={memory // KIB}K,reserve=off"
        more = ("-object", backend, "-machine", "memory-backend=ram")
        return look("q35", memory, bzimage(), initrd=0, cpu=cpu, more=more)

    most = 978 * GIB
    assert run(most, "max,phys-bits=42").e820 == expected_map("q35", most, phys_bits=42)
    moved = run(most + 8 * KIB, "max,phys-bits=42").e820
    assert moved != expected_map("q35", most + 8 * KIB, amd=False, phys_bits=42)
    assert (1 << 40, most + 8 * KIB - 2 * GIB, 1) in moved
    with pytest.raises(MeasureError, match="moves RAM above 1 TiB on AMD CPUs"):
        expected_map("q35", most + 8 * KIB, phys_bits=42)
    with pytest.raises(ToolError, match="phys-bits too low"):
        run(most, "Skylake-Client-v4,phys-bits=39")
    with pytest.raises(MeasureError, match="need more than 39 address bits"):
        expected_map("q35", most, amd=False, phys_bits=39)


def test_tables_do_not_show_addresses_that_no_device_decodes(tmp_path: Path) -> None:
    """stage0 looks for PCI devices before it reads ACPI tables, and newer builds give them addresses."""
    require_tool("qemu-system-x86_64")
    (tmp_path / "bios").write_bytes(bytes(512 * KIB))
    argv = ["qemu-system-x86_64", "-machine", "q35,smm=off", "-accel", "tcg", "-cpu", "max", "-S"]
    argv += ["-nodefaults", "-display", "none", "-m", "8G", "-bios", str(tmp_path / "bios")]
    argv += ["-device", "virtio-rng-pci,disable-legacy=on", "-device", "virtio-rng-pci"]

    def tables(*, place: bool, decode: bool) -> list[bytes]:
        # QEMU builds them when they are read first, and not again.
        with paused(argv) as port:
            devices = list(functions(port))
            assert len(devices) >= 5
            for number, device in enumerate(devices if place else []):
                for register in range(0x10, 0x28, 8):
                    device.write(register, 0xFFFF_FFFF)
                    device.write(register + 4, 0xFFFF_FFFF)
                    device.write(register, number * 0x10_0000)
                    device.write(register + 4, 0x20)
                if decode:
                    device.enable()
            files = read_directory(port)
            return [files.read(name) for name in ("etc/table-loader", "etc/acpi/rsdp", "etc/acpi/tables")]

    fresh = tables(place=False, decode=False)
    assert tables(place=True, decode=False) == fresh
    assert tables(place=True, decode=True) != fresh


def test_qemu_rounds_memory_up(look: Look) -> None:
    odd = 64 * MIB + 4 * KIB
    assert look("q35", odd, bzimage(), initrd=0).e820 == expected_map("q35", odd + 4 * KIB)
    with pytest.raises(MeasureError, match="give a multiple of 8 KiB"):
        expected_map("q35", odd)
