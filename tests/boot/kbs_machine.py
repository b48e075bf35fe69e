"""One direct boot with a volume for every way in which a broker can fail a guest."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from recipes.formats import gpt
from recipes.formats.tree import FileTree
from recipes.sources.initramfs import NETWORK_APPLETS
from recipes.steps.initramfs import phase_commands
from recipes.units import MIB
from recipes.vmm.qemu import DriveFile
from tests.tool.kbs_lab import Body

from .kbs_cases import CASES, GOOD
from .kbs_host import FIRST_NONCE, REGISTERS, SELECTION, Host
from .luks_machine import IMAGE, Settings, add_volume, facts_of, write_initramfs
from .support import Built, Run, boot_kernel

JUDGE = Path(__file__).with_name("kbs_judge.sh")
# Without random addresses QEMU translates the code of a library once, and not for each process that runs it.
COMMAND_LINE = "console=ttyS0 panic=-1 loglevel=7 norandmaps rdinit=/test/judge.sh"
# A card without an option ROM, or the firmware would look there for what to boot.
NETWORK = ("-netdev", "user,id=net0", "-device", "virtio-net-pci,netdev=net0,romfile=")
MODULES = ("virtio_net",)
HELPERS = ("dmtable", "kbs", "tpm2")
VOLUMES = (GOOD, *CASES)
SIZE = 2 * MIB
# Where the data of a volume without a header begin, and how it says that there are some.
DATA, NOTE = MIB, b"goldsmith volume 1 formatted"
TEXT = b"hello, guest"
# Nothing else on a console looks like these.
SECRET = "nobody-may-see-the-key-of-"
KEYS = {name: f"{SECRET}{name}".ljust(64, "!").encode() for name in VOLUMES}
# How a key could show: as it is, in hex, in base64 at any offset; a part is enough, and all begin likewise.
NEEDLES = (
    SECRET[:20],
    SECRET[:12].encode().hex(),
    *(base64.b64encode(SECRET[start:].encode())[:16].decode() for start in range(3)),
)


@dataclass(frozen=True)
class Asked:
    """What the guest found, and what brokers and those in front of them saw meanwhile.

    Attributes:
        machine: the attestation key that was enrolled.
        heard: all that the host could hear.
    """

    run: Run
    facts: Mapping[str, list[str]]
    audit: Sequence[Body]
    machine: bytes
    heard: str

    def of(self, topic: str, name: str, phase: str) -> str:
        """The only fact of a topic that is about a try of a volume."""
        start = f"{name} {phase}: "
        (found,) = [fact for fact in self.facts.get(topic, ()) if fact.startswith(start)]
        return found.removeprefix(start)

    def words(self, name: str, phase: str) -> str:
        """What provider kbs said in a try; each line once, joined by blanks."""
        lines = re.findall(f"goldsmith: (judge|unlock) {name}: (.*)", self.run.text)
        starts = [at for at, (who, _) in enumerate(lines) if who == "judge"]
        (start,) = [at for at in starts if lines[at][1] == phase]
        end = next((at for at in starts if at > start), len(lines))
        said = [words.removeprefix("kbs: ") for _, words in lines[start:end] if words.startswith("kbs: ")]
        return " ".join(dict.fromkeys(said))


def boot_kbs(_: Built, folder: Path) -> Asked:
    """Boots it; the machine powers itself off."""
    initrd, disk = folder / "kbs.cpio", folder / "kbs.raw"
    _write_disk(disk)
    spoils = {name: case.spoil for name, case in CASES.items() if case.spoil is not None}
    attacks = {name: case.attack for name, case in CASES.items() if case.attack is not None}
    with Host(folder, KEYS, GOOD, attacks, spoils) as host:
        write_initramfs(initrd, JUDGE, lambda tree: _add_files(tree, host), MODULES, HELPERS)
        run = boot_kernel(IMAGE, COMMAND_LINE, [DriveFile(path=str(disk))], initrd=initrd, options=NETWORK)
    return Asked(run, facts_of(run), host.lab.audit, host.lab.machine, host.heard)


def identity(name: str) -> UUID:
    """Of a volume's partition."""
    return UUID(int=0x200 + VOLUMES.index(name))


def _add_files(tree: FileTree, host: Host) -> None:
    for applet in NETWORK_APPLETS:
        tree.add_symlink(f"usr/bin/{applet}", "busybox")
    for name, command in sorted(phase_commands().items()):
        tree.add_file(f"etc/initramfs/tpm2/{name}", command)
    for name in VOLUMES:
        add_volume(tree, name, _settings(name, host))
    lines = [f"{name} {case.lane.value} {'first' if case.first else '-'}\n" for name, case in CASES.items()]
    tree.add_file("test/partitions", "".join(f"{name}\n" for name in VOLUMES).encode())
    tree.add_file("test/cases", "".join(lines).encode())
    tree.add_file("test/needles", "".join(f"{text}\n" for text in NEEDLES).encode())
    values = {
        "OPERATOR": host.operator,
        "SELECTION": SELECTION,
        "REGISTERS": " ".join(map(str, REGISTERS)),
        "FIRST_NONCE": FIRST_NONCE.hex(),
    }
    tree.add_file("test/config", "".join(f"{key}='{value}'\n" for key, value in values.items()).encode())


def _settings(name: str, host: Host) -> Settings:
    """A volume whose key is at a broker; without a header, so that its key is that of the disk."""
    settings = Settings(
        providers="kbs",
        uuid=str(identity(name)),
        files={"kbs-ca.pem": host.lab.authority.file.read_bytes()},
        options={"KBS_URL": host.url(name), "KBS_VOLUME": name},
    )
    if name == GOOD:
        return settings
    case = CASES[name]
    return replace(settings, format=case.format, total_timeout=case.total_timeout)


def _write_disk(path: Path) -> None:
    plans = [
        gpt.PartitionPlan(name=name, type_guid=gpt.TYPE_LINUX_GENERIC, guid=identity(name), size=SIZE)
        for name in VOLUMES
    ]
    table = gpt.lay_out(UUID(int=8), plans)
    with path.open("wb") as file:
        file.truncate(table.sectors * 512)
        file.write(table.primary())
        file.seek(-gpt.BACKUP_SECTORS * 512, 2)
        file.write(table.backup())
        for partition in table.partitions:
            if partition.name in CASES and CASES[partition.name].format == "if-blank":
                continue
            # The tweak of the first sector is zero (Linux admin-guide/device-mapper/dm-crypt.rst, plain64).
            encryptor = Cipher(algorithms.AES(KEYS[partition.name]), modes.XTS(bytes(16))).encryptor()
            for offset, data in ((0, NOTE), (DATA, encryptor.update(TEXT.ljust(4096, b"\0")))):
                file.seek(partition.offset + offset)
                file.write(data)
