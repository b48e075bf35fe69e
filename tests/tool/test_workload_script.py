"""The guest's script for workloads, with folders for disks and a TPM of files, in the shell that runs it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from recipes.sources.workload import assemble, read_folder
from recipes.sources.workload_images import read_archive
from tests.support import ROOT, require_tool
from tests.unit.workload_samples import write_folder

pytestmark = pytest.mark.tool

SCRIPT = ROOT / "rootfs/workload-podman/usr/lib/goldsmith/workload"
BANKS = ("sha1", "sha256", "sha384", "sha512")
COMPOSE = """\
services:
  web:
    image: web:1.0
    network_mode: none
    restart: always
    depends_on: [db]
    volumes: ["./config:/etc/web", "./secrets/key:/run/key"]
  db: {image: web:1.0, network_mode: none}
"""
FILES = {"config/app.toml": b"port = 80\n", "config/run": b"#!/bin/sh\n", "secrets/key": b"hidden"}
PARTITION = "11111111-2222-3333-4444-555555555555"
# Programs that only a guest has; each says in `calls` how it was called. To mount is to copy a folder.
STAND_INS = {
    "mount": """
case "$*" in
    "-t erofs "*) [ ! -e "{root}/lose-partition" ] || exit 1
        rmdir "$6" && /usr/bin/cp -a "{root}/partition" "$6" ;;
    "-o bind "*) rmdir "$4" && ln -s "$3" "$4" ;;
esac
""",
    "umount": 'for last; do :; done; rm -rf "$last"\n',
    "chown": "",
    "cp": '[ ! -e "{root}/no-space" ] && exec /usr/bin/cp "$@"\n',
    "udevadm": '[ ! -e "{root}/no-partition" ]\n',
    "systemctl": """
while [ "${{1#-}}" != "$1" ]; do shift; done
verb=$1 found=3
shift
[ "$verb" != daemon-reload ] || exit 0
[ "$verb" != start ] || [ -e "{root}/units/$1" ] || echo inactive >"{root}/units/$1"
cd "{root}/units"
# The pattern is systemd's as much as the shell's.
for unit in $*; do
    [ -e "$unit" ] || continue
    read -r state <"$unit"
    case $verb in
        start) [ ! -e "{root}/no-start" ] || {{ echo failed >"$unit" && exit 1; }}
            echo active >"$unit" ;;
        stop) [ -e "{root}/stuck-$unit" ] || [ "$state" = failed ] || echo inactive >"$unit"
            [ ! -e "{root}/stuck-$unit" ] || cat "{root}/stuck-$unit" >"$unit" ;;
        is-active) [ "$state" != active ] || found=0 ;;
        list-units) echo "$unit loaded $state dead A container" ;;
    esac
done
[ "$verb" != is-active ] || exit $found
""",
    "podman": "",
}
EXTEND = """#!/bin/sh
echo "systemd-pcrextend $*" >>{root}/calls
grep -sxl -e active -e activating {root}/units/workload@* >>{root}/running-meanwhile
[ ! -e {root}/no-measured-boot ] || exit 0
index=${{1#--pcr=}}
for bank in {banks}; do
    file={root}/tpm0/pcr-$bank/$index
    digest=$(printf '%s' "$2" | ${{bank}}sum)
    value=$(printf '%s%s' "$(cat $file)" "${{digest%% *}}" | tr a-f A-F | basenc --base16 -d | ${{bank}}sum)
    printf '%s\\n' "${{value%% *}}" | tr a-f A-F >$file
done
"""


@dataclass(frozen=True)
class Guest:
    """A guest's file system, as far as the script sees it, below ``root``."""

    root: Path
    manifest: bytes

    @property
    def partition(self) -> Path:
        return self.root / "partition"

    def run(self, verb: str) -> subprocess.CompletedProcess[str]:
        """Runs the script by the shell that Debian has as ``sh``."""
        argv = [require_tool("dash"), str(self.root / "script"), verb]
        done = subprocess.run(argv, capture_output=True, text=True, cwd="/", env={"HOME": "/"})
        unit = {"measure": "workload-measure.service", "start": "workload.service"}.get(verb)
        if unit is not None:
            self.set_state(unit, "active" if done.returncode == 0 else "failed")
        return done

    def set_state(self, unit: str, state: str) -> None:
        """What systemd knows of a unit."""
        (self.root / "units" / unit).write_text(f"{state}\n")

    def state(self, unit: str) -> str:
        return self.text(f"units/{unit}").strip()

    def text(self, name: str) -> str:
        path = self.root / name
        return path.read_text() if path.exists() else ""

    @property
    def calls(self) -> list[str]:
        return self.text("calls").replace(str(self.root), "").splitlines()

    @property
    def words(self) -> list[str]:
        """Words that were extended."""
        start = "systemd-pcrextend --pcr=14 "
        return [call.removeprefix(start) for call in self.calls if call.startswith(start)]

    @property
    def good(self) -> str:
        return f"workload:site:sha256:{hashlib.sha256(self.manifest).hexdigest()}"


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    source = write_folder(tmp_path / "site", compose=COMPOSE, files=FILES)
    (source / "config/run").chmod(0o755)
    folder = read_folder(source, "docker-compose.yml")
    made = assemble("site", folder, [read_archive(path, "amd64") for path in folder.archives], "c")
    root = tmp_path / "guest"
    for path, node in made.tree.sorted():
        if node.payload is not None:
            (root / "partition" / path).parent.mkdir(parents=True, exist_ok=True)
            (root / "partition" / path).write_bytes(node.read())
    for name in ("run", "dev/mapper", "var/lib", "bin", "tpm0", "units"):
        (root / name).mkdir(parents=True)
    (root / "var/lib/containers/storage/old").mkdir(parents=True)
    for bank in BANKS:
        (root / f"tpm0/pcr-{bank}").mkdir()
        size = hashlib.new(bank).digest_size
        (root / f"tpm0/pcr-{bank}/14").write_text("0" * 2 * size + "\n")
    (root / "conf").write_text(f"WORKLOAD=site\nREGISTER=14\nPARTITION={PARTITION}\n")
    write_programs(root)
    return Guest(root, made.manifest)


def write_programs(root: Path) -> None:
    for name, body in STAND_INS.items():
        lines = f'#!/bin/sh\necho "{name} $*" >>{root}/calls\n{body.format(root=root)}'
        (root / "bin" / name).write_text(lines)
        (root / "bin" / name).chmod(0o755)
    (root / "extend").write_text(EXTEND.format(root=root, banks=" ".join(BANKS)))
    (root / "extend").chmod(0o755)
    script = SCRIPT.read_text()
    for place, stand_in in (
        ("PATH=/usr/sbin:/usr/bin", f"PATH={root}/bin:/usr/sbin:/usr/bin"),
        ("/usr/lib/goldsmith/workload.conf", f"{root}/conf"),
        ("/usr/lib/systemd/systemd-pcrextend", f"{root}/extend"),
        ("/sys/class/tpm/tpm0", f"{root}/tpm0"),
        (">/dev/kmsg", f">>{root}/kmsg"),
        (">/dev/console", f">>{root}/console"),
        ("/dev/mapper/workload\n", f"{root}/dev/mapper/workload\n"),
        ("=/run/workload", f"={root}/run/workload"),
        ("=/var/lib/", f"={root}/var/lib/"),
        ("=/run/systemd", f"={root}/run/systemd"),
    ):
        assert place in script, place
        script = script.replace(place, stand_in)
    (root / "script").write_text(script)


def test_it_is_measured_before_anything_runs(guest: Guest) -> None:
    result = guest.run("measure")
    assert (result.returncode, result.stderr) == (0, "")
    assert guest.words == [guest.good]
    for bank in BANKS:
        size = hashlib.new(bank).digest_size
        digest = hashlib.new(bank, guest.good.encode()).digest()
        expected = hashlib.new(bank, bytes(size) + digest).hexdigest().upper()
        assert guest.text(f"tpm0/pcr-{bank}/14") == f"{expected}\n"
    assert guest.text("console") == (
        f"goldsmith: workload site: {guest.good.removeprefix('workload:site:')} is in PCR 14\n"
    )
    assert not [call for call in guest.calls if call.startswith(("podman", "systemctl"))]


def test_what_is_not_verified_is_copied_before_it_is_checked(guest: Guest) -> None:
    (guest.partition / "config/app.toml").chmod(0o4777)
    assert guest.run("measure").returncode == 0
    copy = guest.root / "var/lib/workload"
    # The host's partition is gone before anything is looked at.
    assert not (guest.root / "run/workload.source").exists()
    assert (guest.root / "run/workload").resolve() == copy
    modes = {name: (copy / name).stat().st_mode & 0o7777 for name in FILES}
    assert modes == {"config/app.toml": 0o444, "config/run": 0o555, "secrets/key": 0o444}
    assert copy.stat().st_mode & 0o777 == 0o700
    assert not (guest.root / "var/lib/containers/storage").exists()
    mounts = [call for call in guest.calls if call.startswith("mount ")]
    assert mounts == [
        f"mount -t erofs -o ro,nodev,nosuid,noexec /dev/disk/by-partuuid/{PARTITION} /run/workload.source",
        "mount -o bind /var/lib/workload /run/workload",
        "mount -o remount,bind,ro,nodev,nosuid /run/workload",
    ]


def test_services_start_in_their_order(guest: Guest) -> None:
    guest.run("measure")
    (guest.root / "calls").unlink()
    result = guest.run("start")
    assert (result.returncode, result.stderr) == (0, "")
    assert guest.calls == [
        "podman load --quiet --input images/web.tar",
        "systemctl daemon-reload",
        "systemctl start workload@db.service",
        "systemctl start workload@web.service",
    ]
    folder = guest.root / "run/systemd/system"
    written = {path.parent.name: path.read_text() for path in folder.glob("*/*")}
    assert written == {
        "workload@db.service.d": "[Unit]\n[Service]\nRestart=no\n",
        # systemd ends what is After= first.
        "workload@web.service.d": "[Unit]\nAfter=workload@db.service\n[Service]\nRestart=always\n",
    }
    assert guest.text("console").endswith("goldsmith: workload site: containers run: db web\n")
    (guest.root / "calls").unlink()
    guest.run("stop")
    assert guest.calls == ["systemctl stop workload@*.service"]
    assert [guest.state(f"workload@{name}.service") for name in ("web", "db")] == ["inactive"] * 2


def test_containers_are_part_of_the_workload() -> None:
    """Spec: systemd.unit(5), PartOf=. A workload.service that did not start has no ExecStop= run."""
    unit = (ROOT / "rootfs/workload-podman/usr/lib/systemd/system/workload@.service").read_text()
    assert "\nPartOf=workload.service\n" in unit.partition("[Service]")[0]


def test_a_service_that_does_not_start(guest: Guest) -> None:
    guest.run("measure")
    (guest.root / "no-start").touch()
    assert guest.run("start").returncode == 1
    assert guest.text("kmsg") == "<3>goldsmith: workload site: service db did not start; see its log\n"


AGAIN = "write the workload's partition again"


def change(path: str, data: bytes) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / path).write_bytes(data)

    return apply


def edit(path: str, old: bytes, new: bytes) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        data = (folder / path).read_bytes()
        assert old in data
        (folder / path).write_bytes(data.replace(old, new))

    return apply


def add_link(folder: Path) -> None:
    (folder / "config/app.toml").unlink()
    (folder / "config/app.toml").symlink_to("/etc/hostname")


def add_broken_name(folder: Path) -> None:
    """A file whose name is a listed one behind a line break."""
    (folder / "config/a\nconfig").mkdir()
    (folder / "config/a\nconfig/run").touch()


def rename_secret(folder: Path) -> None:
    (folder / "secrets/key").rename(folder / "secrets/kez")


def list_less(folder: Path) -> None:
    """The list without one file, and the manifest as it was."""
    lines = (folder / "files.sha256").read_text().splitlines(keepends=True)
    (folder / "files.sha256").write_text("".join(line for line in lines if "app.toml" not in line))


@pytest.mark.parametrize(
    ("tamper", "why"),
    [
        (change("config/app.toml", b"port = 81\n"), f"a file is not what its manifest says; {AGAIN}"),
        (
            edit("services/web/arguments", b"--network=none", b"--network=host"),
            f"a file is not what its manifest says; {AGAIN}",
        ),
        (edit("start", b"db\n", b""), f"a file is not what its manifest says; {AGAIN}"),
        (
            edit("images/web.tar", b"#!/bin/sh", b"#!/bin/SH"),
            f"a file is not what its manifest says; {AGAIN}",
        ),
        (lambda folder: (folder / "config/run").unlink(), f"a file is not what its manifest says; {AGAIN}"),
        (change("config/more", b""), f"its files are not those of its manifest; {AGAIN}"),
        (add_broken_name, f"its files are not those of its manifest; {AGAIN}"),
        (change("images/more.tar", b""), f"its files are not those of its manifest; {AGAIN}"),
        (list_less, f"its list of files is not the one of its manifest; {AGAIN}"),
        (change("secrets/more", b""), f"its secrets are not called as its manifest says; {AGAIN}"),
        (
            lambda folder: (folder / "secrets/key").unlink(),
            f"its secrets are not called as its manifest says; {AGAIN}",
        ),
        (rename_secret, f"its secrets are not called as its manifest says; {AGAIN}"),
        (
            lambda folder: (folder / "secrets/a\nb").mkdir(),
            f"its secrets are not called as its manifest says; {AGAIN}",
        ),
        (
            lambda folder: (folder / "config/conf.d").mkdir(),
            f"its folders are not those of its manifest; {AGAIN}",
        ),
        (lambda folder: (folder / "more").mkdir(), f"its folders are not those of its manifest; {AGAIN}"),
        (
            lambda folder: (folder / "secrets/more").mkdir(),
            f"its folders are not those of its manifest; {AGAIN}",
        ),
        (add_link, f"1 of its entries are no files; {AGAIN}"),
        (lambda folder: os.mkfifo(folder / "pipe"), f"1 of its entries are no files; {AGAIN}"),
        (lambda folder: (folder / "workload.json").unlink(), f"it has no manifest; {AGAIN}"),
        (
            lambda folder: (folder.parent / "no-space").touch(),
            "its files do not fit into /var, or cannot be read; make the data partition larger",
        ),
        (
            lambda folder: (folder.parent / "no-partition").touch(),
            f"partition {PARTITION} did not appear within 30 s; write the workload's partition",
        ),
        (
            lambda folder: (folder.parent / "lose-partition").touch(),
            f"partition {PARTITION} does not mount; {AGAIN}",
        ),
    ],
)
def test_what_is_not_as_measured_does_not_run(guest: Guest, tamper: Callable[[Path], None], why: str) -> None:
    tamper(guest.partition)
    result = guest.run("measure")
    assert result.returncode == 1
    start = "<3>goldsmith: workload site: refused, nothing of it runs: "
    assert guest.text("kmsg").startswith(f"{start}{why}")
    assert guest.words == ["workload:site:refused"]
    assert guest.text("console") == ""
    assert guest.run("start").returncode != 0
    assert not [call for call in guest.calls if call.startswith(("podman", "systemctl start"))]


def test_another_manifest_with_files_to_match_is_another_word(guest: Guest) -> None:
    """Nobody can stop the host from bringing a workload of its own; the register says so."""
    edit("config/app.toml", b"80", b"81")(guest.partition)
    old = hashlib.sha256(b"port = 80\n").hexdigest().encode()
    new = hashlib.sha256(b"port = 81\n").hexdigest().encode()
    before = hashlib.sha256((guest.partition / "files.sha256").read_bytes()).hexdigest().encode()
    edit("files.sha256", old, new)(guest.partition)
    after = hashlib.sha256((guest.partition / "files.sha256").read_bytes()).hexdigest().encode()
    edit("workload.json", before, after)(guest.partition)
    assert guest.run("measure").returncode == 0
    (word,) = guest.words
    assert word != guest.good


@pytest.mark.parametrize("missing", ["tpm0", "measured-boot"])
def test_nothing_runs_that_could_not_be_measured(guest: Guest, missing: str) -> None:
    if missing == "tpm0":
        shutil.rmtree(guest.root / "tpm0")
    else:
        (guest.root / "no-measured-boot").touch()
    assert guest.run("measure").returncode == 1
    first, second = guest.text("kmsg").splitlines()
    advice = "the machine needs a TPM and a measured boot"
    assert first.endswith(f"nothing of it runs: {guest.good} was not extended into PCR 14; {advice}")
    assert second == "<3>goldsmith: workload site: PCR 14 does not show that it was refused"
    assert not (guest.root / "run/workload").exists()


def test_a_check_that_stops_half_way_refuses(guest: Guest) -> None:
    (guest.root / "bin/find").write_text("#!/bin/sh\nexit 1\n")
    (guest.root / "bin/find").chmod(0o755)
    assert guest.run("measure").returncode != 0
    assert guest.words == ["workload:site:refused"]
    what = "its check stopped half way; see the log of workload-measure.service"
    assert guest.text("kmsg").endswith(f"nothing of it runs: {what}\n")
