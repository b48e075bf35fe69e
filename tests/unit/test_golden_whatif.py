"""Two launches of a realm side by side; what must differ is what the measurer's recorded runs say."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest

from recipes.formats.fdt import Node, Property, cells, strings
from recipes.golden.realm_options import option_differences
from recipes.golden.tree_diff import Change, TreeDifference, tree_differences
from recipes.golden.whatif import Difference, compare
from recipes.machine import HostFeatures, KvmtoolMachine, KvmtoolNetwork, VirtioTransport
from recipes.measure.granules import BytesBlob
from recipes.measure.kvmtool import RealmPrediction, replay
from recipes.measure.realm_launch import Replayer
from recipes.measure.trace import HashAlgorithm
from recipes.vmm.kvmtool_parse import KvmtoolLaunch, parse
from tests.vectors.kvmtool_inputs import generate, vectors

BLOBS: dict[str, BytesBlob] = {}
REPLAYERS: dict[str, Replayer] = {}
VECTORS = {vector.name: vector for vector in vectors()}
PLAIN = VECTORS["cpus-1"].argv


def blob(name: str) -> BytesBlob:
    return BLOBS.setdefault(name, BytesBlob(name, generate(name)))


def launched(argv: tuple[str, ...], profile: str | None = None) -> tuple[KvmtoolLaunch, RealmPrediction]:
    launch = parse(["lkvm", *argv], profile=profile)
    machine = launch.machine
    replayer = REPLAYERS.setdefault(machine.algorithm, Replayer(HashAlgorithm(machine.algorithm)))
    initrd = blob(launch.files.initrd) if launch.files.initrd else None
    return launch, replay(machine, blob(launch.files.kernel), initrd, replayer=replayer)


def what_if(first: tuple[str, ...], second: tuple[str, ...], profile: str | None = None) -> Difference:
    (one, before), (other, after) = launched(first, profile), launched(second, profile)
    return compare(before, after, (one.machine, other.machine), (one.ignored, other.ignored))


def named(first: str, second: str) -> Difference:
    difference = what_if(VECTORS[first].argv, VECTORS[second].argv)
    assert difference.before.rim == VECTORS[first].rim
    assert difference.after.rim == VECTORS[second].rim
    return difference


def changes(difference: Difference) -> list[tuple[str, str, str]]:
    return [(item.path, item.name, item.cause) for item in difference.tree]


def test_a_disk_more_is_one_interrupt_more() -> None:
    difference = named("disks-2", "disks-3")
    assert not difference.equal
    assert difference.steps == 1
    assert difference.first is not None
    assert str(difference.first) == (
        "RIM: first differs at step 5, DATA_CREATE 0x8fe00000 x 16 device tree; input: device tree"
    )
    assert changes(difference) == [("/pci", "interrupt-map", "-d: 2 disks -> 3 disks")]
    assert "\n  -d: 2 disks -> 3 disks\n" in str(difference)
    one, *_, other = str(difference.tree[0]).splitlines()
    assert one == "/pci interrupt-map: changed, by -d: 2 disks -> 3 disks"
    # Spec section 3.2: device 3 is at 3 << 11, and its interrupt is the eighth of all: 4 ports, 3 devices.
    assert other.strip(" +") == "<0x1800 0x0 0x0 0x1 0x1 0x0 0x0 0x0 0x7 0x4>;"


@pytest.mark.parametrize(
    ("first", "second", "option"),
    [
        (
            "vsock-3",
            "vsock-12344",
            "--vsock: 3 -> 12344 (no influence: the device tree does not have",
        ),
        (
            "cpus-1",
            "realm-pv",
            "--realm-pv: not given -> hello-rpv (no influence: the personalization value is not",
        ),
        ("balloon", "vsock-3", "--balloon: given -> not given"),
        ("balloon", "9p", "--9p: not given -> /shared,FMR"),
        ("disks-0", "net-virtio-word", "-n: not given (one device in user mode) -> virtio (no influence: "),
    ],
)
def test_the_same_rim(first: str, second: str, option: str) -> None:
    difference = named(first, second)
    assert difference.equal
    assert (difference.first, difference.steps, difference.tree) == (None, 0, ())
    text = str(difference)
    assert "the RIM is the same, and so is every step" in text
    assert option in text
    assert not any(item["influence"] for item in difference.to_json()["options"] if item["reason"])


def test_the_same_rim_by_options_that_are_not_read() -> None:
    difference = named("cpus-1", "metadata-ignored")
    assert difference.equal
    assert difference.options == ()
    assert [text.partition(":")[0] for text in difference.ignored] == ["--metadata one.img"]
    assert "has no influence on it" in str(difference)


def test_two_devices_for_one_another_leave_the_rim() -> None:
    assert "together, the options that differ leave it as it is" in str(named("balloon", "vsock-3"))


def test_vcpus() -> None:
    difference = named("cpus-1", "cpus-4")
    # The device tree, and three RECs that only the second launch has.
    assert (difference.steps, difference.total) == (4, 9)
    found = changes(difference)
    assert ("/cpus/cpu@0", "enable-method", "-c 1 -> -c 4") in found
    assert ("/intc", "reg", "-c 1 -> -c 4") in found
    assert [path for path, name, _ in found if not name] == [f"/cpus/cpu@{number}" for number in (1, 2, 3)]
    assert {item.change for item in difference.tree if not item.name} == {Change.ADDED}


def test_the_way_back_is_the_other_way_round() -> None:
    difference = named("cpus-4", "cpus-1")
    assert difference.steps == 4
    gone = [item for item in difference.tree if item.change is Change.REMOVED]
    assert {item.path for item in gone} == {f"/cpus/cpu@{number}" for number in range(4)}
    assert all(item.before and not item.after and item.cause == "-c 4 -> -c 1" for item in gone)


def test_memory_above_256_mib_is_one_property() -> None:
    assert changes(named("mem-256", "mem-1G")) == [("/memory", "reg", "-m 256 -> -m 1G")]


def test_less_memory_moves_the_initramfs() -> None:
    difference = named("mem-256", "mem-128")
    assert [str(item) for item in difference.inputs] == [
        "initramfs (-i): initrd-a.img: at 0x8fd85000 and at 0x87d85000"
    ]
    assert ("/chosen", "linux,initrd-start", "-m 256 -> -m 128") in changes(difference)


def test_more_memory_moves_the_initramfs_of_the_second_line_only() -> None:
    """The origin of the first line says -m too, and that of the second does not."""
    found = changes(named("mem-128", "mem-256"))
    assert [cause for path, _, cause in found if path == "/chosen"] == ["-m 128 -> -m 256"] * 2


def test_another_initramfs_in_another_place_has_two_causes() -> None:
    second = tuple({"initrd-a.img": "one.img"}.get(word, word) for word in VECTORS["mem-128"].argv)
    difference = what_if(VECTORS["mem-256"].argv, second)
    assert difference.inputs[0].how.startswith("initrd-a.img and one.img: other content")
    assert ("/chosen", "linux,initrd-start", "-i, -m 256 -> -m 128") in changes(difference)


@pytest.mark.parametrize(
    ("first", "second", "cause"),
    [
        (("-d", "disk.img"), (), "-d: 1 disk -> 0 disks"),
        (("-n", "trans=pci"), ("-n", "mode=none"), "-n: trans=pci -> mode=none"),
        ((), ("-n", "mode=none"), "-n: not given (one device in user mode) -> mode=none"),
        (("--rng",), (), "--rng: given -> not given"),
        (("--rng",), ("-d", "a", "-d", "b"), "--rng: given -> not given, -d: 0 disks -> 2 disks"),
        (("-d", "scsi:wwpn"), (), "-d scsi: scsi:wwpn -> not given"),
    ],
)
def test_a_device_less_is_said_as_in_the_list_of_options(
    first: tuple[str, ...], second: tuple[str, ...], cause: str
) -> None:
    found = changes(what_if((*PLAIN, *first), (*PLAIN, *second)))
    assert {item for path, name, item in found if (path, name) == ("/pci", "interrupt-map")} == {cause}


@pytest.mark.parametrize(
    ("second", "fields"),
    [
        ("sve-vl-256", ["flags SVE: 0 -> 1, by --sve-vl", "sve_vl: 0 -> 1, by --sve-vl"]),
        (
            "pmu-and-counters",
            [
                "flags PMU: 0 -> 1, by --pmu-counters",
                "num_bps: 0 -> 2, by --islet",
                "num_wps: 0 -> 2, by --islet",
                "pmu_num_ctrs: 0 -> 31, by --pmu-counters",
            ],
        ),
    ],
)
def test_parameters_of_the_realm(second: str, fields: list[str]) -> None:
    difference = named("cpus-1", second)
    assert [str(item) for item in difference.parameters] == fields
    assert difference.first is not None
    assert difference.first.index == 0
    assert ("/pmu" in [item.path for item in difference.tree]) == (second == "pmu-and-counters")


def test_another_algorithm() -> None:
    difference = named("cpus-1", "sha512-tfrmm-cpus2")
    assert difference.steps == difference.total == 7
    assert "hash_algo: sha256 -> sha512, by --measurement-algo" in map(str, difference.parameters)
    assert difference.inputs == ()
    assert "the algorithms are not the same, so every step differs" in str(difference)


def test_another_kernel() -> None:
    difference = named("cpus-1", "kernel-b-no-bss")
    assert [str(item) for item in difference.inputs] == [
        "kernel (-k): kernel-a.img and kernel-b.img: other content (245 and 64 granules)"
    ]
    assert difference.tree == ()
    # The kernel itself, and the bss that only the first one has.
    assert difference.steps == 2
    document = difference.to_json()["first_step"]
    assert (document["step"], document["before"]["source"], document["after"]["source"]) == (
        2,
        "kernel-a.img",
        "kernel-b.img",
    )


def test_no_initramfs() -> None:
    argv = VECTORS["no-initrd-with-disk"].argv
    difference = what_if((*PLAIN, "-d", "disk.img"), argv)
    assert difference.after.rim == VECTORS["no-initrd-with-disk"].rim
    assert [str(item) for item in difference.inputs] == [
        "initramfs (-i): initrd-a.img on the first command line only"
    ]
    assert [(path, cause) for path, _, cause in changes(difference)] == [("/chosen", "-i")] * 2


def test_the_command_line_of_the_kernel() -> None:
    difference = named("console-default", "console-hv")
    (item,) = difference.tree
    assert (item.name, item.cause) == ("bootargs", "--console serial -> --console hv")
    assert str(item).splitlines()[1:] == [
        '  - bootargs = " console=ttyS0 root=/dev/vda rw ";',
        '  + bootargs = " console=hvc0 root=/dev/vda rw ";',
    ]
    assert changes(named("params", "params-root"))[0][2] == "-p"


def test_a_device_that_takes_the_interrupt_of_another_is_the_cause() -> None:
    base = (*PLAIN, "-n", "trans=mmio")
    found = changes(what_if(base, (*base, "--rng")))
    assert ("/virtio@3000000", "interrupts", "--rng") in found
    assert {cause for _, name, cause in found if name != "interrupts"} == {"--rng: not given -> given"}


def test_other_profiles_extend_fewer_recs() -> None:
    one, before = launched(VECTORS["cpus-4"].argv)
    other, after = launched(VECTORS["cpus-4"].argv, "kvmtool-eac5-tf-rmm")
    difference = compare(before, after, (one.machine, other.machine))
    assert difference.after.rim == VECTORS["cpus-4"].rim_runnable_recs_only
    assert (difference.steps, difference.tree) == (3, ())
    assert "--profile: kvmtool-eac5 -> kvmtool-eac5-tf-rmm" in str(difference)


def test_without_machines_the_trees_still_tell() -> None:
    before, after = launched(VECTORS["disks-2"].argv)[1], launched(VECTORS["disks-3"].argv)[1]
    difference = compare(before, after)
    assert (difference.options, difference.parameters) == ((), ())
    assert changes(difference) == [("/pci", "interrupt-map", "-d disk 3")]


def test_the_same_tree_in_other_bytes() -> None:
    _, before = launched(PLAIN)
    region = before.dtb[:-1] + b"\1"
    difference = compare(before, replace(before, dtb=region))
    assert difference.bytes_only
    assert "both trees say the same, and their bytes differ" in str(difference)


def test_json_is_what_the_text_says() -> None:
    difference = named("demo-islet", "demo-tfrmm")
    document = json.loads(json.dumps(difference.to_json()))
    assert document["equal"] is False
    assert document["before"]["registers"][0]["value"] == VECTORS["demo-islet"].rim.hex()
    assert document["steps"] == {"differ": 1, "of": 6}
    assert document["options"] == [
        {"option": "--islet", "before": "given", "after": "not given", "influence": True, "reason": ""}
    ]
    assert [item["field"] for item in document["parameters"]] == ["num_bps", "num_wps"]
    digest = hashlib.sha256(bytes(difference.before.trace.steps[0].size)).hexdigest()
    assert document["first_step"]["before"]["digests"]["sha256"] != digest


MACHINE = parse(["lkvm", *PLAIN]).machine


@pytest.mark.parametrize(
    ("change", "option", "measured"),
    [
        (replace(MACHINE, networks=(KvmtoolNetwork(options="tapif=a"),)), "-n", False),
        (replace(MACHINE, networks=(KvmtoolNetwork(options="tapif=a"),) * 2), "-n", True),
        (replace(MACHINE, networks=(KvmtoolNetwork(transport=VirtioTransport.MMIO),)), "-n", True),
        (replace(MACHINE, networks=()), "-n", True),
        (replace(MACHINE, transport=VirtioTransport.PCI_LEGACY), "--virtio-transport", False),
        (replace(MACHINE, transport=VirtioTransport.MMIO), "--virtio-transport", True),
        (replace(MACHINE, disable_sve=False), "--disable-sve", False),
        (replace(MACHINE, console="serial0"), "--console", False),
        (replace(MACHINE, console="virtio"), "--console", True),
        (replace(MACHINE, mpidrs=(0,)), "--mpidrs", False),
        (replace(MACHINE, mpidrs=(1,)), "--mpidrs", True),
        (replace(MACHINE, flash=4096), "-F", True),
        (replace(MACHINE, kaslr_seed=1), "--kaslr-seed", True),
        (replace(MACHINE, ram_base=1 << 32), "-m", True),
        (replace(MACHINE, host=HostFeatures(ipa_bits=48)), "--host ipa_bits", False),
        (replace(MACHINE, host=HostFeatures(num_bps=1)), "--host num_bps", True),
    ],
)
def test_options_that_can_reach_the_rim(change: KvmtoolMachine, option: str, measured: bool) -> None:
    (found,) = option_differences(MACHINE, change)
    assert (found.option, not found.unmeasured) == (option, measured)


def test_sizes_of_a_flash_between_two_powers_of_two_are_one() -> None:
    small, large = (replace(MACHINE, flash=size) for size in (3 << 20, (4 << 20) - 1))
    assert option_differences(small, large)[0].unmeasured
    assert not option_differences(small, replace(MACHINE, flash=4 << 20))[0].unmeasured


def test_names_of_machines_do_not_count() -> None:
    assert option_differences(MACHINE, replace(MACHINE, name="another")) == ()


def test_a_text_cannot_forge_lines() -> None:
    (found,) = option_differences(MACHINE, replace(MACHINE, parameters="a\nb\033[2J"))
    assert str(found) == "-p: not given -> \"'a\\nb\\x1b[2J'\""


def tree(*properties: Property, children: tuple[Node, ...] = ()) -> Node:
    return Node("", properties, children)


def test_neighbours_in_another_order_are_said() -> None:
    one, other = Property("a", cells(1)), Property("b", cells(2))
    (moved,) = tree_differences(tree(one, other), tree(other, one))
    assert moved == TreeDifference(path="/", change=Change.MOVED, name="(properties)")
    first, second = Node("x"), Node("y")
    (moved,) = tree_differences(tree(children=(first, second)), tree(children=(second, first)))
    assert str(moved) == "/ (nodes): in another place among its neighbours"


def test_a_tree_without_origins_names_what_differs() -> None:
    before, after = tree(Property("a", strings("x"))), tree(Property("a", strings("y")))
    assert [item.cause for item in tree_differences(before, after)] == [""]
    assert [item.cause for item in tree_differences(before, after, files=["-i"])] == ["-i"]
    assert tree_differences(before, before, files=["-i"]) == ()
