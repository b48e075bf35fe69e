"""CRC-32C (Castagnoli), which the standard library does not have."""

from __future__ import annotations

POLYNOMIAL = 0x82F63B78  # 0x1EDC6F41 with its bits reversed; RFC 3720 appendix B.4


def _table() -> tuple[int, ...]:
    values = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (POLYNOMIAL if value & 1 else 0)
        values.append(value)
    return tuple(values)


_TABLE = _table()


def crc32c(data: bytes | bytearray | memoryview, value: int = 0) -> int:
    """The CRC-32C of ``data``, with initial and final inversion; ``value`` continues an earlier one.

    One table step a byte: for headers and single blocks, not for file content.

    Spec: RFC 3720 appendix B.4 (and its check value in section 12.1).
    """
    value ^= 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _TABLE[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF
