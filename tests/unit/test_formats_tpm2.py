from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError
from recipes.formats.tpm2 import (
    HASHES,
    Alg,
    PcrSelection,
    Reader,
    pack_selections,
    read_selections,
    show_selections,
    sized,
)
from tests.unit.tpm2_vectors import mutations

SPEC = " [TCG TPM 2.0 Library part 2]"


def read(data: bytes) -> tuple[PcrSelection, ...]:
    reader = Reader(data, "selection")
    found = read_selections(reader)
    reader.finish()
    return found


@pytest.mark.parametrize(
    ("selections", "expected"),
    [
        ((PcrSelection(Alg.SHA256, (7, 11)),), "00000001 000b 03 800800"),
        ((PcrSelection(Alg.SHA256, (11,)),), "00000001 000b 03 000800"),
        ((PcrSelection(Alg.SHA384, (0, 23)),), "00000001 000c 03 010080"),
        (
            (PcrSelection(Alg.SHA512, (16,)), PcrSelection(Alg.SHA1, ())),
            "00000002 000d 03 000001 0004 03 000000",
        ),
        ((), "00000000"),
    ],
)
def test_selections(selections: tuple[PcrSelection, ...], expected: str) -> None:
    assert pack_selections(selections) == bytes.fromhex(expected)
    assert read(bytes.fromhex(expected)) == selections


def test_selections_for_people() -> None:
    selections = [PcrSelection(Alg.SHA1, (0, 7)), PcrSelection(Alg.SHA256, (11,))]
    assert show_selections(selections) == "sha1:0,7+sha256:11"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "selection: offset 0x0: pcrSelections count needs 4 bytes, 0 are left; the data is truncated"),
        ("00000005", "selection: offset 0x0: selection of 5 banks, at most 4 are known"),
        ("ffffffff", "selection: offset 0x0: selection of 4294967295 banks, at most 4 are known"),
        (
            "00000001000b",
            "selection: offset 0x6: sizeofSelect needs 1 bytes, 0 are left; the data is truncated",
        ),
        (
            "00000001001203000800",
            (
                "selection: offset 0x4: pcrSelection hash is 0x0012, expected 0x0004 (SHA1), "
                "0x000b (SHA256), 0x000c (SHA384), 0x000d (SHA512)"
            ),
        ),
        ("00000001000b020008", "selection: offset 0x4: sizeofSelect is 2, expected 3"),
        ("00000001000b0400080000", "selection: offset 0x4: sizeofSelect is 4, expected 3"),
        (
            "00000001000b030008",
            "selection: offset 0x7: pcrSelect needs 3 bytes, 2 are left; the data is truncated",
        ),
        ("00000002000b03000800000b03000800", "selection: offset 0xa: selection has bank sha256 twice"),
        ("00000001000b0300080000", "selection: offset 0xa: 1 bytes follow the structure, expected none"),
    ],
)
def test_bad_selections(data: str, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        read(bytes.fromhex(data))
    assert str(caught.value) == message + SPEC


@pytest.mark.parametrize(
    ("registers", "message"),
    [
        ((7, 4), "PCR selection: PCRs (7, 4) are not in ascending order, each once"),
        ((7, 7), "PCR selection: PCRs (7, 7) are not in ascending order, each once"),
        ((24,), "PCR selection: PCR 24: there is no such register; use 0 to 23"),
        ((-1,), "PCR selection: PCR -1: there is no such register; use 0 to 23"),
    ],
)
def test_selections_that_cannot_be(registers: tuple[int, ...], message: str) -> None:
    with pytest.raises(FormatError) as caught:
        PcrSelection(Alg.SHA256, registers)
    assert str(caught.value) == message


def test_a_bank_is_a_hash_and_comes_once() -> None:
    with pytest.raises(FormatError, match="bank AES is no hash; use sha256"):
        PcrSelection(Alg.AES, (1,))
    twice = [PcrSelection(Alg.SHA256, (1,)), PcrSelection(Alg.SHA256, (2,))]
    with pytest.raises(FormatError, match=r"sha256:1\+sha256:2 has a bank twice; name each bank once"):
        pack_selections(twice)


def test_a_sized_buffer_is_bounded() -> None:
    assert sized(b"ab") == b"\0\2ab"
    assert sized(bytes(0xFFFF))[:2] == b"\xff\xff"
    with pytest.raises(FormatError, match="65536 bytes, a TPM2B holds at most 65535"):
        sized(bytes(0x10000))
    with pytest.raises(FormatError, match="x of 9 bytes, at most 8 are expected"):
        Reader(b"\0\x09" + bytes(9), "bytes").sized("x", 8)


banks = st.lists(st.sampled_from(list(HASHES)), unique=True)
registers = st.sets(st.integers(0, 23)).map(lambda each: tuple(sorted(each)))


@settings(max_examples=60)
@given(
    banks.flatmap(lambda kinds: st.tuples(*(st.builds(PcrSelection, st.just(k), registers) for k in kinds)))
)
def test_selections_come_back(selections: tuple[PcrSelection, ...]) -> None:
    assert read(pack_selections(selections)) == selections


@settings(max_examples=150)
@given(mutations(bytes.fromhex("00000002000b03800800000c03000800")))
def test_only_format_errors_come_out(data: bytes) -> None:
    try:
        found = read(data)
    except FormatError:
        return
    assert pack_selections(found) == data
