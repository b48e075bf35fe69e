"""Brokers that fail a guest, and hosts that stand between: all of it within one direct boot.

The broker is the one that ships, the guest's side too; only a machine without an image has no golden
manifest, so the operator enrols what its TPM quotes before anything is asked for. A software TPM proves no
hardware, and a kernel that QEMU loads is in no register: what is shown here is what becomes of an answer.
"""

from __future__ import annotations

import base64
import json
import re

import pytest

from .kbs_cases import CASES, DENIED, GOOD, PARTS
from .kbs_machine import NEEDLES, TEXT, Asked, boot_kbs
from .support import Boot, Boots

pytestmark = pytest.mark.boot

BOOTS: dict[str, Boot] = {"kbs": boot_kbs}
FORMATS = [name for name, case in CASES.items() if case.format == "if-blank"]

# What the last of several tries says where a slow machine has no more time for it.
CUT_SHORT = r"(?: [^;]*(?:did not end in time|timed out|took too long); [^;]*)?"


@pytest.fixture(scope="module")
def asked(boots: Boots) -> Asked:
    found: Asked = boots["kbs"].result()
    # The operator did all that it was told, and the scripts of the initramfs stopped nowhere.
    assert not {"untold", "died"} & set(found.facts), found.facts
    return found


def opens(asked: Asked, name: str, phase: str) -> None:
    """A try that ends with the right data, and nothing said about it."""
    assert asked.of("exit", name, phase) == "0 "
    record = json.loads(asked.of("record", name, phase))
    wanted = ("kbs", "formatted" if name in FORMATS else "opened")
    assert (record["provider"], record["result"]) == wanted
    assert asked.of("mapped", name, phase) == "1"
    assert asked.words(name, phase) == ""
    assert asked.of("left", name, phase) == f"{name}.json"
    if name not in FORMATS:
        assert asked.of("data", name, phase) == TEXT.decode()


def is_denied(asked: Asked, name: str, phase: str, outcome: tuple[int, str, str], words: str) -> None:
    """A try that ends with a code, a result, a reason, and no volume."""
    code, result, reason = outcome
    assert asked.of("exit", name, phase) == f"{code} {reason}"
    record = json.loads(asked.of("record", name, phase))
    assert (record["provider"], record["result"]) == ("kbs", result)
    assert asked.of("mapped", name, phase) == "0"
    assert not any(fact.startswith(f"{name} {phase}: ") for fact in asked.facts["data"])
    assert asked.of("left", name, phase).split() == [f"{name}.json"]
    pattern = re.escape(words)
    for part, expression in PARTS.items():
        pattern = pattern.replace(part, expression)
    if result == "temporary":
        pattern += CUT_SHORT
    assert re.fullmatch(pattern, asked.words(name, phase)), (words, asked.words(name, phase))


def test_a_volume_opens_when_nobody_attacks(asked: Asked) -> None:
    opens(asked, GOOD, "honest")


@pytest.mark.parametrize("name", CASES)
def test_an_attack_is_denied_and_what_it_left_alone_opens_the_volume(asked: Asked, name: str) -> None:
    """The same volume, URL and TPM; with only the attacked thing as it should be, the key arrives."""
    case = CASES[name]
    if case.first:
        opens(asked, name, "first")
    is_denied(asked, name, "attacked", case.outcome, case.words)
    opens(asked, name, "restored")


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.outcome != DENIED])
def test_who_gives_no_answer_is_asked_again_or_waited_for(asked: Asked, name: str) -> None:
    """The driver's own deadline ends it, however long the broker could go on."""
    milliseconds = json.loads(asked.of("record", name, "attacked"))["ms"]
    assert 3000 < milliseconds < 60_000


@pytest.mark.parametrize("name", FORMATS)
def test_a_denied_guest_writes_nothing_to_a_blank_disk(asked: Asked, name: str) -> None:
    assert asked.of("note", name, "attacked") == ""
    assert asked.of("note", name, "restored") == "goldsmith volume 1 formatting"


def test_a_refused_attestation_key_is_shown_for_enrolment(asked: Asked) -> None:
    """It is the one of this TPM, which the operator had from a quote."""
    shown = base64.b64encode(asked.machine).decode()
    assert asked.words("unknown-key", "attacked").endswith(f" attestation key: {shown}")


def test_the_other_tpm_lacks_nothing_but_the_trust(asked: Asked) -> None:
    """Its quote has the right registers and nonce: once its key is enrolled, the attack succeeds."""
    opens(asked, "other-tpm", "trusted")
    released = [line for line in asked.audit if line["result"] == "released"]
    assert [line["volume"] for line in released if line["ak"] == "other"] == ["other-tpm"]


def test_a_boot_that_went_on_gets_no_key(asked: Asked) -> None:
    words = "the broker answers 403: PCR11: expected <digest>, got <digest>"
    is_denied(asked, GOOD, "later", DENIED, words)


def test_the_broker_logs_what_it_refuses(asked: Asked) -> None:
    refused = {
        (line["volume"], line["field"])
        for line in asked.audit
        if line["result"] == "refused" and "volume" in line
    }
    wanted = {
        "unknown-key": "ak",
        "other-tpm": "ak",
        "status-403": "volume",
        "status-404": "volume",
        "blank": "volume",
        "replayed-quote": "nonce",
        "stale-nonce": "nonce",
        "own-key": "nonce",
        GOOD: "PCR11",
    }
    assert refused == set(wanted.items())
    # A key that was released is in the log too.
    restored = {
        line["volume"] for line in asked.audit if line["result"] == "released" and line["ak"] == "machine"
    }
    assert restored == {GOOD, *CASES}


def test_no_byte_of_a_key_is_seen(asked: Asked) -> None:
    """Not on the console or in the kernel's log, not by who stands between, not in the broker's log."""
    for text in NEEDLES:
        assert text not in asked.run.text
        assert text not in asked.heard
    assert '"/v1/attest"' in asked.heard
    (log,) = asked.facts["log"]
    found, lines = map(int, log.split())
    assert (found, lines > 0) == (0, True)
    # Nor in arguments and environments of any process while the key arrived.
    (samples,) = asked.facts["samples"]
    taken, helpers, providers, leaks = map(int, samples.split())
    assert taken > 2
    assert helpers > 0
    assert providers > 0
    assert leaks == 0
    # What is looked for would have been found.
    assert asked.facts["needles"] == [str(len(NEEDLES))]
