"""Every recorded launch and rejection through ``goldsmith measure``, as a user would type it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recipes.__main__ import main
from tests.vectors import kvmtool_inputs
from tests.vectors.debian_kernel import debian_kernel

VECTORS = {vector.name: vector for vector in kvmtool_inputs.vectors()}
BASE = "run -c 1 -m 256 -k kernel-a.img -i initrd-a.img --realm --irqchip=gicv3"
# The recorded rejections, as command lines; what each must say.
REJECTED = {
    "disks-5": (f"{BASE} {'-d disk.img ' * 5}", "-d"),
    "sve-vl-128 with --disable-sve": (f"{BASE} --sve-vl 128 --disable-sve", "sve"),
    "realm-pv of 65 bytes": (f"{BASE} --realm-pv {'A' * 65}", "--realm-pv"),
    "-m 0": ("run -c 1 -m 0 -k kernel-a.img -i initrd-a.img --realm", "-m 0"),
    "-m 2": ("run -c 1 -m 2 -k kernel-a.img -i initrd-a.img --realm", "-m: 0x200000"),
    "initrd larger than the space below the DTB": (
        "run -c 1 -m 16 -k kernel-a.img -i large.img --realm",
        "large.img",
    ),
    "no --realm but --measurement-algo": (
        "run -c 1 -m 256 -k kernel-a.img -i initrd-a.img --measurement-algo=sha256",
        "--realm",
    ),
    "missing disk file": (f"{BASE} -d nowhere.img", "nowhere.img"),
    "--mpidrs 0 with -c 2": (
        "run -c 2 -m 256 -k kernel-a.img -i initrd-a.img --realm --mpidrs 0",
        "--mpidrs",
    ),
    "-k with -f": (f"{BASE} -f kernel-a.img", "-f"),
    "empty initrd": ("run -c 1 -m 256 -k kernel-a.img -i empty.img --realm", "empty.img"),
}
# What else users get wrong: one line each, which names the place.
MISTAKES = {
    f"{BASE} -c 17": "17",
    f"{BASE} -c 0": "-c 0",
    f"{BASE} --no-such-option": "--no-such-option",
    "run -c 1 -m 256 -k nowhere -i initrd-a.img --realm": "nowhere",
    "run -c 1 -m 256 -k compressed.img -i initrd-a.img --realm": "gzip",
    "run -c 1 -m 256 -k x86.img -i initrd-a.img --realm": "x86",
    "run -c 1 -m 256 -k kernel-a.img --realm": "-i",
    f"{BASE} -d .": "folder",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the inputs that can be made again, and some that no launch could use."""
    path = tmp_path_factory.mktemp("kvmtool")
    kvmtool_inputs.regenerate(path)
    (path / "large.img").write_bytes(bytes(15 << 20))
    (path / "empty.img").touch()
    (path / "compressed.img").write_bytes(b"\x1f\x8b\x08" + bytes(1 << 16))
    bzimage = bytearray(1 << 16)
    bzimage[0x1FE:0x200], bzimage[0x202:0x206] = b"\x55\xaa", b"HdrS"
    (path / "x86.img").write_bytes(bzimage)
    return path


@pytest.fixture(autouse=True)
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths of a command line are relative to the working directory."""
    monkeypatch.chdir(folder)


@pytest.mark.parametrize("name", VECTORS)
def test_the_rim_is_the_recorded_one(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vector = VECTORS[name]
    if "debian-Image" in vector.argv and not (folder / "debian-Image").exists():
        kvmtool_inputs.place_debian(kvmtool_inputs.debian_input(), debian_kernel(), folder)
    assert main(["measure", "--json", "--", "lkvm", *vector.argv]) == 0
    document = json.loads(capsys.readouterr().out)
    assert list(document) == ["profile", "registers", "trace"]
    assert document["profile"] == "kvmtool-eac5"
    algorithm = "sha256" if len(vector.rim) == 32 else "sha512"
    row = {"register": "RIM", "algorithm": algorithm, "value": vector.rim.hex(), "established": "oracle"}
    assert document["registers"] == [row]
    assert document["trace"][0]["steps"][-1]["after"] == vector.rim.hex()


def test_every_recorded_rejection_is_tried() -> None:
    assert set(REJECTED) == {case for case, _ in kvmtool_inputs.rejected()}


@pytest.mark.parametrize(("line", "word"), [*REJECTED.values(), *MISTAKES.items()])
def test_a_launch_that_cannot_be_is_one_error(
    line: str, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["measure", "--", "lkvm", *line.split()]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("goldsmith: ")
    assert word in printed.err
    assert printed.err.count("\n") == 1
