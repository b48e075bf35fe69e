from __future__ import annotations

from dataclasses import replace

import pytest

from recipes.errors import MeasureError
from recipes.machine import Accelerator, Disk, QemuMachine, TpmInterface, UefiFirmware
from recipes.vmm.script import launch_script

MACHINE = QemuMachine(
    name="small",
    type="pc-q35-7.2",
    accelerator=Accelerator.TCG,
    cpu="qemu64,-cx16",
    vcpus=1,
    memory=512 << 20,
    firmware=UefiFirmware(package="ovmf", code="CODE.fd", vars="VARS.fd"),
    tpm=TpmInterface.TIS,
    disks=(Disk(bootindex=0), Disk(read_only=True)),
    smbios_strings=('say "$HOME" `x`, \\ it\'s',),
)


def test_words_are_quoted_and_paths_are_variables() -> None:
    script = launch_script(
        MACHINE, code="firmware/CODE.fd", vars_template="firmware/VARS.fd", disks=("disk.raw", "a b.raw")
    )
    assert script.words == (
        *("-nodefaults", "-no-user-config", "-machine pc-q35-7.2", "-accel tcg", "-cpu qemu64,-cx16"),
        *("-m 512", "-smp 1", "-display none", "-no-reboot", '-serial "${SERIAL}"'),
        '-drive "if=pflash,unit=0,format=raw,readonly=on,file=${code}"',
        '-drive "if=pflash,unit=1,format=raw,file=${vars}"',
        '-chardev "socket,id=chrtpm,path=${tpm}"',
        "-tpmdev emulator,id=tpm0,chardev=chrtpm",
        "-device tpm-tis,tpmdev=tpm0",
        '-drive "if=none,id=d0,format=raw,file=${disk0}${snapshot}"',
        "-device virtio-blk-pci,drive=d0,bootindex=0",
        '-drive "if=none,id=d1,format=raw,readonly=on,file=${disk1}"',
        "-device virtio-blk-pci,drive=d1",
        *("-vga none", "-nic none"),
        '-smbios "type=11,value=say \\"\\$HOME\\" \\`x\\`,, \\\\ it\'s"',
    )
    assert (script.code, script.vars) == ("firmware/CODE.fd", "firmware/VARS.fd")
    assert script.disks == ("disk.raw", "'a b.raw'")
    assert (script.tpm, script.kvm, script.writable, script.snapshot) == (True, False, True, True)


def test_kvm_machines_keep_what_the_guest_writes() -> None:
    machine = replace(MACHINE, accelerator=Accelerator.KVM, tpm=None)
    script = launch_script(machine, code="c", vars_template="v", disks=("a", "b"))
    assert (script.tpm, script.kvm, script.snapshot) == (False, True, False)


@pytest.mark.parametrize("disks", [(), ("a",), ("a", "b", "c")])
def test_disks_must_fit(disks: tuple[str, ...]) -> None:
    with pytest.raises(MeasureError) as caught:
        launch_script(MACHINE, code="c", vars_template="v", disks=disks)
    assert str(caught.value) == f"small: 2 disks need as many files, got {len(disks)}"


def test_the_network_is_the_hosts_side() -> None:
    machine = replace(MACHINE, disks=(Disk(bootindex=0),), devices=("virtio-net-pci,netdev=net0",))
    script = launch_script(machine, code="c", vars_template="v", disks=("a",))
    assert script.network == "net0"
    assert script.words[-1] == '-netdev "${NETDEV}"'
    assert "-device virtio-net-pci,netdev=net0" in script.words


def test_a_script_has_one_network() -> None:
    machine = replace(MACHINE, devices=("virtio-net-pci,netdev=b", "virtio-net-pci,netdev=a"))
    with pytest.raises(MeasureError) as caught:
        launch_script(machine, code="c", vars_template="v", disks=("a", "b"))
    assert str(caught.value) == "small: network backends a, b; a launch script has one"
