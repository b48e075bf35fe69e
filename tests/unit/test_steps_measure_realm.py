"""kvmtool command lines with the files they name: notes, labels, and files that cannot be."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from recipes.__main__ import main
from recipes.errors import ImageError
from recipes.machine import HostFeatures
from recipes.measure.trace import Established
from recipes.steps.measure_realm import measure_realm, open_realm
from tests.vectors.kvmtool_inputs import Vector, generate, vectors

VECTORS = {vector.name: vector for vector in vectors()}
BASE = "lkvm run -c 1 -m 256 -k kernel-a.img -i initrd-a.img --realm --irqchip=gicv3"
ADVICE = "capture the tree of this very command line"


def assumed(breakpoints: int, watchpoints: int) -> str:
    return (
        f"no --islet: the value is for an RMM that gives realms {breakpoints} breakpoints and {watchpoints} "
        "watchpoints; for Islet's RMM add --islet (the lines that warden writes do not carry it)"
    )


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of the command lines, in the working directory."""
    for name in ("kernel-a.img", "kernel-raw.img", "initrd-a.img", "disk.img", "one.img", "flash3.img"):
        (tmp_path / name).write_bytes(generate(name))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(words: str) -> str:
    with pytest.raises(ImageError) as caught:
        measure_realm(f"{BASE} {words}".split())
    return str(caught.value)


def captured(folder: Path, vector: Vector) -> Path:
    """The recorded guest memory with a launch's device tree, as ``--dump-dtb`` writes it."""
    assert vector.dtb_region is not None
    path = folder / f"{vector.name}.dtb"
    path.write_bytes(vector.dtb_region)
    return path


@pytest.mark.parametrize("name", ["demo-islet", "demo-tfrmm", "everything"])
def test_a_capture_of_the_launch_keeps_its_label(name: str, folder: Path) -> None:
    vector = VECTORS[name]
    argv = ["lkvm", *vector.argv]
    prediction = measure_realm(argv, dtb=captured(folder, vector), profile="kvmtool-eac5").prediction
    assert prediction.rim == vector.rim
    assert prediction.established is Established.ORACLE
    assert not [note for note in prediction.notes if note.startswith("--dtb")]


def test_a_capture_of_another_launch_loses_it(folder: Path) -> None:
    """The same RAM, vCPU, command line and initramfs; and still another tree."""
    dtb = captured(folder, VECTORS["demo-islet"])
    words = "--islet -d disk.img -d disk.img --pmu --irqchip gicv3-its --kaslr-seed 9"
    prediction = measure_realm(f"{BASE} {words}".split(), dtb=dtb).prediction
    assert prediction.established is Established.SPEC_ONLY
    # A tap device, vsock and one disk are three devices, as are the default network device and two disks.
    assert prediction.notes == (
        (
            "--dtb: it differs from the tree of this launch in /chosen kaslr-seed; /intc ranges; /pci "
            f"msi-parent; /intc/msic (not in --dtb); /pmu (not in --dtb); {ADVICE}"
        ),
    )


@pytest.mark.parametrize("vcpus", [1, 2])
@pytest.mark.parametrize(
    ("words", "profile", "host", "note"),
    [
        ("", None, HostFeatures(), assumed(2, 2)),
        ("--islet", None, HostFeatures(), None),
        ("", "kvmtool-eac5", HostFeatures(), None),
        ("", "kvmtool-eac5-tf-rmm", HostFeatures(), None),
        ("", None, HostFeatures(num_bps=6), assumed(6, 2)),
        ("", None, HostFeatures(num_bps=2, num_wps=2), None),
    ],
)
def test_who_the_value_is_for(
    vcpus: int, words: str, profile: str | None, host: HostFeatures, note: str | None
) -> None:
    argv = f"{BASE} -c {vcpus} {words}".split()
    notes = measure_realm(argv, profile=profile, host=host).prediction.notes
    assert [text for text in notes if text.startswith("no --islet")] == ([] if note is None else [note])
    assert open_realm(argv, profile=profile, host=host).notes == (() if note is None else (note,))


def test_the_note_is_no_doubt() -> None:
    """The measurer computed the value; whose RMM it is for is the user's to know."""
    prediction = measure_realm(["lkvm", *VECTORS["demo-tfrmm"].argv]).prediction
    assert (prediction.rim, prediction.established) == (VECTORS["demo-tfrmm"].rim, Established.ORACLE)
    assert prediction.notes == (assumed(2, 2),)


def test_the_newer_dialect_has_no_such_option(folder: Path) -> None:
    dtb = captured(folder, VECTORS["demo-islet"])
    prediction = measure_realm(f"{BASE} --restricted_mem".split(), dtb=dtb).prediction
    assert prediction.profile == "kvmtool-rel0-islet"
    assert not [text for text in prediction.notes if "--islet" in text]


def test_a_raw_kernel_is_said_to_be_one() -> None:
    prediction = measure_realm(f"{BASE} --islet -k kernel-raw.img".split()).prediction
    assert prediction.notes == (
        (
            "kernel-raw.img: no arm64 Image header; the file is loaded at offset 0x80000 as kvmtool does; "
            "the realm boots only if it is a raw arm64 program"
        ),
    )


def test_flash_files(folder: Path) -> None:
    (folder / "empty.img").touch()
    with (folder / "huge.img").open("wb") as file:
        file.truncate(1 << 32)
    assert refusal("-F empty.img") == "-F empty.img: the file is empty; give one with content, or no -F"
    assert refusal("-F huge.img") == (
        "-F huge.img: the file has 4294967296 bytes, and kvmtool counts them in 32 bits; give one of less "
        "than 4 GiB"
    )
    assert refusal("-F absent.img") == "absent.img: there is no such file; check the path"
    measured = measure_realm(["lkvm", *VECTORS["flash-nonpow2"].argv])
    assert measured.machine.flash == len(generate("flash3.img"))
    assert measured.prediction.rim == VECTORS["flash-nonpow2"].rim


def test_metadata_files(folder: Path) -> None:
    advice = "leave it out while there is none, the RIM does not depend on it"
    missing = "there is no such file, and kvmtool would not start"
    assert refusal("--metadata nope.bin") == f"--metadata nope.bin: {missing}; {advice}"
    (folder / "sub").mkdir()
    other = "is no regular file, and kvmtool would not start"
    assert refusal("--metadata sub") == f"--metadata sub: {other}; {advice}"
    vector = VECTORS["metadata-ignored"]
    assert measure_realm(["lkvm", *vector.argv]).prediction.rim == vector.rim


def test_a_kernel_cut_short(folder: Path) -> None:
    """PE format: machine arm64, one section of which 64 KiB are stored from 0x1000 on; the file has less."""
    kernel = bytearray(0x8000)
    kernel[:2], kernel[16:24] = b"MZ", (0x20000).to_bytes(8, "little")
    kernel[56:64] = b"ARM\x64" + (64).to_bytes(4, "little")
    kernel[64:72] = b"PE\0\0\x64\xaa\1\0"
    kernel[84:86] = (112).to_bytes(2, "little")
    kernel[88 + 112 + 16 : 88 + 112 + 24] = (0x10000).to_bytes(4, "little") + (0x1000).to_bytes(4, "little")
    (folder / "Image").write_bytes(kernel)
    assert refusal("-k Image") == (
        "Image: truncated: its EFI stub has content up to 0x11000, the file ends at 0x8000; copy the kernel "
        "again [Microsoft PE Format]"
    )
    (folder / "Image").write_bytes(kernel.ljust(0x11000, b"\0"))
    assert measure_realm(f"{BASE} -k Image".split()).prediction.rim


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EIO, os.strerror(errno.EIO)), "reading or writing a file: input/output error"),
        (OSError("cannot tell"), "reading or writing a file: cannot tell"),
        (OSError(errno.EACCES, os.strerror(errno.EACCES), "Image"), "Image: permission denied"),
    ],
)
def test_errors_of_the_system(
    error: OSError, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr("recipes.steps.measure_realm.measure_realm", fail)
    assert main(["measure", "--", *BASE.split()]) == 2
    assert capsys.readouterr().err == f"goldsmith: {words}\n"
