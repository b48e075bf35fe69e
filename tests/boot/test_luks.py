"""Encrypted volumes as a host may leave them, on a real kernel: one direct boot for all cases."""

from __future__ import annotations

import base64
import json
import re

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from tests.unit import luks2_forgeries as forge

from .luks_volumes import DECOY, KEYS, TEXT, TYPED, Tried, boot_luks, on_disk, operator, traces
from .support import Boot, Boots

pytestmark = pytest.mark.boot

BOOTS: dict[str, Boot] = {"luks": boot_luks}
SPIED = "20 denied by spy(20); this machine or image is not the one the key is for"
ANOTHER = "this disk is not the one that the key is for"
STRANGE = "is not of the image's form"
OTHER_FORM = "the host has changed it, or it is another disk"
ATTACH = "attach this machine's own disk"
WIPED = f"the host has wiped it; {ATTACH}, or make the provider forget it to begin anew"


@pytest.fixture(scope="module")
def tried(boots: Boots) -> Tried:
    found: Tried = boots["luks"].result()
    return found


def test_the_right_header_opens_and_its_data_are_readable(tried: Tried) -> None:
    assert tried.of("exit", "good") == "0 "
    record = json.loads(tried.of("record", "good"))
    assert (record["provider"], record["result"]) == ("keyfile", "opened")
    assert tried.of("left", "good") == "good.json"
    assert tried.of("data", "first") == TEXT.decode()


@pytest.mark.parametrize("name", on_disk())
def test_a_forged_header_is_refused(tried: Tried, name: str) -> None:
    """On the very volume whose own header is asked for a key before and after."""
    assert (tried.of("exit", "control"), tried.of("exit", "restored")) == (SPIED, SPIED)
    assert tried.of("data", "again") == TEXT.decode()
    found = tried.of("forged", name)
    if name == "nothing but zeros":
        assert found == f"20 /dev/vda1 is blank and the image never formats it; {ATTACH}"
    else:
        _, fault = on_disk()[name]
        assert found == f"20 the header on /dev/vda1 {STRANGE}: {fault}; {OTHER_FORM}"


def test_stock_opens_the_null_cipher_that_is_refused_here(tried: Tried) -> None:
    """CVE-2025-59054: any passphrase will do, and the attacker reads what the guest writes."""
    assert tried.facts["stock"] == ["open 0"]
    cipher = Cipher(algorithms.AES(forge.ATTACKER_KEY), modes.XTS((8).to_bytes(16, "little")))
    decryptor = cipher.decryptor()
    plain = decryptor.update(tried.stolen) + decryptor.finalize()
    assert plain == b"what the guest writes".ljust(4096, b"\0")
    # The same disk, and the right key.
    assert tried.of("exit", "null").startswith(f"20 the header on /dev/vda1 {STRANGE}: ")


@pytest.mark.parametrize("name", ["wrong", "swapped"])
def test_a_key_that_opens_nothing_is_refused(tried: Tried, name: str) -> None:
    """Another key; and a disk of the attacker's, whose header is of the right form."""
    assert tried.of("exit", name) == f"20 the key opens no key slot: keyfile(wrong key); {ANOTHER}"
    assert tried.of("exit", "good") == "0 "


def test_who_typed_a_wrong_passphrase_is_asked_again(tried: Tried) -> None:
    assert tried.of("exit", "typed") == "0 "
    said = re.findall("goldsmith: unlock typed: (.*)", tried.run.text)
    assert said == [
        "provider types ended with 11",
        "the key of types opens no key slot",
        "provider types ended with 11",
    ]


def test_a_passphrase_typed_on_the_console_opens_the_volume(tried: Tried) -> None:
    """A wrong one and a short one are asked for again."""
    assert tried.of("exit", "asked") == "0 "
    record = json.loads(tried.of("record", "asked"))
    assert (record["provider"], record["result"]) == ("passphrase", "opened")
    assert tried.of("data", "asked") == TEXT.decode()
    assert re.findall("goldsmith: unlock asked: (.*)", tried.run.text) == [
        "provider passphrase ended with 11",
        "the key of passphrase opens no key slot",
        "provider passphrase ended with 10",
        "provider passphrase ended with 11",
    ]
    assert "this passphrase is too short to be the one\n" in tried.run.text


def test_a_passphrase_is_not_shown_while_it_is_typed(tried: Tried) -> None:
    """It was typed once the echo was off, which is on again for who comes next."""
    shown = re.findall("passphrase for volume asked: (.*)", tried.run.text)
    assert shown == [f"TYPE {number}" for number in range(1, 1 + len(TYPED))]
    assert tried.facts["echo"] == ["1"]
    for line in TYPED:
        assert line not in tried.run.text
        assert not any(trace in tried.kept.seen for trace in traces(line.encode()))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("never", f"/dev/vda3 is blank and the image never formats it; {ATTACH}"),
        (
            "dirty",
            f"the header on /dev/vda4 {STRANGE}: bytes 0 to 21, in the primary binary header; {OTHER_FORM}",
        ),
        ("short", "/dev/vda5 has only 16384 sectors, and the data begin at 32768; attach the whole disk"),
        ("empty", "/dev/vda6 has only 32768 sectors, and the data begin at 32768; attach the whole disk"),
        (
            "wiped",
            f"/dev/vda3 is blank, and provider remembers knows that it was formatted: {WIPED}",
        ),
        ("strange-plain", f"/dev/vda9 is no volume of this image, and not blank; {ATTACH}"),
    ],
)
def test_a_disk_that_may_not_be_formatted(tried: Tried, name: str, reason: str) -> None:
    assert tried.of("exit", name) == f"20 {reason}"


def test_a_new_volume_is_not_on_the_disk_until_it_is_committed(tried: Tried) -> None:
    assert tried.of("exit", "formatted") == "0 "
    assert json.loads(tried.of("record", "formatted"))["result"] == "formatted"
    assert tried.of("left", "formatted") == "fresh.header fresh.json"
    assert tried.of("state", "formatted") == "0 goldsmith volume 1 formatting"


@pytest.mark.parametrize(
    ("name", "purpose"),
    [
        ("unwritten", "format"),
        ("unwritten-fresh", "format"),
        # Power cuts: behind the format, behind the first and behind the second write of the header.
        ("uncommitted", "format"),
        ("behind", "format"),
        ("written", "open"),
        # The same where a provider has to remember the volume, and then behind that.
        ("unremembered", "format"),
        ("remembered", "open"),
        ("cut-plain", "format"),
    ],
)
def test_a_power_cut_on_the_way_is_recovered_from(tried: Tried, name: str, purpose: str) -> None:
    kind = "volume-key" if name == "cut-plain" else "passphrase"
    assert tried.of("purpose", name) == f"{purpose} {kind}"


def test_what_a_power_cut_left_out_is_done_when_the_volume_is_opened(tried: Tried) -> None:
    assert re.fullmatch("[0-9]+ goldsmith volume 1 formatting", tried.of("state", "written"))
    assert tried.of("exit", "settled") == "0 "
    assert re.fullmatch("[0-9]+ ", tried.of("state", "settled"))


def test_a_volume_is_committed_and_remembered(tried: Tried) -> None:
    """The provider opens what it was told to remember, and no other volume."""
    assert tried.of("commit", "fresh") == "0 "
    assert "goldsmith: unlock fresh: provider remembers, commit: ended with 0" in tried.run.text
    assert re.fullmatch("[0-9]+ ", tried.of("state", "committed"))
    assert tried.of("exit", "settled") == "0 "


def test_a_disk_that_is_blank_is_a_warning(tried: Tried) -> None:
    warning = "is BLANK and is formatted; if it ever held data, the host has wiped them"
    assert f"goldsmith: unlock cut: /dev/vda3 {warning}" in tried.run.text
    assert f"goldsmith: unlock cut-plain: /dev/vda9 {warning}" in tried.run.text
    # The TPM can be made to forget, so it is said there too.
    assert f"goldsmith: unlock fresh: /dev/vda3 {warning}" in tried.run.text


def test_the_key_of_a_new_volume_is_escrowed(tried: Tried) -> None:
    (line,) = re.findall("goldsmith: escrow fresh: RSA-OAEP-SHA256:(.*)", tried.run.text)
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    assert operator().decrypt(base64.b64decode(line, validate=True), oaep) == KEYS["fresh"]


def test_what_an_operator_has_to_see_is_on_a_quiet_console(tried: Tried) -> None:
    """The console had loglevel=4 until the commit, and so nothing else: not how the provider ended."""
    assert tried.of("exit", "formatted") == "0 "
    warning, escrow, commit, *_ = re.findall("goldsmith: ([a-z]+ fresh: .*)", tried.run.text)
    assert warning.startswith("unlock fresh: /dev/vda3 is BLANK and is formatted")
    assert escrow.startswith("escrow fresh: RSA-OAEP-SHA256:")
    assert commit == "unlock fresh: provider remembers, commit: ended with 0"


def test_a_token_goes_into_the_header_and_comes_back(tried: Tried) -> None:
    assert tried.of("exit", "token") == "0 "
    assert tried.of("commit", "token") == "0 "
    assert tried.of("left", "committed") == "token.json"
    assert tried.of("exit", "tokened") == "0 "


def test_a_token_of_another_size_is_not_written(tried: Tried) -> None:
    fault = f"the new header {STRANGE}: bytes [0-9]+ to [0-9]+, in the primary JSON area"
    advice = "the token of provider unfits or the costs do not fit the template, build the image again"
    assert re.fullmatch(f"40 {fault}; {advice}", tried.of("exit", "unfitting"))


def test_a_sealed_volume_opens_with_the_tpm_that_formatted_it(tried: Tried) -> None:
    """Wherever the power was cut on the way: before the TPM remembers it, it is made again, then opened."""
    for name, result in {
        "new-sealed": "formatted",
        "unremembered-sealed": "formatted",
        "sealed": "opened",
        "settled-sealed": "opened",
        "new-theirs": "formatted",
        "theirs": "opened",
    }.items():
        assert tried.of("exit", name) == "0 ", name
        assert json.loads(tried.of("record", name))["result"] == result
    assert (tried.of("commit", "sealed"), tried.of("commit", "theirs")) == ("0 ", "0 ")
    assert tried.of("note", "settled-sealed") == ""


@pytest.mark.parametrize("name", ["exchanged", "exchanged-noted", "forgotten"])
def test_another_volume_of_the_same_tpm_and_policy_is_refused(tried: Tried, name: str) -> None:
    """Its header has the form of the image, and its key unseals; but the TPM remembers another one."""
    said = "20 denied by tpm2(20); this machine or image is not the one the key is for"
    assert tried.of("exit", name) == said
    words = (
        "goldsmith: unlock sealed: tpm2: tpm2: this is not the volume that this TPM formatted: mark 0x1800abc"
    )
    assert tried.run.text.count(f"{words} is of another one; the disk was exchanged") == 3


def test_a_sealed_volume_opens_only_while_its_register_holds_what_it_held(tried: Tried) -> None:
    """Another register may change. Nothing but this one changes between the two."""
    for register in (8, 7):
        assert re.fullmatch("0 8002.{8}00000000.*", tried.of("extended", str(register)))
    assert tried.of("exit", "beside") == "0 "
    assert json.loads(tried.of("record", "beside"))["result"] == "opened"
    said = "20 denied by tpm2(20); this machine or image is not the one the key is for"
    assert tried.of("exit", "changed") == said
    words = "sha256:7 does not hold what the key was sealed to; boot what it was sealed for"
    assert tried.run.text.count(f"goldsmith: unlock theirs: tpm2: {words}\n") == 1
    # With that digest in the header it is none of the TPM's, whose mark was made under the other policy.
    assert tried.of("exit", "rewritten") == said
    said = (
        "tpm2: this is not the volume that this TPM formatted: the policy and attributes 0x[0-9a-f]+ of mark"
    )
    assert len(re.findall(f"goldsmith: unlock theirs: tpm2: {said} 0x1800abd", tried.run.text)) == 1


def test_a_sealed_volume_that_was_wiped_is_not_made_again(tried: Tried) -> None:
    said = f"20 /dev/vda10 is blank, and provider tpm2 knows that it was formatted: {WIPED}"
    assert tried.of("exit", "wiped-sealed") == said


def test_a_volume_is_made_filled_and_kept(tried: Tried) -> None:
    assert (tried.of("booted", "tagged"), tried.of("booted", "again")) == ("0", "0")
    options = "rw,nosuid,nodev,relatime,errors=remount-ro"
    assert tried.facts["mounted"] == [f"/dev/mapper/tagged /sysroot/var ext4 {options} 0 0"]
    assert tried.facts["copied"] == ["skeleton 750"]
    assert tried.facts["kept"] == ["kept"]
    assert re.search(r"EXT4-fs \(dm-1\): mounted filesystem .* with ordered data mode", tried.run.text)


def test_the_root_file_system_can_be_such_a_volume(tried: Tried) -> None:
    assert tried.of("booted", "root") == "0"
    assert tried.facts["root"] == ["kept /dev/mapper/root /sysroot ext4 rw,relatime,errors=remount-ro 0 0"]


def test_a_changed_byte_of_the_ciphertext_is_a_read_error(tried: Tried) -> None:
    """The first block is readable, the last one is not; with the byte as it was, it is."""
    assert tried.of("integrity", "flipped") == "4096 "
    assert tried.of("integrity", "mended") == "4096 behind"


def test_a_headerless_volume_is_made_and_kept(tried: Tried) -> None:
    assert (tried.of("booted", "plain"), tried.of("booted", "plain-again")) == ("0", "0")
    assert tried.facts["plain"] == ["kept goldsmith volume 1 formatted"]


def test_a_wrong_volume_key_opens_no_file_system(tried: Tried) -> None:
    assert tried.of("booted", "plain-wrong") == "1"
    assert tried.facts["died"] == [
        f"plain-wrong volume plain-wrong: the key opens no file system on /dev/vda9; {ANOTHER}"
    ]


def test_no_byte_of_a_key_is_seen(tried: Tried) -> None:
    """Not on the console, and not in arguments, environments and key names of any process meanwhile."""
    for key in KEYS.values():
        for trace in traces(key):
            assert trace not in tried.run.console
    (samples,) = tried.facts["samples"]
    taken, formatting, asking, leaks = map(int, samples.split())
    # cryptsetup and a provider were seen at work.
    assert taken > 10
    assert formatting > 0
    assert asking > 0
    assert leaks == 0
    # What is looked for would have been found.
    assert tried.facts["needles"] == ["1"]


def test_no_byte_of_a_key_that_the_guest_has_drawn_is_seen(tried: Tried) -> None:
    """What tpm2 and ephemeral give, and the key of a volume: not in processes, the log, or on the console."""
    assert (tried.of("exit", "unremembered-sealed"), tried.of("exit", "ephemeral")) == ("0 ", "0 ")
    # The secret opens the volume, and there is another key behind it.
    assert tried.facts["held"] == ["0 44 64"]
    assert [len(key) for key in tried.kept.keys] == [44, 32, 64, 64]
    assert all(len(set(key)) > 16 for key in tried.kept.keys)
    plain = tried.run.text.replace(" ", "").lower().encode()
    for key in tried.kept.keys:
        for trace in traces(key):
            assert trace not in tried.kept.seen
            assert trace not in tried.run.console
        assert key[:12].hex().encode() not in plain
    # Providers and cryptsetup were seen at work, the log was there, and what is looked for is found.
    for words in (b"UNLOCK_PURPOSE=format\n", b"UNLOCK_PURPOSE=open\n", b"\nluksFormat\n"):
        assert words in tried.kept.seen
    for volume in ("sealed: provider tpm2", "ephemeral: provider ephemeral"):
        assert f"goldsmith: unlock {volume} ended with 0".encode() in tried.kept.seen
    assert traces(DECOY)[0] in tried.kept.seen
