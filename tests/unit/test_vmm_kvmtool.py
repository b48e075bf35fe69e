from __future__ import annotations

import string
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import MeasureError
from recipes.machine import HostFeatures, Irqchip, KvmtoolMachine, KvmtoolNetwork, VirtioTransport
from recipes.vmm.kvmtool import render
from recipes.vmm.kvmtool_parse import KvmtoolFiles, parse
from tests.vectors.kvmtool_inputs import Vector, vectors

EAC5 = ("kvmtool-eac5", "kvmtool-eac5-tf-rmm")
REL0 = ("kvmtool-rel0-islet", "kvmtool-rel0-tf-rmm")
MACHINE = KvmtoolMachine(name="realm", profile="kvmtool-eac5", vcpus=1, memory=256 << 20)
FILES = KvmtoolFiles(kernel="Image", initrd="initramfs.cpio.gz")


def recorded(name: str) -> tuple[str, ...]:
    return next(vector.argv for vector in vectors() if vector.name == name)


def test_the_recorded_demo_comes_out_as_it_went_in() -> None:
    argv = ["lkvm", *recorded("demo-islet")]
    launch = parse(argv)
    assert render(launch.machine, launch.files) == argv


@pytest.mark.parametrize("vector", vectors(), ids=lambda vector: vector.name)
def test_recorded_machines_are_rendered_and_read_again(vector: Vector) -> None:
    argv = ["lkvm", *vector.argv]
    launch = parse(argv)
    if launch.files.flash is not None:
        launch = parse(argv, flash_size=lambda _path: 196608)
    again = parse(
        render(launch.machine, launch.files), profile="kvmtool-eac5", flash_size=lambda _path: 196608
    )
    assert (again.machine, again.files) == (launch.machine, launch.files)


# islet-provisioning.md section 6: the words of warden's main branch in their order.
WARDEN = [
    *("lkvm", "run", "-c", "2", "-k", "Image", "-i", "initramfs.cpio.gz", "-p", '"quiet"', "-m", "2048"),
    *("-n", "tapif=tap100,guest_mac=52:55:00:d1:55:01", "--vsock", "7", "--console", "serial"),
    *("--irqchip=gicv3", "--disable-sve", "--metadata", "metadata.bin", "--debug", "--realm"),
    *("--restricted_mem", "--measurement-algo=sha256", "-d", "a.disk", "-d", "b.disk"),
]


def test_the_words_of_warden() -> None:
    machine = replace(
        MACHINE,
        profile="kvmtool-rel0-islet",
        vcpus=2,
        memory=2 << 30,
        parameters='"quiet"',
        networks=(KvmtoolNetwork(options="tapif=tap100,guest_mac=52:55:00:d1:55:01"),),
        vsock=7,
        irqchip=Irqchip.GICV3,
        disable_sve=True,
        restricted_memory=True,
        disks=2,
    )
    files = replace(FILES, metadata="metadata.bin", disks=("a.disk", "b.disk"))
    assert render(machine, files) == WARDEN


def test_a_launch_has_no_options_of_the_measurer() -> None:
    machine = replace(MACHINE, islet=True, mpidrs=(0x100,))
    words = "lkvm run -c 1 -k Image -i initramfs.cpio.gz -m 256 --console serial --irqchip=gicv3-its --debug "
    words += "--realm --measurement-algo=sha256"
    assert render(machine, FILES) == f"{words} --mpidrs 100 --islet".split()
    assert render(machine, FILES, measurer=False) == words.split()
    assert render(machine, FILES, measurer=False, program="/opt/lkvm")[0] == "/opt/lkvm"


def test_sizes_of_memory() -> None:
    def memory(size: int, base: int = 0x8000_0000) -> str:
        words = render(replace(MACHINE, memory=size, ram_base=base), FILES)
        return words[words.index("-m") + 1]

    assert memory(1 << 30) == "1024"
    assert memory(261123 << 10) == "261123K"
    assert memory((256 << 20) + 1) == "268435457B"
    assert memory(256 << 20, 0x8000_1000) == "256@2097156K"


@pytest.mark.parametrize(
    ("machine", "files", "message"),
    [
        (replace(MACHINE, disks=1), FILES, "realm: 1 disks need as many files, got 0"),
        (replace(MACHINE, flash=4096), FILES, "realm: the machine has a flash; give its file"),
        (
            replace(MACHINE, vcpus=17),
            FILES,
            "-c 17: more than 16 vCPUs; the measurer would go on with 16 of them; write 16 or fewer",
        ),
        (
            replace(MACHINE, profile="kvmtool-rel0-islet", islet=True),
            FILES,
            (
                "--islet: profile kvmtool-rel0-islet has no such option; "
                "kvmtool-eac5 and kvmtool-eac5-tf-rmm have it"
            ),
        ),
        (
            replace(MACHINE, ipa_bits=40),
            FILES,
            (
                "--ipa-size: profile kvmtool-eac5 has no such option; "
                "kvmtool-rel0-islet and kvmtool-rel0-tf-rmm have it"
            ),
        ),
        (
            replace(MACHINE, disks=1),
            replace(FILES, disks=("a,ro",)),
            (
                "realm: kvmtool's command line cannot say this machine, or would be read as another one; "
                "look for values with commas or outside their range"
            ),
        ),
        (
            replace(MACHINE, disks=1),
            replace(FILES, disks=("a,b",)),
            (
                "-d a,b: b is no word for a disk; kvmtool ends the path at the first comma, "
                "and knows ro and direct"
            ),
        ),
        (
            replace(MACHINE, personalization="a\0"),
            FILES,
            (
                "--realm-pv-hex: profile kvmtool-eac5 has no such option; "
                "kvmtool-rel0-islet and kvmtool-rel0-tf-rmm have it"
            ),
        ),
        (
            replace(MACHINE, scsi_disks=("disk.img",)),
            FILES,
            (
                "realm: kvmtool's command line cannot say this machine, or would be read as another one; "
                "look for values with commas or outside their range"
            ),
        ),
    ],
)
def test_what_cannot_be_written(machine: KvmtoolMachine, files: KvmtoolFiles, message: str) -> None:
    with pytest.raises(MeasureError) as caught:
        render(machine, files)
    assert str(caught.value) == message


PATHS = st.text(alphabet=string.ascii_letters + "/.-_ ü", min_size=1, max_size=12)
TEXT = st.text(alphabet=string.printable, max_size=20)
NETWORKS = st.builds(
    KvmtoolNetwork,
    options=st.sampled_from(["", "mode=tap", "tapif=tap0,guest_mac=52:55:00:d1:55:01"]),
    transport=st.sampled_from([None, VirtioTransport.PCI, VirtioTransport.MMIO]),
)
VALUES = {
    "profile": st.sampled_from(EAC5),
    "vcpus": st.integers(1, 16),
    "memory": st.one_of(st.integers(1, 1 << 40), st.integers(1, 4096).map(lambda size: size << 20)),
    "ram_base": st.integers(0x80000, 1 << 36).map(lambda page: page << 12),
    "algorithm": st.sampled_from(["sha256", "sha512"]),
    "parameters": st.none() | TEXT,
    "nodefaults": st.booleans(),
    "console": st.sampled_from(["serial", "virtio", "hv", "", "none", "--rng"]),
    "irqchip": st.sampled_from(Irqchip),
    "transport": st.sampled_from(VirtioTransport),
    "networks": st.none() | st.lists(NETWORKS, max_size=4).map(tuple),
    "shares": st.lists(PATHS, max_size=3).map(tuple),
    "vsock": st.integers(0, (1 << 64) - 1),
    "balloon": st.booleans(),
    "rng": st.booleans(),
    "scsi_disks": st.lists(st.sampled_from(["scsi:naa.5", "scsi:naa.6:1"]), max_size=2).map(tuple),
    "kaslr_seed": st.integers(0, (1 << 64) - 1),
    "pmu": st.booleans(),
    "pmu_counters": st.integers(0, 31),
    "counter_frequency": st.integers(0, (1 << 32) - 1),
    "personalization": st.text(max_size=16),
    "flash": st.sampled_from([0, 1 << 20]),
    "host": st.builds(HostFeatures, num_bps=st.none() | st.integers(0, 64), lpa2=st.booleans()),
}
OF_EAC5 = {
    "islet": st.booleans(),
    "sve_vl": st.integers(0, 16).map(lambda count: 128 * count),
    "personalization": st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0"), max_size=16),
}
OF_REL0 = {
    "profile": st.sampled_from(REL0),
    "sve_vl": st.sampled_from([0, 128, 256, 512, 1024, 2048]),
    "ipa_bits": st.sampled_from([0, *range(32, 53)]),
    "measurement_log": st.booleans(),
    "restricted_memory": st.booleans(),
    "personalization": st.text(max_size=16).map(lambda text: text.rstrip("\0")),
}


@st.composite
def launches(draw: st.DrawFn) -> tuple[KvmtoolMachine, KvmtoolFiles]:
    values = VALUES | draw(st.sampled_from([OF_EAC5, OF_REL0]))
    drawn = {key: draw(strategy) for key, strategy in values.items()}
    disks = draw(st.lists(PATHS, max_size=2).map(tuple))
    vcpus = drawn["vcpus"]
    mpidrs = draw(st.lists(st.integers(0, 0xFFFFFF), min_size=vcpus, max_size=vcpus, unique=True))
    machine = KvmtoolMachine(
        **(MACHINE_DEFAULTS | drawn),
        disks=len(disks),
        mpidrs=tuple(mpidrs) if draw(st.booleans()) else (),
        disable_sve=not drawn["sve_vl"] and draw(st.booleans()),
    )
    files = KvmtoolFiles(
        kernel=draw(PATHS),
        initrd=draw(PATHS),
        disks=disks,
        flash=draw(PATHS) if machine.flash else None,
        metadata=draw(st.none() | PATHS),
    )
    return machine, files


MACHINE_DEFAULTS = {"name": "realm"}


@settings(max_examples=150)
@given(launches())
def test_what_is_rendered_is_read_again(launch: tuple[KvmtoolMachine, KvmtoolFiles]) -> None:
    machine, files = launch
    again = parse(
        render(machine, files),
        profile=machine.profile,
        host=machine.host,
        name=machine.name,
        flash_size=lambda _path: machine.flash,
    )
    assert again.machine == machine
    assert again.files == files
