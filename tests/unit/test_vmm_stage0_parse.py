"""QEMU command lines with stage0 as machines: what is kept, what is assumed, and what is refused."""

from __future__ import annotations

import contextlib
import shlex
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import MeasureError
from recipes.machine import Accelerator
from recipes.machine.sev import SevMode
from recipes.machine.sev_cpus import CpuSignature
from recipes.machine.stage0 import Stage0Chipset, Stage0Generation
from recipes.units import KIB
from recipes.vmm.stage0_capture import capture_stage0, command_line, stand_ins
from recipes.vmm.stage0_parse import ParsedStage0, parse, parse_generation, parse_host

# As HATs' launcher writes them (client/launcher/qemu.cc); the second network device has netdev= twice.
COMMON = "-enable-kvm -cpu host -m 8000000K -smp 4 -nodefaults -nographic -no-reboot"
DEVICES = (
    "-netdev user,id=netdev,hostfwd=tcp:127.0.0.1:7000-10.0.2.15:8080 "
    "-device virtio-net-pci,disable-legacy=on,iommu_platform=true,netdev=netdev,romfile= "
    "-device vhost-vsock-pci,guest-cid=7,rombar=0"
)
BRIDGE = (
    "-netdev tap,id=tap3,ifname=tap3,script=s "
    "-device virtio-net-pci,disable-legacy=on,iommu_platform=true,netdev=netdev,romfile=,netdev=tap3,"
    "mac=d6:ef:77:16:a5:03 -device vhost-vsock-pci,guest-cid=9,rombar=0"
)
BOOT = (
    "-bios stage0_bin -kernel kernel_bin -initrd initrd.cpio.xz -append ' console=ttyS0 quiet' -serial stdio"
)
SNP = (
    "-machine q35,acpi=on,memory-backend=ram1,confidential-guest-support=sev0 "
    "-object memory-backend-memfd,id=ram1,size=8000000K,share=true,reserve=false "
    "-object sev-snp-guest,id=sev0,cbitpos=51,reduced-phys-bits=1,id-auth=1"
)
PROTECTED = f"qemu {COMMON} {SNP} {DEVICES} {BOOT}"
INSECURE = f"qemu {COMMON} -machine microvm,acpi=on,pcie=on {DEVICES} {BOOT}"
TCG = "qemu -nodefaults -machine q35 -accel tcg -cpu max -m 2G"
GENOA = ("family=25", "model=17", "stepping=1")
DISK = "write -drive if=none,id=ID,... and -device virtio-blk-pci,drive=ID"


def words(text: str) -> list[str]:
    first, *rest = shlex.split(text)
    return ["qemu-system-x86_64" if first == "qemu" else first, *rest]


def read(text: str, *host: str, tables_only: bool = False) -> ParsedStage0:
    return parse(words(text), host=parse_host(host), tables_only=tables_only)


def test_launcher_with_sev_snp() -> None:
    parsed = read(PROTECTED, *GENOA)
    machine = parsed.machine
    assert machine.type == "q35"
    assert machine.chipset is Stage0Chipset.Q35
    assert (machine.accelerator, machine.amd, machine.phys_bits) == (Accelerator.KVM, True, None)
    assert (machine.vcpus, machine.max_vcpus, machine.memory) == (4, 4, 8_000_000 * KIB)
    assert machine.devices == ("virtio-net-pci", "vhost-vsock-pci")
    assert machine.settings == (("hpet", "on"), ("serial", "1"), ("smm", "off"))
    assert machine.cmdline == " console=ttyS0 quiet"
    assert machine.generation is Stage0Generation.OAK_D6F890B7
    assert machine.sev is not None
    assert (machine.sev.mode, machine.sev.vcpus, machine.sev.kernel_hashes) == (SevMode.SEV_SNP, 4, False)
    assert machine.sev.cpu == CpuSignature(25, 17, 1)
    files = parsed.files
    assert (files.firmware, files.kernel, files.initrd) == ("stage0_bin", "kernel_bin", "initrd.cpio.xz")
    assert parsed.binary == "qemu-system-x86_64"


def test_launcher_without_sev() -> None:
    machine = read(INSECURE, "phys-bits=48").machine
    assert (machine.chipset, machine.sev, machine.phys_bits) == (Stage0Chipset.MICROVM, None, 48)
    assert machine.settings == (("pcie", "on"), ("rtc", "off"), ("serial", "1"))


def test_launcher_with_sev_snp_on_microvm() -> None:
    machine = read(PROTECTED.replace("q35,acpi=on", "microvm,acpi=on,pcie=on"), *GENOA).machine
    assert machine.chipset is Stage0Chipset.MICROVM
    assert machine.sev is not None


def test_network_mode_and_what_is_drawn_at_each_start_are_no_part_of_the_tables() -> None:
    bridged = read(PROTECTED.replace(DEVICES, BRIDGE).replace("quiet", "other"), *GENOA).machine
    first = read(PROTECTED, *GENOA).machine
    assert bridged.acpi_identity() == first.acpi_identity()
    assert bridged.identity() != first.identity()


def test_a_disk_is_its_slot() -> None:
    device = "-device virtio-blk-pci,drive=d,addr=5"
    parsed = read(f"{TCG} -drive if=none,id=d,file=x,format=raw {device}")
    assert parsed.machine == read(f"{TCG} {device}").machine
    assert parsed.ignored == ("-drive if=none,id=d,file=x,format=raw",)


def test_objects_and_devices_as_json() -> None:
    guest = '{"qom-type":"sev-snp-guest","id":"sev0","cbitpos":51,"reduced-phys-bits":1,"id-auth":"1"}'
    network = '{"driver":"virtio-net-pci","netdev":"netdev","disable-legacy":"on","multifunction":true}'
    plain = PROTECTED.replace("romfile= ", "romfile=,multifunction=on ")
    line = plain.replace("sev-snp-guest,id=sev0,cbitpos=51,reduced-phys-bits=1,id-auth=1", f"'{guest}'")
    flat = "virtio-net-pci,disable-legacy=on,iommu_platform=true,netdev=netdev,romfile=,multifunction=on"
    assert read(line.replace(flat, f"'{network}'"), *GENOA).machine == read(plain, *GENOA).machine


def test_a_slot_as_a_number_of_json_is_another_slot_than_as_a_text() -> None:
    """QEMU takes 16 for slot 2, function 0, and "16" for slot 0x16."""
    device = '{"driver":"virtio-blk-pci","drive":"d","addr":%s}'
    line = f"{TCG} -drive if=none,id=d,file=x,format=raw -device"
    text = device % '"16"'
    assert read(f"{line} '{text}'").machine == read(f"{line} virtio-blk-pci,drive=d,addr=16").machine
    with pytest.raises(MeasureError, match=r"addr is not a text; write it so$"):
        read(f"{line} '{device % 16}'")


def test_machine_settings_with_underscores() -> None:
    assert read(f"{TCG} -M kernel_irqchip=split").machine == read(f"{TCG} -M kernel-irqchip=split").machine
    assert dict(read(f"{TCG} -M kernel_irqchip=split").machine.settings)["kernel-irqchip"] == "split"


def test_a_microvm_has_no_table_that_stage0_stops_at() -> None:
    # Spec: QEMU 10.0 hw/i386/acpi-microvm.c acpi_build_microvm(), which builds none for this device.
    assert read(f"{TCG.replace('q35', 'microvm')} -device vmgenid").machine.devices == ("vmgenid",)


def test_machine_for_a_capture_needs_no_facts_of_sev() -> None:
    machine = read(PROTECTED, tables_only=True).machine
    assert machine.sev is None
    assert machine.acpi_identity() == read(PROTECTED, *GENOA).machine.acpi_identity()


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        (TCG, "settings", (("hpet", "on"), ("serial", "0"), ("smm", "on"))),
        (f"{TCG} -no-hpet", "settings", (("hpet", "off"), ("serial", "0"), ("smm", "on"))),
        (
            f"{TCG} -M smm=no,sata=off",
            "settings",
            (("hpet", "on"), ("sata", "off"), ("serial", "0"), ("smm", "off")),
        ),
        (f"{TCG} -serial null -serial stdio", "settings", (("hpet", "on"), ("serial", "2"), ("smm", "on"))),
        (f"{TCG} -serial none -serial none", "settings", (("hpet", "on"), ("serial", "0"), ("smm", "on"))),
        (TCG.replace("q35", "microvm"), "settings", (("pcie", "off"), ("rtc", "on"), ("serial", "0"))),
        (TCG.replace("q35", "microvm"), "phys_bits", 40),
        (TCG.replace("q35", "pc-q35-9.2"), "type", "pc-q35-9.2"),
        (TCG.replace("max", "max,phys-bits=36"), "phys_bits", 36),
        (TCG.replace("max", "max,phys-bits=46"), "phys_bits", None),
        (TCG.replace("max", "EPYC-Milan-v2"), "amd", True),
        (TCG.replace("max", "Skylake-Server"), "amd", False),
        (TCG.replace("max", "max,vendor=GenuineIntel"), "amd", False),
        (TCG.replace("max", "Nehalem,vendor=AuthenticAMD"), "amd", True),
        (TCG.replace("max", "Icelake-Server-noTSX"), "amd", False),
        (TCG.replace("max", "Haswell-noTSX-IBRS"), "amd", False),
        (TCG.replace("max", "Dhyana-v2"), "amd", False),
        (TCG.replace("max", "Opteron_G4-v1"), "amd", True),
        (TCG.replace("max", "max,phys_bits=0x27"), "phys_bits", 39),
        (TCG.replace("max", "max,,+lm,phys-bits=0"), "phys_bits", None),
        (TCG.replace("q35", "pc-q35-4.0.1"), "chipset", Stage0Chipset.Q35),
        (f"{TCG} -smp 2,maxcpus=8", "max_vcpus", 8),
        (TCG, "max_vcpus", 1),
        (TCG.replace("2G", "1025K"), "memory", 1032 * KIB),
        (TCG.replace("2G", "512"), "memory", 512 * 1024 * KIB),
        (
            (
                f"{TCG} -device pcie-root-port,id=port,chassis=1 -device virtio-rng-pci,bus=port,id=r "
                "-device x,addr=7"
            ),
            "devices",
            ("pcie-root-port,chassis=1,id=port", "virtio-rng-pci,bus=port", "x,addr=7"),
        ),
    ],
)
def test_what_becomes_of_options(text: str, key: str, value: object) -> None:
    assert getattr(read(text).machine, key) == value


@pytest.mark.parametrize(("fact", "amd"), [("amd", True), ("intel", False), ("GenuineIntel", False)])
def test_maker_of_the_cpu_behind_kvm_is_a_fact_of_the_host(fact: str, amd: bool) -> None:
    text = "qemu -nodefaults -machine q35 -accel kvm -cpu EPYC -m 2G"
    assert read(text, f"vendor={fact}").machine.amd is amd


KVM = "qemu -nodefaults -machine q35 -accel kvm -cpu host -m 2G"


@pytest.mark.parametrize("machine", ["q35", "microvm"])
@pytest.mark.parametrize(
    ("cpu", "facts", "amd", "bits"),
    [
        ("host", ("vendor=amd", "phys-bits=39"), True, 39),
        ("host,host-phys-bits=on", ("vendor=amd", "phys-bits=39"), True, 39),
        ("host,vendor=GenuineIntel", ("phys-bits=39",), False, 39),
        ("host,vendor=AuthenticAMD", ("phys-bits=39",), True, 39),
        ("EPYC-v4,vendor=GenuineIntel,phys-bits=38", (), False, 38),
        ("EPYC-v4,host-phys-bits=on", ("vendor=amd", "phys-bits=39"), True, 39),
        ("EPYC-v4,+host_phys_bits", ("vendor=amd", "phys-bits=39"), True, 39),
        ("host,host-phys-bits-limit=39", ("vendor=amd", "phys-bits=48"), True, 39),
        ("host,host-phys-bits-limit=48", ("vendor=amd", "phys-bits=39"), True, 39),
        ("max,host-phys-bits-limit=0", ("vendor=amd", "phys-bits=39"), True, 39),
        ("host,host-phys-bits=off,phys-bits=39", ("vendor=amd",), True, 39),
        ("host,-host-phys-bits,phys-bits=39", ("vendor=intel",), False, 39),
    ],
)
def test_what_the_guest_sees_of_the_cpu_behind_kvm(
    machine: str, cpu: str, facts: tuple[str, ...], amd: bool, bits: int
) -> None:
    found = read(KVM.replace("q35", machine).replace("-cpu host", f"-cpu {cpu}"), *facts).machine
    assert (found.amd, found.phys_bits) == (amd, bits)


@pytest.mark.parametrize(
    ("cpu", "facts", "message"),
    [
        (
            "host,phys-bits=39",
            ("vendor=amd",),
            (
                "-cpu host,phys-bits=39: host-phys-bits is on, and QEMU does not go by phys-bits; "
                "leave phys-bits out, or write host-phys-bits=off"
            ),
        ),
        (
            "host,host-phys-bits-limit=39",
            ("vendor=amd",),
            (
                "-cpu host,host-phys-bits-limit=39: the fewer of the host's address bits and the limit "
                "count; give --host phys-bits=N, as /proc/cpuinfo has it"
            ),
        ),
        (
            "EPYC-v4,host-phys-bits-limit=39",
            ("vendor=amd",),
            (
                "-cpu EPYC-v4,host-phys-bits-limit=39: host-phys-bits-limit has no effect without "
                "host-phys-bits; leave it out"
            ),
        ),
        (
            "host,host-phys-bits=off",
            ("vendor=amd", "phys-bits=48"),
            "--host phys-bits=48: -cpu host says it; leave it out",
        ),
        (
            "host,vendor=AuthenticAMD",
            ("vendor=amd",),
            "--host vendor: -cpu host,vendor=AuthenticAMD says what the guest sees; leave it out",
        ),
        (
            "Nonsense",
            ("vendor=amd",),
            (
                "-cpu Nonsense: no CPU model of this name with 64 bits is known; "
                "use one such as host, max or EPYC-Milan"
            ),
        ),
    ],
)
def test_settings_of_the_cpu_behind_kvm_that_are_refused(
    cpu: str, facts: tuple[str, ...], message: str
) -> None:
    with pytest.raises(MeasureError) as caught:
        read(KVM.replace("-cpu host", f"-cpu {cpu}"), *facts)
    assert str(caught.value) == message


def test_options_without_influence_are_reported() -> None:
    assert read(f"{TCG} -no-reboot -name x -uuid 1 -machine mem-merge=off").ignored == (
        "-no-reboot",
        "-name x",
        "-uuid 1",
        "-machine mem-merge=off",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "command line: the first word is no QEMU for x86; start with qemu-system-x86_64"),
        ("lkvm run", "lkvm: the first word is no QEMU for x86; start with qemu-system-x86_64"),
        (
            "qemu -machine q35 -accel tcg -cpu max -m 1G",
            "-nodefaults: missing; without it QEMU adds devices that no option shows",
        ),
        (
            "qemu -nodefaults -accel tcg -cpu max -m 1G",
            "-machine: missing; write -machine q35 or -machine microvm,acpi=on,pcie=on",
        ),
        (TCG.replace("q35", "pc"), "-machine pc: is not modelled; use q35, pc-q35-N.M or microvm"),
        (
            TCG.replace("q35", "microvm-1"),
            "-machine microvm-1: is not modelled; use q35, pc-q35-N.M or microvm",
        ),
        (
            TCG.replace("q35", "q35,acpi=off"),
            "-machine q35,acpi=off: stage0 stops where there are no ACPI tables; write acpi=on",
        ),
        (
            f"{TCG} -no-acpi",
            "-no-acpi: not modelled; stage0 stops where there are no ACPI tables; leave it out",
        ),
        (
            TCG.replace("q35", "q35,nonsense=1"),
            "-machine q35,nonsense=1: setting 'nonsense' is not modelled; leave it out",
        ),
        (TCG.replace("q35", "q35,rtc=off"), "-machine q35,rtc=off: it has no such setting; leave it out"),
        (
            TCG.replace("q35", "q35,usb=on"),
            "-machine usb=on: a USB controller has a slot and code in the tables; leave it out",
        ),
        (
            TCG.replace("q35", "q35,confidential-guest-support=sev0"),
            (
                "-machine confidential-guest-support=sev0: there is no -object sev-snp-guest of that name; "
                "give one, or leave it out"
            ),
        ),
        (
            f"{TCG} -nonsense 1",
            "-nonsense: unknown option; leave it out if neither ACPI tables nor memory map depend on it",
        ),
        (f"{TCG} disk.raw", f"disk.raw: a word without an option is not modelled; for a disk {DISK}"),
        (f"{TCG} -append", "-append: its value is missing; it is the last word"),
        (
            f"{TCG} -append a -append b",
            "-append b: given twice, QEMU would take the last one; leave out one of them",
        ),
        (
            f"{TCG} -machine smm=on,smm=off",
            "-machine smm=on,smm=off: 'smm' is given twice; write each setting once",
        ),
        (
            f"{TCG} -machine smm=on -M smm=off",
            "-M smm=off: smm is given twice with different values; write it once",
        ),
        (
            TCG.replace("-accel tcg", ""),
            "-accel: missing; QEMU's default depends on its name, so write -accel kvm or tcg",
        ),
        (
            f"{TCG} -serial none -serial stdio",
            (
                "-serial stdio: versions of QEMU differ in which ports are there beside -serial none; "
                "leave out -serial none"
            ),
        ),
        (
            f"{TCG} -serial stdio -serial none",
            (
                "-serial none: versions of QEMU differ in which ports are there beside -serial none; "
                "leave out -serial none"
            ),
        ),
        (TCG.replace("q35", "pc-q35"), "-machine pc-q35: is not modelled; use q35, pc-q35-N.M or microvm"),
        (
            TCG.replace("max", "EPYC-Milan-v9"),
            (
                "-cpu EPYC-Milan-v9: no CPU model of this name with 64 bits is known; "
                "did you mean 'EPYC-Milan-v3'?"
            ),
        ),
        (
            TCG.replace("max", "xyzzy=1"),
            (
                "-cpu xyzzy=1: no CPU model of this name with 64 bits is known; "
                "use one such as host, max or EPYC-Milan"
            ),
        ),
        (
            TCG.replace("max", "max,-lm"),
            "-cpu max,-lm: stage0 does not run without long mode; leave lm=off out",
        ),
        (
            TCG.replace("max", "max,lm=maybe"),
            "-cpu max,lm=maybe: lm=maybe is neither on nor off; write lm=on",
        ),
        (
            TCG.replace("max", "max,phys-bits=40,phys_bits=39"),
            "-cpu max,phys-bits=40,phys_bits=39: 'phys-bits' is given twice; write each setting once",
        ),
        (
            TCG.replace("max", "max,vendor=Nobody"),
            "-cpu max,vendor=Nobody: vendor=Nobody is not modelled; write AuthenticAMD or GenuineIntel",
        ),
        (
            TCG.replace("max", "max,phys-bits=047"),
            "-cpu max,phys-bits=047: QEMU takes 047 for an octal number; write it without the 0",
        ),
        (
            TCG.replace("max", "max,host-phys-bits=on"),
            "-cpu max,host-phys-bits=on: host-phys-bits=on has no effect with -accel tcg; leave it out",
        ),
        (
            PROTECTED.replace("-cpu host", "-cpu host,vendor=GenuineIntel"),
            "-cpu host,vendor=GenuineIntel: SEV is AMD's; leave vendor=GenuineIntel out",
        ),
        (TCG.replace("tcg", "xen"), "-accel xen: not modelled; write -accel kvm or -accel tcg"),
        (TCG.replace("-cpu max", ""), "-cpu: missing; QEMU's default depends on how it was built"),
        (TCG.replace("-cpu max", "-cpu host"), "-cpu host: needs -accel kvm; write -cpu max"),
        (
            TCG.replace("tcg", "kvm"),
            (
                "-cpu max: the memory map depends on who made the host's CPU; "
                "give --host vendor=amd or --host vendor=intel"
            ),
        ),
        (
            TCG.replace("max", "max,phys-bits=99"),
            "-cpu max,phys-bits=99: a CPU has 32 to 52 address bits; take the number from /proc/cpuinfo",
        ),
        (TCG.replace("-m 2G", ""), "-m: missing; QEMU's default depends on how it was built"),
        (TCG.replace("2G", "512B"), "-m 512B: not a whole number of KiB; write for example 8000000K or 2G"),
        (
            TCG.replace("2G", "2G,slots=2,maxmem=4G"),
            (
                "-m 2G,slots=2,maxmem=4G: room for memory hotplug changes the ACPI tables and is not "
                "modelled; leave slots out"
            ),
        ),
        (
            f"{TCG} -smp 4,sockets=2",
            "-smp 4,sockets=2: a topology decides the numbers of APICs and is not modelled; write -smp 4",
        ),
        (
            f"{TCG} -smp 4,maxcpus=2",
            "-smp 4,maxcpus=2: 4 vCPUs are more than maxcpus=2; QEMU does not start so",
        ),
        (f"{TCG} -smp 0", "-smp 0: not a positive number"),
        (f"{TCG} -vga std", "-vga std: not modelled; write -vga none and use -device"),
        (f"{TCG} -drive file=x", f"-drive file=x: not modelled, its PCI slot does not show; {DISK}"),
        (f"{TCG} -drive if=virtio", f"-drive if=virtio: not modelled, its PCI slot does not show; {DISK}"),
        (f"{TCG} -hda x", f"-hda: not modelled; {DISK}"),
        (
            f"{TCG} -device vmgenid,guid=auto",
            "-device vmgenid,guid=auto: its table brings WRITE_POINTER, at which stage0 stops; leave it out",
        ),
        (
            f"{TCG} -machine smm=on,kernel_irqchip=off,kernel-irqchip=on",
            (
                "-machine smm=on,kernel_irqchip=off,kernel-irqchip=on: 'kernel-irqchip' is given twice, "
                "an underscore stands for the dash; write each setting once"
            ),
        ),
        (
            f"{TCG} -fw_cfg name=a",
            "-fw_cfg: not modelled; a fw_cfg file can change what stage0 does; leave it out",
        ),
        (
            f"{TCG} -device loader,file=x",
            "-device loader,file=x: it puts a file into memory that is not measured; leave it out",
        ),
        (
            f"{TCG} -device EPYC-x86_64-cpu,core-id=1",
            "-device EPYC-x86_64-cpu,core-id=1: it adds a vCPU; write how many there are at -smp",
        ),
        (
            f"{TCG} -device {{'driver':'x'}}",
            (
                "-device {driver:x}: no JSON: Expecting property name enclosed in double quotes: "
                "line 1 column 2 (char 1); write key=value,key=value"
            ),
        ),
        (
            f"{TCG} -object tdx-guest,id=t",
            "-object tdx-guest,id=t: objects of type tdx-guest are not modelled; leave it out",
        ),
        (
            f"{TCG} -object sev-guest,id=t",
            "-object sev-guest,id=t: stage0 on SEV without SNP is not modelled; use sev-snp-guest",
        ),
        (PROTECTED.replace("-enable-kvm", "-accel tcg"), "-accel tcg: SEV needs KVM; write -accel kvm"),
        (
            PROTECTED.replace("q35,", "q35,smm=on,"),
            "-machine smm=on: there is no SMM with SEV-SNP; write smm=off",
        ),
        (
            PROTECTED.replace(",confidential-guest-support=sev0", ""),
            (
                "-object sev-snp-guest,id=sev0,cbitpos=51,reduced-phys-bits=1,id-auth=1: no machine uses it, "
                "so nothing is measured; write -machine q35,confidential-guest-support=sev0"
            ),
        ),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(MeasureError) as caught:
        parse(words(text) if text else [], host=parse_host(GENOA))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "facts", "message"),
    [
        (
            PROTECTED,
            (),
            (
                "-cpu host: the digest depends on the host's family; give --host family=F --host model=M "
                "--host stepping=S, as /proc/cpuinfo has them"
            ),
        ),
        (PROTECTED, ("vendor=intel",), "--host vendor=intel: SEV is AMD's; leave it out"),
        (TCG, ("vendor=amd",), "--host vendor: -cpu max says it with -accel tcg; leave it out"),
        (TCG, ("phys-bits=48",), "--host phys-bits=48: -cpu max says it; leave it out"),
        (TCG, ("vendor=x",), "--host vendor=x: no such maker of CPUs; write vendor=amd or vendor=intel"),
        (TCG, ("vendor=amd", "vendor=amd"), "--host vendor=amd: given twice; write it once"),
        (TCG, ("phys-bits=x",), "--host phys-bits=x: 'x' is no number; write for example 33 or 0x21"),
        (TCG, ("phys-bit=4",), "--host phys-bit=4: no such fact of a host; did you mean 'phys-bits'?"),
        (TCG, ("family",), "--host family: write family=NUMBER"),
    ],
)
def test_facts_of_the_host_that_are_missing_or_wrong(text: str, facts: tuple[str, ...], message: str) -> None:
    with pytest.raises(MeasureError) as caught:
        read(text, *facts, tables_only=False)
    assert str(caught.value) == message


def test_unknown_generation() -> None:
    assert parse_generation("oak-d6f890b7") is Stage0Generation.OAK_D6F890B7
    with pytest.raises(
        MeasureError, match=r"^stage0 oak: no such generation is modelled; known: oak-d6f890b7"
    ):
        parse_generation("oak")


def test_command_line_that_is_captured() -> None:
    machine = read(INSECURE, "phys-bits=48").machine
    assert command_line(machine, rom="R", binary="/opt/qemu-kvm") == (
        *("/opt/qemu-kvm", "-nodefaults", "-no-user-config", "-S", "-display", "none", "-bios", "R"),
        *("-object", "memory-backend-ram,id=goldsmith-ram,size=8000000K,reserve=off", "-m", "8000000K"),
        *("-machine", "microvm,pcie=on,rtc=off,memory-backend=goldsmith-ram"),
        *("-accel", "tcg", "-cpu", "max,phys-bits=48", "-smp", "4,maxcpus=4", "-qtest-log", "none"),
        *("-serial", "null"),
        *("-device", "virtio-net-pci", "-device", "virtio-rng-pci"),
    )
    assert stand_ins(machine) == (
        (
            "-accel tcg stands in for kvm, without memory encryption; what KVM and SEV decide for the tables "
            "is set by -machine"
        ),
        "-device virtio-rng-pci stands in for vhost-vsock-pci in its slot",
    )
    assert stand_ins(read(TCG).machine) == ()
    slotted = replace(machine, devices=("vhost-vsock-pci,addr=5",))
    assert command_line(slotted, rom="R")[-1] == "virtio-rng-pci,addr=5"


@pytest.mark.parametrize(
    ("device", "started"),
    [
        ("nvme,serial=a,,b,addr=5,multifunction=on", "virtio-rng-pci,addr=5,multifunction=on"),
        ("vfio-pci,acpi-index=3,bus=p,host=01:00.0,id=v", "virtio-rng-pci,acpi-index=3,bus=p,id=v"),
        ("vhost-user-blk-pci-non-transitional", "virtio-rng-pci"),
        ("vhost-vsock-device", "virtio-rng-device"),
        ("vhost-vsock-device,bus=virtio-mmio-bus.0,x=y", "virtio-rng-device,bus=virtio-mmio-bus.0"),
        ("virtio-gpu-device,xres=800", "virtio-rng-device"),
        ("nvme-like,serial=x", "nvme-like,serial=x"),
        ("virtio-net-device,x=y", "virtio-net-device,x=y"),
        ("virtio-blk-pci-like", "virtio-blk-pci-like"),
    ],
)
def test_what_stands_in_for_a_device(device: str, started: str) -> None:
    machine = replace(read(TCG).machine, devices=(device,))
    assert command_line(machine, rom="R")[-2:] == ("-device", started)
    said = () if device == started else (f"-device {started} stands in for {device} in its slot",)
    assert stand_ins(machine) == said


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("nvme-ns,drive=d", "nvme-ns: it has no slot of its own, and nothing stands in for it"),
        ("nvme-subsys", "nvme-subsys: it has no slot of its own, and nothing stands in for it"),
        ("vhost-user-vga", "vhost-user-vga: the tables tell a VGA card apart, and nothing stands in for it"),
        (
            "vfio-pci-nohotplug",
            ("vfio-pci-nohotplug: the tables say that it cannot be unplugged, and nothing stands in for it"),
        ),
        ("virtio-pmem-pci", "virtio-pmem-pci: memory of that kind changes memory map and tables"),
        (
            "vfio-pci,host=1:0.0,failover_pair_id=n",
            (
                "vfio-pci,failover_pair_id=n,host=1:0.0: with failover_pair_id its slot stays empty until "
                "the guest asks, which is not modelled"
            ),
        ),
    ],
)
def test_devices_that_nothing_stands_in_for(device: str, message: str) -> None:
    machine = read(f"{TCG} -device {device}", tables_only=True).machine
    with pytest.raises(MeasureError) as caught:
        capture_stage0(machine, binary="/nowhere/qemu-system-x86_64")
    assert str(caught.value) == f"-device {message}; leave it out"


OPTIONS = sorted({word for word in words(f"{PROTECTED} {INSECURE} {TCG}") if word.startswith("-")})
VALUES = st.one_of(
    st.sampled_from([word for word in words(f"{PROTECTED} {INSECURE} {TCG}") if not word.startswith("-")]),
    st.text(alphabet="q35=,on-{}\0é9K.", max_size=20),
)


@settings(max_examples=150)
@given(st.lists(st.one_of(st.sampled_from(OPTIONS), VALUES), max_size=8), st.booleans())
def test_any_words_parse_or_are_refused(more: list[str], tables_only: bool) -> None:
    with contextlib.suppress(MeasureError):
        parse([*words(TCG), *more], tables_only=tables_only)


@settings(max_examples=150)
@given(st.lists(st.text(alphabet="vendorphys-bits=amdintel0x9\0", max_size=16), max_size=3))
def test_any_facts_parse_or_are_refused(items: list[str]) -> None:
    with contextlib.suppress(MeasureError):
        parse_host(items)
