from __future__ import annotations

import json
import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import MeasureError
from recipes.machine import Accelerator, Disk, QemuMachine, TpmInterface, UefiFirmware
from recipes.vmm.qemu import DriveFile
from recipes.vmm.qemu_parse import parse
from tests.support import VECTORS

BASE = (
    "qemu-system-x86_64 -nodefaults -no-user-config -machine pc-q35-7.2 -accel tcg -cpu qemu64 -m 512 "
    "-serial stdio -drive if=pflash,unit=0,format=raw,readonly=on,file=C.fd "
    "-drive if=pflash,unit=1,format=raw,file=V.fd -drive if=none,id=d0,format=raw,file=d.raw "
    "-device virtio-blk-pci,drive=d0"
)
TPM = "-chardev socket,id=c,path=s -tpmdev emulator,id=t,chardev=c -device tpm-tis,tpmdev=t"
EMPTY_OVMF = UefiFirmware(package="", code="OVMF_CODE_4M.fd", vars="vars.fd")


def recorded(
    *,
    kind: str = "q35",
    firmware: UefiFirmware = EMPTY_OVMF,
    disks: tuple[Disk, ...] = (Disk(bootindex=0, read_only=True),),
    smbios: tuple[str, ...] = (),
) -> QemuMachine:
    return QemuMachine(
        name="qemu",
        type=kind,
        accelerator=Accelerator.TCG,
        cpu="qemu64,-cx16",
        vcpus=1,
        memory=512 << 20,
        firmware=firmware,
        tpm=TpmInterface.TIS,
        disks=disks,
        smbios_strings=smbios,
    )


RECORDED = {
    "q35-512m-1cpu": recorded(),
    "q35-512m-1cpu-ovmf2022": recorded(),
    "q35-512m-1cpu-nobootindex": recorded(disks=(Disk(read_only=True),)),
    "q35-512m-1cpu-extradisk": recorded(disks=(Disk(bootindex=0, read_only=True), Disk(read_only=True))),
    "q35-512m-1cpu-addons": recorded(smbios=("io.systemd.stub.kernel-cmdline-extra=smbiosarg=1",)),
    "q35-512m-1cpu-secureboot": recorded(
        firmware=UefiFirmware(package="", code="OVMF_CODE_4M.secboot.fd", vars="vars.fd", smm=True)
    ),
    "pc-512m-1cpu": recorded(kind="pc"),
}


@pytest.mark.parametrize("case", sorted(RECORDED))
def test_command_lines_of_recorded_boots(case: str) -> None:
    record = json.loads((VECTORS / "pcr" / f"{case}.json").read_text())
    parsed = parse(shlex.split(record["qemu"]["cmdline"]))
    assert parsed.machine == RECORDED[case]
    assert parsed.files.serial == "file:serial.log"
    assert parsed.files.tpm_socket == "swtpm.sock"
    assert parsed.ignored == ("-display none", "-no-reboot")


def test_aarch64_is_not_modelled() -> None:
    record = json.loads((VECTORS / "pcr" / "aarch64-virt-1024m-1cpu.json").read_text())
    with pytest.raises(MeasureError) as caught:
        parse(shlex.split(record["qemu"]["cmdline"]))
    assert str(caught.value) == "qemu-system-aarch64: not modelled yet; only qemu-system-x86_64 is"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("-machine pc-q35-7.2", "-M pc-q35-7.2"),
        ("-machine pc-q35-7.2", "-machine type=pc-q35-7.2,usb=off"),
        ("-machine pc-q35-7.2 -accel tcg", "-machine type=pc-q35-7.2,accel=tcg,smm=auto"),
        ("-machine pc-q35-7.2 -accel tcg", "-machine accel=tcg -machine pc-q35-7.2"),
        ("-accel tcg", "--accel tcg,thread=single"),
        ("-m 512", "-m 512M"),
        ("-m 512", "-m size=512m"),
        ("-m 512", "-m 524288K"),
        ("-m 512", "-m 512 -smp 1"),
        ("-m 512", "-m 512 -smp cpus=1,maxcpus=1"),
        ("unit=0,", ""),
        ("if=pflash,unit=1,format=raw,file=V.fd", "file=V.fd,format=raw,if=pflash,id=v"),
        ("-serial stdio", "-serial stdio -vga none -nic none -parallel none"),
        ("-serial stdio", "-serial stdio -name x -qmp unix:q -rtc base=utc -S -daemonize"),
        ("id=d0,", "id=d0,cache=none,aio=native,"),
        ("-device virtio-blk-pci,drive=d0", "-device driver=virtio-blk-pci,drive=d0,id=disk"),
    ],
)
def test_other_spellings_give_the_same_machine(old: str, new: str) -> None:
    assert old in BASE
    expected, found = parse(BASE.split()), parse(BASE.replace(old, new).split())
    assert found.machine == expected.machine
    assert found.files == expected.files


def test_what_is_ignored_is_reported() -> None:
    line = BASE.replace("id=d0,", "id=d0,cache=none,") + " -name x,debug-threads=on -S"
    parsed = parse(line.replace("-accel tcg", "-accel tcg,thread=single").split())
    assert parsed.ignored == (
        "-accel tcg,thread=single",
        "-name x,debug-threads=on",
        "-S",
        "-drive cache=none",
    )


def test_host_sides_are_carried() -> None:
    line = BASE + (
        " -netdev user,id=n -device virtio-net-pci,netdev=n -object rng-random,id=r,filename=/dev/urandom"
        " -device virtio-rng-pci,rng=r -chardev null,id=x"
    )
    parsed = parse(line.split())
    assert parsed.machine.devices == ("virtio-net-pci,netdev=n", "virtio-rng-pci,rng=r")
    assert parsed.files.options == (
        *("-netdev", "user,id=n", "-object", "rng-random,id=r,filename=/dev/urandom"),
        *("-chardev", "null,id=x"),
    )


def test_kvm_and_snapshot_and_qcow2() -> None:
    line = BASE.replace("-accel tcg", "-enable-kvm").replace(
        "format=raw,file=d.raw", "format=qcow2,snapshot=on,file=a,,b.qcow2"
    )
    parsed = parse(line.split())
    assert parsed.machine.accelerator is Accelerator.KVM
    assert parsed.files.disks == (DriveFile(path="a,b.qcow2", format="qcow2", snapshot=True),)


BAD = [
    ("-nodefaults ", "", "-nodefaults: missing; without it QEMU adds devices that no option shows"),
    ("-no-user-config ", "", "-no-user-config: missing; without it QEMU adds devices that no option shows"),
    (
        "qemu-system-x86_64",
        "vmlinux",
        "vmlinux: the first word is no QEMU; start with qemu-system-x86_64",
    ),
    ("-m 512", "-m", "stdio: a word without an option is not modelled; write -drive for a disk"),
    ("-m 512", "-m 1000K", "-m 1000K: not a whole number of MiB; write for example 512M or 2G"),
    ("-m 512", "-m 1.5G", "-m 1.5G: not a whole number of MiB; write for example 512M or 2G"),
    ("-m 512", "-m 0", "-m 0: not a whole number of MiB; write for example 512M or 2G"),
    (
        "-m 512",
        "-m 1025G",
        (
            "-m 1025G: more than 1024 GiB, and how such a machine lays out its memory is not modelled; "
            "give it less"
        ),
    ),
    ("-m 512 ", "", "-m: missing; QEMU's default depends on how it was built"),
    (
        "-m 512",
        "-m 512,slots=2,maxmem=1G",
        "-m 512,slots=2,maxmem=1G: setting 'slots' is not modelled; leave it out",
    ),
    ("-cpu qemu64 ", "", "-cpu: missing; QEMU's default depends on how it was built"),
    ("-cpu qemu64", "-cpu a -cpu b", "-cpu b: given twice; QEMU would take the last one"),
    ("-accel tcg ", "", "-accel: missing; QEMU's default depends on how it was built"),
    ("-accel tcg", "-accel xen", "-accel xen: not modelled; use tcg or kvm"),
    (
        "-accel tcg",
        "-accel kvm,kernel-irqchip=split",
        "-accel kvm,kernel-irqchip=split: setting 'kernel-irqchip' is not modelled; leave it out",
    ),
    (
        "-machine pc-q35-7.2",
        "-machine microvm",
        "-machine microvm: is not modelled; use a versioned q35 such as pc-q35-7.2, or pc-i440fx-7.2",
    ),
    ("-machine pc-q35-7.2 ", "", "-machine: missing; use pc-q35-7.2"),
    (
        "pc-q35-7.2",
        "pc-q35-7.2,hpet=off",
        "-machine pc-q35-7.2,hpet=off: setting 'hpet' is not modelled; leave it out",
    ),
    (
        "pc-q35-7.2",
        "pc-q35-7.2,usb=on",
        "-machine pc-q35-7.2,usb=on: usb=on adds a controller, which is not modelled",
    ),
    (
        "pc-q35-7.2",
        "pc-q35-7.2 -machine pc",
        "-machine pc: type is given twice with different values",
    ),
    (
        "pc-q35-7.2",
        "pc-q35-7.2,smm=on",
        (
            "-machine smm=on: firmware with SMM needs both smm=on and cfi.pflash01.secure=on, "
            "other firmware neither"
        ),
    ),
    (
        "-serial stdio",
        "-serial stdio -global cfi.pflash01.secure=on",
        (
            "-machine smm=auto: firmware with SMM needs both smm=on and cfi.pflash01.secure=on, "
            "other firmware neither"
        ),
    ),
    (
        "pc-q35-7.2",
        "pc-i440fx-7.2,smm=on -global cfi.pflash01.secure=on",
        "-machine pc-i440fx-7.2: smm=on needs a q35 machine",
    ),
    (
        "-serial stdio",
        "-serial stdio -global ICH9-LPC.disable_s3=1",
        "-global ICH9-LPC.disable_s3=1: not modelled; only cfi.pflash01.secure=on is",
    ),
    ("-m 512", "-m 512 -smp 0", "-smp 0: not a positive number"),
    (
        "-m 512",
        "-m 512 -smp 2,maxcpus=4",
        "-smp 2,maxcpus=4: room for more processors changes the ACPI tables",
    ),
    (
        "-m 512",
        "-m 512 -smp 4,sockets=2",
        "-smp 4,sockets=2: the topology is not modelled; write -smp 4",
    ),
    (
        "-serial stdio",
        "-serial none",
        (
            "-serial: give one serial port; the ACPI tables list the port, and a machine without "
            "one is not modelled"
        ),
    ),
    (
        "-serial stdio",
        "-serial stdio -serial null",
        "-serial null: given twice; QEMU would take the last one",
    ),
    ("-serial stdio", "-serial stdio -vga std", "-vga std: not modelled; write -vga none and use -device"),
    (
        "-serial stdio",
        "-serial stdio -bios OVMF.fd",
        (
            "-bios: not modelled; one ROM has no variable store of its own; "
            "give two flash units by -drive if=pflash"
        ),
    ),
    (
        "-serial stdio",
        "-serial stdio -kernel k",
        (
            "-kernel: not modelled; the kernel comes from the disk, in its UKI; "
            "direct kernel boot is not modelled yet"
        ),
    ),
    (
        "-serial stdio",
        "-serial stdio -frobnicate 1",
        "-frobnicate: unknown option; leave it out if it has no influence on the machine",
    ),
    (
        "-serial stdio",
        "-serial stdio disk.img",
        "disk.img: a word without an option is not modelled; write -drive for a disk",
    ),
    ("drive=d0", "drive=d0 -name", "-name: its value is missing; it is the last word"),
    (
        "-drive if=pflash,unit=1,format=raw,file=V.fd ",
        "",
        (
            "-drive if=pflash: 1 given; give two flash units by -drive if=pflash: "
            "the firmware's code, and its variables"
        ),
    ),
    (
        "unit=1",
        "unit=0",
        "-drive if=pflash,unit=0,format=raw,file=V.fd: flash units are 0 (code) and 1 (variables), once each",
    ),
    (
        "readonly=on,file=C.fd",
        "file=C.fd",
        "-drive if=pflash,unit=0,format=raw,file=C.fd: this flash unit takes readonly=on",
    ),
    (
        "format=raw,file=V.fd",
        "format=raw,readonly=on,file=V.fd",
        (
            "-drive if=pflash,unit=1,format=raw,readonly=on,file=V.fd: this flash unit takes "
            "no readonly: the firmware writes its variables"
        ),
    ),
    (
        "format=raw,file=V.fd",
        "file=V.fd",
        "-drive if=pflash,unit=1,file=V.fd: write format=raw; QEMU would guess it from the content",
    ),
    (
        "id=d0,format=raw",
        "id=d0",
        (
            "-drive if=none,id=d0,file=d.raw: write format=raw or format=qcow2; "
            "QEMU would guess it from the content"
        ),
    ),
    (
        "if=none,id=d0",
        "if=virtio,id=d0",
        (
            "-drive if=virtio,id=d0,format=raw,file=d.raw: if=virtio is not modelled; "
            "write if=none and -device virtio-blk-pci"
        ),
    ),
    (
        "if=none,id=d0",
        "id=d0",
        (
            "-drive id=d0,format=raw,file=d.raw: if=ide is not modelled; write if=none and "
            "-device virtio-blk-pci"
        ),
    ),
    ("file=d.raw", "x=1", "-drive if=none,id=d0,format=raw,x=1: file= is missing"),
    (
        "file=d.raw",
        "file=d.raw,throttling.iops-total=1",
        (
            "-drive if=none,id=d0,format=raw,file=d.raw,throttling.iops-total=1: "
            "setting 'throttling.iops-total' is not modelled; leave it out"
        ),
    ),
    (
        "file=d.raw",
        "file=d.raw,snapshot=maybe",
        "-drive if=none,id=d0,format=raw,file=d.raw,snapshot=maybe: snapshot=maybe is neither on nor off",
    ),
    (
        "file=d.raw",
        "file=d.raw,file=e.raw",
        (
            "-drive if=none,id=d0,format=raw,file=d.raw,file=e.raw: 'file' is given twice; write "
            "each setting once"
        ),
    ),
    (
        "drive=d0",
        "drive=d1",
        "-device virtio-blk-pci,drive=d1: there is no unused -drive if=none with id=d1",
    ),
    (
        "-device virtio-blk-pci",
        "-device nvme,serial=x",
        (
            "-drive if=none,id=d0,format=raw,file=d.raw: no virtio-blk-pci device before the other devices "
            "has this drive; only such disks are modelled"
        ),
    ),
    (
        "drive=d0",
        "drive=d0,addr=5",
        "-device virtio-blk-pci,drive=d0,addr=5: setting 'addr' is not modelled; leave it out",
    ),
    (
        "drive=d0",
        "drive=d0,bootindex=-1",
        "-device virtio-blk-pci,drive=d0,bootindex=-1: bootindex is a number from 0",
    ),
    (
        "drive=d0",
        (
            "drive=d0 -drive if=none,id=d1,format=raw,file=e -device virtio-rng-pci "
            "-device virtio-blk-pci,drive=d1"
        ),
        (
            "-drive if=none,id=d1,format=raw,file=e: no virtio-blk-pci device before the other devices "
            "has this drive; only such disks are modelled"
        ),
    ),
    (
        "-device virtio-blk-pci,drive=d0",
        '-device {"driver":"virtio-blk-pci"}',
        '-device {"driver":"virtio-blk-pci"}: JSON is not read here; write key=value,key=value',
    ),
    (
        "drive=d0",
        f"drive=d0 {TPM}",
        "-device tpm-tis,tpmdev=t: not in order; the TPM comes before all other devices",
    ),
    (
        "-serial stdio",
        f"-serial stdio {TPM.replace('tpm-tis', 'tpm-spapr')}",
        "-tpmdev: give one, with one -device tpm-tis or tpm-crb that names it",
    ),
    (
        "-serial stdio",
        f"-serial stdio {TPM.replace('emulator', 'passthrough')}",
        "-tpmdev passthrough,id=t,chardev=c: only an emulator (swtpm) has known start values",
    ),
    (
        "-serial stdio",
        f"-serial stdio {TPM.replace('chardev=c ', 'chardev=x ')}",
        "-tpmdev emulator,id=t,chardev=x: its chardev must be a -chardev socket,id=...,path=...",
    ),
    (
        "-serial stdio",
        f"-serial stdio {TPM.replace('tpmdev=t', 'tpmdev=u')}",
        "-device tpm-tis,tpmdev=u: there is no -tpmdev with id=u",
    ),
    (
        "-serial stdio",
        "-serial stdio -object memory-backend-ram,id=m",
        "-object memory-backend-ram,id=m: objects of type memory-backend-ram are not modelled",
    ),
    (
        "-serial stdio",
        "-serial stdio -smbios type=1,serial=x",
        "-smbios type=1,serial=x: only type 11 (strings) is modelled",
    ),
]


@pytest.mark.parametrize(("old", "new", "message"), BAD)
def test_what_is_not_modelled_is_an_error(old: str, new: str, message: str) -> None:
    assert old in BASE
    with pytest.raises(MeasureError) as caught:
        parse(BASE.replace(old, new, 1).split())
    assert str(caught.value) == message


def test_no_words_at_all() -> None:
    with pytest.raises(MeasureError) as caught:
        parse([])
    assert str(caught.value) == "command line: the first word is no QEMU; start with qemu-system-x86_64"


WORDS = [*sorted(set(BASE.split()[1:] + TPM.split())), "", "-", "--", "=", ",,", "a=,b", "-net", "{}"]


@given(st.lists(st.sampled_from(WORDS) | st.text(max_size=8), max_size=12), st.integers(0, 12))
@settings(max_examples=150)
def test_any_words_give_a_machine_or_a_measure_error(words: list[str], at: int) -> None:
    line = BASE.split()
    line[1 + at : 1 + at] = words
    try:
        parse(line)
    except MeasureError as error:
        assert str(error)
