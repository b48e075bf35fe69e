from __future__ import annotations

from dataclasses import replace

import pytest

from recipes.errors import MeasureError
from recipes.machine import SnpMachine
from recipes.machine.sev_cpus import CPU_MODELS
from recipes.vmm.qemu import DriveFile
from recipes.vmm.qemu_snp import SnpFiles, render_snp
from recipes.vmm.script import snp_script
from recipes.vmm.sev_parse import is_sev, parse
from recipes.vmm.sev_values import SevHost
from tests.unit.snp_machines import DISK, KERNEL, UKI

FILES = SnpFiles(firmware="F.fd", disk=DriveFile(path="disk.raw"), tpm_socket="tpm")
DIRECT = replace(FILES, kernel="k", initrd="i", cmdline="a, b", tpm_socket=None)


def test_the_words_of_a_machine_that_boots_its_disk() -> None:
    assert render_snp(DISK, FILES) == (
        *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-machine"),
        "pc-q35-10.0,smm=off,confidential-guest-support=sev0,memory-backend=ram0",
        *("-accel", "kvm", "-cpu", "EPYC-Milan", "-m", "8192", "-smp", "4", "-object"),
        "memory-backend-memfd,id=ram0,size=8192M,share=true,prealloc=false",
        *("-object", "sev-snp-guest,id=sev0,cbitpos=51,reduced-phys-bits=1,policy=0x30000"),
        *("-display", "none", "-no-reboot", "-serial", "stdio", "-bios", "F.fd"),
        *("-chardev", "socket,id=chrtpm,path=tpm", "-tpmdev", "emulator,id=tpm0,chardev=chrtpm"),
        *("-device", "tpm-crb,tpmdev=tpm0", "-drive", "if=none,id=d0,format=raw,file=disk.raw"),
        *("-device", "virtio-blk-pci,drive=d0,bootindex=0", "-vga", "none", "-nic", "none"),
    )


@pytest.mark.parametrize(
    ("machine", "files"),
    [(DISK, FILES), (UKI, replace(FILES, kernel="k")), (KERNEL, DIRECT)],
    ids=["disk", "uki", "kernel"],
)
def test_the_command_line_is_parsed_as_the_machine_that_was_measured(
    machine: SnpMachine, files: SnpFiles
) -> None:
    words = render_snp(machine, files)
    assert is_sev(words)
    found = parse(words, name=machine.name, host=SevHost(features=1), file_size=lambda _: 0)
    cmdline = "" if files.kernel and files.cmdline is None else files.cmdline
    assert found.machine == machine.measured(cmdline)
    assert found.machine.cpu == CPU_MODELS["EPYC-Milan"]
    assert (found.files.firmware, found.files.kernel, found.files.initrd) == (
        "F.fd",
        files.kernel,
        files.initrd,
    )


def test_files_must_fit() -> None:
    with pytest.raises(MeasureError) as caught:
        render_snp(UKI, FILES)
    assert str(caught.value) == "snp: give a kernel where its hash is measured, and nowhere else"
    with pytest.raises(MeasureError) as caught:
        render_snp(DISK, replace(FILES, tpm_socket=None))
    assert str(caught.value) == "snp-disk: give tpm_socket for a machine with a TPM, and for no other"


def test_the_script_has_no_variable_store() -> None:
    script = snp_script(KERNEL, firmware="f/F.fd", disk="d.raw", kernel="k", initrd="i", cmdline="a $b")
    assert (script.vars, script.code, script.kernel, script.initrd) == ("", "f/F.fd", "k", "i")
    assert (script.snp, script.kvm, script.tpm, script.snapshot) == (True, True, False, False)
    assert '-append "a \\$b"' in script.words
