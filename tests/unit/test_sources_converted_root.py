"""The edits of a root, asked of an appliance that is a dictionary."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from recipes.errors import FormatError, SpecError
from recipes.formats.tree import FileTree, Node, NodeType
from recipes.sources import converted_root
from recipes.sources.converted_root import KernelTargets, RootFacts, RootPlan, convert_root
from recipes.sources.debs import read_spool
from recipes.sources.disk_image import DiskImage
from recipes.units import MIB
from tests.unit.guest import FakeGuest

RELEASE = "6.12.9-amd64"


def guest() -> FakeGuest:
    return FakeGuest(
        partitions={"/dev/sda1": ("ext4", 64 * MIB, ""), "/dev/sdb": ("unknown", 128 * MIB, "")},
        files={
            "/etc": None,
            "/sbin/init": b"",
            "/usr/bin/dpkg": b"",
            "/etc/os-release": b"ID=debian\nVERSION_ID=13\n",
            "/etc/fstab": b"UUID=x / ext4 defaults 0 1\nUUID=y /boot ext4 defaults 0 2\n",
            "/etc/crypttab": b"data UUID=z\n",
            "/etc/machine-id": b"0123\n",
            "/etc/ssh/ssh_host_rsa_key": b"k",
            "/etc/ssh/sshd_config": b"c",
            "/boot/grub/grub.cfg": b"g",
            "/boot/grub": None,
            "/boot/vmlinuz-6.1.0-9-amd64": b"old",
            f"/boot/vmlinuz-{RELEASE}": b"new",
            f"/lib/modules/{RELEASE}/kernel/a.ko": b"a",
        },
        links={"/lib": "/usr/lib"},
    )


def convert(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    fake: FakeGuest,
    plan: RootPlan,
    kernel: KernelTargets | None = None,
) -> RootFacts:
    @contextmanager
    def opened(path: Path, *, cache: Path, scratch: Path) -> Iterator[DiskImage]:
        assert scratch.stat().st_size == plan.size
        yield DiskImage(fake, path.name)

    monkeypatch.setattr(converted_root, "open_image", opened)
    return convert_root(folder / "base.qcow2", folder / "root.raw", plan, cache=folder, kernel=kernel)


def test_the_root_is_copied_grown_edited_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = guest()
    facts = convert(tmp_path, monkeypatch, fake, RootPlan(size=128 * MIB))
    assert facts == RootFacts(system="debian 13", device="/dev/sda1")
    order = [call[0] for call in fake.calls]
    wanted = ["copy_device_to_device", "e2fsck", "resize2fs", "mount", "write", "umount_all", "e2fsck"]
    assert [name for name in order if name in set(wanted)] == [*wanted[:4], "write", *wanted[4:]]
    assert fake.asked("copy_device_to_device") == [("/dev/sda1", "/dev/sdb")]
    assert fake.files["/etc/fstab"] == b"/dev/mapper/root / ext4 defaults 0 1\n"
    assert fake.files["/etc/machine-id"] == b""
    assert "/etc/ssh/sshd_config" in fake.files
    gone = {"/etc/crypttab", "/boot/grub", "/boot/grub/grub.cfg", "/etc/ssh/ssh_host_rsa_key"}
    assert not gone & set(fake.files)
    assert not [call for call in fake.calls if call[0] in ("sh", "command", "tar_in")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root.raw"]


def test_packages_modules_files_and_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = guest()
    (tmp_path / "p.deb").write_bytes(b"deb")
    modules, files = FileTree(), FileTree()
    modules.add_file(f"usr/lib/modules/{RELEASE}/kernel/b.ko", b"b")
    files.add_file("etc/motd", b"m")
    files.add_symlink("etc/link", "motd")
    plan = RootPlan(
        size=64 * MIB, packages=(tmp_path / "p.deb",), modules=modules, files=files, enable=("a.service",)
    )
    convert(tmp_path, monkeypatch, fake, plan)
    assert fake.laid == {
        "/var/cache/goldsmith-packages": ["000.deb"],
        # Below the real folder, and no folder that is there is laid over.
        "/usr/lib/modules": [f"{RELEASE}/kernel/b.ko"],
        "/": ["etc/link", "etc/motd"],
    }
    (command,) = fake.asked("sh")
    assert "dpkg --install" in str(command[0])
    assert fake.asked("command") == [(("systemctl", "enable", "a.service"),)]
    # Nothing is started while packages are installed, and nothing of that stays.
    assert ("/usr/sbin/policy-rc.d",) in fake.asked("write")
    assert "/usr/sbin/policy-rc.d" not in fake.files


def test_a_policy_of_the_base_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = guest()
    fake.files["/usr/sbin/policy-rc.d"] = b"own"
    (tmp_path / "p.deb").write_bytes(b"deb")
    convert(tmp_path, monkeypatch, fake, RootPlan(size=64 * MIB, packages=(tmp_path / "p.deb",)))
    assert fake.files["/usr/sbin/policy-rc.d"] == b"own"


def test_the_kernel_of_the_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    targets = KernelTargets(tmp_path / "vmlinuz", tmp_path / "kernel.tar")
    facts = convert(tmp_path, monkeypatch, guest(), RootPlan(size=64 * MIB), targets)
    assert facts.kernel == RELEASE
    assert targets.kernel.read_bytes() == b"new"
    assert read_spool(targets.modules, "base")[f"usr/lib/modules/{RELEASE}/kernel/a.ko"].read() == b"a"


def test_a_kernel_on_a_partition_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = guest()
    boot = {path: fake.files.pop(path) for path in list(fake.files) if path.startswith("/boot/vmlinuz")}
    # Mounted there, it shows what it has.
    monkeypatch.setattr(fake, "_mount_ro", lambda device, place: fake.files.update(boot), raising=False)
    targets = KernelTargets(tmp_path / "vmlinuz", tmp_path / "kernel.tar")
    assert convert(tmp_path, monkeypatch, fake, RootPlan(size=64 * MIB), targets).kernel == RELEASE
    assert fake.asked("mount_ro") == [("/dev/found/y", "/boot")]
    assert fake.asked("umount") == [("/boot",)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"/sbin/init": ""},
            "/dev/sda1 looks like the root but has no /sbin/init; give the image of a Linux system",
        ),
        (
            {"/boot/vmlinuz-6.1.0-9-amd64": "", f"/boot/vmlinuz-{RELEASE}": "", "/etc/fstab": ""},
            "has no kernel /boot/vmlinuz-*; name one, `kernel: {package: linux-image-cloud-amd64}`",
        ),
        (
            {
                "/boot/vmlinuz-6.1.0-9-amd64": "",
                f"/boot/vmlinuz-{RELEASE}": "",
                "/etc/fstab": "PARTUUID=1 /boot ext4\n",
            },
            "/boot is PARTUUID=1 in its fstab, which is not looked for; name a kernel package instead",
        ),
    ],
)
def test_bases_that_cannot_be_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], message: str
) -> None:
    fake = guest()
    for path, text in change.items():
        fake.files.pop(path)
        if text:
            fake.files[path] = text.encode()
    targets = KernelTargets(tmp_path / "vmlinuz", tmp_path / "kernel.tar")
    with pytest.raises(FormatError) as caught:
        convert(tmp_path, monkeypatch, fake, RootPlan(size=64 * MIB), targets)
    assert str(caught.value) == f"base.qcow2: {message}"


def test_plans_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecError, match=r"^root.size: 32 MiB is too small, the base's root has 64 MiB; "):
        convert(tmp_path, monkeypatch, guest(), RootPlan(size=32 * MIB))
    with pytest.raises(SpecError, match=r"^root.size: 67108865 bytes are not whole MiB$"):
        convert(tmp_path, monkeypatch, guest(), RootPlan(size=64 * MIB + 1))
    fake = guest()
    del fake.files["/usr/bin/dpkg"]
    with pytest.raises(SpecError, match=r"^root.packages: the base image has no dpkg; leave them out"):
        convert(tmp_path, monkeypatch, fake, RootPlan(size=64 * MIB, packages=(tmp_path / "p.deb",)))
    files = FileTree()
    files.add_file("a", b"")
    files["b"] = Node(type=NodeType.FIFO, mode=0o644)
    with pytest.raises(SpecError, match=r"^b: a fifo cannot be laid over a base image; remove it$"):
        convert(tmp_path, monkeypatch, guest(), RootPlan(size=64 * MIB, files=files))


def test_what_is_laid_over_has_its_owners_and_modes(tmp_path: Path) -> None:
    files = FileTree()
    files.add_file("usr/bin/x", b"data", 0o755)
    converted_root.write_files(files.sorted(), tmp_path / "x.tar")
    with tarfile.open(tmp_path / "x.tar") as archive:
        (member,) = archive.getmembers()
        assert (member.name, member.mode, member.uid, member.size) == ("usr/bin/x", 0o755, 0, 4)
