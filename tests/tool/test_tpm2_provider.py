"""The unlock provider ``tpm2`` in the shell of the initramfs, and its tokens in the hands of stock systemd.

The provider runs as it is, with its fixed paths replaced; the header is one that our own formatter writes.
"""

from __future__ import annotations

import base64
import ctypes
import ctypes.util
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from recipes.formats import luks2, pcrsig
from recipes.formats.luks2_model import Expected, KdfBounds, Pbkdf2, TokenShape
from recipes.formats.luks2_template import check, template
from recipes.formats.tpm2_nv import FORMAT_MARKER
from recipes.formats.tpm2_token import blob_place, literal_shape, signed_shape
from recipes.measure.tpm_policy import PcrValue, PolicySession
from recipes.measure.trace import HashAlgorithm
from recipes.measure.userspace import phase_step
from tests.support import ROOT, require_tool
from tests.tool.boot_policies import phase_policies
from tests.tool.software_tpm import SoftwareTpm
from tests.tool.test_tpm2_helper import COUNTER
from tests.tool.test_tpm_policy import boot, boot_trace, extend, pcr_values, public_pem
from tests.tool.tpm2_machine import Outcome, Signer, TpmMachine, run_with_key
from tests.unit import luks2_forgeries as forge

pytestmark = pytest.mark.tool

MIB = 1 << 20
DATA = 16 * MIB
MARK = f"{FORMAT_MARKER:#010x}"
ANOTHER = "this is not the volume that this TPM formatted"
NO_MARK = f"this TPM has no mark of the volume in {MARK}"


@dataclass
class Guest:
    """The initramfs of one image on a machine: its files, its settings, its volume ``data``."""

    machine: TpmMachine
    folder: Path
    signer: Signer
    shape: TokenShape
    settings: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("etc/data.d", "run", "tpm0/pcr-sha256"):
            (self.folder / name).mkdir(parents=True)
        shutil.copy(self.signer.public, self.folder / "etc/data.d/tpm2.pub")
        (self.folder / "etc/data.d/tpm2.pem").write_bytes(public_pem(self.signer.key))
        self.sign([self.signer.entry()])
        self.settings = {
            "TOKEN": self.shape.type,
            "TPM2_POLICY": "signed",
            "TPM2_DIGEST": self.signer.authorized.hex(),
            "TPM2_PCRS": "11",
            "TPM2_BANK": "sha256",
            "TPM2_COUNTER": "none",
            "TPM2_RELEASE": "",
            "MARKER": MARK,
            **self.settings,
        }

    @property
    def expected(self) -> Expected:
        """What the header of the volume must say."""
        return Expected(keyslots=(KdfBounds(Pbkdf2(1000)),), tokens=(self.shape,), uuid=forge.VOLUME_UUID)

    @property
    def signatures(self) -> Path:
        """What the UKI carries."""
        return self.folder / "tpm2-pcr-signature.json"

    def sign(self, entries: list[pcrsig.PcrSignature]) -> None:
        """Puts the signatures into the UKI."""
        self.signatures.write_bytes(pcrsig.render(entries))

    def run(self, purpose: str, *, kind: str = "passphrase") -> Outcome:
        """One run of the provider, as the driver does it."""
        offset, size = blob_place(self.expected)
        values = {**self.settings, "TOKEN_BLOB_OFFSET": str(offset), "TOKEN_BLOB_SIZE": str(size)}
        conf = self.folder / "etc/data.conf"
        conf.write_text("".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items()))
        script = (ROOT / "initrd/unlock.d/tpm2").read_text()
        for path, place in {
            "/usr/lib/goldsmith/tpm2": self.machine.program,
            "/etc/unlock/": f"{self.folder}/etc/",
            "/.extra/tpm2-pcr-signature.json": self.signatures,
            "/run/unlock/": f"{self.folder}/run/",
            "/sys/class/tpm/tpm0": self.folder / "tpm0",
        }.items():
            assert path in script
            script = script.replace(path, str(place))
        (self.folder / "tpm2").write_text(script)
        environment = {
            "UNLOCK_VOLUME": "data",
            "UNLOCK_DEVICE": "/dev/null",
            "UNLOCK_UUID": str(forge.VOLUME_UUID),
            "UNLOCK_PURPOSE": purpose,
            "UNLOCK_KIND": kind,
            "UNLOCK_NONCE": "00" * 32,
            "UNLOCK_CONF": str(conf),
            "UNLOCK_HEADER": str(self.folder / "header"),
            "UNLOCK_TOKEN": str(self.folder / "token"),
            "GOLDSMITH_TPM": self.machine.bridge.path,
        }
        self.machine.bridge.forget()
        argv: list[str | Path] = [require_tool("busybox"), "sh", self.folder / "tpm2"]
        outcome = run_with_key(argv, self.folder / "key", environment)
        left = {path.name for path in (self.folder / "run").iterdir()}
        assert left <= {"data.rollback"}
        assert self.machine.is_clean()
        return outcome

    def format(self) -> bytes:
        """A new volume under the key and the token of the provider, committed; gives the key."""
        key = self.make()
        self.commit()
        return key

    def commit(self) -> None:
        """The header is on the disk."""
        done = self.run("commit").good()
        assert (done.key, done.out) == (b"", b"")

    def make(self) -> bytes:
        """The header of a new volume; gives the key."""
        done = self.run("format").good()
        assert done.out == b""
        path = self.folder / "header"
        path.write_bytes(b"")
        os.truncate(path, DATA + MIB)
        cost = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
        argv = ("luksFormat", "-q", "--type", "luks2", *cost, "--sector-size", "4096")
        uuid = ("--uuid", str(forge.VOLUME_UUID))
        cryptsetup(*argv, *uuid, "--key-file", self.folder / "key", path)
        cryptsetup("token", "import", "--token-id", "0", "--json-file", self.folder / "token", path)
        check(path.read_bytes()[: self.expected.metadata_size], template(self.expected), "header")
        return done.key

    def refused(self, code: int, *words: str, purpose: str = "open") -> None:
        done = self.run(purpose)
        assert (done.code, done.key, done.out) == (code, b"", b""), done
        for each in words:
            assert each in done.words, done


def cryptsetup(*arguments: str | Path) -> str:
    argv = [require_tool("cryptsetup"), *map(str, arguments)]
    done = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    assert done.returncode == 0, (argv, done.stdout, done.stderr)
    return done.stdout


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return Signer(tmp_path_factory.mktemp("signer"))


@pytest.fixture
def machine() -> Iterator[TpmMachine]:
    with TpmMachine() as new:
        boot(new.tools, boot_trace(), "enter-initrd")
        yield new


def signed_guest(machine: TpmMachine, signer: Signer, folder: Path) -> Guest:
    shape = signed_shape(public_pem(signer.key), signer.authorized)
    return Guest(machine, folder, signer, shape)


def literal_guest(machine: TpmMachine, signer: Signer, folder: Path, registers: str = "4 7 11") -> Guest:
    shape = literal_shape([int(each) for each in registers.split()])
    settings = {"TPM2_POLICY": "literal", "TPM2_PCRS": registers, "TPM2_DIGEST": ""}
    guest = Guest(machine, folder, signer, shape, settings)
    guest.signatures.unlink()
    return guest


def counted_guest(machine: TpmMachine, signer: Signer, folder: Path, release: int) -> Guest:
    shape = signed_shape(public_pem(signer.key), signer.authorized, counter=COUNTER)
    settings = {"TPM2_COUNTER": f"{COUNTER:#010x}", "TPM2_RELEASE": str(release)}
    guest = Guest(machine, folder, signer, shape, settings)
    guest.sign([signer.entry(counter=COUNTER, release=release)])
    return guest


def test_a_signed_volume_opens_until_the_initramfs_ends(
    machine: TpmMachine, signer: Signer, tmp_path: Path
) -> None:
    guest = signed_guest(machine, signer, tmp_path / "guest")
    key = guest.format()
    assert guest.run("open").good().key == key
    assert not (guest.folder / "run/data.rollback").exists()
    extend(machine.tools, 11, [dict(phase_step("leave-initrd").digests)])
    (guest.folder / "tpm0/pcr-sha256/11").write_text("AB" * 32 + "\n")
    guest.refused(
        20,
        "none of the policies signed in this UKI is that of this boot",
        f"PCR 11 is {'AB' * 32}; only the initramfs",
    )


def test_a_literal_volume(machine: TpmMachine, signer: Signer, tmp_path: Path) -> None:
    guest = literal_guest(machine, signer, tmp_path / "guest")
    key = guest.format()
    assert guest.run("open").good().key == key
    extend(machine.tools, 7, [dict(phase_step("another").digests)])
    guest.refused(20, "sha256:4,7,11 does not hold what the key was sealed to")


@pytest.mark.parametrize("register", ["16", "23"])
def test_literal_registers_that_software_resets(
    machine: TpmMachine, signer: Signer, tmp_path: Path, register: str
) -> None:
    guest = literal_guest(machine, signer, tmp_path / "guest")
    guest.settings["TPM2_PCRS"] = f"7 {register}"
    for purpose in ("format", "open"):
        guest.refused(40, f"PCR {register} can be reset by software and binds nothing", purpose=purpose)
    assert machine.bridge.commands == []


def test_the_entry_of_this_boot_is_found_among_others(
    machine: TpmMachine, signer: Signer, tmp_path: Path
) -> None:
    guest = signed_guest(machine, signer, tmp_path / "guest")
    key = guest.format()
    stranger = Signer(tmp_path)
    banks = (HashAlgorithm.SHA1, HashAlgorithm.SHA256, HashAlgorithm.SHA384)
    policies = phase_policies(boot_trace(), banks)
    every = [pcrsig.sign(signer.key, each.value.algorithm.value, [11], each.digest) for each in policies]
    # another key approved the same policy: it comes first, and its signature does not count
    guest.sign([stranger.entry(), *every])
    done = guest.run("open")
    assert (done.code, done.key) == (0, key)
    assert "the policy's signature was not made with the image's key" in done.words
    guest.sign(every)
    assert guest.run("open").good().key == key
    guest.sign([stranger.entry()])
    guest.refused(20, "the policy's signature was not made with the image's key")
    # the right policy, said to be of other registers or of another bank
    entry = signer.entry()
    for bank, registers in (("sha256", [7, 11]), ("sha384", [11]), ("sha1", [11])):
        guest.sign([pcrsig.sign(signer.key, bank, registers, entry.policy)])
        guest.refused(20, "none of the policies signed in this UKI is that of this boot")


@pytest.mark.parametrize("name", ["garbage", "nul", "huge", "no entry", "open string", "shell", "empty"])
def test_hostile_signature_files(machine: TpmMachine, signer: Signer, tmp_path: Path, name: str) -> None:
    guest = signed_guest(machine, signer, tmp_path / "guest")
    key = guest.format()
    good = guest.signatures.read_bytes()
    guest.signatures.write_bytes(
        {
            "garbage": bytes(range(256)) * 40,
            "nul": good.replace(b"{", b"\0"),
            "huge": b" " * (1 << 18) + good,
            "no entry": b'{"sha256":[]}\n',
            "open string": good[:-40],
            "shell": good.replace(b'"sig":"', b'"sig":"$(touch ' + str(tmp_path).encode() + b"/owned)"),
            "empty": b"",
        }[name]
    )
    said = "carries no signature" if name == "empty" else "none of the policies signed in this UKI"
    guest.refused(20, said)
    assert not (tmp_path / "owned").exists()
    guest.signatures.write_bytes(good)
    assert guest.run("open").good().key == key


def test_a_uki_without_signatures(machine: TpmMachine, signer: Signer, tmp_path: Path) -> None:
    """It neither opens a volume nor makes one that would not open again."""
    guest = signed_guest(machine, signer, tmp_path / "guest")
    guest.format()
    guest.signatures.unlink()
    for purpose in ("open", "format"):
        done = guest.run(purpose)
        assert done.code == 20
        assert "this UKI carries no signature of its policy; build it with the signing key" in done.words


def test_a_boot_without_a_stub_makes_no_volume(signer: Signer, tmp_path: Path) -> None:
    with TpmMachine() as bare:
        guest = signed_guest(bare, signer, tmp_path / "guest")
        (guest.folder / "tpm0/pcr-sha256/11").write_text("0" * 64 + "\n")
        done = guest.run("format")
        assert done.code == 20
        assert "PCR 11 is zero, so systemd-stub has not measured a UKI in bank sha256" in done.words
        assert not (guest.folder / "token").exists()


def test_another_tpm_and_no_tpm(machine: TpmMachine, signer: Signer, tmp_path: Path) -> None:
    guest = signed_guest(machine, signer, tmp_path / "guest")
    guest.format()
    with TpmMachine() as other:
        boot(other.tools, boot_trace(), "enter-initrd")
        guest.machine = other
        guest.refused(20, f"{NO_MARK}: the disk is another machine's, or the mark was deleted")
        assert guest.run("known").code == 30
    guest.machine = machine
    path = machine.bridge.path
    machine.bridge.path = str(tmp_path / "none")
    guest.refused(30, "give the machine a TPM 2.0")
    machine.bridge.path = path
    good = machine.bridge.respond
    machine.bridge.respond = lambda _: bytes.fromhex("80010000000a00000921")
    for purpose in ("open", "known", "commit"):
        guest.refused(10, "the TPM is in lockout", purpose=purpose)
    machine.bridge.respond = good
    for purpose in ("open", "format"):
        assert guest.run(purpose, kind="volume-key").code == 30


def test_a_counter_over_three_releases(machine: TpmMachine, signer: Signer, tmp_path: Path) -> None:
    guests = {
        release: counted_guest(machine, signer, tmp_path / f"guest{release}", release)
        for release in (1, 2, 3)
    }
    key = guests[2].format()
    token = json.loads((guests[2].folder / "token").read_text())
    assert (token["type"], token["counter"]) == ("goldsmith-tpm2", COUNTER)
    assert machine.run("counter", f"{COUNTER:#x}").out == b"1\n"
    for release in (1, 3):
        shutil.copy(guests[2].folder / "header", guests[release].folder / "header")
    for guest in guests.values():
        assert guest.run("open").good().key == key
    assert raise_counter(guests[2], tmp_path) == "counter 0x01801c00 stands at release 2\n"
    guests[1].refused(20, "counter 0x01801c00 is above 1: this release is older than one that has run here")
    for release in (2, 3):
        assert guests[release].run("open").good().key == key


def raise_counter(guest: Guest, folder: Path) -> str:
    """What the service of the booted system does."""
    script = (ROOT / "rootfs/rollback-counter/usr/lib/goldsmith/rollback-counter").read_text()
    script = script.replace("/run/unlock", str(guest.folder / "run"))
    script = script.replace("/usr/lib/goldsmith/tpm2", str(guest.machine.program))
    (folder / "rollback-counter").write_text(script)
    guest.machine.bridge.forget()
    environment = {**os.environ, "GOLDSMITH_TPM": guest.machine.bridge.path}
    argv = ["sh", str(folder / "rollback-counter")]
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, check=True)
    return done.stdout


def test_a_counter_that_is_above_the_release_already(
    machine: TpmMachine, signer: Signer, tmp_path: Path
) -> None:
    """It is new, but this TPM has had a higher one."""
    machine.run("raise", "0x1500016", 5).good()
    machine.tools.run("tpm2_nvundefine", "0x1500016", "-C", "o")
    guest = counted_guest(machine, signer, tmp_path / "guest", 3)
    words = "is at 6, above release 3 of this image, so the volume would never open"
    guest.refused(20, words, "build with a release of 6 or more", purpose="format")
    later = counted_guest(machine, signer, tmp_path / "later", 6)
    key = later.format()
    assert later.run("open").good().key == key


def test_a_counter_that_is_another_index(machine: TpmMachine, signer: Signer, tmp_path: Path) -> None:
    attributes = "ownerwrite|ownerread|authread|no_da"
    machine.tools.run("tpm2_nvdefine", f"{COUNTER:#x}", "-C", "o", "-s", "8", "-a", attributes)
    guest = counted_guest(machine, signer, tmp_path / "guest", 1)
    guest.refused(20, "NV index 0x1801c00 is not a counter of ours", purpose="format")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"TPM2_POLICY": "other"}, "TPM2_POLICY is 'other', not signed or literal"),
        ({"TPM2_POLICY": "literal", "TPM2_COUNTER": "0x01801c00"}, "a counter needs the signed policy"),
        ({"TPM2_PCRS": ""}, "TPM2_PCRS names no register"),
        ({"TPM2_PCRS": "11,7"}, "TPM2_PCRS has '11,7', which is no register"),
        ({"TPM2_BANK": "md5"}, "the bank is not one of"),
        ({"MARKER": "none"}, "MARKER is none: nobody could tell this volume from another one"),
        ({"MARKER": "0x81000001"}, "the handle is not one of an NV index"),
    ],
)
def test_malformed_settings(
    machine: TpmMachine, signer: Signer, tmp_path: Path, change: dict[str, str], words: str
) -> None:
    guest = signed_guest(machine, signer, tmp_path / "guest")
    guest.format()
    guest.settings |= change
    guest.refused(40, words)


def test_the_tpm_knows_that_a_volume_was_formatted(
    machine: TpmMachine, signer: Signer, tmp_path: Path
) -> None:
    """And nobody knows without it, which is not the same as that there was none."""
    guest = signed_guest(machine, signer, tmp_path / "guest")
    assert guest.run("known").code == 30
    key = guest.make()
    assert guest.run("known").code == 30
    guest.refused(20, NO_MARK)
    guest.commit()
    guest.commit()
    known = guest.run("known")
    assert (known.code, known.key, known.out) == (0, b"", b"")
    assert guest.run("open").good().key == key
    for kind in ("passphrase", "volume-key"):
        assert guest.run("known", kind=kind).code == 0
    path, machine.bridge.path = machine.bridge.path, str(tmp_path / "none")
    for kind in ("passphrase", "volume-key"):
        done = guest.run("known", kind=kind)
        assert done.code == 20
        assert "without its TPM nobody knows if the volume was formatted before" in done.words
    machine.bridge.path = path
    guest.refused(40, "purpose 'other' is not known", purpose="other")


def test_only_the_initramfs_commits(machine: TpmMachine, signer: Signer, tmp_path: Path) -> None:
    guest = signed_guest(machine, signer, tmp_path / "guest")
    guest.make()
    extend(machine.tools, 11, [dict(phase_step("leave-initrd").digests)])
    guest.refused(20, "none of the policies signed in this UKI is that of this boot", purpose="commit")
    assert guest.run("known").code == 30


def attackers_volume(guest: Guest, policy: bytes) -> bytes:
    """Puts a volume of the attacker's in place of the machine's, for the same TPM; gives the key to it.

    Any software on that TPM can seal to a policy that it does not satisfy, and the form of the header is no
    secret: this one has every byte that the driver asks for.
    """
    done = guest.machine.run("seal", policy.hex()).good()
    blob, token = done.out.decode().strip(), [done.out.decode().strip()]
    if guest.settings["TPM2_POLICY"] == "literal":
        token = [blob, policy.hex()]
    data = luks2.format(
        guest.expected,
        uuid=forge.VOLUME_UUID,
        seed=luks2.Seed(bytes(32)),
        volume_key=forge.ATTACKER_KEY,
        passphrases=[done.key],
        tokens=[token],
    )
    check(data[: guest.expected.metadata_size], template(guest.expected), "header")
    (guest.folder / "header").write_bytes(data)
    os.truncate(guest.folder / "header", DATA + MIB)
    return done.key


@pytest.mark.parametrize("policy", ["signed", "literal"])
def test_a_volume_that_other_software_made_on_the_same_tpm(
    machine: TpmMachine, signer: Signer, tmp_path: Path, policy: str
) -> None:
    tools = machine.tools
    make = signed_guest if policy == "signed" else literal_guest
    guest = make(machine, signer, tmp_path / "guest")
    sealed_to = signer.authorized
    if policy == "literal":
        sealed_to = PolicySession().policy_pcr(pcr_values(tools, "sha256:4,7,11"))
    key = guest.format()
    genuine = (guest.folder / "header").read_bytes()
    theirs = attackers_volume(guest, sealed_to)
    # stock software takes it: the secret unseals, and it is that of the key slot
    assert stock_opens(guest.folder / "header", tools, guest.signatures)
    assert theirs != key

    guest.refused(20, f"{ANOTHER}: mark {int(MARK, 16):#x} is of another one; the disk was exchanged")
    # without the mark, with one that was defined anew, and with one that the attacker can write
    tools.run("tpm2_nvundefine", MARK, "-C", "o")
    guest.refused(20, NO_MARK)
    tools.write("policy", sealed_to)
    define = ("tpm2_nvdefine", MARK, "-C", "o", "-s", "32", "-a", "policywrite|ownerread|authread|no_da")
    tools.run(*define, "-L", "policy")
    guest.refused(20, NO_MARK)
    blob = json.loads(luks_tokens(guest.folder / "header"))["0"]["tpm2-blob"]
    tools.write("hash", hashlib.sha256(base64.b64decode(blob)).digest())
    for how in (("-C", "o"), ("-C", MARK), ("-C", MARK, "-P", "pcr:sha256:23")):
        assert tools.attempt("tpm2_nvwrite", MARK, *how, "-i", "hash").returncode, how
    guest.refused(20, NO_MARK)
    tools.run("tpm2_nvundefine", MARK, "-C", "o")
    tools.run("tpm2_startauthsession", "-S", "s.ctx")
    tools.run("tpm2_policypcr", "-S", "s.ctx", "-l", "sha256:23", "-L", "own")
    tools.run("tpm2_flushcontext", "s.ctx")
    tools.run(*define, "-L", "own")
    tools.run("tpm2_nvwrite", MARK, "-C", MARK, "-P", "pcr:sha256:23", "-i", "hash")
    guest.refused(20, ANOTHER, "are not of this image; the disk was exchanged")
    assert guest.run("known").code == 0

    # the right hash under the right policy is what opens, and it is nobody's but the image's to write
    tools.run("tpm2_nvundefine", MARK, "-C", "o")
    guest.commit()
    assert guest.run("open").good().key == theirs
    (guest.folder / "header").write_bytes(genuine)
    guest.refused(20, f"{ANOTHER}: mark")


def luks_tokens(disk: Path) -> str:
    """The tokens of a header, as JSON."""
    return json.dumps(json.loads(cryptsetup("luksDump", "--dump-json-metadata", disk))["tokens"])


def test_the_default_registers_signed_together(machine: TpmMachine, signer: Signer, tmp_path: Path) -> None:
    """One entry for each machine: PCR 7 tells them apart, PCR 11 is the UKI's, PCR 12 is as it was."""
    extend(machine.tools, 7, [dict(phase_step("another Secure Boot").digests)])
    shape = signed_shape(public_pem(signer.key), signer.authorized, registers=(7, 11, 12))
    guest = Guest(machine, tmp_path / "guest", signer, shape, {"TPM2_PCRS": "7 11 12"})

    def entry(*values: PcrValue) -> pcrsig.PcrSignature:
        policy = PolicySession().policy_pcr(values)
        return pcrsig.sign(signer.key, "sha256", [value.index for value in values], policy)

    seven, eleven, twelve = pcr_values(machine.tools, "sha256:7,11,12")
    others = [
        entry(PcrValue(HashAlgorithm.SHA256, 7, bytes([number]) * 32), eleven, twelve) for number in range(3)
    ]
    guest.sign([signer.entry(), *others])
    done = guest.run("format")
    assert done.code == 20
    assert "none of the policies signed in this UKI is that of this boot" in done.words
    guest.sign([signer.entry(), *others[:2], entry(seven, eleven, twelve), others[2]])
    key = guest.format()
    token = json.loads((guest.folder / "token").read_text())
    assert (token["tpm2-pcrs"], token["tpm2_pubkey_pcrs"]) == ([], [7, 11, 12])
    assert guest.run("open").good().key == key
    needs_the_plugin()
    assert stock_opens(guest.folder / "header", machine.tools, guest.signatures)
    # What the stub extends for words that a host adds to the command line.
    extend(machine.tools, 12, [dict(phase_step("rdinit=/usr/bin/sh").digests)])
    guest.refused(20, "none of the policies signed in this UKI is that of this boot")
    assert not stock_opens(guest.folder / "header", machine.tools, guest.signatures)


class PluginParameters(ctypes.Structure):
    """What the caller tells systemd's token plugin: src/cryptsetup/cryptsetup-tokens/luks2-tpm2.h, v252."""

    _fields_ = (("mask", ctypes.c_uint32), ("device", ctypes.c_char_p), ("signature", ctypes.c_char_p))


def stock_opens(disk: Path, tools: SoftwareTpm, signatures: Path) -> bool:
    """Whether libcryptsetup with systemd's own plugin gets the volume key from a token, of any key slot."""
    name = ctypes.util.find_library("cryptsetup")
    if name is None:
        require_tool("libcryptsetup.so")
    library = ctypes.CDLL(name)
    device = ctypes.c_void_p()
    library.crypt_activate_by_token_pin.argtypes = (
        *(ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t),
        *(ctypes.c_void_p, ctypes.c_uint32),
    )
    library.crypt_free.argtypes = (ctypes.c_void_p,)
    assert library.crypt_init(ctypes.byref(device), os.fsencode(disk)) == 0
    try:
        assert library.crypt_load(device, b"LUKS2", None) == 0
        # Any PCR of the token is fine.
        parameters = PluginParameters(0xFFFFFFFF, tools.tcti.encode(), os.fsencode(signatures))
        any_token, no_name = -1, None
        return bool(
            library.crypt_activate_by_token_pin(
                device, no_name, b"systemd-tpm2", any_token, None, 0, ctypes.addressof(parameters), 0
            )
            >= 0
        )
    finally:
        library.crypt_free(device)
        for kind in ("-t", "-l", "-s"):  # it leaves what it loaded to the kernel's resource manager
            tools.run("tpm2_flushcontext", kind)


def needs_the_plugin() -> None:
    path = Path("/usr/lib/x86_64-linux-gnu/cryptsetup/libcryptsetup-token-systemd-tpm2.so")
    if not path.exists():
        require_tool(str(path))


def test_stock_systemd_opens_a_signed_volume_of_ours(
    machine: TpmMachine, signer: Signer, tmp_path: Path
) -> None:
    needs_the_plugin()
    guest = signed_guest(machine, signer, tmp_path / "guest")
    guest.format()
    disk = guest.folder / "header"
    assert stock_opens(disk, machine.tools, guest.signatures)
    extend(machine.tools, 11, [dict(phase_step("leave-initrd").digests)])
    assert not stock_opens(disk, machine.tools, guest.signatures)


def test_stock_systemd_opens_a_literal_volume_of_ours(
    machine: TpmMachine, signer: Signer, tmp_path: Path
) -> None:
    needs_the_plugin()
    guest = literal_guest(machine, signer, tmp_path / "guest")
    guest.format()
    disk = guest.folder / "header"
    assert stock_opens(disk, machine.tools, guest.signatures)
    extend(machine.tools, 4, [dict(phase_step("another").digests)])
    assert not stock_opens(disk, machine.tools, guest.signatures)


def test_stock_systemd_opens_what_our_formatter_writes(
    machine: TpmMachine, signer: Signer, tmp_path: Path
) -> None:
    """The whole header ours, no byte of it from cryptsetup."""
    needs_the_plugin()
    guest = signed_guest(machine, signer, tmp_path / "guest")
    done = machine.run("seal", signer.authorized.hex()).good()
    data = luks2.format(
        guest.expected,
        uuid=forge.VOLUME_UUID,
        seed=luks2.Seed(bytes(32)),
        volume_key=forge.VOLUME_KEY,
        passphrases=[done.key],
        tokens=[[done.out.decode().strip()]],
    )
    disk = tmp_path / "disk"
    disk.write_bytes(data)
    os.truncate(disk, DATA + MIB)
    assert stock_opens(disk, machine.tools, guest.signatures)
    shutil.copy(disk, guest.folder / "header")
    guest.commit()
    assert guest.run("open").good().key == done.key


def enrolled(machine: TpmMachine, folder: Path, *options: str) -> tuple[Path, dict[str, object]]:
    """A volume with a token that systemd-cryptenroll wrote, and the token."""
    require_tool("systemd-cryptenroll")
    disk = folder / "disk"
    with disk.open("wb") as file:
        file.truncate(DATA + MIB)
    cheap = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
    password = machine.tools.write("password", b"x")
    cryptsetup("luksFormat", "-q", "--type", "luks2", *cheap, disk, password)
    device = f"--tpm2-device={machine.tools.tcti}"
    machine.tools.run("env", "PASSWORD=x", "systemd-cryptenroll", device, *options, disk)
    tokens = json.loads(cryptsetup("luksDump", "--dump-json-metadata", disk))["tokens"]
    (token,) = tokens.values()
    return disk, token


def opens_with(disk: Path, key: bytes, folder: Path) -> bool:
    (folder / "passphrase").write_bytes(key)
    argv = [require_tool("cryptsetup"), "open", "--test-passphrase", "--disable-external-tokens"]
    return subprocess.run([*argv, "--key-file", folder / "passphrase", disk]).returncode == 0


def test_what_systemd_sealed_to_a_key_is_unsealed(
    machine: TpmMachine, signer: Signer, tmp_path: Path
) -> None:
    pem = tmp_path / "public.pem"
    pem.write_bytes(public_pem(signer.key))
    options = ("--tpm2-pcrs=", "--tpm2-public-key-pcrs=11", f"--tpm2-public-key={pem}")
    disk, token = enrolled(machine, tmp_path, *options)
    ours = signed_shape(public_pem(signer.key), signer.authorized)
    literal = {each.name: each.value for each in ours.fields if each.value is not None}
    assert list(token) == ["type", "keyslots", *(each.name for each in ours.fields)]
    for name, value in literal.items():
        assert token[name] == (list(value) if isinstance(value, tuple) else value)
    text = str(token["tpm2-blob"])
    assert len(text) == ours.fields[0].size
    blob = machine.tools.write("blob", text.encode())
    entry = signer.entry()
    signer.signature.write_bytes(base64.b64encode(entry.signature))
    approval = ("signed", entry.policy.hex(), signer.signature, signer.public)
    done = machine.run("unseal", blob, "sha256", "11", *approval).good()
    assert opens_with(disk, done.key, tmp_path)
    assert not opens_with(disk, done.key[::-1], tmp_path)


def test_what_systemd_sealed_to_registers_is_unsealed(machine: TpmMachine, tmp_path: Path) -> None:
    disk, token = enrolled(machine, tmp_path, "--tpm2-pcrs=4+7+11")
    ours = literal_shape((4, 7, 11))
    # systemd 252 writes the members of public keys only with a public key
    assert list(token) == ["type", "keyslots", *(each.name for each in ours.fields)]
    policy = machine.run("digest", "sha256", "4", "7", "11").good().out.decode().strip()
    assert token["tpm2-policy-hash"] == policy
    assert re.fullmatch(r"[A-Za-z0-9+/]{320}", str(token["tpm2-blob"]))
    blob = machine.tools.write("blob", str(token["tpm2-blob"]).encode())
    done = machine.run("unseal", blob, "sha256", "4,7,11").good()
    assert opens_with(disk, done.key, tmp_path)
