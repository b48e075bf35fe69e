from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import MeasureError
from recipes.machine import Accelerator, Disk, QemuMachine, TpmInterface, UefiFirmware
from recipes.units import MIB
from recipes.vmm.qemu import DriveFile, LaunchFiles, render
from recipes.vmm.qemu_parse import parse

MACHINE = QemuMachine(
    name="small",
    type="pc-q35-7.2",
    accelerator=Accelerator.TCG,
    cpu="qemu64,-cx16",
    vcpus=1,
    memory=512 * MIB,
    firmware=UefiFirmware(package="ovmf", code="CODE.fd", vars="VARS.fd"),
    tpm=TpmInterface.TIS,
)
FILES = LaunchFiles(
    code="fw/CODE.fd", vars="VARS.fd", disks=(DriveFile(path="disk.raw"),), tpm_socket="tpm.sock"
)


def test_the_whole_command_line() -> None:
    assert " ".join(render(MACHINE, FILES)) == (
        "qemu-system-x86_64 -nodefaults -no-user-config -machine pc-q35-7.2 -accel tcg -cpu qemu64,-cx16 "
        "-m 512 -smp 1 -display none -no-reboot -serial stdio "
        "-drive if=pflash,unit=0,format=raw,readonly=on,file=fw/CODE.fd "
        "-drive if=pflash,unit=1,format=raw,file=VARS.fd "
        "-chardev socket,id=chrtpm,path=tpm.sock -tpmdev emulator,id=tpm0,chardev=chrtpm "
        "-device tpm-tis,tpmdev=tpm0 "
        "-drive if=none,id=d0,format=raw,file=disk.raw -device virtio-blk-pci,drive=d0,bootindex=0 "
        "-vga none -nic none"
    )


def test_the_whole_command_line_of_a_machine_with_everything() -> None:
    machine = replace(
        MACHINE,
        accelerator=Accelerator.KVM,
        vcpus=4,
        memory=3 << 30,
        firmware=replace(MACHINE.firmware, smm=True, secure_boot=True),
        tpm=TpmInterface.CRB,
        disks=(Disk(), Disk(bootindex=3, read_only=True)),
        devices=("virtio-rng-pci", "virtio-net-pci,netdev=n0"),
        smbios_strings=("a=1,2",),
    )
    files = replace(
        FILES,
        disks=(DriveFile(path="a,b.raw", snapshot=True), DriveFile(path="c.qcow2", format="qcow2")),
        options=("-netdev", "user,id=n0"),
        serial="mon:stdio",
    )
    assert " ".join(render(machine, files)) == (
        "qemu-system-x86_64 -nodefaults -no-user-config -machine pc-q35-7.2,smm=on -accel kvm "
        "-cpu qemu64,-cx16 -m 3072 -smp 4 -display none -no-reboot -serial mon:stdio "
        "-global driver=cfi.pflash01,property=secure,value=on "
        "-drive if=pflash,unit=0,format=raw,readonly=on,file=fw/CODE.fd "
        "-drive if=pflash,unit=1,format=raw,file=VARS.fd "
        "-chardev socket,id=chrtpm,path=tpm.sock -tpmdev emulator,id=tpm0,chardev=chrtpm "
        "-device tpm-crb,tpmdev=tpm0 "
        "-drive if=none,id=d0,format=raw,snapshot=on,file=a,,b.raw -device virtio-blk-pci,drive=d0 "
        "-drive if=none,id=d1,format=qcow2,readonly=on,file=c.qcow2 "
        "-device virtio-blk-pci,drive=d1,bootindex=3 "
        "-device virtio-rng-pci -device virtio-net-pci,netdev=n0 -vga none -nic none "
        "-smbios type=11,value=a=1,,2 -netdev user,id=n0"
    )


@pytest.mark.parametrize(
    ("machine", "files", "message"),
    [
        (MACHINE, replace(FILES, disks=()), "small: 1 disks need as many files, got 0"),
        (
            MACHINE,
            replace(FILES, tpm_socket=None),
            "small: give tpm_socket for a machine with a TPM, and for no other",
        ),
        (
            replace(MACHINE, tpm=None),
            FILES,
            "small: give tpm_socket for a machine with a TPM, and for no other",
        ),
        (
            replace(MACHINE, memory=MIB + 1),
            FILES,
            "small: memory of 1048577 bytes; QEMU takes a whole number of MiB",
        ),
    ],
)
def test_files_that_do_not_fit(machine: QemuMachine, files: LaunchFiles, message: str) -> None:
    with pytest.raises(MeasureError) as caught:
        render(machine, files)
    assert str(caught.value) == message


texts = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), min_size=1, max_size=20)
names = st.text(st.sampled_from("abcXYZ019_.,= -"), min_size=1, max_size=12)


@st.composite
def launches(draw: st.DrawFn) -> tuple[QemuMachine, LaunchFiles]:
    firmware = UefiFirmware(
        package=draw(names),
        code=draw(names),
        vars=draw(names),
        secure_boot=draw(st.booleans()),
        smm=draw(st.booleans()),
    )
    bootindex = st.none() | st.integers(0, 10**9 - 1)
    disks = draw(st.lists(st.builds(Disk, bootindex=bootindex, read_only=st.booleans()), max_size=4))
    machine = QemuMachine(
        name=draw(names),
        type=draw(st.sampled_from(["q35", "pc-q35-7.2", "pc-q35-10.0"]))
        if firmware.smm
        else draw(st.sampled_from(["pc", "pc-i440fx-7.2", "pc-q35-4.0.1"])),
        accelerator=draw(st.sampled_from(Accelerator)),
        cpu=draw(texts),
        vcpus=draw(st.integers(1, 999_999)),
        memory=draw(st.integers(1, 1 << 20)) * MIB,
        firmware=firmware,
        tpm=draw(st.none() | st.sampled_from(TpmInterface)),
        disks=tuple(disks),
        devices=tuple(draw(st.lists(st.sampled_from(["virtio-rng-pci", "nvme,serial=a,,b"]), max_size=2))),
        smbios_strings=tuple(draw(st.lists(texts, max_size=2))),
    )
    files = LaunchFiles(
        code=draw(names) + "/" + firmware.code,
        vars=draw(names) + "/" + firmware.vars,
        disks=tuple(
            draw(
                st.builds(
                    DriveFile, path=texts, format=st.sampled_from(["raw", "qcow2"]), snapshot=st.booleans()
                )
            )
            for _ in disks
        ),
        tpm_socket=draw(texts) if machine.tpm else None,
        serial=draw(names.filter(lambda name: name != "none")),
        options=tuple(draw(st.sampled_from([(), ("-netdev", "user,id=n0"), ("-object", "rng-random,id=r")]))),
        binary=draw(st.sampled_from(["qemu-system-x86_64", "/usr/bin/qemu-system-x86_64", "kvm"])),
    )
    return machine, files


@given(launches())
@settings(max_examples=150)
def test_what_is_rendered_is_read_back(launch: tuple[QemuMachine, LaunchFiles]) -> None:
    machine, files = launch
    firmware = machine.firmware
    parsed = parse(
        render(machine, files),
        name=machine.name,
        package=firmware.package,
        secure_boot=firmware.secure_boot,
    )
    assert parsed.machine == machine
    assert parsed.files == files
    assert parsed.ignored == ("-display none", "-no-reboot")
