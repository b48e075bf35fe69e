"""The realm's initramfs boots on an arm64 machine, and starts signed applications and no others.

One boot of a machine without a realm: what the Realm Services Interface adds, the stand-in for the
application manager does not do. Its applications come from a registry on the loopback address, and each of
their disks is looked at after the boot.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from recipes.formats import cpio, gpt
from recipes.formats.tree import FileTree
from recipes.steps.develop import TESTED_REALM as IMAGE
from recipes.steps.task import OUT
from recipes.units import MIB
from recipes.vmm.launch import Qemu
from recipes.vmm.qemu import escape
from tests.support import require_tool

from .registry import (
    GUEST,
    Image,
    Layer,
    Registry,
    Signer,
    digest,
    image,
    image_paths,
    layer,
    layout_paths,
)
from .support import Boot, Boots, Built, Run, add_to_initramfs, read_at, watch

pytestmark = pytest.mark.boot

PROGRAM = "qemu-system-aarch64"
COMMAND_LINE = "console=ttyAMA0 panic=-1 loglevel=4"
UNVERIFIED, BY_ITS_CA = "it does not verify", "have the vendor signed by the CA of this image"
NOT_FOUND = "wget: server returned error: HTTP/1.0 404 Not Found"
LAST_LINE = b"app-manager: no application runs any more"
SCRIPT = b"""#!/bin/busybox sh
alias busybox=/bin/busybox
echo "MARK words:$(for word; do printf ' [%s]' "$word"; done)"
echo "MARK variables: $GREETING, $PATH"
echo "MARK folder: $(busybox pwd), user: $(busybox id -u):$(busybox id -g)"
echo "MARK files: $(cd / && busybox find . -type f -o -type l | busybox sort | busybox tr '\\n' ' ')"
busybox touch /written && echo "MARK writes"
exit 7
"""


@dataclass(frozen=True)
class RealmImage:
    """What the recipe builds."""

    kernel: Path
    initramfs: Path


def realm_image() -> RealmImage:
    """The built realm; without it the tests are skipped at home and fail in CI."""
    require_tool(PROGRAM)
    found = RealmImage(OUT / IMAGE / "Image", OUT / IMAGE / "initramfs.cpio.gz")
    for path in (found.kernel, found.initramfs):
        if not path.is_file():
            what = f"out/{IMAGE}/{path.name} is not there; build it with `python3 dodo.py {IMAGE}`"
            if os.environ.get("CI"):
                pytest.fail(what)
            pytest.skip(what)
    return found


@dataclass(frozen=True)
class Realm:
    """What a boot showed.

    Attributes:
        asked: what the registry was asked for, in order.
        disks: the first bytes of both partitions of each disk, by the disk's number.
        cipher: that of the recipe, as dm-crypt writes it.
    """

    run: Run
    asked: list[str]
    disks: dict[int, tuple[bytes, bytes]]
    images: dict[str, Image]
    cipher: str

    def said(self, name: str) -> list[str]:
        """What the manager said about an application."""
        return re.findall(rf"^app-manager: {name}: (.*)$", self.run.text, re.MULTILINE)

    def shown(self, name: str) -> list[str]:
        """What the application said itself."""
        return re.findall(rf"^{name}\| (.*)$", self.run.text, re.MULTILINE)


# Places of `image` and `data` on the disks of the applications that get so far, by the disk's number.
PARTITIONS = {number: (uuid.UUID(int=16 * number + 1), uuid.UUID(int=16 * number + 2)) for number in range(4)}
HELLO, FLIPPED, SECOND, LINKED = PARTITIONS
SECOND_NAME = "com.example.second"
# For those that never get as far as a disk.
NO_DISK = 25


def images(busybox: bytes, root_ca: Signer) -> dict[str, Image]:
    """Two good images, and those that must not start."""
    vendor, stranger, other_ca = Signer(), Signer(), Signer()
    config: dict[str, Any] = {"Entrypoint": ["/bin/start"]}
    base = layer(
        {
            "bin": None, "etc": None, "kept": None, "gone": None, "shadowed": None,
            "bin/busybox": busybox, "bin/start": SCRIPT, "etc/passwd": b"app:x:1234:55::/:/bin/false\n",
            "etc/group": b"wheel:x:10:\nstaff:x:4321:\n", "kept/a": b"a", "gone/b": b"b", "shadowed/c": b"c",
        },
        compressed=True,
    )  # fmt: skip
    marks: dict[str, bytes | str | None] = {
        ".wh.gone": b"", "shadowed/.wh..wh..opq": b"", "shadowed/d": b"d", "kept/e": "/etc/passwd",
    }  # fmt: skip
    small = layer({"bin": None, "bin/start": b"#!/bin/sh\n"})

    def simple(name: str, *layers: Layer, settings: dict[str, Any] = config) -> Image:
        return image(name, layers, settings, vendor, root_ca)

    detailed = {
        "Entrypoint": ["start", "two words"],
        "Cmd": ["$(reboot -f)", "`reboot -f`; '\""],
        "Env": ["GREETING=a b  $PATH", "PATH=/bin"],
        "WorkingDir": "/kept",
        "User": "app:staff",
    }
    hello = simple("hello", base, layer(marks), settings=detailed)
    second = simple(SECOND_NAME, base)
    flipped = simple("flipped", base)
    blob = bytearray(base.blob)
    blob[len(blob) // 2] ^= 1
    flipped.blobs[digest(base.blob)] = bytes(blob)
    forged = simple("forged", small)
    forged.config = forged.config.replace(b"/bin/start", b"/bin/other")
    unknown = image("unknown", [small], config, stranger, other_ca)
    swapped = simple("swapped", small)
    swapped.layers = [layer({"bin": None, "bin/start": b"#!/bin/sh\nreboot -f\n"})]
    linked = simple("linked", layer({"out": "/etc"}), layer({"out/escaped": b""}))
    alien = simple("alien", small)
    alien.config = alien.config.replace(b"arm64", b"amd64")
    alien.signature = vendor.sign(alien.config)
    pinned = simple("pinned", small)
    for item in (second, pinned):
        item.reference = digest(item.manifest)
    # What comes is another manifest than was asked for, with signatures that are right.
    pinned.layers = [small, small]
    every = (hello, second, flipped, forged, unknown, swapped, linked, alien, pinned)
    return {item.name: item for item in every}


def provision(applications: dict[str, Image]) -> list[dict[str, Any]]:
    """The list for the stand-in."""
    registry = f"{GUEST[0]}:{GUEST[1]}"
    places: dict[str, dict[str, Any]] = {"hello": {"disk": HELLO}, "linked": {"disk": LINKED}}
    places |= {"flipped": {"disk": FLIPPED}}
    places[SECOND_NAME] = dict(zip(("image", "data"), map(str, PARTITIONS[SECOND]), strict=True))
    references = {item.name: item.reference for item in applications.values()} | {"absent": "latest"}
    return [
        {"name": name, "version": reference, "registry": registry, **places.get(name, {"disk": NO_DISK})}
        for name, reference in references.items()
    ]


def write_disk(path: Path, number: int) -> None:
    """An empty disk as the warden makes it."""
    plans = [
        gpt.PartitionPlan(name=name, type_guid=gpt.TYPE_LINUX_GENERIC, guid=identity, size=16 * MIB)
        for name, identity in zip(("image", "data"), PARTITIONS[number], strict=True)
    ]
    table = gpt.lay_out(uuid.UUID(int=16 * number + 15), plans)
    with path.open("wb") as file:
        file.write(table.primary())
        file.seek((table.sectors - gpt.BACKUP_SECTORS) * 512)
        file.write(table.backup())


def boot_realm(built: Built, folder: Path) -> Realm:
    """Boots the realm with applications of the test's own; only its list and its CA are replaced."""
    realm, root_ca = realm_image(), Signer()
    shipped = shipped_files(realm.initramfs)
    applications = images(shipped["usr/bin/busybox"], root_ca)
    listed = json.loads(shipped["etc/app-manager/provision.json"])
    listed |= {"applications": provision(applications)}
    tree = FileTree()
    tree.add_file("etc/app-manager/provision.json", json.dumps(listed).encode())
    tree.add_file("usr/share/app-manager/ca/root-ca.pub", root_ca.public)
    initrd = add_to_initramfs(realm.initramfs, folder / "initramfs", tree)
    with Registry(image_paths(applications.values())) as registry:
        paths = {number: folder / f"disk{number}" for number in PARTITIONS}
        for number, path in paths.items():
            write_disk(path, number)
        run = start(folder, realm.kernel, initrd, registry, paths.values())
        return Realm(run, registry.asked, dict(contents(paths)), applications, listed["cipher"])


def boot_shipped(built: Built, folder: Path) -> Run:
    """Boots the recipe's own bytes, with its own applications from the address that the recipe names."""
    realm = realm_image()
    listed = json.loads(shipped_files(realm.initramfs)["etc/app-manager/provision.json"])
    host, _, port = listed["applications"][0]["registry"].rpartition(":")
    paths = [folder / f"disk{number}" for number, _ in enumerate(listed["applications"])]
    for number, path in enumerate(paths):
        write_disk(path, number)
    with Registry(layout_paths(OUT / IMAGE / "registry"), (host, int(port))) as registry:
        return start(folder, realm.kernel, realm.initramfs, registry, paths)


def start(folder: Path, kernel: Path, initrd: Path, registry: Registry, disks: Iterable[Path]) -> Run:
    """Runs an arm64 machine until the manager has nothing left to do."""
    words = [PROGRAM, "-nodefaults", "-no-user-config", "-M", "virt", "-accel", "tcg", "-cpu", "cortex-a57"]
    words += ["-m", "512", "-smp", "1", "-display", "none", "-no-reboot"]
    words += ["-serial", f"file:{folder / 'console'}"]
    # The guest's addresses are given where they are not the registry's.
    prefix = registry.guest[0].rpartition(".")[0]
    network = f"user,id=net,restrict=on,net={prefix}.0/24,dhcpstart={prefix}.150,guestfwd="
    words += ["-netdev", network + escape(registry.forward)]
    words += ["-device", "virtio-net-pci,netdev=net,romfile="]
    for number, path in enumerate(disks):
        words += ["-drive", f"if=none,id=d{number},format=raw,file={escape(str(path))}"]
        words += ["-device", f"virtio-blk-pci,drive=d{number}"]
    words += ["-kernel", str(kernel), "-initrd", str(initrd), "-append", COMMAND_LINE]
    with Qemu(words) as qemu:
        return watch(qemu, folder / "console", lambda console: LAST_LINE in console)


def shipped_files(initramfs: Path) -> dict[str, bytes]:
    """The files of a built initramfs."""
    plain = gzip.decompress(initramfs.read_bytes())
    return {entry.name: entry.data for entry in cpio.read_newc(plain, initramfs.name)}


def contents(paths: dict[int, Path]) -> Iterator[tuple[int, tuple[bytes, bytes]]]:
    for number, path in paths.items():
        with path.open("rb") as file:
            first, second = gpt.read(file, path.name).partitions
        yield number, (read_at(path, first.offset, first.size), read_at(path, second.offset, second.size))


BOOTS: dict[str, Boot] = {"realm-arm64": boot_realm, "realm-shipped": boot_shipped}


@pytest.fixture
def realm(boots: Boots) -> Realm:
    result: Realm = boots["realm-arm64"].result()
    return result


def test_the_shipped_realm_runs_the_shipped_application(boots: Boots) -> None:
    """Nothing is replaced: kernel, initramfs and the signed layouts are what a release has."""
    run: Run = boots["realm-shipped"].result()
    assert "app-manager: *** STAND-IN: not the application manager of Islet ***\n" in run.text
    assert "hello| hello from an application on aarch64, start 1\n" in run.text
    assert "app-manager: hello: ended with status 0\n" in run.text
    assert "app-manager: done: 1 accepted, 0 refused\n" in run.text


def refused(realm: Realm, name: str) -> str:
    """Why an application was refused; it did not start, and that is the last word about it."""
    *_, reason, last = realm.said(name)
    assert last == "NOT STARTED"
    assert "STARTED" not in realm.said(name)[:-1]
    assert not realm.shown(name)
    assert reason.startswith("REFUSED: ")
    return reason.removeprefix("REFUSED: ")


def config_blob(realm: Realm, name: str) -> str:
    return f"/v2/{name}/blobs/{digest(realm.images[name].config)}"


def test_it_says_that_it_is_a_stand_in(realm: Realm) -> None:
    assert "app-manager: *** STAND-IN: not the application manager of Islet ***\n" in realm.run.text
    assert "no RSI, no attestation, no RA-TLS, no sealing, no REM" in realm.run.text


def test_every_check_of_a_good_application_is_named_and_then_it_runs(realm: Realm) -> None:
    cipher = f"encrypted with {realm.cipher}, a key for this boot only"
    assert realm.said("hello") == [
        "version latest from 10.0.2.100:5000",
        "manifest: ok, 2 layer(s)",
        "vendor key signature by the root CA: ok",
        "config digest: ok",
        "config signature by the vendor: ok",
        "config: ok",
        *(
            f"layer {number} {what}: ok"
            for number in (0, 1)
            for what in ("digest", "content (diff_id) digest")
        ),
        "partitions: /dev/vda1, /dev/vda2",
        f"image partition: {cipher}",
        f"data partition: {cipher}",
        "unpacked 2 layer(s)",
        "user 1234, group 4321",
        "STARTED",
        "ended with status 7",
    ]


def test_no_text_of_a_config_is_read_by_a_shell(realm: Realm) -> None:
    words, variables, *_ = realm.shown("hello")
    assert words == "MARK words: [two words] [$(reboot -f)] [`reboot -f`; '\"]"
    assert variables == "MARK variables: a b  $PATH, /bin"


def test_an_application_runs_as_its_user_in_its_folder(realm: Realm) -> None:
    assert "MARK folder: /kept, user: 1234:4321" in realm.shown("hello")
    assert "MARK writes" not in realm.shown("hello")
    assert "MARK folder: /, user: 0:0" in realm.shown(SECOND_NAME)
    assert "MARK writes" in realm.shown(SECOND_NAME)


def test_layers_take_away_what_their_marks_say(realm: Realm) -> None:
    (first,) = [line for line in realm.shown("hello") if line.startswith("MARK files: ")]
    (second,) = [line for line in realm.shown(SECOND_NAME) if line.startswith("MARK files: ")]
    own = ["./bin/busybox", "./bin/start", "./etc/group", "./etc/passwd"]
    assert first.split()[2:] == [*own, "./kept/a", "./kept/e", "./shadowed/d"]
    assert second.split()[2:] == [*own, "./gone/b", "./kept/a", "./shadowed/c"]


def test_an_application_is_found_by_digest_and_its_disk_by_identity(realm: Realm) -> None:
    said = realm.said(SECOND_NAME)
    assert said[:2] == [
        f"version {realm.images[SECOND_NAME].reference} from 10.0.2.100:5000",
        "manifest digest: ok",
    ]
    assert "partitions: /dev/vdc1, /dev/vdc2" in said
    assert said[-1] == "ended with status 7"


def test_disks_hold_nothing_that_can_be_read(realm: Realm) -> None:
    for number in (HELLO, SECOND):
        for partition in realm.disks[number]:
            # The superblock of ext4 would have its magic at byte 1080.
            assert partition[1024:2048] != bytes(1024)
            assert partition[1080:1082] != b"\x53\xef"
            assert b"MARK" not in partition
            assert b"busybox" not in partition


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("forged", f"config signature by the vendor: {UNVERIFIED}; sign the image again"),
        (
            "unknown",
            f"vendor key signature by the root CA: {UNVERIFIED}; {BY_ITS_CA}",
        ),
        ("alien", "config: is not for linux on arm64"),
        (
            "absent",
            f"download: manifests/latest: {NOT_FOUND}; does the registry at 10.0.2.100:5000 have it?",
        ),
    ],
)
def test_an_application_with_a_fault_does_not_start(realm: Realm, name: str, reason: str) -> None:
    assert refused(realm, name) == reason


def test_a_byte_of_a_layer_that_is_not_as_signed(realm: Realm) -> None:
    (blob,) = realm.images["flipped"].blobs
    assert refused(realm, "flipped") == f"layer 0 digest: the content is not {blob}"
    # Its disk was not touched: everything is verified before.
    assert not any(map(any, realm.disks[FLIPPED]))


def test_a_layer_that_the_config_does_not_have(realm: Realm) -> None:
    """Digest and size in the manifest are right; the manifest itself is signed by nobody."""
    (diff_id,) = json.loads(realm.images["swapped"].config)["rootfs"]["diff_ids"]
    assert "layer 0 digest: ok" in realm.said("swapped")
    assert refused(realm, "swapped") == f"layer 0 content (diff_id) digest: the content is not {diff_id}"


def test_another_manifest_than_the_one_asked_for(realm: Realm) -> None:
    reference = realm.images["pinned"].reference
    assert refused(realm, "pinned") == f"manifest digest: the content is not {reference}"


def test_a_link_in_a_layer_leads_nowhere_outside(realm: Realm) -> None:
    """It names the realm's /etc, where the next layer would put a file."""
    reason = refused(realm, "linked")
    assert reason.startswith("unpack: layer 1: tar: can't open 'out/escaped': No such file or directory")


def test_nothing_is_fetched_before_who_vouches_for_it(realm: Realm) -> None:
    asked = [[path for path in realm.asked if f"/{name}/" in path] for name in ("unknown", "forged", "alien")]
    manifests = [f"/v2/{name}/manifests/latest" for name in ("unknown", "forged", "alien")]
    assert asked == [
        [manifests[0]],
        [manifests[1], config_blob(realm, "forged")],
        [manifests[2], config_blob(realm, "alien")],
    ]


def test_the_console_gives_no_shell_and_no_complaint(realm: Realm) -> None:
    assert "Please press Enter to activate this console" not in realm.run.text
    assert not re.search(r"^(~|/) [#$] ", realm.run.text, re.MULTILINE)
    assert not re.search(r"not found|can't run|does not load|No such device", realm.run.text)
    assert "app-manager: done: 2 accepted, 8 refused\n" in realm.run.text
