from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import ImageError, MeasureError
from recipes.machine import HostFeatures, Irqchip, KvmtoolMachine, KvmtoolNetwork, VirtioTransport
from recipes.vmm.kvmtool_options import OPTIONS, Kind, Use, options_of
from recipes.vmm.kvmtool_parse import KvmtoolFiles, KvmtoolLaunch, is_kvmtool, parse, parse_host
from tests.vectors.kvmtool_inputs import Vector, vectors

BASE = "run -c 1 -m 256 -k Image -i initrd --realm"
REL0 = "kvmtool-rel0-islet"
SMALLEST = KvmtoolMachine(name="command line", profile="kvmtool-eac5", vcpus=1, memory=256 << 20)
DEMO = replace(
    SMALLEST,
    irqchip=Irqchip.GICV3,
    disable_sve=True,
    networks=(KvmtoolNetwork(options="tapif=tap100,guest_mac=52:55:00:d1:55:02"),),
    vsock=12344,
    disks=1,
)
ISLET = replace(SMALLEST, irqchip=Irqchip.GICV3, disable_sve=True, islet=True)
TESTCMD = replace(
    SMALLEST,
    irqchip=Irqchip.GICV3,
    disable_sve=True,
    networks=(KvmtoolNetwork(options="virtio"),),
    shares=("/shared,FMR",),
    parameters="earlycon=ttyS0 printk.devkmsg=on",
)
NO_SVE = "--disable-sve: realms have no SVE without --sve-vl"


def line(more: str = "", *, words: tuple[str, ...] = (), base: str = BASE) -> list[str]:
    return ["lkvm", *base.split(), *more.split(), *words]


def launch(
    more: str = "", *, words: tuple[str, ...] = (), base: str = BASE, profile: str | None = None
) -> KvmtoolLaunch:
    return parse(line(more, words=words, base=base), profile=profile)


def machine(
    more: str = "", *, words: tuple[str, ...] = (), base: str = BASE, profile: str | None = None
) -> KvmtoolMachine:
    return launch(more, words=words, base=base, profile=profile).machine


# What each recorded command line says, written down from the line and the specification.
RECORDED = {
    "demo-islet": replace(DEMO, islet=True),
    "demo-tfrmm": DEMO,
    "cpus-9": replace(ISLET, vcpus=9),
    "mem-64": replace(ISLET, memory=67108864),
    "mem-1G": replace(ISLET, memory=1073741824),
    "mem-2048": replace(ISLET, memory=2147483648),
    "mem-255M-odd": replace(ISLET, memory=267389952),
    "disks-4": replace(ISLET, disks=4),
    "no-initrd-with-disk": replace(ISLET, disks=1),
    "nodefaults-params": replace(ISLET, nodefaults=True, parameters="console=ttyS0 root=/dev/vda"),
    "net-virtio-word": replace(ISLET, networks=(KvmtoolNetwork(options="virtio"),)),
    "vsock-3": replace(ISLET, vsock=3),
    "sha512-tfrmm-cpus2": replace(ISLET, islet=False, vcpus=2, algorithm="sha512"),
    "sve-vl-2048": replace(ISLET, disable_sve=False, sve_vl=2048),
    "pmu-and-counters": replace(ISLET, islet=False, pmu=True, pmu_counters=31),
    "realm-pv": replace(ISLET, personalization="hello-rpv"),
    "realm-pv-64": replace(ISLET, personalization="A" * 64),
    "params-root": replace(ISLET, parameters="root=/dev/mapper/root ro"),
    "console-virtio": replace(ISLET, console="virtio"),
    "console-hv": replace(ISLET, console="hv"),
    "console-default": ISLET,
    "irqchip-gicv2": replace(ISLET, vcpus=2, irqchip=Irqchip.GICV2),
    "irqchip-gicv2m": replace(ISLET, vcpus=2, irqchip=Irqchip.GICV2M),
    "irqchip-auto": replace(ISLET, irqchip=Irqchip.GICV3_ITS),
    "kaslr-seed": replace(ISLET, kaslr_seed=12345),
    "kaslr-seed-big": replace(ISLET, kaslr_seed=0xFEDCBA9876543210),
    "balloon": replace(ISLET, balloon=True),
    "9p": replace(ISLET, shares=("/shared,FMR",)),
    "mmio-transport-legacy": replace(ISLET, transport=VirtioTransport.MMIO_LEGACY, disks=1),
    "pci-legacy": replace(ISLET, transport=VirtioTransport.PCI_LEGACY, disks=1),
    "no-net-no-virtio": replace(ISLET, networks=()),
    "mpidrs": replace(ISLET, vcpus=2, mpidrs=(0, 0x100)),
    "mpidrs-aff3": replace(ISLET, vcpus=2, mpidrs=(0, 0x100010203)),
    "cntfrq": replace(ISLET, counter_frequency=24000000),
    "metadata-ignored": ISLET,
    "everything": replace(
        SMALLEST,
        vcpus=4,
        memory=512 << 20,
        algorithm="sha512",
        console="virtio",
        sve_vl=256,
        pmu=True,
        pmu_counters=6,
        parameters="earlycon",
        networks=(KvmtoolNetwork(options="tapif=a"), KvmtoolNetwork(options="tapif=b")),
        rng=True,
        balloon=True,
        shares=("/s,t",),
        vsock=7,
        disks=3,
        kaslr_seed=7,
    ),
    "upstream-testcmd-2": replace(TESTCMD, kaslr_seed=12345, rng=True, memory=128 << 20),
    "upstream-testcmd-10": replace(
        TESTCMD, algorithm="sha512", console="virtio", transport=VirtioTransport.MMIO
    ),
}


@pytest.mark.parametrize("vector", vectors(), ids=lambda vector: vector.name)
def test_recorded_command_lines(vector: Vector) -> None:
    parsed = parse(["lkvm-rim-measurer", *vector.argv])
    words = list(vector.argv)
    assert parsed.machine.profile == "kvmtool-eac5"
    assert parsed.files.kernel == words[words.index("-k") + 1]
    assert parsed.files.initrd == (words[words.index("-i") + 1] if "-i" in words else None)
    assert parsed.files.disks == ("disk.img",) * words.count("disk.img")
    if vector.name in RECORDED:
        assert parsed.machine == RECORDED[vector.name]


def test_every_expectation_has_its_recorded_line() -> None:
    assert set(RECORDED) <= {vector.name for vector in vectors()}


def test_files_and_what_is_ignored() -> None:
    parsed = launch("--disable-sve --debug --metadata m.bin -F f.img --realm-pv x -d a.img,ro -d b")
    assert parsed.files == KvmtoolFiles(
        kernel="Image", initrd="initrd", disks=("a.img", "b"), flash="f.img", metadata="m.bin"
    )
    assert parsed.ignored == (
        "--debug: messages of kvmtool only",
        "-d a.img,ro: ro and direct are between kvmtool and the disk",
        "--metadata m.bin: its content is not measured; Islet's RMM compares it with the RIM",
        "--realm-pv x: the personalization value is not part of the RIM",
        NO_SVE,
    )
    assert parsed.machine.flash == 0


def test_size_of_the_flash_comes_from_the_caller() -> None:
    sizes = {"f.img": 196608}
    assert parse(line("-F f.img"), flash_size=sizes.__getitem__).machine.flash == 196608


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (0, "-F f.img: the file is empty; give one with content, or no -F"),
        (
            1 << 32,
            (
                "-F f.img: the file has 4294967296 bytes, and kvmtool counts them in 32 bits; give one of "
                "less than 4 GiB"
            ),
        ),
    ],
)
def test_sizes_that_no_flash_has(size: int, message: str) -> None:
    with pytest.raises(MeasureError) as caught:
        parse(line("-F f.img"), flash_size=lambda _path: size)
    assert str(caught.value) == message


@pytest.mark.parametrize("size", [1, (1 << 32) - 1])
def test_sizes_that_a_flash_may_have(size: int) -> None:
    assert parse(line("-F f.img"), flash_size=lambda _path: size).machine.flash == size


# What warden starts (islet-provisioning.md, section 6), quotes of -p included.
WARDEN = (
    *("run", "-c", "2", "-k", "Image", "-i", "initramfs.cpio.gz", "-p", '"quiet"', "-m", "256"),
    *("-n", "tapif=tap100,guest_mac=52:55:00:d1:55:01", "--vsock", "12344", "--console", "serial"),
    *("--irqchip=gicv3", "--disable-sve", "--metadata", "metadata.bin", "--debug", "--realm"),
)


def test_the_line_of_warden() -> None:
    argv = ["/opt/islet/lkvm", *WARDEN, "--measurement-algo=sha256", "-d", "app.disk"]
    parsed = parse(argv)
    assert parsed.machine.parameters == '"quiet"'
    assert parsed.machine.profile == "kvmtool-eac5"
    newer = parse([*argv, "--restricted_mem"])
    assert newer.machine == replace(parsed.machine, profile=REL0, restricted_memory=True)
    # Without --sve-max-vl the newer measurer has SVE, so --disable-sve counts there.
    assert NO_SVE in parsed.ignored
    assert NO_SVE not in newer.ignored


@pytest.mark.parametrize(
    ("more", "profile"),
    [
        ("", "kvmtool-eac5"),
        ("--islet", "kvmtool-eac5"),
        ("--restricted_mem", REL0),
        ("--ipa-size 40", REL0),
        ("--num-bps 1", REL0),
        ("--sve-max-vl=512", REL0),
        ("--realm-pv-hex " + "00" * 64, REL0),
        ("--measurement-log", REL0),
        ("--measurement-l", REL0),
        ("--ipa 40", REL0),
        ("-d --restricted_mem", "kvmtool-eac5"),
    ],
)
def test_the_profile_follows_from_the_options(more: str, profile: str) -> None:
    assert machine(more).profile == profile


def test_a_named_profile_is_kept() -> None:
    assert machine(profile="kvmtool-rel0-tf-rmm").profile == "kvmtool-rel0-tf-rmm"
    assert machine("--islet", profile="kvmtool-eac5-tf-rmm").islet


@pytest.mark.parametrize(
    "more",
    [
        "-c 2 -m 512M --kernel K",
        "-c2 -m512M -kK",
        "--cpus=2 --mem=512m --kernel=K",
        "--cpu 2 --mem 524288K --ker K",
        "--cpus 0x2 -m 536870912b -k K",
        "-c 02 -m 0512 -k K",
        "-c 3 -c 2 -m 1 -m 512 --no-kernel K",
        "--no-cpus -c 2 -m 512@2048 -k K",
        "-c 2 -m 512@2g --no-ker -k K",
        "--no-no-dhcp --no-balloon -c 2 -m 512 -k K",
        "--rng --no-rng -c 2 -m 512 -k K --realm",
    ],
)
def test_ways_to_write_the_same(more: str) -> None:
    wanted = replace(SMALLEST, vcpus=2, memory=512 << 20)
    parsed = launch(more)
    assert (parsed.machine, parsed.files.kernel) == (wanted, "K")


@pytest.mark.parametrize(
    ("argv", "kernel"),
    [
        ("run Image -i i -c 1 -m 256 --realm", "Image"),
        ("run -i i -c 1 Image -m 256 --realm", "Image"),
        ("run Image -k other -i i -c 1 -m 256 --realm", "other"),
        ("run - -i i -c 1 -m 256 --realm", "-"),
    ],
)
def test_a_word_alone_is_the_kernel(argv: str, kernel: str) -> None:
    assert parse(["lkvm", *argv.split()]).files.kernel == kernel


def test_parameters_are_kept_as_they_are() -> None:
    assert machine().parameters is None
    assert machine(words=("-p", "")).parameters == ""
    assert machine("--params=").parameters == ""
    assert machine(words=("-p", '"a  b" ')).parameters == '"a  b" '
    assert machine(words=("-p", "-x")).parameters == "-x"
    assert machine("-p a --no-params").parameters is None


@pytest.mark.parametrize(
    ("more", "networks"),
    [
        ("", None),
        ("-n mode=none", ()),
        ("-nmode=none -n mode=none", ()),
        ("-n mode=none -n mode=user", (KvmtoolNetwork(options="mode=user"),)),
        ("-n mode=user,trans=mmio", (KvmtoolNetwork(options="mode=user", transport=VirtioTransport.MMIO),)),
        ("-n trans=pci", (KvmtoolNetwork(transport=VirtioTransport.PCI),)),
        ("-n --rng --no-rng", (KvmtoolNetwork(),)),
        ("-n", (KvmtoolNetwork(),)),
        # A word alone is no mode: kvmtool makes a tap device of it.
        ("-n none", (KvmtoolNetwork(options="none"),)),
        (
            "-n mode=tap,vhost=1,mq=2,fd=3,script=none,downscript=none,guest_ip=1.2.3.4,host_ip=1.2.3.5",
            (
                KvmtoolNetwork(
                    options="mode=tap,vhost=1,mq=2,fd=3,script=none,downscript=none,"
                    "guest_ip=1.2.3.4,host_ip=1.2.3.5"
                ),
            ),
        ),
    ],
)
def test_networks(more: str, networks: tuple[KvmtoolNetwork, ...] | None) -> None:
    assert machine(more).networks == networks


def test_disks() -> None:
    parsed = launch("-d /dev/sda -d scsi:naa.600 -d scsi:naa.601:1,ro -d a.img,direct,ro")
    assert parsed.machine.disks == 2
    assert parsed.machine.scsi_disks == ("scsi:naa.600", "scsi:naa.601:1")
    assert parsed.files.disks == ("/dev/sda", "a.img")


@pytest.mark.parametrize(
    ("more", "transport"),
    [
        ("--virtio-legacy", VirtioTransport.PCI_LEGACY),
        ("--virtio-transport mmio", VirtioTransport.MMIO),
        ("--virtio-transport mmio --force-pci", VirtioTransport.PCI),
        ("--force-pci --virtio-legacy --virtio-t mmio-legacy", VirtioTransport.MMIO_LEGACY),
    ],
)
def test_transports(more: str, transport: VirtioTransport) -> None:
    assert machine(more).transport is transport


def test_addresses_of_memory() -> None:
    found = machine("-m 1G@3G")
    assert (found.memory, found.ram_base) == (1 << 30, 0xC000_0000)
    assert machine("-m 1G@3G -m 512").ram_base == 0x8000_0000


def test_numbers_and_sve() -> None:
    assert machine("--vsock 0").vsock == 0
    assert machine("--kaslr-seed 0777").kaslr_seed == 0o777
    assert machine("--kaslr-seed 18446744073709551615").kaslr_seed == (1 << 64) - 1
    assert machine("--sve-vl 0x80").sve_vl == 128
    assert machine("--sve-vl 384").sve_vl == 384
    assert machine("--sve-vl 0 --disable-sve").sve_vl == 0
    assert machine("--sve-max-vl 512").sve_vl == 512
    assert machine("--pmu-counters 0").pmu_counters == 0


def test_mpidrs_are_cut_to_their_affinity_fields() -> None:
    assert machine("--mpidrs 0x80000100").mpidrs == (0x100,)


def test_the_personalization_value() -> None:
    assert machine("--realm-pv-hex " + "6869".ljust(128, "0")).personalization == "hi"
    assert machine("--realm-pv-hex " + "610062".ljust(128, "0")).personalization == "a\0b"
    assert machine("--realm-pv-hex " + "ff".ljust(128, "0")).personalization == "\udcff"
    assert machine(words=("--realm-pv", "\udcff" * 64)).personalization == "\udcff" * 64


def test_breakpoints_of_the_newer_measurer() -> None:
    assert machine("--num-bps 6 --num-wps 0").host == HostFeatures(num_bps=6, num_wps=0)
    # There the register's encoding is the number minus one.
    coded = machine("--num-bps 5", profile="kvmtool-rel0-tf-rmm")
    assert coded.host == HostFeatures(num_bps=6)
    with pytest.raises(MeasureError) as caught:
        parse(line("--num-bps 5"), host=HostFeatures(num_bps=6))
    assert str(caught.value) == "--num-bps 5: the host has 6, and this stands for 5; leave one of them out"


def test_the_device_tree_of_the_newer_dialect() -> None:
    assert launch("--dtb d.dtb").files.dtb == "d.dtb"


PROFILES_EAC5 = "kvmtool-eac5 and kvmtool-eac5-tf-rmm"
PROFILES_REL0 = "kvmtool-rel0-islet and kvmtool-rel0-tf-rmm"
BAD = [
    # The recorded rejections that a command line alone decides.
    ("-d a -d b -d c -d d -d e", "-d e: more than 4 disks; kvmtool takes no more"),
    ("-d a -d b -d c -d d -d scsi:e", "-d scsi:e: more than 4 disks; kvmtool takes no more"),
    (
        "--sve-vl 128 --disable-sve",
        "--sve-vl 128: with --disable-sve there is no SVE; leave one of them out",
    ),
    (
        "--realm-pv " + "A" * 65,
        f"--realm-pv {'A' * 65}: 65 bytes; a realm personalization value has at most 64",
    ),
    ("-m 0", "-m 0: no memory; give the realm some, for example 256M"),
    (
        "--measurement-algo sha256 --no-realm",
        "--measurement-algo: only realms have it; add --realm",
    ),
    ("-c 2 --mpidrs 0", "--mpidrs 0: 1 MPIDRs for 2 vCPUs; write one for each"),
    ("-c 2 --mpidrs 0,0", "--mpidrs 0,0: 0 stands for two vCPUs; give each its own"),
    # Bit 31 is no affinity field. Spec: Arm ARM MPIDR_EL1.
    (
        "-c 3 --mpidrs 1,100,80000100",
        "--mpidrs 1,100,80000100: 100 stands for two vCPUs; give each its own",
    ),
    ("-f fw", "-k with -f: kvmtool takes a kernel or a firmware; leave one of them out"),
    # Realms.
    ("--no-realm", "--realm: missing; what it starts is not a realm, and nothing of it is measured"),
    ("--sve-vl 128 --no-realm", "--sve-vl: only realms have it; add --realm"),
    ("--measurement-algo sha384", "--measurement-algo sha384: not known; known: sha256, sha512"),
    ("--aarch32", "--aarch32: not modelled; realms are 64-bit guests"),
    # Processors.
    ("-c 0", "-c 0: stands for the number of the host's processors; write the number of vCPUs"),
    (
        "-c 17",
        "-c 17: more than 16 vCPUs; the measurer would go on with 16 of them; write 16 or fewer",
    ),
    (
        "-c 4x",
        "-c 4x: not a number; write decimal digits, 0x and hexadecimal ones, or 0 and octal ones",
    ),
    (
        "-c -1",
        "-c -1: not a number; write decimal digits, 0x and hexadecimal ones, or 0 and octal ones",
    ),
    (
        "-c 08",
        "-c 08: not a number; write decimal digits, 0x and hexadecimal ones, or 0 and octal ones",
    ),
    ("-c 4294967297", "-c 4294967297: 4294967297 is not in the range of 0 to 2147483647"),
    ("--no-cpus", "-c: missing; kvmtool would take the number of the host's processors"),
    ("--mpidrs 0,", "--mpidrs 0,: not hexadecimal numbers with commas between; write 0,1,100"),
    # Memory.
    (
        "-m 99999999T",
        (
            "-m 99999999T: RAM ends at 0x5f5e0ff0080000000, and a realm's ends at 0x8000000000000 or below; "
            "give it less"
        ),
    ),
    (
        "-m 256X",
        "-m 256X: not a size; write for example 256M or 256M@2G (units B K M G T P, by default M)",
    ),
    (
        "-m 256@",
        "-m 256@: not a size; write for example 256M or 256M@2G (units B K M G T P, by default M)",
    ),
    (
        "-m 256@2047",
        "-m 256@2047: RAM at 0x7ff00000 lies among the devices below 2 GiB; write an address of 2G or more",
    ),
    (
        "-m 256@2147483649b",
        "-m 256@2147483649b: RAM begins inside a granule; write a multiple of 4 KiB",
    ),
    # Numbers of the realm.
    ("--sve-vl 64", "--sve-vl 64: not a multiple of 128 from 128 to 2048 bits"),
    ("--sve-vl 200", "--sve-vl 200: not a multiple of 128 from 128 to 2048 bits"),
    ("--sve-vl 2176", "--sve-vl 2176: not a multiple of 128 from 128 to 2048 bits"),
    ("--sve-max-vl 384", "--sve-max-vl 384: not a power of two from 128 to 2048 bits"),
    ("--sve-max-vl 0", "--sve-max-vl 0: write decimal digits without a zero in front"),
    ("--pmu-counters 32", "--pmu-counters 32: 32 is not in the range of 0 to 31"),
    (
        "--pmu-counters x",
        "--pmu-counters x: not a number; write decimal digits, 0x and hexadecimal ones, or 0 and octal ones",
    ),
    ("--ipa-size 31", "--ipa-size 31: 31 is not in the range of 32 to 52"),
    (
        "--kaslr-seed 18446744073709551616",
        (
            "--kaslr-seed 18446744073709551616: 18446744073709551616 is not in the range of 0 to "
            "18446744073709551615"
        ),
    ),
    (
        "--override-bad-firmware-cntfrq 4294967296",
        "--override-bad-firmware-cntfrq 4294967296: 4294967296 is not in the range of 0 to 4294967295",
    ),
    (
        "--realm-pv-hex 00",
        "--realm-pv-hex 00: 2 characters; write 128 hexadecimal digits (64 bytes)",
    ),
    (
        "--realm-pv a --realm-pv-hex 00",
        "--realm-pv with --realm-pv-hex: both give the same value; leave one of them out",
    ),
    # Files.
    (
        "--no-initrd",
        (
            "-i: missing; there is neither an initrd nor a disk, and kvmtool would share folders of the host "
            "instead; give one by -i or -d, or write --nodefaults"
        ),
    ),
    ("--no-kernel", "-k: missing; kvmtool would look for a kernel of the host's"),
    ("--kernel=", "-k '': it names no file; write its path"),
    ("--initrd=", "-i '': it names no file; write its path"),
    ("--disk=", "-d '': it names no disk; write its path"),
    ("-d scsi:", "-d scsi:: it names no disk; write its path"),
    (
        "-d a,rw",
        (
            "-d a,rw: rw is no word for a disk; kvmtool ends the path at the first comma, "
            "and knows ro and direct"
        ),
    ),
    ("--no-kernel -f fw", "-f fw: not modelled; give a kernel by -k"),
    ("Image", "Image: a word without an option, and the kernel is given already"),
    # Devices.
    ("-n taipf=a", "-n taipf=a: unknown network parameter taipf; did you mean 'tapif'?"),
    ("-n mode=bridge", "-n mode=bridge: unknown mode bridge; write user, tap or none"),
    (
        "-n mode=user -n mode=user",
        "-n mode=user: a second device in user mode; kvmtool takes one",
    ),
    (
        "-n trans=mmio-legacy",
        (
            "-n trans=mmio-legacy: kvmtool falls back to the machine's transport for trans=mmio-legacy; "
            "write trans=pci or trans=mmio"
        ),
    ),
    (
        "-n tapif=",
        "-n tapif=: kvmtool splits it at each comma and each equals sign; write key=value,key=value",
    ),
    (
        "-n virtio,trans=pci",
        (
            "-n virtio,trans=pci: kvmtool splits it at each comma and each equals sign; "
            "write key=value,key=value"
        ),
    ),
    ("--no-network", "--no-network: kvmtool reads no such form; leave -n out instead"),
    ("--irqchip=gicv4", "--irqchip gicv4: not known; did you mean 'gicv3'?"),
    ("--irqchip auto", "--irqchip auto: not known; known: gicv2, gicv2m, gicv3, gicv3-its"),
    ("--virtio-transport pcie", "--virtio-transport pcie: not known; did you mean 'pci'?"),
    ("--9p ,t", "--9p ,t: it names no folder; write DIR,TAG"),
    (
        "--9p d," + "t" * 33,
        f"--9p d,{'t' * 33}: the tag has more than 32 bytes; take a shorter one",
    ),
    (
        "--vfio-pci 0:1.0",
        "--vfio-pci 0:1.0: not modelled; a device of the host changes the device tree",
    ),
    (
        "--sdl",
        "--sdl: not modelled; a screen changes the console of the kernel's command line and adds a device",
    ),
    ("--loglevel loud", "--loglevel loud: unknown level; known: debug, error, info, warning"),
    # Grammar.
    ("--help", "--help: asks for help and starts nothing; leave it out"),
    ("-h", "-h: asks for help and starts nothing; leave it out"),
    ("--", "--: a command for a sandbox is not modelled; leave it out"),
    ("-m", "-m: its value is missing; it is the last word"),
    ("--console", "--console: its value is missing; it is the last word"),
    ("--balloon=1", "--balloon=1: takes no value; write --balloon"),
    ("--no-console=x", "--no-console=x: takes no value; write --no-console"),
    ("--debug=1", "--debug=1: takes no value; write --debug"),
    ("--baloon", "--baloon: unknown option; did you mean '--balloon'?"),
    ("--metdata=x", "--metdata=x: unknown option; did you mean '--metadata'?"),
    ("-x", "-x: unknown option"),
    ("-rng", "-rng: unknown option -r; did you mean '--rng'?"),
    ("--dis 1", "--dis: short for --disk, --disable-mte, --disable-sve; write the name in full"),
    ("--vir 1", "--vir: short for --virtio-legacy, --virtio-transport; write the name in full"),
    (
        "--no-p",
        "--no-p: short for --no-params, --no-pmu, --no-pvtime, --no-pmu-counters; write the name in full",
    ),
    # Dialects.
    (
        "--islet --ipa-size 33",
        f"--ipa-size: profile kvmtool-eac5 has no such option; {PROFILES_REL0} have it",
    ),
    (
        "--ipa-size 33 --islet",
        f"--islet: profile {REL0} has no such option; {PROFILES_EAC5} have it",
    ),
    ("--ipa-size 33 --bogus", "--bogus: unknown option"),
]


@pytest.mark.parametrize(("more", "message"), BAD, ids=[more for more, _ in BAD])
def test_bad_command_lines(more: str, message: str) -> None:
    with pytest.raises(MeasureError) as caught:
        launch(more)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-p", "größe"), "-p 'gr\\xf6\\xdfe': not ASCII; a kernel command line has no other letters"),
        (("--name", "a\0b"), "'a\\x00b': no program can be given this word; leave it out"),
        (("--name", "\ud800"), "'\\ud800': no program can be given this word; leave it out"),
    ],
)
def test_bad_words(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(MeasureError) as caught:
        launch(words=words)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("profile", "more", "message"),
    [
        (
            "kvmtool-eac5",
            "--restricted_mem",
            f"--restricted_mem: profile kvmtool-eac5 has no such option; {PROFILES_REL0} have it",
        ),
        (
            REL0,
            "--sve-vl 128",
            f"--sve-vl: profile {REL0} has no such option; {PROFILES_EAC5} have it",
        ),
        (REL0, "--realm-p x", "--realm-p: short for --realm-pv, --realm-pv-hex; write the name in full"),
        (REL0, "--pkvm", "--pkvm: not modelled; a protected VM of pKVM's is no realm"),
        (
            "kvmtool",
            "",
            (
                "profile 'kvmtool' is not known; use one of kvmtool-eac5, kvmtool-eac5-tf-rmm, "
                "kvmtool-rel0-islet, kvmtool-rel0-tf-rmm"
            ),
        ),
    ],
)
def test_options_of_another_profile(profile: str, more: str, message: str) -> None:
    with pytest.raises(MeasureError) as caught:
        launch(more, profile=profile)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "'': not kvmtool; a command line begins with lkvm run"),
        (["qemu"], "qemu: not kvmtool; a command line begins with lkvm run"),
        (["lkvm"], "lkvm: there is no command behind it; write lkvm run ..."),
        (["lkvm", ""], "lkvm '': starts no realm; the second word is run"),
        (["lkvm", "sandbox"], "lkvm sandbox: starts no realm; the second word is run"),
        (["run", "-c", "1"], "run: not kvmtool; a command line begins with lkvm run"),
    ],
)
def test_what_is_no_kvmtool(argv: list[str], message: str) -> None:
    with pytest.raises(MeasureError) as caught:
        parse(argv)
    assert str(caught.value) == message


@pytest.mark.parametrize("program", ["lkvm", "lkvm-static", "./vm", "/usr/bin/lkvm-rim-measurer"])
def test_names_of_the_program(program: str) -> None:
    assert is_kvmtool(program)
    assert parse([program, *BASE.split()]).machine == SMALLEST


def test_missing_memory() -> None:
    with pytest.raises(MeasureError) as caught:
        launch(base="run -c 1 -k Image -i initrd --realm")
    assert str(caught.value) == "-m: missing; kvmtool would choose by the host's memory"


@pytest.mark.parametrize("dialect", ["eac5", "rel0"])
def test_every_ignored_option_is_listed_and_changes_nothing(dialect: str) -> None:
    profile = {"eac5": "kvmtool-eac5", "rel0": REL0}[dialect]
    plain = machine(profile=profile)
    for option in options_of(dialect):
        if option.use is not Use.IGNORED:
            continue
        value = "debug" if option.name == "loglevel" else "1"
        words = (f"--{option.name}", value) if option.kind.takes_value else (f"--{option.name}",)
        parsed = launch(words=words, profile=profile)
        assert parsed.machine == plain
        assert parsed.ignored == (f"{' '.join(words)}: {option.why}",)


def test_the_table_has_no_two_options_of_one_name() -> None:
    assert len({option.name for option in OPTIONS}) == len(OPTIONS)
    letters = [option.short for option in OPTIONS if option.short]
    assert sorted(letters) == ["F", "c", "d", "f", "i", "k", "m", "n", "p"]
    assert all(option.why for option in OPTIONS if option.use is not Use.READ)


def test_host_features() -> None:
    words = ["num_bps=6", "num_wps=4", "sve_vl=512", "ipa_bits=48", "lpa2=yes"]
    assert parse_host(words) == HostFeatures(num_bps=6, num_wps=4, sve_vl=512, ipa_bits=48, lpa2=True)
    assert parse_host([]) == HostFeatures()
    assert parse_host(["lpa2=0"]) == HostFeatures()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["num_bp=6"], "--host num_bp=6: num_bp is not known; did you mean 'num_bps'?"),
        (["cores=6"], "--host cores=6: cores is not known; known: ipa_bits, lpa2, num_bps, num_wps, sve_vl"),
        (["num_bps"], "--host num_bps: its value is missing; write num_bps=VALUE"),
        (["num_bps="], "--host num_bps=: its value is missing; write num_bps=VALUE"),
        (["num_bps=65"], "--host num_bps=65: not a number from 0 to 64"),
        (["num_bps=-1"], "--host num_bps=-1: not a number from 0 to 64"),
        (["num_wps=0x4"], "--host num_wps=0x4: not a number from 0 to 64"),
        (["sve_vl=100"], "--host sve_vl=100: not a number from 0 to 2048, a multiple of 128"),
        (["ipa_bits=53"], "--host ipa_bits=53: not a number from 32 to 52"),
        (["lpa2=maybe"], "--host lpa2=maybe: neither yes nor no"),
        (["num_bps=1", "num_bps=1"], "--host num_bps=1: num_bps is given twice; write it once"),
        (["lpa2=no", "lpa2=no"], "--host lpa2=no: lpa2 is given twice; write it once"),
    ],
)
def test_bad_host_features(words: list[str], message: str) -> None:
    with pytest.raises(MeasureError) as caught:
        parse_host(words)
    assert str(caught.value) == message


NAMES = st.sampled_from(
    [f"--{option.name}" for option in OPTIONS]
    + [f"--no-{option.name}" for option in OPTIONS]
    + [option.label for option in OPTIONS]
)
JUNK = st.one_of(
    st.text(max_size=12),
    st.text(alphabet="-nomkcpd=,@:0123456789xKMGTro", max_size=12),
    st.integers(-(1 << 70), 1 << 70).map(str),
    st.sampled_from(
        ["mode=none", "mode=user,trans=pci", "scsi:x", "a,ro", "1G@3G", "sha512", "0,1", "\udc80"]
    ),
)
WORDS = st.lists(
    st.one_of(NAMES, JUNK, st.tuples(NAMES, JUNK).map("=".join), st.tuples(NAMES, JUNK).map("".join))
)


@settings(max_examples=150)
@given(WORDS, st.sampled_from([None, "kvmtool-eac5", REL0]), st.booleans())
def test_no_command_line_breaks_the_parser(words: list[str], profile: str | None, whole: bool) -> None:
    argv = ["lkvm", "run", *(BASE.split()[1:] if whole else []), *words]
    try:
        parsed = parse(argv, profile=profile)
    except ImageError as error:
        assert str(error).isprintable()
    else:
        assert 1 <= parsed.machine.vcpus <= 16
        parsed.machine.identity()


@settings(max_examples=100)
@given(st.sampled_from([option.name for option in OPTIONS if option.kind is not Kind.FLAG]), JUNK)
def test_no_value_breaks_the_parser(name: str, value: str) -> None:
    try:
        launch(words=(f"--{name}={value}",))
    except ImageError as error:
        assert str(error).isprintable()


@settings(max_examples=100)
@given(st.lists(st.one_of(JUNK, st.tuples(st.sampled_from(["num_bps", "lpa2"]), JUNK).map("=".join))))
def test_no_host_word_breaks_the_parser(words: list[str]) -> None:
    try:
        parse_host(words)
    except ImageError as error:
        assert str(error).isprintable()
