"""A volume that the TPM opens: kept over reboots and updates, and lost to nobody. UEFI boots with swtpm.

A life is one disk and one TPM through several boots. A boot that is denied stands between two that are not,
so that nothing but what was attacked can be the reason.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from recipes.formats.tpm2_nv import ROLLBACK_COUNTER
from recipes.formats.tree import FileTree
from recipes.golden.unlock import Rollback
from recipes.sources.volumes import add_volume
from recipes.steps.develop import TESTED_TPM
from recipes.steps.volumes import read_volume, volumes

from .support import Boot, Boots, Built, Run, altered, boot_uefi, shipped_file
from .unlocking import failure, is_over, opened
from .variants import Variant, make_uki, put_uki

pytestmark = pytest.mark.boot

MACHINE = "q35-secure-boot"
IMAGE = Built(TESTED_TPM)
UPDATE = {".osrel": b"ID=debian\nIMAGE_ID=debian-tpm2\nIMAGE_VERSION=2\n"}


@dataclass(frozen=True)
class Life:
    """One disk and its TPM."""

    folder: Path
    disk: Path

    def boot(self, variant: Variant, *, tpm: str = "tpm", options: Sequence[str] = ()) -> Run:
        """Boots a variant of the shipped UKI, or with none of its fields set that UKI itself."""
        work = self.folder / "work"
        work.mkdir()
        put_uki(self.disk, make_uki(IMAGE, work, variant))
        state = self.folder / tpm
        state.mkdir(exist_ok=True)
        machine = IMAGE.machine(MACHINE)
        run = boot_uefi(IMAGE, machine, [self.disk], until=is_over, tpm=state, options=options)
        shutil.rmtree(work)
        return run


def release(number: int) -> Variant:
    """The image as a later release: its number is in the initramfs and in the signed policy."""
    conf = shipped_file(IMAGE.initramfs, "etc/unlock/data.conf")
    assert conf.count(b"TPM2_RELEASE='1'") == 1
    conf = conf.replace(b"TPM2_RELEASE='1'", b"TPM2_RELEASE='%d'" % number)
    files = {"etc/unlock/data.conf": conf}
    return Variant(sections=UPDATE, files=files, signed=True, rollback=Rollback(ROLLBACK_COUNTER, number))


def uncounted(sections: Mapping[str, bytes]) -> Variant:
    """The image without a counter: systemd's own token, and any signed release opens."""
    (volume,) = volumes(IMAGE.image)
    tree = FileTree()
    add_volume(tree, read_volume(replace(volume, unlock=replace(volume.unlock, tpm2=None))))
    names = [name for name in tree.nodes if name in ("etc/unlock/data.conf", "etc/unlock/data.header")]
    return Variant(sections=sections, files={name: tree[name].read() for name in names}, signed=True)


def other_words() -> Variant:
    """A command line with a word more, and an initramfs that does not mind."""
    config = shipped_file(IMAGE.initramfs, "etc/initramfs/config")
    words = IMAGE.image.recipe.kernel.cmdline.strip()
    changed = config.replace(words.encode(), words.encode() + b" quiet")
    assert changed != config
    line = IMAGE.command_line().replace(words, f"{words} quiet")
    return Variant(sections={".cmdline": line.encode()}, files={"etc/initramfs/config": changed})


# What systemd-stub adds to the command line where it does not see a confidential machine (systemd-stub(7)).
ADDED = ("-smbios", "type=11,value=io.systemd.stub.kernel-cmdline-extra=rdinit=/usr/lib/goldsmith/attack")
# The host's shell, so to say: it runs before any script of ours, extends the phase as they do, asks for the
# key.
ATTACK = b"""#!/usr/bin/busybox sh
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev; mount -t tmpfs run /run
export PATH=/usr/bin:/usr/sbin
. /usr/lib/goldsmith/common.sh
. /etc/initramfs/config
. /usr/lib/goldsmith/measure.sh
insmod_all() { while read -r module; do insmod "$module" 2>/dev/null; done <"$1"; }
insmod_all /etc/initramfs/modules.tpm
measure_phase enter-initrd
mkdir -p /run/unlock
read -r eleven </sys/class/tpm/tpm0/pcr-sha256/11
echo "ATTACK PCR11 $eleven" >/dev/console
UNLOCK_VOLUME=data UNLOCK_CONF=/etc/unlock/data.conf UNLOCK_PURPOSE=format UNLOCK_KIND=passphrase \\
    UNLOCK_TOKEN=/run/token UNLOCK_HEADER= UNLOCK_DEVICE=none UNLOCK_UUID=none UNLOCK_NONCE=00 \\
    /usr/lib/unlock.d/tpm2 3>/run/key 2>/run/words </dev/null
code=$?
echo "ATTACK code $code: $(cat /run/words)" >/dev/console
echo "goldsmith: FATAL: attack ended, Kernel panic" >/dev/console
echo o >/proc/sysrq-trigger
sleep 60
"""


def attacked() -> Variant:
    """An image that has the host's program in it, signed like any other; only who starts it is the host."""
    files = {"usr/lib/goldsmith/attack": ATTACK}
    return Variant(files=files, signed=True, rollback=Rollback(ROLLBACK_COUNTER, 1))


def other_kernel() -> Variant:
    """The kernel with another letter in what it says of its build: it runs the same, and is another one."""
    data = IMAGE.kernel.read_bytes()
    changed = data.replace(b"debian-kernel@lists.debian.org", b"debian-kernel@lists.debian.orG", 1)
    assert changed != data
    return Variant(sections={".linux": changed})


def boot_life(built: Built, folder: Path) -> Mapping[str, Run]:
    """A new disk is formatted; attacks, a reboot, another TPM, an update and a rollback follow."""
    with altered(IMAGE, folder) as disk:
        life = Life(folder, disk)
        return {
            "first": life.boot(Variant()),
            "initramfs": life.boot(Variant(files={"usr/bin/added": b"#!/bin/sh\n"})),
            "command line": life.boot(other_words()),
            "kernel": life.boot(other_kernel()),
            "system": life.boot(Variant(sections=UPDATE)),
            "again": life.boot(Variant()),
            "TPM": life.boot(Variant(), tpm="other"),
            "update": life.boot(release(2)),
            "added words": life.boot(attacked(), tpm="attacker", options=ADDED),
            "rollback": life.boot(Variant()),
        }


def boot_uncounted(built: Built, folder: Path) -> Mapping[str, Run]:
    """The same without a counter, and an update of it."""
    with altered(IMAGE, folder) as disk:
        life = Life(folder, disk)
        return {"first": life.boot(uncounted({})), "update": life.boot(uncounted(UPDATE))}


BOOTS: dict[str, Boot] = {"tpm2": boot_life, "tpm2-uncounted": boot_uncounted}


@pytest.fixture(scope="module")
def life(boots: Boots) -> Mapping[str, Run]:
    found: Mapping[str, Run] = boots["tpm2"].result()
    return found


def test_a_new_disk_is_formatted_once_and_kept(life: Mapping[str, Run]) -> None:
    assert opened(life["first"]) == ("tpm2", "formatted", "1")
    assert opened(life["again"]) == ("tpm2", "opened", "2")


@pytest.mark.parametrize("name", ["initramfs", "command line", "kernel", "system"])
def test_another_image_does_not_open_it(life: Mapping[str, Run], name: str) -> None:
    """Firmware starts it, because our key signed it for Secure Boot, but not its policy."""
    assert failure(life[name]).startswith("volume data is not open: denied by tpm2(20)")
    assert "none of the policies signed in this UKI is that of this boot" in life[name].text


def test_a_program_that_the_host_starts_instead_of_ours_gets_no_key(life: Mapping[str, Run]) -> None:
    """`rdinit=` by SMBIOS: the UKI is untouched and PCR 7 and 11 are as predicted; PCR 12 is not."""
    text = life["added words"].text
    assert re.search("ATTACK PCR11 [0-9A-F]{64}", text), text[-2000:]
    # A format draws its secret before the TPM says no: nothing was ever encrypted with that one.
    assert "code 20: none of the policies signed in this UKI is that of this boot" in text


def test_another_tpm_does_not_open_it(life: Mapping[str, Run]) -> None:
    assert failure(life["TPM"]).startswith("volume data is not open: denied by tpm2(20)")


def test_an_update_opens_it_and_keeps_the_older_release_out(life: Mapping[str, Run]) -> None:
    assert opened(life["update"]) == ("tpm2", "opened", "3")
    assert failure(life["rollback"]).startswith("volume data is not open: denied by tpm2(20)")
    assert "this release is older" in life["rollback"].text


def test_without_a_counter_an_update_opens_it_too(boots: Boots) -> None:
    found: Mapping[str, Run] = boots["tpm2-uncounted"].result()
    assert opened(found["first"]) == ("tpm2", "formatted", "1")
    assert opened(found["update"]) == ("tpm2", "opened", "2")
