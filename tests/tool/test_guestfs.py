"""A base image converted in a real appliance, its root judged by e2fsprogs, cryptsetup and a Linux kernel.

Two launches of the appliance, each 12 s on two quiet cores; the whole file takes about a minute and a half.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest

from recipes.errors import ToolError
from recipes.formats.tree import FileTree
from recipes.schema.volumes import FormatPolicy, UnlockSpec, VolumeHeader
from recipes.sources.converted_root import KernelTargets, RootFacts, RootPlan, convert_root
from recipes.sources.debs import read_spool
from recipes.sources.ext4_image import write_ext4
from recipes.sources.guestfs_appliance import ADVICE, Drive, running
from recipes.sources.locked_program import LockedProgram
from recipes.steps import volumes
from recipes.steps.convert.root import APPLIANCE
from recipes.steps.encrypted import write_volume
from recipes.steps.keys import write_key
from recipes.steps.volumes import Volume
from recipes.units import MIB
from tests.packages import control, directory, entry, write_deb
from tests.support import require_tool
from tests.tool import base_image
from tests.tool.base_image import KEPT, KERNEL, LEFTOVERS, SIZE

pytestmark = pytest.mark.tool

GROWN = SIZE + 32 * MIB
PARTITION = UUID("5e5554b7-deba-59ab-abc9-d38bc6372ff1")
PASSPHRASE = b"correct horse battery staple, and then some more"
UNIT = b"[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"


def require_guestfs() -> None:
    """Without the binding the tests are skipped at home and fail in CI, as without any other program."""
    program = "import sys; sys.path.append('/usr/lib/python3/dist-packages'); import guestfs"
    pythons = (sys.executable, "/usr/bin/python3")
    found = [subprocess.run([path, "-c", program], capture_output=True, check=False) for path in pythons]
    if any(result.returncode == 0 for result in found):
        return
    require_tool("python3-guestfs")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> base_image.BaseImage:
    require_guestfs()
    return base_image.assemble(tmp_path_factory.mktemp("base"))


class Converted:
    """What came of the base: paths of the products and what was found."""

    def __init__(self, folder: Path, facts: RootFacts) -> None:
        self.root, self.kernel, self.modules = (folder / name for name in ("root", "vmlinuz", "kernel.tar"))
        self.facts = facts

    def debugfs(self, request: str) -> str:
        result = subprocess.run(
            [require_tool("debugfs"), "-R", request, str(self.root)], capture_output=True, check=True
        )
        return result.stdout.decode()

    def text(self, path: str) -> str | None:
        """The content of a file as another reader of ext4 sees it; None where there is none."""
        result = subprocess.run(
            [require_tool("debugfs"), "-R", f"cat {path}", str(self.root)], capture_output=True, check=True
        )
        return None if b"File not found" in result.stderr else result.stdout.decode()


@pytest.fixture(scope="module")
def converted(base: base_image.BaseImage, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    folder = tmp_path_factory.mktemp("converted")
    added = write_deb(
        folder,
        control("added", "1.0", "Depends: dpkg\n"),
        directory("./usr/"),
        directory("./usr/share/"),
        entry("./usr/share/added", b"by dpkg\n"),
    )
    modules, files = FileTree(), FileTree()
    modules.add_file("usr/lib/modules/6.12.0-package/kernel/x.ko", b"of the package")
    files.add_file("usr/lib/systemd/system/site.service", UNIT)
    files.add_file("etc/motd", b"laid over\n")
    plan = RootPlan(size=GROWN, packages=(added,), modules=modules, files=files, enable=("site.service",))
    before = hashlib.sha256(base.disk.read_bytes()).digest()
    kernel = KernelTargets(folder / "vmlinuz", folder / "kernel.tar")
    facts = convert_root(base.disk, folder / "root", plan, cache=APPLIANCE, kernel=kernel)
    assert hashlib.sha256(base.disk.read_bytes()).digest() == before
    return Converted(folder, facts)


def test_the_root_is_found_without_its_partition_type(converted: Converted) -> None:
    assert converted.facts == RootFacts(system="debian 13", device="/dev/sda2", kernel=KERNEL)


def test_the_file_system_is_clean_and_grown(converted: Converted) -> None:
    subprocess.run([require_tool("fsck.ext4"), "-fn", str(converted.root)], check=True, capture_output=True)
    blocks = re.search(r"^Block count: +(\d+)$", converted.debugfs("stats"), re.MULTILINE)
    assert blocks is not None
    assert int(blocks[1]) * 4096 == converted.root.stat().st_size == GROWN


def test_what_named_the_old_disk_is_gone_and_the_rest_is_there(converted: Converted) -> None:
    assert converted.text("/etc/fstab") == (
        "/dev/mapper/root / ext4 rw,discard,errors=remount-ro 0 1\ntmpfs /tmp tmpfs size=50% 0 0\n"
    )
    assert converted.text("/etc/machine-id") == ""
    assert [path for path in LEFTOVERS if converted.text(f"/{path}") is not None] == []
    assert {path: converted.text(f"/{path}") for path in KEPT} == {
        path: data.decode() for path, data in KEPT.items()
    }


def test_packages_modules_files_and_units_are_in(converted: Converted) -> None:
    assert converted.text("/usr/share/added") == "by dpkg\n"
    status = converted.text("/var/lib/dpkg/status")
    assert status is not None
    assert "Package: added\nStatus: install ok installed\n" in status
    assert converted.text("/usr/lib/modules/6.12.0-package/kernel/x.ko") == "of the package"
    assert converted.text("/etc/motd") == "laid over\n"
    wants = converted.debugfs("ls -p /etc/systemd/system/multi-user.target.wants")
    assert "/site.service/" in wants
    assert converted.text("/usr/sbin/policy-rc.d") is None
    assert "goldsmith" not in converted.debugfs("ls -p /var/cache")
    # A folder of an overlay does not change the mode of the one that is there.
    assert "/040700/" in next(line for line in converted.debugfs("ls -p /").splitlines() if "/root/" in line)


def test_the_newest_kernel_and_its_modules_come_out(converted: Converted) -> None:
    assert converted.kernel.read_bytes() == f"kernel {KERNEL}".encode()
    tree = read_spool(converted.modules, "base image")
    assert tree[f"usr/lib/modules/{KERNEL}/kernel/fs/ext4.ko"].read() == f"module of {KERNEL}".encode()


def test_a_linux_kernel_opens_the_encrypted_root(
    converted: Converted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volumes, "KEYS", tmp_path)
    spec = UnlockSpec(unlock=("kbs",), header=VolumeHeader.LUKS2)
    root = Volume(
        name="root",
        image="test",
        key=("root",),
        partition=str(PARTITION),
        mountpoint="/",
        unlock=spec,
        format=FormatPolicy.NEVER,
    )
    write_key(root.key_file, PASSPHRASE, 0o600)
    write_key(tmp_path / "passphrase", PASSPHRASE, 0o600)
    write_key(tmp_path / "seed", bytes(range(64)), 0o600)
    volume = tmp_path / "root.luks"
    write_volume(volume, root, plain=converted.root, seed=tmp_path / "seed")
    program = require_tool("cryptsetup")
    test = [program, "open", "--test-passphrase", "--key-file", str(tmp_path / "passphrase"), str(volume)]
    subprocess.run(test, check=True, capture_output=True)
    write_key(tmp_path / "passphrase", PASSPHRASE + b"\n", 0o600)
    assert subprocess.run(test, check=False, capture_output=True).returncode == 2
    with running([Drive(volume, "raw")], APPLIANCE) as guest:
        guest.call("cryptsetup_open", "/dev/sda", PASSPHRASE.decode(), "root", readonly=True)
        guest.call("mount_ro", "/dev/mapper/root", "/")
        assert guest.call("read_file", "/home/site/data") == KEPT["home/site/data"]
        assert guest.call("blockdev_getsize64", "/dev/mapper/root") == GROWN
        with pytest.raises(ToolError, match=r"read_file /etc/none\n.*No such file"):
            guest.call("read_file", "/etc/none")
    with volume.open("rb") as file:
        shown = file.read(64 * MIB)
    assert KEPT["home/site/data"] not in shown


def test_a_file_system_is_the_same_every_time(tmp_path: Path) -> None:
    """Made by the locked mke2fs, with the locked libraries, from an archive."""
    tree = FileTree()
    tree.add_file("usr/bin/x", b"x" * 5000, 0o755)
    tree.add_symlink("bin", "usr/bin")
    (tmp_path / "tools").mkdir()
    tools = base_image.tools(tmp_path / "tools")
    made = []
    for name in ("a", "b"):
        work = tmp_path / name
        work.mkdir()
        write_ext4(
            *(tree, work / "fs"),
            tools=tools,
            work=work,
            size=8 * MIB,
            uuid=PARTITION,
            label="x",
            epoch=1_700_000_000,
        )
        made.append((work / "fs").read_bytes())
    assert made[0] == made[1]
    image = str(tmp_path / "a" / "fs")
    subprocess.run([require_tool("fsck.ext4"), "-fn", image], check=True, capture_output=True)
    shown = subprocess.run(
        [require_tool("debugfs"), "-R", "stat /usr/bin/x", image], capture_output=True, check=True
    )
    assert b"Mode:  0755" in shown.stdout
    with pytest.raises(ToolError, match="mke2fs: exit status"):
        LockedProgram(tools, "usr/sbin/mke2fs", tmp_path / "again").run("--none")


def test_without_the_binding_the_message_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(ToolError) as caught, running([], tmp_path, pythons=["/nonexistent/python3"]):
        pytest.fail("it was launched")
    assert ADVICE in str(caught.value)
    assert "/nonexistent/python3: no such file or directory" in str(caught.value)
