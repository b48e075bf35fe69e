"""DEFLATE streams whose bytes depend on nothing but the data.

zlib promises that what it writes unpacks, not which bytes it writes: they change with its version, between
zlib and zlib-ng, and with the processor. Where the compressed bytes are measured, that is not enough.

The data is cut into chunks of a fixed size. Each is compressed with the window before it at hand, ends on a
byte, and is thus a function of at most ``HISTORY + CHUNK`` bytes of input: any number of processes gives the
same stream. How fast this is was weighed against how small: matches are searched greedily, with one candidate
for every four bytes.

Spec: RFC 1951.
"""

from __future__ import annotations

import multiprocessing
import struct
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from functools import cache
from itertools import chain, groupby, islice
from operator import add, mul
from typing import BinaryIO

from ..units import KIB

HISTORY = 32 * KIB  # the largest distance: RFC 1951 section 2
CHUNK = 128 * KIB  # larger ones are slower: their positions no longer fit into the processor's cache
END = b"\x03\x00"  # a last block with fixed codes and nothing in it: RFC 1951 sections 3.2.3 and 3.2.6

# Tokens are literals (0 to 255), the end of a block, a length added to _LENGTH and a distance added to
# _DISTANCE, one behind the other.
_END_OF_BLOCK = 256  # RFC 1951 section 3.2.5
_LENGTH = 256
_DISTANCE = 514
_LONGEST = 258  # RFC 1951 section 2
_KEY_SIZE = 4
_BLOCK_TOKENS = 16 * KIB  # smaller blocks fit their content better, but each takes time and its code lengths
_STRETCH = 2 * KIB  # where a stretch has hardly a match, the _SKIPPED bytes behind it are not searched
_SKIPPED = 3 * _STRETCH
_STORED_MAX = 0xFFFF  # RFC 1951 section 3.2.4
_CODE_MAX, _CODE_LENGTH_MAX = 15, 7  # RFC 1951 section 3.2.7
# RFC 1951 section 3.2.5; the length 258 has a symbol of its own, 285, although 284 could say it.
_LENGTH_EXTRA = (*[0] * 8, *[1] * 4, *[2] * 4, *[3] * 4, *[4] * 4, *[5] * 4, 0)
_DISTANCE_EXTRA = (0, 0, *[symbol // 2 for symbol in range(28)])
_EXTRA = (*[0] * 257, *_LENGTH_EXTRA, *_DISTANCE_EXTRA)  # of symbols, where distances follow lengths
_LITERALS = 286
# In which order the lengths of the code for code lengths are stored: RFC 1951 section 3.2.7.
_ORDER = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)


def deflate(data: bytes) -> bytes:
    """A whole DEFLATE stream, made in this process."""
    return b"".join(compress(data[start : start + CHUNK] for start in range(0, len(data), CHUNK)))


def read_chunks(source: BinaryIO) -> Iterator[bytes]:
    """All of ``source`` from its position on, in the pieces that ``compress`` takes."""
    while chunk := source.read(CHUNK):
        while len(chunk) < CHUNK and (more := source.read(CHUNK - len(chunk))):
            chunk += more
        yield chunk


def compress(chunks: Iterable[bytes], *, workers: int = 1) -> Iterator[bytes]:
    """A whole DEFLATE stream, in pieces; at most a few chunks are in memory.

    Args:
        chunks: the data, in pieces of CHUNK bytes of which only the last may be smaller.
        workers: processes that compress; 1 means this one. Never changes the stream.
    """
    jobs = _with_history(chunks)
    first = list(islice(jobs, 2))
    if workers <= 1 or len(first) < 2:
        for job in first:
            yield compress_chunk(*job)
        for job in jobs:
            yield compress_chunk(*job)
    else:
        yield from _in_parallel(first, jobs, workers)
    yield END


def compress_chunk(history: bytes, data: bytes) -> bytes:
    """Blocks that unpack to ``data``; they end on a byte, and none of them is the last of a stream.

    Args:
        history: up to HISTORY bytes that stand before ``data`` in the same stream.
    """
    window = history + data
    out = _BitWriter()
    start = len(history)
    for tokens, end in _blocks(window, start):
        counts = Counter(tokens)
        weights = _weights(counts)
        lengths = _code_lengths(weights[:_LITERALS], _CODE_MAX), _code_lengths(weights[_LITERALS:], _CODE_MAX)
        header = _header(*lengths)
        sizes = map(add, chain(*lengths), _EXTRA)
        if len(header) + sum(map(mul, weights, sizes)) < 8 * (end - start):
            codes = [*_codes(lengths[0]), *_codes(lengths[1])]
            symbols, extra = _token_table()
            table = {token: codes[symbols[token]] + extra[token] for token in counts}
            out.add(header)
            out.extend([table[token] for token in tokens])
        else:
            out.store(window[start:end])
        start = end
    return out.finish()


def _with_history(chunks: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Each chunk, behind the bytes that it may point back to."""
    history = b""
    for chunk in chunks:
        yield history, chunk
        history = chunk[-HISTORY:]


def _in_parallel(
    first: Sequence[tuple[bytes, bytes]], jobs: Iterable[tuple[bytes, bytes]], workers: int
) -> Iterator[bytes]:
    """What ``compress_chunk`` makes of each job, in order."""
    # Fork, because a fresh interpreter takes longer than several chunks.
    context = multiprocessing.get_context("fork")
    waiting: deque[Future[bytes]] = deque()
    _token_table()  # once, and not in each worker
    pool = ProcessPoolExecutor(workers, mp_context=context)
    try:
        waiting.extend(pool.submit(compress_chunk, *job) for job in first)
        for job in jobs:
            waiting.append(pool.submit(compress_chunk, *job))
            if len(waiting) > 4 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        # If reading, writing or a worker failed, nobody wants what is still to do.
        pool.shutdown(cancel_futures=True)


# Matches


def _keys(window: bytes) -> list[int]:
    """For every position the number that four bytes from there make, little endian."""
    size = len(window)
    keys = [0] * max(size - _KEY_SIZE + 1, 0)
    for shift in range(min(_KEY_SIZE, len(keys))):
        number = (size - shift) // _KEY_SIZE
        keys[shift::_KEY_SIZE] = struct.unpack_from(f"<{number}I", window, shift)
    return keys


def _blocks(window: bytes, start: int) -> Iterator[tuple[list[int], int]]:
    """Tokens of one block after another, for all of ``window`` from ``start``; and where in it each ends."""
    keys = _keys(window)
    stop = len(keys)
    # The last place of each key; every other one of the history, which is nearly as good.
    last = dict(zip(keys[:start:2], range(0, min(start, stop), 2), strict=True))
    keys += (-1, -2, -3, -4)  # like no key and not like one another: no match goes on beyond the end
    tokens: list[int] = []
    here, was_noise = start, False
    while here < stop:
        begin, before = here, len(tokens)
        here = _search(window, keys, last, tokens, here, min(here + _STRETCH, stop))
        is_noise = len(tokens) - before > (here - begin) * 63 // 64
        if before and is_noise != was_noise:
            # What compresses and what does not are better off in blocks of their own.
            yield [*tokens[:before], _END_OF_BLOCK], begin
            del tokens[:before]
        was_noise = is_noise
        if is_noise and here < stop:
            tokens += window[here : here + _SKIPPED]
            here = min(here + _SKIPPED, len(window))
        if len(tokens) >= _BLOCK_TOKENS and here < stop:
            yield [*tokens, _END_OF_BLOCK], here
            tokens.clear()
    yield [*tokens, *window[here:], _END_OF_BLOCK], len(window)


def _search(
    window: bytes, keys: Sequence[int], last: dict[int, int], tokens: list[int], here: int, limit: int
) -> int:
    """Adds tokens for what stands from ``here`` to ``limit``, or a bit further; where they end.

    One loop in one function, since a call costs as much as a whole step of it.
    """
    put, find, never = tokens.append, last.get, -HISTORY - 1
    stop = len(keys) - 4
    while here < limit:
        key = keys[here]
        distance = here - find(key, never)
        last[key] = here
        if distance > HISTORY:
            put(window[here])
            here += 1
            continue
        end = here + 4
        while keys[end] == keys[end - distance]:
            end += 4
        if end < stop:
            differing = keys[end] ^ keys[end - distance]
            if not differing & 0xFF:
                end += 1 if differing & 0xFF00 else 2 if differing & 0xFF0000 else 3
        length = end - here
        if length > _LONGEST:
            # A long run at one distance: as many of the longest as it takes, and what is too short for a
            # match of its own is left over.
            whole, length = divmod(length, _LONGEST)
            tokens += (_LENGTH + _LONGEST, _DISTANCE + distance) * whole
            if length < 3:
                end, length = end - length, 0
        if length:
            put(_LENGTH + length)
            put(_DISTANCE + distance)
        # Two of the places inside a match are worth finding again; all of them take too long.
        last[keys[here + 1]] = here + 1
        last[keys[end - 1]] = end - 1
        here = end
    return here


# Codes


def _bits(value: int, width: int) -> str:
    """A number as the stream has it, the lowest bit first; RFC 1951 section 3.1.1."""
    return f"{value:0{width}b}"[::-1] if width else ""


@cache
def _token_table() -> tuple[list[int], list[str]]:
    """Symbol of every token (those of distances behind the others), and the extra bits behind its code."""
    found = [(token, "") for token in range(_END_OF_BLOCK + 1)] + [(0, "")] * 2  # there is no length 1 or 2
    for symbol, extra in enumerate(_EXTRA[257:], 257):
        if symbol == _LITERALS - 1:
            found.pop()  # 284 with all its extra bits set would be 258 once more
        found += [(symbol, _bits(value, extra)) for value in range(1 << extra)]
    return [symbol for symbol, _ in found], [extra for _, extra in found]


def _weights(counts: Counter[int]) -> list[int]:
    """How often a block has each symbol, those of distances behind the others."""
    weights = [0] * len(_EXTRA)
    symbols, _ = _token_table()
    for token, count in counts.items():
        weights[symbols[token]] += count
    return weights


def _code_lengths(weights: Sequence[int], longest: int) -> list[int]:
    """Bits of each symbol's prefix code, 0 for one that does not occur; at least two symbols get one.

    No code of at most ``longest`` bits is shorter in all. Ties are broken by the symbol.
    """
    used = sorted((weight, symbol) for symbol, weight in enumerate(weights) if weight)
    # One code alone would be a set that is not complete, which not every reader takes.
    used = [*((0, symbol) for symbol in range(2) if not weights[symbol])][: max(2 - len(used), 0)] + used
    ascending = [weight for weight, _ in used]
    depths = _depths(ascending)
    if depths[0] > longest:
        depths = _limited_depths(ascending, longest)
    lengths = [0] * len(weights)
    for (_, symbol), depth in zip(used, depths, strict=True):
        lengths[symbol] = depth
    return lengths


def _depths(weights: Sequence[int]) -> list[int]:
    """Depth of each leaf in the Huffman tree over ascending ``weights``, the deepest first."""
    leaves = len(weights)
    nodes = list(weights)
    parents = [0] * (2 * leaves - 1)
    leaf, inner = 0, leaves
    # Inner nodes come into being in ascending order: the lightest two stand in front of one row or the other.
    for node in range(leaves, 2 * leaves - 1):
        total = 0
        for _ in range(2):
            if leaf < leaves and (inner == node or nodes[leaf] <= nodes[inner]):
                lightest, leaf = leaf, leaf + 1
            else:
                lightest, inner = inner, inner + 1
            parents[lightest] = node
            total += nodes[lightest]
        nodes.append(total)
    depths = [0] * len(nodes)
    for node in range(len(nodes) - 2, -1, -1):
        depths[node] = depths[parents[node]] + 1
    return depths[:leaves]


def _limited_depths(weights: Sequence[int], longest: int) -> list[int]:
    """The same for the best tree with no leaf below ``longest``, by package-merge; slower.

    Spec: L. L. Larmore, D. S. Hirschberg, A fast algorithm for optimal length-limited Huffman codes,
    Journal of the ACM 37 (1990), section 2.
    """
    rows: list[list[tuple[int, bool]]] = []
    packages: list[tuple[int, bool]] = []
    for _ in range(longest):
        rows.append(sorted([*((weight, False) for weight in weights), *packages]))
        totals = [weight for weight, _ in rows[-1]]
        packages = [(a + b, True) for a, b in zip(totals[::2], totals[1::2], strict=False)]
    depths = [0] * len(weights)
    taken = 2 * len(weights) - 2
    # A package that is taken takes two of the row before; a leaf goes a level down each time it is taken.
    for row in reversed(rows):
        inner = sum(is_package for _, is_package in row[:taken])
        for leaf in range(taken - inner):
            depths[leaf] += 1
        taken = 2 * inner
    return depths


def _codes(lengths: Sequence[int]) -> list[str]:
    """The code of each symbol, as bits in the order of the stream: RFC 1951 section 3.2.2."""
    codes = [""] * len(lengths)
    code = previous = 0
    for length, symbol in sorted((length, symbol) for symbol, length in enumerate(lengths) if length):
        code <<= length - previous
        codes[symbol] = f"{code:0{length}b}"
        code, previous = code + 1, length
    return codes


def _header(literals: Sequence[int], distances: Sequence[int]) -> str:
    """The start of a block with its own codes, of these lengths: RFC 1951 sections 3.2.3 and 3.2.7."""
    literal_count = max(symbol for symbol, length in enumerate(literals) if length) + 1
    distance_count = max(symbol for symbol, length in enumerate(distances) if length) + 1
    runs = list(_runs([*literals[:literal_count], *distances[:distance_count]]))
    occurring = Counter(symbol for symbol, _ in runs)
    lengths = _code_lengths([occurring[symbol] for symbol in range(len(_ORDER))], _CODE_LENGTH_MAX)
    codes = _codes(lengths)
    ordered = [lengths[symbol] for symbol in _ORDER]
    while not ordered[-1]:
        ordered.pop()
    start = "0" + _bits(2, 2) + _bits(literal_count - 257, 5) + _bits(distance_count - 1, 5)
    start += _bits(len(ordered) - 4, 4) + "".join(_bits(length, 3) for length in ordered)
    return start + "".join(codes[symbol] + extra for symbol, extra in runs)


def _runs(lengths: Sequence[int]) -> Iterator[tuple[int, str]]:
    """Code lengths with repetitions as RFC 1951 section 3.2.7 has them: symbols and their extra bits."""
    for length, group in groupby(lengths):
        count = len(list(group))
        if length:
            yield length, ""
            count -= 1
        while count >= 3:
            if length:
                taken = min(count, 6)
                yield 16, _bits(taken - 3, 2)
            elif count <= 10:
                taken = count
                yield 17, _bits(taken - 3, 3)
            else:
                taken = min(count, 138)
                yield 18, _bits(taken - 11, 7)
            count -= taken
        for _ in range(count):
            yield length, ""


# Output


class _BitWriter:
    """Bits collected as text, in the order of the stream, and turned into bytes in one go.

    One conversion of a long text is far quicker than shifting numbers code by code.
    """

    def __init__(self) -> None:
        self._bits: list[str] = []
        self._parts: list[bytes] = []
        self.add, self.extend = self._bits.append, self._bits.extend

    def store(self, data: bytes) -> None:
        """Adds stored blocks, at least one: RFC 1951 section 3.2.4."""
        for start in range(0, max(len(data), 1), _STORED_MAX):
            piece = data[start : start + _STORED_MAX]
            self.add("000")
            self._fill()
            self._parts += (struct.pack("<HH", len(piece), len(piece) ^ _STORED_MAX), piece)

    def finish(self) -> bytes:
        """All of it; behind a block that does not end on a byte stands an empty one that does."""
        if self._bits:
            self.store(b"")
        return b"".join(self._parts)

    def _fill(self) -> None:
        """Zeros up to the next byte; the first bit is a byte's lowest: RFC 1951 section 3.1.1."""
        text = "".join(self._bits)
        size = (len(text) + 7) // 8
        self._parts.append(int(text[::-1], 2).to_bytes(size, "little"))
        self._bits.clear()
