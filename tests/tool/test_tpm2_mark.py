"""The mark of the volume that a TPM formatted: who can write it, and what is taken for it.

The attacker has the TPM and its owner's rights, and boots software of its own; tpm2-tools are that software.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from recipes.formats.tpm2_nv import FORMAT_MARKER, NvAttribute, NvPublic
from recipes.measure.userspace import phase_step
from tests.tool.test_tpm2_helper import COUNTER, denied, sealed
from tests.tool.test_tpm_policy import boot, boot_trace, extend
from tests.tool.tpm2_machine import Outcome, Signer, TpmMachine

pytestmark = pytest.mark.tool

MARK = f"{FORMAT_MARKER:#x}"
ATTRIBUTES = "policywrite|ownerread|authread|no_da"
ANOTHER = "this is not the volume that this TPM formatted"
NO_MARK = f"this TPM has no mark of the volume in {MARK}"


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return Signer(tmp_path_factory.mktemp("signer"))


@pytest.fixture
def machine() -> Iterator[TpmMachine]:
    with TpmMachine() as new:
        boot(new.tools, boot_trace(), "enter-initrd")
        yield new


@dataclass
class Marking:
    """A volume of an image on a machine, and what the image asks of the mark."""

    machine: TpmMachine
    signer: Signer
    blob: Path
    limit: tuple[object, ...] = ()

    @classmethod
    def new(cls, machine: TpmMachine, signer: Signer) -> Marking:
        """With a secret that was sealed now."""
        path, secret = sealed(machine, signer.authorized)
        return cls(machine, signer, path.rename(path.with_name(f"blob-{hashlib.sha256(secret).hexdigest()}")))

    @property
    def digest(self) -> bytes:
        """Of the blob, by other means than the helper's."""
        return hashlib.sha256(base64.b64decode(self.blob.read_bytes())).digest()

    def mark(self, policy: bytes | None = None) -> Outcome:
        counter, release = (COUNTER, int(str(self.limit[2]))) if self.limit else (None, 0)
        entry = self.signer.entry(counter=counter, release=release)
        self.signer.signature.write_bytes(base64.b64encode(entry.signature))
        approval = ("signed", entry.policy.hex(), self.signer.signature, self.signer.public)
        sealed_to = (policy or self.signer.authorized).hex()
        where = (MARK, self.blob, sealed_to, "sha256", "11")
        return self.machine.run("mark", *where, *approval, *self.limit)

    def marked(self) -> Outcome:
        return self.machine.run("marked", MARK, self.blob, self.signer.authorized.hex())


@pytest.fixture
def marking(machine: TpmMachine, signer: Signer) -> Marking:
    return Marking.new(machine, signer)


def test_a_volume_is_remembered_and_no_other(marking: Marking, machine: TpmMachine, signer: Signer) -> None:
    denied(marking.marked(), NO_MARK)
    machine.run("unmarked", MARK).good()
    marking.mark().good()
    marking.marked().good()
    denied(machine.run("unmarked", MARK), "it has formatted a volume")
    assert machine.is_clean()
    other = Marking.new(machine, signer)
    denied(other.marked(), f"{ANOTHER}: mark {MARK} is of another one; the disk was exchanged")
    # doing it again is fine, another volume is not
    denied(other.mark(), f"{ANOTHER}: mark {MARK} is of another one")
    again = Marking(machine, signer, machine.tools.write("blob", base64.b64encode(b"\0\1a\0\1b")))
    denied(again.mark(), ANOTHER)
    assert machine.is_clean()


def test_the_mark_is_what_its_name_says(marking: Marking, machine: TpmMachine, signer: Signer) -> None:
    marking.mark().good()
    marking.mark().good()
    shown = machine.tools.run("tpm2_nvreadpublic", MARK).decode()
    assert f"friendly: {ATTRIBUTES}|written\n" in shown.replace("|written|no_da", "|no_da|written")
    assert "size: 32\n" in shown
    assert f"authorization policy: {signer.authorized.hex().upper()}\n" in shown
    own = NvAttribute.POLICY_WRITE | NvAttribute.OWNER_READ | NvAttribute.AUTH_READ | NvAttribute.NO_DA
    public = NvPublic(index=FORMAT_MARKER, attributes=own, size=32, policy=signer.authorized).written()
    assert f"name: {public.name.hex()}\n" in shown
    assert machine.tools.run("tpm2_nvread", MARK, "-C", MARK) == marking.digest
    assert machine.tools.run("tpm2_nvread", MARK, "-C", "o") == marking.digest


def test_only_a_boot_that_satisfies_the_policy_writes(
    marking: Marking, machine: TpmMachine, signer: Signer
) -> None:
    """Neither the owner, nor the index itself, nor the system that the image has started."""
    marking.mark().good()
    tools = machine.tools
    tools.write("mine", bytes(32))
    extend(tools, 11, [dict(phase_step("leave-initrd").digests)])
    for how in (("-C", "o"), ("-C", MARK), ("-C", MARK, "-P", "pcr:sha256:11")):
        assert tools.attempt("tpm2_nvwrite", MARK, *how, "-i", "mine").returncode, how
    marking.marked().good()
    tools.run("tpm2_nvundefine", MARK, "-C", "o")
    words = "the signature is for another boot: sha256:11 does not hold what was signed"
    denied(marking.mark(), words)
    machine.run("unmarked", MARK).good()
    # and not when it is bound to another policy than what the session has
    with TpmMachine() as other:
        boot(other.tools, boot_trace(), "enter-initrd")
        foreign = Marking.new(other, signer)
        denied(foreign.mark(bytes(31) + b"\1"), "sha256:11 does not hold what the mark is bound to")
        assert other.is_clean()
        other.run("unmarked", MARK).good()
        foreign.mark().good()
        foreign.marked().good()


def test_a_literal_volume(machine: TpmMachine) -> None:
    extend(machine.tools, 7, [dict(phase_step("something").digests)])
    policy = bytes.fromhex(machine.run("digest", "sha256", "7", "11").out.decode())
    blob, _ = sealed(machine, policy)
    machine.run("mark", MARK, blob, policy.hex(), "sha256", "7,11").good()
    machine.run("marked", MARK, blob, policy.hex()).good()
    denied(machine.run("marked", MARK, blob, policy[::-1].hex()), "are not of this image")


def test_a_counter_is_part_of_the_policy(machine: TpmMachine, signer: Signer) -> None:
    marking = Marking.new(machine, signer)
    machine.run("raise", f"{COUNTER:#x}", 2).good()
    marking.limit = ("counter", f"{COUNTER:#x}", 1)
    denied(marking.mark(), "this release is older than one that has run here")
    marking.limit = ("counter", f"{COUNTER:#x}", 2)
    marking.mark().good()
    marking.marked().good()


def define(machine: TpmMachine, marking: Marking, attributes: str, *more: object, size: int = 32) -> None:
    """The index as the attacker wants it, with the policy of the image unless ``more`` has another."""
    machine.tools.attempt("tpm2_nvundefine", MARK, "-C", "o")
    policy = machine.tools.write("policy", marking.signer.authorized)
    options = more if "-L" in more else ("-L", policy, *more)
    machine.tools.run("tpm2_nvdefine", MARK, "-C", "o", "-s", size, "-a", attributes, *options)


def write(machine: TpmMachine, marking: Marking, *how: object, size: int = 32) -> None:
    data = machine.tools.write("data", marking.digest.ljust(size, b"\0"))
    machine.tools.run("tpm2_nvwrite", MARK, *how, "-i", data)


def own_policy(machine: TpmMachine, marking: Marking) -> None:
    """The very attributes, under a policy that the attacker satisfies."""
    tools = machine.tools
    tools.run("tpm2_startauthsession", "-S", "s.ctx")
    tools.run("tpm2_policypcr", "-S", "s.ctx", "-l", "sha256:23", "-L", "own")
    tools.run("tpm2_flushcontext", "s.ctx")
    define(machine, marking, ATTRIBUTES, "-L", "own")
    write(machine, marking, "-C", MARK, "-P", "pcr:sha256:23")


def no_policy(machine: TpmMachine, marking: Marking) -> None:
    define(machine, marking, ATTRIBUTES.replace("policywrite", "ownerwrite"), "-L", "/dev/null")
    write(machine, marking, "-C", "o")


def owner_writes(machine: TpmMachine, marking: Marking) -> None:
    define(machine, marking, f"ownerwrite|{ATTRIBUTES}")
    write(machine, marking, "-C", "o")


def everybody_writes(machine: TpmMachine, marking: Marking) -> None:
    define(machine, marking, f"authwrite|{ATTRIBUTES}")
    write(machine, marking, "-C", MARK)


def longer(machine: TpmMachine, marking: Marking) -> None:
    define(machine, marking, f"authwrite|{ATTRIBUTES}", size=33)
    write(machine, marking, "-C", MARK, size=33)


FORGERIES: list[Callable[[TpmMachine, Marking], None]] = [
    *(own_policy, no_policy, owner_writes, everybody_writes, longer)
]


@pytest.mark.parametrize("forge", FORGERIES, ids=lambda each: str(each.__name__))
def test_a_forged_mark_counts_for_nothing(
    marking: Marking, machine: TpmMachine, forge: Callable[[TpmMachine, Marking], None]
) -> None:
    """The attacker's own volume, and an index with the right content that the attacker could write."""
    marking.mark().good()
    own = Marking.new(machine, marking.signer)
    assert own.digest != marking.digest
    forge(machine, own)
    assert machine.tools.run("tpm2_nvread", MARK, "-C", "o")[:32] == own.digest
    denied(own.marked(), f"{ANOTHER}: the policy and attributes")
    denied(own.mark(), f"{ANOTHER}: the policy and attributes")
    # and who formats finds that something is remembered
    denied(machine.run("unmarked", MARK), "it has formatted a volume")


def test_a_deleted_mark_is_none(marking: Marking, machine: TpmMachine) -> None:
    marking.mark().good()
    machine.tools.run("tpm2_nvundefine", MARK, "-C", "o")
    denied(marking.marked(), f"{NO_MARK}: the disk is another machine's, or the mark was deleted")
    machine.run("unmarked", MARK).good()


@pytest.mark.parametrize("password", ["", "secret"])
@pytest.mark.parametrize("attributes", [ATTRIBUTES, "ownerwrite|authread|ownerread"])
def test_a_mark_that_was_never_written_is_none(
    marking: Marking, machine: TpmMachine, password: str, attributes: str
) -> None:
    """A power cut leaves it, or somebody who deletes the mark and defines it anew."""
    define(machine, marking, attributes, *(("-p", password) if password else ()))
    denied(marking.marked(), NO_MARK)
    machine.run("unmarked", MARK).good()
    marking.mark().good()
    marking.marked().good()
    assert machine.tools.run("tpm2_nvread", MARK, "-C", MARK) == marking.digest


def test_a_tampered_blob_is_another_volume(marking: Marking) -> None:
    marking.mark().good()
    good = bytearray(base64.b64decode(marking.blob.read_bytes()))
    for position in (5, 100, 159, 170, 239):
        bad = bytearray(good)
        bad[position] ^= 1
        marking.blob.write_bytes(base64.b64encode(bad))
        denied(marking.marked(), f"mark {MARK} is of another one")
    marking.blob.write_bytes(base64.b64encode(good[:-1]))
    denied(marking.marked(), "the sealed blob is damaged")
    marking.blob.write_bytes(base64.b64encode(good))
    marking.marked().good()
