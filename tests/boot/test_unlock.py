"""The unlock driver and its contract with providers, on a real kernel: one direct boot for all cases."""

from __future__ import annotations

import json
import re

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from .judge import Judged, boot_judge
from .providers import CASES, KEY
from .support import Boot, Boots

pytestmark = pytest.mark.boot

BOOTS: dict[str, Boot] = {"judge": boot_judge}


@pytest.fixture(scope="module")
def judged(boots: Boots) -> Judged:
    found: Judged = boots["judge"].result()
    return found


@pytest.mark.parametrize("name", CASES)
def test_the_driver_makes_of_its_providers_what_the_contract_says(judged: Judged, name: str) -> None:
    case = CASES[name]
    assert judged.of("exit", name) == [f"{case.code} {case.reason}"]
    (text,) = judged.of("record", name)
    record = json.loads(text)
    milliseconds = record.pop("ms")
    assert record == {"volume": name, "provider": case.provider, "result": case.result}
    assert 0 <= milliseconds < 60_000
    assert (name in judged.facts["opened"]) == (case.code == 0)
    # Neither the key nor the provider's words stay behind.
    assert judged.of("left", name) == [f"{name}.json"]


def test_a_provider_that_is_not_ready_is_asked_again_with_pauses(judged: Judged) -> None:
    for name in ("hesitates", "new-hesitates"):
        (text,) = judged.of("record", name)
        assert json.loads(text)["ms"] >= 3000
        asked = re.findall(
            f"goldsmith: unlock {name}: provider ([a-z]+) ended with ([0-9]+)", judged.run.text
        )
        assert asked == [("hesitates", "10"), ("hesitates", "10"), ("hesitates", "0")]


def test_who_comes_after_an_answer_is_not_asked(judged: Judged) -> None:
    asked = re.findall("goldsmith: unlock last: provider ([a-z]+) ended with ([0-9]+)", judged.run.text)
    assert asked == [("passes", "30"), ("denies", "20"), ("odd", "7"), ("gives", "0")]
    for name in ("broken", "new-denied", "new-busy"):
        assert f"goldsmith: unlock {name}: provider gives" not in judged.run.text


def test_a_provider_that_denied_is_not_asked_again(judged: Judged) -> None:
    asked = re.findall("goldsmith: unlock busy: provider ([a-z]+) ended with ([0-9]+)", judged.run.text)
    assert asked[:2] == [("denies", "20"), ("busy", "10")]
    assert set(asked[2:]) == {("busy", "10")}


def test_a_provider_that_hangs_ends_with_all_it_started(judged: Judged) -> None:
    assert "goldsmith: unlock hangs: provider hangs ended with 137" in judged.run.text
    assert "process" not in judged.facts


@pytest.mark.parametrize(("name", "start"), [("new-passes", 0), ("types", 1 << 20)])
def test_the_volume_key_is_exactly_what_the_provider_gave(judged: Judged, name: str, start: int) -> None:
    """Block 1 of a volume, decrypted by another implementation of AES-XTS.

    A volume that is new at every boot takes the whole partition, another one leaves its first MiB. The IV of
    plain64 counts sectors of 512 bytes.
    Spec: Linux Documentation/admin-guide/device-mapper/dm-crypt.rst, "iv_large_sectors".
    """
    # The last of its kind that was opened.
    assert [each for each in judged.facts["opened"] if CASES[each].format == CASES[name].format][-1] == name
    tweak = (8).to_bytes(16, "little")
    decryptor = Cipher(algorithms.AES(KEY.encode()), modes.XTS(tweak)).decryptor()
    plain = decryptor.update(judged.disk[start + 4096 : start + 8192]) + decryptor.finalize()
    assert plain == name.encode().ljust(4096, b"\0")


def test_no_byte_of_a_key_is_on_the_console(judged: Judged) -> None:
    """Not with everything logged, and not for the providers whose key is refused either."""
    assert b"goldsmith: unlock short: provider short ended with 0" in judged.run.console
    for part in ("nobody", "may-see"):
        assert part.encode() not in judged.run.console
        assert part.encode().hex() not in judged.run.text.replace(" ", "").lower()


def test_what_a_provider_says_is_shown_plain_and_short(judged: Judged) -> None:
    said = re.findall("goldsmith: unlock passes: wordy: (.*)", judged.run.text)
    assert said[:3] == ["[31mred[0m", "on standard output", "1"]
    assert len(said) == 40
    assert "\x1b" not in "".join(said)


def test_a_provider_sees_its_contract_and_nothing_else(judged: Judged) -> None:
    for name, purpose in (("curious", "open"), ("new-curious", "format")):
        said = "\n".join(re.findall(f"goldsmith: unlock {name}: curious: (.*)", judged.run.text))
        (variables,) = re.findall("variables: (.*)", said)
        contract = {
            "CONF",
            "DEVICE",
            "NONCE",
            "PURPOSE",
            "UUID",
            "VOLUME",
            "KIND",
            "ATTEMPT",
            "HEADER",
            "TOKEN",
            "SECONDS",
            "FOLDER",
        }
        assert set(variables.split()) - {"PWD", "SHLVL"} == {"PATH", *(f"UNLOCK_{word}" for word in contract)}
        pattern = f"nonce: [0-9a-f]{{64}} purpose: {purpose} kind: volume-key attempt: 1$"
        assert re.search(pattern, said, re.MULTILINE)
        # Only a volume with a header has them.
        assert re.search("header: '' token: ''$", said, re.MULTILINE)
        assert re.search("input: 0$", said, re.MULTILINE)
        # 10 is where the shell keeps the script that it reads.
        assert re.findall("descriptor: (.*)", said) == ["0", "1", "10", "2", "3"]


def test_providers_that_ship_say_what_they_lack(judged: Judged) -> None:
    for line in (
        "exec-absent: exec: /test/nothing is not a program of the initramfs; name one that is",
        "keyfile-absent: keyfile: /etc/unlock/keyfile-absent.d/keyfile is not in the initramfs; give",
        "passphrase: passphrase: nothing was typed",
        "new-recovery: passphrase: not the first provider of the volume, so it makes no new one",
    ):
        assert f"goldsmith: unlock {line}" in judged.run.text
    assert "passphrase for volume passphrase: " in judged.run.text
