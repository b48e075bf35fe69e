"""Realms under kvmtool against lkvm-rim-measurer: values, device trees byte by byte, refusals."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from recipes.errors import ImageError
from recipes.formats.fdt import encode
from recipes.machine import HostFeatures
from recipes.measure import kvmtool
from recipes.measure.granules import Blob, BytesBlob
from recipes.measure.kvmtool import RealmPrediction, kernel_header
from recipes.measure.kvmtool_layout import place
from recipes.measure.realm_launch import CreateRec, InitRipas, PopulateData, RealmCreate, Replayer
from recipes.measure.trace import Established, HashAlgorithm, Step
from recipes.steps.measure_realm import measure_realm
from recipes.vmm.kvmtool_parse import KvmtoolLaunch, parse
from tests.support import ROOT
from tests.vectors import kvmtool_inputs as inputs
from tests.vectors.debian_kernel import debian_kernel as debian_package
from tests.vectors.kvmtool_inputs import Operation, Vector

MEASURER = "kvmtool-eac5"
TF_RMM = "kvmtool-eac5-tf-rmm"
VECTORS = {vector.name: vector for vector in inputs.vectors()}
# Where a build keeps packages, by the SHA-256 of each.
PACKAGES = ROOT / "out" / "cache" / "packages"
# As a realm's launch would refuse them too; the reason that the measurer gave is in the record.
REJECTED = {
    "disks-5": ("-d disk.img " * 5, "more than 4 disks"),
    "sve-vl-128 with --disable-sve": ("--disable-sve --sve-vl 128", "--sve-vl 128: with --disable-sve"),
    "realm-pv of 65 bytes": ("--realm-pv " + "A" * 65, "--realm-pv"),
    "-m 0": ("-m 0", "-m 0"),
    "-m 2": ("-m 2", "-m: 0x200000 bytes of memory have no room for the device tree"),
    "initrd larger than the space below the DTB": (
        "-m 16 -i large.img",
        "large.img: the initramfs of 14 MiB",
    ),
    "missing disk file": ("-d absent.img", "-d absent.img"),
    "--mpidrs 0 with -c 2": ("-c 2 --mpidrs 0", "--mpidrs 0"),
    "-k with -f": ("-f kernel-a.img", "-k with -f"),
    "empty initrd": ("-i empty.img", "empty.img: "),
}
WITHOUT_REALM = "no --realm but --measurement-algo"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The inputs as files, for the refusals that only a launch from files can meet."""
    path = tmp_path_factory.mktemp("kvmtool")
    for name, item in inputs.document()["inputs"].items():
        if item["generator"] != "debian":
            (path / name).write_bytes(inputs.generate(name))
    (path / "large.img").write_bytes(b"x" * (14 << 20))
    return path


@cache
def debian_kernel() -> bytes:
    item = inputs.debian_input()
    with TemporaryDirectory() as folder:
        inputs.place_debian(item, debian_package(), Path(folder))
        return (Path(folder) / item.name).read_bytes()


@cache
def blob(name: str) -> Blob:
    return BytesBlob(name, debian_kernel() if name == "debian-Image" else inputs.generate(name))


@cache
def replayer(algorithm: HashAlgorithm) -> Replayer:
    return Replayer(algorithm)


def launch(vector: Vector, profile: str = MEASURER) -> KvmtoolLaunch:
    return parse(["lkvm", *vector.argv], profile=profile, flash_size=lambda path: blob(path).size)


def files(found: KvmtoolLaunch) -> tuple[Blob, Blob | None]:
    return blob(found.files.kernel), None if found.files.initrd is None else blob(found.files.initrd)


@cache
def predict(name: str, profile: str = MEASURER) -> RealmPrediction:
    found = launch(VECTORS[name], profile)
    return kvmtool.replay(
        found.machine, *files(found), replayer=replayer(HashAlgorithm(found.machine.algorithm))
    )


def recorded(name: str) -> list[Operation]:
    """Our operations in the words of the record, adjacent populated ranges joined as there."""
    found = launch(VECTORS[name])
    kernel, initrd = files(found)
    layout = place(found.machine, kernel, kernel_header(kernel), initrd)
    dtb = predict(name).dtb
    words: list[Operation] = []
    for each in _words(kvmtool.operations(found.machine, layout, kernel, initrd, dtb)):
        last = words[-1] if words else None
        if last is not None and last.kind == each.kind == "DATA" and last.top == each.base:
            words[-1] = replace(last, top=each.top)
        else:
            words.append(each)
    return words


def _words(operations: tuple[object, ...]) -> Iterator[Operation]:
    for each in operations:
        match each:
            case InitRipas():
                yield Operation(kind="RIPAS", base=each.base, top=each.top, step=each.blocks[-1])
            case PopulateData():
                end = each.address + each.blob.size
                yield Operation(kind="DATA", base=each.address & ~0xFFF, top=-(-end // 4096) * 4096, flags=1)
            case CreateRec():
                assert each.rec.gprs[1:] == (0,) * 7
                yield Operation(kind="REC", flags=each.rec.flags, pc=each.rec.pc, x0=each.rec.gprs[0])
            case RealmCreate():
                pass
            case _:
                raise AssertionError(f"{each} is in no record")


def test_the_record_is_whole() -> None:
    assert len(VECTORS) == 64
    assert sum(vector.rim_runnable_recs_only is not None for vector in VECTORS.values()) >= 8
    assert {case for case, _ in inputs.rejected()} == {*REJECTED, WITHOUT_REALM}


@pytest.mark.parametrize("name", VECTORS)
def test_rim(name: str) -> None:
    vector, prediction = VECTORS[name], predict(name)
    assert prediction.rim.hex() == vector.rim.hex()
    assert prediction.trace.steps[0].operation == "REALM_CREATE"
    assert prediction.trace.steps[0].after == vector.rim_after_realm_create
    assert prediction.trace.steps[-1].after == vector.rim
    assert prediction.established is Established.ORACLE


@pytest.mark.parametrize("name", VECTORS)
def test_device_tree(name: str) -> None:
    vector, prediction = VECTORS[name], predict(name)
    blob_of_tree = encode(prediction.device_tree)
    if vector.dtb is not None:
        assert blob_of_tree == vector.dtb
        assert prediction.dtb == vector.dtb_region
    assert len(blob_of_tree) == vector.dtb_size
    assert hashlib.sha256(blob_of_tree).digest() == vector.dtb_sha256
    assert hashlib.sha256(prediction.dtb).digest() == vector.dtb_region_sha256


@pytest.mark.parametrize("name", [name for name, each in VECTORS.items() if each.rim_runnable_recs_only])
def test_rim_of_runnable_recs_only(name: str) -> None:
    prediction = predict(name, TF_RMM)
    expected = VECTORS[name].rim_runnable_recs_only
    assert expected is not None
    assert prediction.rim.hex() == expected.hex() != VECTORS[name].rim.hex()
    assert prediction.established is Established.ORACLE


@pytest.mark.parametrize("name", VECTORS)
def test_one_vcpu_is_the_same_under_tf_rmm(name: str) -> None:
    """A single REC is runnable; only the bss of kernel-f holds a block that TF-RMM would measure at once."""
    if launch(VECTORS[name]).machine.vcpus > 1 or name == "kernel-f-large-bss-6M":
        assert predict(name, TF_RMM).rim != VECTORS[name].rim
    else:
        assert predict(name, TF_RMM).rim == VECTORS[name].rim


@pytest.mark.parametrize("name", [name for name, each in VECTORS.items() if each.operations])
def test_operations(name: str) -> None:
    assert recorded(name) == list(VECTORS[name].operations or ())


@pytest.mark.parametrize("name", [name for name, each in VECTORS.items() if each.realm_params])
def test_parameters(name: str) -> None:
    found = launch(VECTORS[name])
    kernel, initrd = files(found)
    layout = place(found.machine, kernel, kernel_header(kernel), initrd)
    first = kvmtool.operations(found.machine, layout, kernel, initrd, bytes(65536))[0]
    assert isinstance(first, RealmCreate)
    page = first.params.page(HashAlgorithm(found.machine.algorithm))
    expected = VECTORS[name].realm_params
    assert expected is not None
    # The record leaves the last bytes out, which are zero there and here.
    assert page[: len(expected)] == expected
    assert page[len(expected) :] == bytes(len(page) - len(expected))


def test_one_tree_however_devices_are_named() -> None:
    """One more device is one more interrupt, whichever it is."""
    same = [predict(name).rim for name in ("vsock-12344", "vsock-3", "balloon", "9p")]
    assert len(set(same)) == 1


def test_large_bss_is_doubted_where_it_runs() -> None:
    """The measurer's own value is certain, what TF-RMM makes of 2 MiB blocks is read from its source."""
    measurer, tf_rmm = (predict("kernel-f-large-bss-6M", profile) for profile in (MEASURER, TF_RMM))
    assert measurer.established is Established.ORACLE
    assert tf_rmm.established is Established.SPEC_ONLY

    def ripas(prediction: RealmPrediction) -> Step:
        return next(step for step in prediction.trace.steps if step.operation == "RTT_INIT_RIPAS")

    # 0x8016f000 to 0x80800000: 1681 granules, or 145 up to 2 MiB and three blocks of 2 MiB.
    assert (ripas(measurer).count, ripas(tf_rmm).count) == (1681, 148)


@pytest.mark.parametrize("case", REJECTED)
def test_rejected(case: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words, message = REJECTED[case]
    argv = ["lkvm", "run", "-c", "1", "-m", "256", "-k", "kernel-a.img", "-i", "initrd-a.img", "--realm"]
    monkeypatch.chdir(folder)
    assert measure_realm(argv, host=HostFeatures()).prediction.rim
    with pytest.raises(ImageError) as caught:
        measure_realm([*argv, *words.split()], host=HostFeatures())
    assert str(caught.value).startswith(message) or message in str(caught.value)


def test_rejected_without_realm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    argv = ["lkvm", "run", "-c", "1", "-m", "256", "-k", "kernel-a.img", "--measurement-algo", "sha256"]
    with pytest.raises(ImageError, match=r"^--measurement-algo: only realms have it; add --realm$"):
        measure_realm(argv)
