from __future__ import annotations

import json
import re
from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError, VerifyError
from recipes.formats import luks2
from recipes.formats.luks2_json import (
    MAX_DEPTH,
    Array,
    Charset,
    NumberHole,
    Object,
    TextHole,
    capture,
    pieces,
)
from recipes.formats.luks2_model import (
    Argon2id,
    Expected,
    Integrity,
    KdfBounds,
    Pbkdf2,
    Token,
    TokenField,
    TokenShape,
)
from recipes.formats.luks2_template import Luks2BinaryHeader
from tests.unit import luks2_forgeries as forge

SEED = luks2.Seed(b"another seed, thirty-two bytes..")
BOUNDS = Expected(
    keyslots=(KdfBounds(Pbkdf2(1000), Pbkdf2(2000)),), digest=KdfBounds(Pbkdf2(1000), Pbkdf2(5000))
)


@pytest.fixture(scope="module")
def good() -> bytes:
    return forge.volume()


def test_the_binary_header_has_the_sizes_of_the_specification() -> None:
    """The structure in "Binary Header": one 4096-byte sector, its checksum 448 bytes in."""
    assert Luks2BinaryHeader.SIZE == 4096
    fields = {
        name: Luks2BinaryHeader.unpack(bytes(at) + b"\1" + bytes(4095 - at))
        for name, at in (
            ("sequence", 16),
            ("label", 24),
            ("checksum_algorithm", 72),
            ("salt", 104),
            ("uuid", 168),
            ("subsystem", 208),
            ("header_offset", 256),
            ("checksum", 448),
            ("reserved_0x200", 512),
        )
    }
    for name, header in fields.items():
        first = getattr(header, name)
        assert first == 1 << 56 if isinstance(first, int) else first[0] == 1, name


def test_a_volume_is_read_and_opened(good: bytes) -> None:
    header = luks2.read(good, forge.PLAIN, "disk")
    assert header.uuid == forge.VOLUME_UUID
    assert header.sequence == 1
    assert header.salts[0] != header.salts[1]
    assert [slot.kdf for slot in header.keyslots] == [Pbkdf2(1000)]
    assert luks2.open(good, header, forge.PASSPHRASE, "disk") == forge.VOLUME_KEY


def test_the_json_area_says_what_cryptsetup_says(good: bytes) -> None:
    """Member by member the text of a header that cryptsetup 2.6.1 wrote, with our salts in it."""
    value = forge.document(good)
    slot, digest = value["keyslots"]["0"]["kdf"]["salt"], value["digests"]["0"]
    text = (
        '{"keyslots":{"0":{"type":"luks2","key_size":64,"af":{"type":"luks1","stripes":4000,"hash":"sha256"},'
        '"area":{"type":"raw","offset":"32768","size":"258048","encryption":"aes-xts-plain64","key_size":64},'
        f'"kdf":{{"type":"pbkdf2","hash":"sha256","iterations":1000,"salt":"{slot}"}}}}}},"tokens":{{}},'
        '"segments":{"0":{"type":"crypt","offset":"16777216","size":"dynamic","iv_tweak":"0",'
        '"encryption":"aes-xts-plain64","sector_size":4096}},"digests":{"0":{"type":"pbkdf2","keyslots":["0"],'
        f'"segments":["0"],"hash":"sha256","iterations":1000,"salt":"{digest["salt"]}",'
        f'"digest":"{digest["digest"]}"}}}},"config":{{"json_size":"12288","keyslots_size":"16744448"}}}}'
    )
    assert good[4096:16384] == text.encode().ljust(12288, b"\0")
    assert good[20480:32768] == good[4096:16384]


def test_the_same_secrets_give_the_same_bytes(good: bytes) -> None:
    assert forge.volume() == good
    other = luks2.format(
        forge.PLAIN,
        uuid=forge.VOLUME_UUID,
        seed=SEED,
        volume_key=forge.VOLUME_KEY,
        passphrases=[forge.PASSPHRASE],
    )
    assert other[32768:] != good[32768:]


def test_argon2id_and_integrity() -> None:
    expected = Expected(
        keyslots=(KdfBounds(Argon2id(1, 64, 1)), KdfBounds(Argon2id(2, 128, 2))),
        integrity=Integrity.HMAC_SHA256,
        sector_size=512,
    )
    data = forge.volume(expected)
    assert (expected.key_size, expected.area_size) == (96, 385024)
    header = luks2.read(data, expected, "disk")
    assert header.expected == replace(expected, uuid=forge.VOLUME_UUID)
    assert luks2.open(data, header, forge.PASSPHRASE, "disk") == forge.VOLUME_KEY + b"\x77" * 32
    assert forge.document(data)["segments"]["0"]["integrity"] == {
        "type": "hmac(sha256)",
        "journal_encryption": "none",
        "journal_integrity": "none",
    }


@pytest.mark.parametrize("forgery", forge.FORGERIES, ids=lambda each: each.name)
def test_forged_headers_are_refused(good: bytes, forgery: forge.Forgery) -> None:
    luks2.read(good, forge.PLAIN, "disk")
    with pytest.raises(FormatError) as caught:
        luks2.read(forgery.make(good), forge.PLAIN, "disk")
    assert str(caught.value) == f"disk: {forgery.message}"


def test_a_forgery_that_changes_nothing_is_read(good: bytes) -> None:
    """So what is refused above is refused for what was forged."""
    assert luks2.read(forge.edited(good, lambda value: None), forge.PLAIN, "disk") == luks2.read(
        good, forge.PLAIN, "disk"
    )


def test_members_may_come_in_another_order(good: bytes) -> None:
    text = json.dumps(forge.document(good), sort_keys=True, indent=1).encode()
    assert luks2.read(forge.with_text(good, text), forge.PLAIN, "disk") == luks2.read(
        good, forge.PLAIN, "disk"
    )


def test_costs_within_bounds(good: bytes) -> None:
    for count in (1000, 1999, 2000):
        data = forge.put("keyslots.0.kdf.iterations", count)(good)
        assert luks2.read(data, BOUNDS, "disk").keyslots[0].kdf == Pbkdf2(count)
    for wrong in (999, 2001, "1000"):
        data = forge.put("keyslots.0.kdf.iterations", wrong)(good)
        with pytest.raises(FormatError) as caught:
            luks2.read(data, BOUNDS, "disk")
        wanted = f"expected a whole number from 1000 to 2000{forge.ADVICE}"
        assert str(caught.value) == f"disk: keyslots.0.kdf.iterations is {wrong!r}, {wanted}"


def test_only_the_expected_uuid(good: bytes) -> None:
    assert luks2.read(good, replace(forge.PLAIN, uuid=forge.VOLUME_UUID), "disk")
    with pytest.raises(FormatError) as caught:
        luks2.read(good, replace(forge.PLAIN, uuid=UUID(int=1)), "disk")
    what = f"uuid is {forge.VOLUME_UUID}, expected {UUID(int=1)}"
    assert str(caught.value) == f"disk: offset 0x0: primary header: {what}{forge.ADVICE}"


def test_the_header_must_have_the_token_its_provider_owns(good: bytes) -> None:
    owned = forge.volume(forge.OWNED)
    header = luks2.read(owned, forge.OWNED, "disk")
    assert header.tokens == (Token(forge.SHAPE, ("A" * 64,)),)
    with pytest.raises(FormatError, match=re.escape("disk: tokens.0 is missing; do not open this volume")):
        luks2.read(good, forge.OWNED, "disk")
    with pytest.raises(
        FormatError, match=re.escape("disk: tokens.0 is not expected; do not open this volume")
    ):
        luks2.read(owned, forge.PLAIN, "disk")
    other = forge.put("tokens.0.pcrs", [7, 16])(owned)
    with pytest.raises(FormatError, match=re.escape("tokens.0.pcrs[1] is 16, expected 11")):
        luks2.read(other, forge.OWNED, "disk")


def test_tokens_are_set_and_key_slots_added(good: bytes) -> None:
    header = luks2.read(good, forge.PLAIN, "disk")
    data = luks2.set_tokens(good, header, [Token(forge.SHAPE, ("B" * 64,))])
    header = luks2.read(data, forge.OWNED, "disk")
    assert header.sequence == 2
    key = luks2.open(data, header, forge.PASSPHRASE, "disk")
    data = luks2.add_keyslot(data, header, Argon2id(1, 64, 1), volume_key=key, passphrase=b"two", seed=SEED)
    expected = forge.OWNED.with_keyslot(KdfBounds(Argon2id(1, 64, 1)))
    header = luks2.read(data, expected, "disk")
    assert header.sequence == 3
    for passphrase in (forge.PASSPHRASE, b"two"):
        assert luks2.open(data, header, passphrase, "disk") == forge.VOLUME_KEY
    with pytest.raises(FormatError):
        luks2.read(data, forge.OWNED, "disk")


def test_a_wrong_passphrase_opens_nothing(good: bytes) -> None:
    header = luks2.read(good, forge.PLAIN, "disk")
    for passphrase in (b"", b"wrong-key-entirely", forge.PASSPHRASE + b"\n"):
        with pytest.raises(VerifyError) as caught:
            luks2.open(good, header, passphrase, "disk")
        assert str(caught.value) == "disk: the passphrase opens none of 1 key slots; try another"


def test_a_changed_area_opens_nothing(good: bytes) -> None:
    header = luks2.read(good, forge.PLAIN, "disk")
    for at in (32768, 32768 + 255999):
        changed = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
        with pytest.raises(VerifyError):
            luks2.open(changed, header, forge.PASSPHRASE, "disk")


def test_add_keyslot_wants_the_right_key(good: bytes) -> None:
    header = luks2.read(good, forge.PLAIN, "disk")
    with pytest.raises(VerifyError) as caught:
        luks2.add_keyslot(good, header, Pbkdf2(), volume_key=forge.ATTACKER_KEY, passphrase=b"two", seed=SEED)
    assert str(caught.value) == "luks2 digest: this is not the volume key of this header; open it first"


def test_no_secret_is_in_any_text(good: bytes) -> None:
    header = luks2.read(good, forge.PLAIN, "disk")
    with pytest.raises(VerifyError) as caught:
        luks2.open(good, header, b"some secret words", "disk")
    shown = [repr(SEED), repr(header), str(caught.value), repr(forge.OWNED)]
    for secret in (SEED.secret, b"some secret words", forge.VOLUME_KEY, forge.PASSPHRASE):
        assert not any(repr(secret)[2:-1] in text or secret.hex() in text for text in shown)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"volume_key": bytes(32)}, "luks2 volume key: 32 bytes, 64 are needed"),
        ({"passphrases": []}, "luks2 passphrases: 0 for 1 key slots"),
        ({"passphrases": [b"a", b"b"]}, "luks2 passphrases: 2 for 1 key slots"),
        ({"tokens": [["A" * 64]]}, "luks2 tokens: 1, expected 0"),
        ({"passphrases": [bytes((8 << 20) + 1)]}, "luks2 passphrase: 8388609 bytes; at most 8388608"),
        ({"expected": forge.OWNED}, "luks2 tokens: 0, expected 1"),
        ({"expected": forge.OWNED, "tokens": [[]]}, "luks2 token goldsmith-tpm2: 0 values for 1 fields"),
        (
            {"expected": forge.OWNED, "tokens": [["A" * 63]]},
            "luks2 header: tokens.0.blob is not 64 characters of base64",
        ),
        (
            {"expected": forge.OWNED, "tokens": [["A" * 63 + '"']]},
            "luks2 header: tokens.0.blob is not 64 characters of base64",
        ),
        (
            {"expected": replace(forge.PLAIN, uuid=UUID(int=1))},
            f"luks2 uuid: {forge.VOLUME_UUID} is not the expected {UUID(int=1)}",
        ),
        ({"expected": BOUNDS, "uuid": UUID(int=3)}, None),
    ],
)
def test_what_cannot_be_formatted(changes: dict[str, object], message: str | None) -> None:
    arguments: dict[str, object] = {
        "expected": forge.PLAIN,
        "uuid": forge.VOLUME_UUID,
        "seed": SEED,
        "volume_key": forge.VOLUME_KEY,
        "passphrases": [forge.PASSPHRASE],
        **changes,
    }
    expected = arguments.pop("expected")
    if message is None:  # the lowest costs are taken
        assert luks2.format(expected, **arguments)  # type: ignore[arg-type]
        return
    with pytest.raises(FormatError) as caught:
        luks2.format(expected, **arguments)  # type: ignore[arg-type]
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: luks2.Seed(b"short"), "luks2 seed: 5 bytes, at least 32 are needed"),
        (lambda: Argon2id(0), "argon2id time: 0 is not within 1 to 4294967295"),
        (lambda: Argon2id(1, 15, 2), "argon2id memory: 15 is not within 16 to 4194304"),
        (lambda: Argon2id(1, 1 << 23), "argon2id memory: 8388608 is not within 8 to 4194304"),
        (lambda: Argon2id(1, 64, 5), "argon2id cpus: 5 is not within 1 to 4"),
        (lambda: Pbkdf2(999), "pbkdf2 iterations: 999 is not within 1000 to 4294967295"),
        (
            lambda: KdfBounds(Pbkdf2(2000), Pbkdf2(1000)),
            "luks2 kdf bounds: Pbkdf2(iterations=2000) to Pbkdf2(iterations=1000) is no range",
        ),
        (
            lambda: KdfBounds(Pbkdf2(), Argon2id()),
            "luks2 kdf bounds: Pbkdf2(iterations=1000) to Argon2id(time=4, memory=65536, cpus=1) is no range",
        ),
        (lambda: Expected(keyslots=()), "luks2 key slots: 0 is not within 1 to 8"),
        (lambda: Expected(sector_size=1024), "luks2 sector size: 1024 bytes; use 512 or 4096"),
        (
            lambda: Expected(digest=KdfBounds(Argon2id())),
            "luks2 digest: Argon2id(time=4, memory=65536, cpus=1) cannot make one; use PBKDF2",
        ),
        (
            lambda: Expected(data_offset=4096),
            "luks2 data offset: 4096 bytes, expected a multiple of 4096 from 290816 on",
        ),
        (
            lambda: Expected(tokens=(TokenShape("x", (1,)),)),
            "luks2 token x: key slots [1], the header has 1",
        ),
        (
            lambda: TokenShape("x", (0,), (TokenField("type", "y"),)),
            "luks2 token x: a member is named twice: type, keyslots, type",
        ),
        (lambda: TokenField("x"), "luks2 token field x size: 0 is not within 1 to 8192"),
        (
            lambda: TokenField("x", size=1, charset=Charset.BINARY),
            "luks2 token field x: binary is no alphabet of JSON text; use base64 or hex",
        ),
        (
            lambda: list(pieces(Object((('a"', 1),)))),
            "luks2 header: 'a\"' cannot be written without escapes; use plain ASCII",
        ),
    ],
)
def test_what_no_header_can_say(make: object, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        make()  # type: ignore[operator]
    assert str(caught.value) == message


def test_tokens_must_fit_the_json_area() -> None:
    shape = TokenShape("x", (), (TokenField("a", size=8192), TokenField("b", size=8000)))
    with pytest.raises(
        FormatError, match=r"^luks2 header: 169\d\d bytes of JSON, 12287 fit; shorten the tokens$"
    ):
        luks2.format(
            replace(forge.PLAIN, tokens=(shape,)),
            uuid=forge.VOLUME_UUID,
            seed=SEED,
            volume_key=forge.VOLUME_KEY,
            passphrases=[b"x"],
            tokens=[["A" * 8192, "A" * 8000]],
        )


def test_the_sequence_number_ends(good: bytes) -> None:
    header = replace(luks2.read(good, forge.PLAIN, "disk"), sequence=0xFFFF)
    assert luks2.read(luks2.pack(header, [good[32768:]]), forge.PLAIN, "disk").sequence == 0xFFFF
    with pytest.raises(FormatError) as caught:
        luks2.set_tokens(good, header, [])
    assert str(caught.value) == "luks2 sequence number: 65536 is over 65535; format the volume anew"


_LEAVES = st.one_of(
    st.text("abc-09 /", max_size=8),
    st.integers(0, 10**15),
    st.booleans(),
    st.builds(lambda size: TextHole(f"t{size}", size, Charset.HEX), st.integers(0, 9)),
)
_PATTERNS = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: Array(tuple(items))),
        st.dictionaries(st.text("xyz", min_size=1, max_size=3), inner, max_size=3).map(
            lambda members: Object(tuple(members.items()))
        ),
    ),
    max_leaves=8,
)


@settings(max_examples=150)
@given(_PATTERNS)
def test_canonical_bytes_are_what_json_writes(pattern: Object) -> None:
    """The foreign writer is json's; what it wrote fits the pattern it came from."""
    text = b"".join(
        b"0" * piece.hole.size if isinstance(piece.hole, TextHole) else piece.data
        for piece in pieces(pattern)
    )
    value = json.loads(text)
    assert json.dumps(value, separators=(",", ":")).encode() == text
    capture(pattern, value, "x")


def test_a_range_takes_no_truth_value() -> None:
    assert capture(NumberHole("n", 0, 1), 1, "x") == {"n": "1"}
    with pytest.raises(FormatError, match="is true, expected a whole number from 0 to 1"):
        capture(NumberHole("n", 0, 1), True, "x")


@settings(max_examples=150)
@given(
    st.lists(st.tuples(st.integers(0, 32767), st.integers(0, 255)), min_size=1, max_size=4),
    st.booleans(),
    st.integers(0, 290816),
)
def test_mutations_raise_format_errors_only(changes: list[tuple[int, int]], cut: bool, size: int) -> None:
    data = bytearray(_GOOD)
    for offset, byte in changes:
        # half of them where there is text
        data[offset % 1100 + 4096 if offset % 2 else offset] = byte
    forged = forge.resealed(bytes(data))
    forged = forged[:size] if cut else forged
    try:
        luks2.read(forged, forge.PLAIN, "disk")
    except FormatError as error:
        assert str(error).startswith("disk: ")


@settings(max_examples=150)
@given(st.one_of(st.binary(max_size=3000), st.text('{}[]",:\\u0019eE+-.ntf "', max_size=400).map(str.encode)))
def test_random_text_raises_format_errors_only(text: bytes) -> None:
    for forged in (forge.with_text(_GOOD, text), forge.with_text(_GOOD, b"{" + text + b"}")):
        with pytest.raises(FormatError):
            luks2.read(forged, forge.PLAIN, "disk")


def test_depth_is_counted_outside_strings(good: bytes) -> None:
    brackets = "[" * 40
    data = forge.put("segments.0.size", brackets + '\\"' + brackets)(good)
    with pytest.raises(FormatError, match=r"segments\.0\.size is "):
        luks2.read(data, forge.PLAIN, "disk")
    inner = b'{"a":' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}"
    with pytest.raises(FormatError, match=r"disk: a is not expected"):
        luks2.read(forge.with_text(good, inner), forge.PLAIN, "disk")


_GOOD = forge.volume()
