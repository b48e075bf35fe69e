from __future__ import annotations

import heapq
import io
import itertools
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.formats import deflate
from recipes.formats.deflate import CHUNK, HISTORY, compress, compress_chunk
from recipes.units import KIB
from tests.support import ROOT

FIBONACCI = [1, 1]
while len(FIBONACCI) < 40:
    FIBONACCI.append(FIBONACCI[-1] + FIBONACCI[-2])


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def inflate(stream: bytes, history: bytes = b"") -> bytes:
    """What zlib makes of a whole stream with nothing behind it."""
    reader = zlib.decompressobj(-zlib.MAX_WBITS, zdict=history)
    data = reader.decompress(stream)
    assert reader.eof
    assert reader.unused_data == b""
    return data


def squeezed(data: bytes) -> int:
    """Size of the stream, which is right."""
    stream = deflate.deflate(data)
    assert inflate(stream) == data
    return len(stream)


def pieces(data: bytes) -> list[bytes]:
    return [data[start : start + CHUNK] for start in range(0, len(data), CHUNK)]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"a",
        b"ab",
        b"abc",
        b"abcd",
        b"abcdabc",
        b"abcabcabc",
        bytes(range(256)),
        bytes(range(256)) * 3,
        b"\xff" * (CHUNK - 1),
        b"\xff" * CHUNK,
        b"\xff" * (CHUNK + 1),
        b"ab" * CHUNK,
        b"abc" * 1000 + noise(5000) + b"abc" * 1000,
        b"\0" * 70000 + noise(1000) + b"\0" * 70000 + noise(100, 2),
    ],
)
def test_zlib_unpacks(data: bytes) -> None:
    squeezed(data)


@pytest.mark.parametrize("number", [*range(1, 10), *range(255, 268), *range(515, 524), 773, 774, 775])
@pytest.mark.parametrize("period", [1, 2, 3, 5])
def test_runs_of_every_length(number: int, period: int) -> None:
    run = (b"\x01\x02\x03\x04\x05"[:period] * number)[:number]
    for data in (run, b"x" + run, run + b"x", b"xy" + run + b"yx"):
        squeezed(data)


def test_a_run_is_matches_of_the_full_length() -> None:
    """One block: its header, then 258 bytes for every bit or two."""
    assert squeezed(b"\0" * CHUNK) < 60 + CHUNK // 258 // 4


def test_five_megabytes_of_nothing() -> None:
    assert squeezed(bytes(5_000_000)) < 6000


def test_noise_is_stored() -> None:
    data = noise(1_000_000)
    assert len(data) < squeezed(data) < len(data) + 1000


def test_noise_in_the_middle_is_stored_and_text_behind_it_is_searched_again() -> None:
    """What noise costs the text is at most the stretch behind it that is not looked at."""
    text = b"".join(b"line %d of some text\n" % line for line in range(3000))
    parts = 2 * squeezed(text) + squeezed(noise(60_000))
    assert squeezed(text + noise(60_000) + text) < parts + 6 * KIB


@pytest.mark.parametrize(
    ("distance", "found"), [(1, True), (4, True), (32767, True), (32768, True), (32769, False)]
)
def test_the_window_reaches_just_so_far(distance: int, found: bool) -> None:
    """zlib refuses a stream that points further back than 32768 bytes."""
    data = noise(distance)
    data = (data * (1 + 40_000 // distance))[: max(2 * distance, 40_000)]
    assert (squeezed(data) < distance + 2000) == found


@pytest.mark.parametrize("distance", [32767, 32768, 32769])
def test_a_chunk_points_into_the_one_before(distance: int) -> None:
    repeated = noise(distance, 2)
    data = noise(CHUNK - distance) + repeated + repeated
    assert (squeezed(data) < CHUNK + 2000) == (distance <= HISTORY)


@pytest.mark.parametrize("size", [0, 1, 3, 4, 100, HISTORY - 1, HISTORY])
def test_history_is_a_dictionary(size: int) -> None:
    history = noise(size)
    data = history[-2000:] * 2 + b"something else"
    assert inflate(compress_chunk(history, data) + deflate.END, history) == data


def test_every_distance_and_length_symbol() -> None:
    """Copies from all over the window, of all lengths, between bytes that match nothing."""
    chance = random.Random(4)
    data = bytearray(noise(HISTORY))
    for length in range(3, 300):
        for _ in range(2):
            back = min(chance.randrange(length, 1 << chance.randrange(9, 16)), HISTORY)
            data += data[-back:][:length] + chance.randbytes(2)
    squeezed(bytes(data))


def test_codes_that_would_be_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fibonacci numbers make the deepest tree: 23 symbols, 22 levels, where 15 are allowed."""
    data = b"".join(bytes([symbol]) * number for symbol, number in enumerate(FIBONACCI[:22]))
    tokens = [*data, 256]
    monkeypatch.setattr(deflate, "_blocks", lambda *_: iter([(tokens, len(data))]))
    assert squeezed(data) < len(data) // 2


def lengths_of(weights: list[int], longest: int) -> list[int]:
    lengths = deflate._code_lengths(weights, longest)
    assert len(lengths) == len(weights)
    assert sum(1 << (longest - length) for length in lengths if length) == 1 << longest, "a complete code"
    assert max(lengths) <= longest
    if sum(map(bool, weights)) >= 2:
        assert [bool(length) for length in lengths] == [bool(weight) for weight in weights]
        used = sorted(zip(weights, lengths, strict=True))
        assert all(b >= d for (a, b), (c, d) in itertools.combinations(used, 2) if 0 < a < c)
    return lengths


def huffman_cost(weights: list[int]) -> int:
    heap = [weight for weight in weights if weight]
    heapq.heapify(heap)
    cost = 0
    while len(heap) > 1:
        both = heapq.heappop(heap) + heapq.heappop(heap)
        cost += both
        heapq.heappush(heap, both)
    return cost


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 1000), min_size=2, max_size=40))
def test_codes_are_as_short_as_can_be(weights: list[int]) -> None:
    lengths = lengths_of(weights, 20)  # deeper than any tree of a sum up to 40000
    if sum(map(bool, weights)) >= 2:
        found = sum(weight * length for weight, length in zip(weights, lengths, strict=True))
        assert found == huffman_cost(weights)


@pytest.mark.parametrize("weights", [[0, 0, 0], [5, 0, 0], [0, 5, 0], [0, 0, 5], [1, 1, 0]])
def test_two_symbols_at_least_have_a_code(weights: list[int]) -> None:
    assert sorted(lengths_of(weights, 15)) == [0, 1, 1]


def limited_cost(weights: list[int], longest: int) -> int:
    """Least bits of codes up to a length, by the package-merge algorithm (Larmore and Hirschberg 1990)."""
    packages: list[int] = []
    for _ in range(longest):
        merged = sorted([*weights, *packages])
        packages = [first + second for first, second in zip(merged[::2], merged[1::2], strict=False)]
    return sum(packages[: len(weights) - 1])


@pytest.mark.parametrize(("number", "longest"), [(n, limit) for limit in (5, 7, 15) for n in range(2, 31)])
def test_limited_codes(number: int, longest: int) -> None:
    weights = FIBONACCI[:number]
    lengths = lengths_of(weights, longest)
    found = sum(weight * length for weight, length in zip(weights, lengths, strict=True))
    best = limited_cost(weights, longest)
    assert found == best
    if number <= longest + 1:
        assert found == huffman_cost(weights)


@pytest.mark.parametrize("longest", [5, 7])
def test_as_many_codes_as_the_limit_allows(longest: int) -> None:
    weights = [1 << index for index in range(1 << longest)]
    assert lengths_of(weights, longest) == [longest] * (1 << longest)


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """Bytes with repetitions near and far, runs and noise."""
    parts = draw(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=8))
    order = draw(st.lists(st.tuples(st.integers(0, 7), st.integers(1, 90)), max_size=25))
    return b"".join(parts[index % len(parts)] * number for index, number in order)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(texts())
def test_round_trips(data: bytes) -> None:
    squeezed(data)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.binary(max_size=300), texts(), st.integers(0, 300))
def test_round_trips_with_history(history: bytes, data: bytes, start: int) -> None:
    data = history[start:] + data
    assert inflate(compress_chunk(history, data) + deflate.END, history) == data


def mixed(size: int) -> bytes:
    """Text, noise, copies and zeros."""
    chance = random.Random(5)
    data = bytearray()
    while len(data) < size:
        data += b"number %d of %d " % (chance.randrange(1000), chance.randrange(9)) * chance.randrange(40)
        data += chance.randbytes(chance.randrange(3000)) + bytes(chance.randrange(5000))
        data += data[-chance.randrange(1, 60_000) :][: chance.randrange(9000)]
    return bytes(data[:size])


def test_any_number_of_workers_gives_the_same_stream() -> None:
    data = mixed(5 * CHUNK + 777)
    alone = deflate.deflate(data)
    assert inflate(alone) == data
    for workers in (0, 1, 2, 3):
        assert b"".join(compress(pieces(data), workers=workers)) == alone
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("number", [0, 1, 2, 3, 20])
def test_workers_and_few_or_many_chunks(number: int) -> None:
    data = bytes(number * CHUNK)
    assert inflate(b"".join(compress(pieces(data), workers=2))) == data


class Dribble(io.BytesIO):
    """A pipe that hands out what it likes."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size or 0, 7001))


def test_how_it_is_read_makes_no_difference() -> None:
    data = mixed(2 * CHUNK + 5)
    assert list(deflate.read_chunks(Dribble(data))) == pieces(data)
    assert list(deflate.read_chunks(io.BytesIO(data))) == pieces(data)
    assert list(deflate.read_chunks(io.BytesIO())) == []


def endless(taken: list[int]) -> Iterator[bytes]:
    for number in itertools.count():
        taken.append(number)
        yield bytes(CHUNK)


@pytest.mark.parametrize(("workers", "ahead"), [(1, 2), (2, 11)])
def test_no_more_is_read_than_needed(workers: int, ahead: int) -> None:
    taken: list[int] = []
    stream = compress(endless(taken), workers=workers)
    assert isinstance(stream, Iterator)
    for number in range(1, 30):
        next(stream)
        assert len(taken) <= number + ahead
    del stream
    assert multiprocessing.active_children() == []


def failing() -> Iterator[bytes]:
    for _ in range(6):
        yield bytes(CHUNK)
    raise OSError(5, "input/output error")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_reader_that_fails_is_heard_and_leaves_no_process(workers: int) -> None:
    with pytest.raises(OSError, match="input/output error"):
        list(compress(failing(), workers=workers))
    assert multiprocessing.active_children() == []


def test_an_interrupt_ends_all_processes() -> None:
    program = (
        "import itertools; from recipes.formats.deflate import CHUNK, compress\n"
        "for _ in compress(itertools.repeat(bytes(CHUNK)), workers=2): print('.', flush=True)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b".\n"
    os.killpg(process.pid, signal.SIGINT)
    # The end of the pipes is the end of all who hold them.
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGINT
