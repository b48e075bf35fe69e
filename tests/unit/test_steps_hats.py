"""The steps of a recipe of HATs', but for what is predicted and accepted: files, bundles, keys, captures."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from recipes.errors import ImageError, MeasureError, SpecError
from recipes.formats.tree import FileTree, Node, NodeType
from recipes.hats import stand_in
from recipes.hats.runtime import no_program
from recipes.machine.hats import HatsShape
from recipes.machine.stage0 import Stage0Generation, Stage0Machine
from recipes.schema.hats import FileSpec, HatsApplicationSpec
from recipes.steps.capture import Captured
from recipes.steps.hats import capture, files, golden, keys, machines, names, policies
from recipes.vmm.stage0_captures import load_captures
from tests.support import ROOT
from tests.unit.hats_workshop import FACTS, HELLO, MISSING, Workshop, image, kernel, workshop

__all__ = ["workshop"]


def test_stand_ins_say_what_they_are(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    workshop.take_files()
    said = capsys.readouterr().out
    for role in set(MISSING) - {names.KERNEL}:
        assert workshop.files[role].read_bytes().startswith(f"Goldsmith stand-in for {role}".encode())
        assert f"inputs/{role} is not there, and a stand-in takes the place of {role}" in said
    why = "its RAM disk driver (brd) is a module, and stage1 loads none"
    how = "bring HATs' kernel by kernel.file of the recipe"
    assert f"  WARNING: Debian's kernel stands in for kernel_bin: {why}; {how}\n" in said
    assert workshop.files["kernel_bin"].read_bytes() == kernel()
    assert names.MARK.removesuffix(".") == stand_in.MARK


def test_names_that_a_former_build_gave_are_gone(workshop: Workshop) -> None:
    left = [workshop.folder / name for name in ("stage0_bin", "stage0_bin.digest.json", "kernel_bin")]
    for path in left:
        path.write_text("old")
    (workshop.folder / "launcher").mkdir()
    (workshop.folder / "launcher" / "old.txtpb").write_text("old")
    workshop.take_files()
    names.remove_others(workshop.folder / "stand-in.launcher")
    assert not any(path.exists() for path in left)
    assert not (workshop.folder / "launcher").exists()
    assert workshop.files["kernel_bin"].exists()


def test_the_bundles(workshop: Workshop) -> None:
    with tarfile.open(workshop.system) as tar:
        found = [member.name for member in tar.getmembers()]
    # The launcher looks at the end of a name, so it would take these.
    assert [name.endswith(role) for name, role in zip(found[1:], sorted(files.ROLES), strict=False)]
    assert set(found) == {".", *(f"./stand-in.{role}" for role in MISSING)}
    with tarfile.open(workshop.runtime) as tar:
        config = tar.extractfile("./config.json")
        assert config is not None
        value = json.loads(config.read())
        assert tar.getmember("./rootfs/usr/bin/hello").mode == 0o755
    assert value["process"]["args"] == ["/usr/bin/hello"]
    assert value["root"]["path"] == "rootfs"
    # Of a container that `runc spec` describes.
    assert "/proc/kcore" in value["linux"]["maskedPaths"]
    assert value["linux"]["readonlyPaths"] == [
        f"/proc/{name}" for name in ("bus", "fs", "irq", "sys", "sysrq-trigger")
    ]


def test_a_bundle_that_is_brought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "ROOT", tmp_path)
    (tmp_path / "b.tar").write_bytes(b"bundle")
    good = hashlib.sha256(b"bundle").hexdigest()
    files.copy(FileSpec(path="b.tar", sha256=good), tmp_path / "out", "r.yaml:1:2")
    assert (tmp_path / "out").read_bytes() == b"bundle"
    with pytest.raises(SpecError) as caught:
        files.copy(FileSpec(path="b.tar", sha256="0" * 64), tmp_path / "out", "r.yaml:1:2")
    assert str(caught.value) == (
        f"r.yaml:1:2: b.tar has sha256 {good}, the recipe has {'0' * 64}; find out which is right"
    )
    with pytest.raises(SpecError) as caught:
        files.copy(FileSpec(path="c.tar", sha256=good), tmp_path / "out", "r.yaml:1:2")
    assert str(caught.value) == "r.yaml:1:2: c.tar: there is no such file; put it there, or change the recipe"


def test_no_product_is_brought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "ROOT", tmp_path)
    monkeypatch.setattr(files, "OUT", tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/b").write_bytes(b"bundle")
    (tmp_path / "b").symlink_to("out/b")
    spec = FileSpec(path="b", sha256=hashlib.sha256(b"bundle").hexdigest())
    with pytest.raises(SpecError) as caught:
        files.copy(spec, tmp_path / "copy", "r.yaml:1:2")
    how = "put the file elsewhere, such as recipes/inputs/"
    assert str(caught.value) == f"r.yaml:1:2: b lies in out/, which is written and cleaned by builds; {how}"


def tar(folder: Path, members: dict[str, bytes | None]) -> FileSpec:
    """A bundle of files and, where there is no content, folders."""
    path = folder / "b.tar"
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE if data is None else tarfile.REGTYPE
            info.size = len(data or b"")
            archive.addfile(info, io.BytesIO(data or b""))
    return FileSpec(path="b.tar", sha256=hashlib.sha256(path.read_bytes()).hexdigest())


HOW = "give an uncompressed tar of config.json and rootfs/"


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"./config.json": b"{}", "./rootfs": None}, ""),
        ({"config.json": b"{}", "rootfs/bin/x": b"x"}, ""),
        ({"config.json": b"{}"}, "b.tar has no rootfs/"),
        ({"config.json": b"{}", "rootfs": b"x"}, "b.tar has no rootfs/"),
        ({"rootfs": None}, "b.tar has no config.json"),
        ({"b/config.json": b"{}", "b/rootfs": None}, "b.tar has no config.json"),
    ],
)
def test_a_bundle_has_what_runc_needs(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, members: dict[str, bytes | None], said: str
) -> None:
    monkeypatch.setattr(files, "ROOT", workshop.folder)
    application = HatsApplicationSpec(bundle=tar(workshop.folder, members))
    if not said:
        workshop.bundle(application)
        assert workshop.runtime.read_bytes() == (workshop.folder / "b.tar").read_bytes()
        return
    with pytest.raises(SpecError) as caught:
        workshop.bundle(application)
    assert str(caught.value) == f"r.yaml:1:2: no runtime bundle: {said}; {HOW}"


def test_a_bundle_that_is_no_tar(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "ROOT", workshop.folder)
    data = b"\x1f\x8b" + bytes(2000)
    (workshop.folder / "b.tar").write_bytes(data)
    spec = FileSpec(path="b.tar", sha256=hashlib.sha256(data).hexdigest())
    with pytest.raises(SpecError, match=rf"^r\.yaml:1:2: no runtime bundle: b\.tar: .*; {HOW}$"):
        workshop.bundle(HatsApplicationSpec(bundle=spec))


def test_the_command_is_in_the_container(workshop: Workshop) -> None:
    with pytest.raises(SpecError) as caught:
        workshop.bundle(replace(HELLO, command=("/usr/bin/helo",)))
    how = "change the command, or add what has it to packages or overlay"
    assert str(caught.value) == f"r.yaml:1:2: command: /usr/bin/helo is not in the container; {how}"


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/usr/bin/app", ""),
        ("/bin/app", ""),
        ("/bin//../bin/./app", ""),
        ("/usr/bin/second", ""),
        ("/usr/bin/link", ""),
        ("/usr/bin/none", "is not in the container"),
        ("/usr/bin/app/x", "is not in the container"),
        ("/usr/bin/dangling", "leads to /usr/bin/gone, which is missing"),
        ("/usr/bin/circle", "leads through more than 40 links"),
        ("/usr/bin/text", "is not executable (mode 0644)"),
        ("/usr/bin", "is no file"),
        ("/", "is no file"),
    ],
)
def test_what_can_be_started(path: str, why: str) -> None:
    tree = FileTree()
    tree.add_file("usr/bin/app", b"#!", 0o755)
    tree.add_file("usr/bin/text", b"x")
    tree.add_symlink("bin", "usr/bin")
    tree.add_symlink("usr/bin/link", "/bin/../bin/app")
    tree.add_symlink("usr/bin/dangling", "gone")
    tree.add_symlink("usr/bin/circle", "circle")
    tree["usr/bin/second"] = Node(type=NodeType.HARDLINK, mode=0o755, target="usr/bin/app")
    assert no_program(tree, path) == why


def test_a_key_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "FOLDER", tmp_path)
    path = tmp_path / "hats-a.pem"
    with pytest.raises(
        ImageError, match=r"^keys/hats-a\.pem: there is no such key; run `python3 dodo\.py keys`$"
    ):
        keys.load(path)
    keys.make(path)
    before = path.read_bytes()
    keys.make(path)
    assert path.read_bytes() == before
    assert path.stat().st_mode & 0o777 == 0o600
    assert [key.name for key in keys.own_keys()] == ["keys/hats-a.pem"]


def test_the_machines_are_what_the_command_line_says() -> None:
    shape = workshop_shape()
    machine = machines.stage0_machine(shape, Stage0Generation.OAK_55607DD8, FACTS)
    assert machine.name == shape.name
    assert machine.generation is Stage0Generation.OAK_55607DD8
    assert (machine.vcpus, machine.memory) == (shape.vcpus, shape.memory)
    assert machine.sev is not None
    assert (machine.sev.features, machine.sev.cpu) == (1, shape.cpu)
    swapped = machines.stage0_machine(shape, machine.generation, replace(FACTS, debug_swap=True))
    assert swapped.sev is not None
    assert swapped.sev.features == 0x21


def workshop_shape() -> HatsShape:
    return image().machines[0]


def test_the_tasks() -> None:
    found = image()
    assert capture.task(found)["name"] == "hats-snp"
    key = keys.key_path(found)
    assert key is not None
    assert keys.task(found, key)["targets"] == [str(ROOT / "keys" / "hats-policy.pem")]
    standing = set(names.standing_in(found))
    marks = {role: names.file_path(found, role).name.startswith(names.MARK) for role in files.ROLES}
    assert marks == {role: role in standing for role in files.ROLES}
    assert files.step(found).products[0] in golden.step(found).inputs
    assert policies.step(found).products[0].name.endswith("appraisal_policy.txtpb")


def test_a_capture_says_which_qemu_it_is_of(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = image()
    (known, *_) = load_captures(found.captures_path.read_text(), "c")
    asked: list[str] = []

    def capture_machine(machine: Stage0Machine, *, binary: str) -> Captured:
        asked.append(binary)
        if machine.vcpus == 1:
            raise MeasureError("etc/table-loader: command 9: WRITE_POINTER")
        return Captured(capture=known, acpi_table_sha256=bytes(32))

    monkeypatch.setattr("recipes.steps.capture.capture_machine", capture_machine)
    monkeypatch.setattr("shutil.which", lambda name: None if name.startswith("/") else f"/bin/{name}")
    monkeypatch.setattr(type(found), "captures_path", workshop.folder / "c.lock")
    with pytest.raises(MeasureError) as caught:
        capture.capture(found)
    assert re.match("genoa-1cpu-8000000k-[a-z_]+: etc/table-loader: command 9", str(caught.value))
    four = tuple(shape for shape in found.machines if shape.vcpus == 4)
    capsys.readouterr()
    capture.capture(replace(found, machines=four))
    said = capsys.readouterr().out
    assert set(asked) == {"/bin/qemu-system-x86_64"}
    named = "/usr/local/bin/qemu-system-x86_64, launcher.vmm_binary of the recipe, is not installed here"
    assert f"  note: {named}; /bin/qemu-system-x86_64 is asked\n" in said
    assert f"  captured from /bin/qemu-system-x86_64: QEMU 7.2.22 ({known.package})\n" in said


def test_what_a_recipe_does_not_ask_for_any_more_goes_away(tmp_path: Path) -> None:
    left = [tmp_path / name for name in ("a.txtpb", "stand-in.a.txtpb", "a.txtpb.digest.json")]
    for path in left:
        path.write_text("old")
    (tmp_path / "stand-in.blobs").mkdir()
    (tmp_path / "other").write_text("kept")
    names.remove_unused(tmp_path / "a.txtpb", tmp_path / "blobs")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
