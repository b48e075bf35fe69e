"""What a software TPM said, read from tests/vectors/tpm2."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from recipes.formats.tpm2_public import Public, read_sized_public
from recipes.measure.tpm_policy import PcrValue
from recipes.measure.trace import HashAlgorithm
from tests.support import VECTORS

FOLDER = VECTORS / "tpm2"
RECORD: dict[str, Any] = json.loads((FOLDER / "swtpm.json").read_text(encoding="ascii"))
KEYS: dict[str, dict[str, str]] = RECORD["keys"]
ATTESTATION_KEYS = ("rsassa", "rsapss", "ecdsa", "ecdsa-sha384")
NONCE = bytes.fromhex(RECORD["nonce"])


def field(key: str, name: str) -> bytes:
    """One field of one key."""
    return bytes.fromhex(KEYS[key][name])


def public(key: str) -> Public:
    """The public area of a key."""
    return read_sized_public(field(key, "public"), key)


def pcr_values(rows: list[dict[str, Any]]) -> tuple[PcrValue, ...]:
    """Recorded PCR values."""
    return tuple(
        PcrValue(HashAlgorithm(row["bank"]), row["index"], bytes.fromhex(row["value"])) for row in rows
    )


def mutations(*samples: bytes) -> st.SearchStrategy[bytes]:
    """Samples with a byte changed, cut short, grown or with a piece removed; and random bytes."""

    def changed(sample: bytes, at: int, value: int, how: int) -> bytes:
        at %= len(sample)
        tail = sample[at + 1 :]
        return (
            sample[:at] + bytes([value]) + tail,
            sample[:at],
            sample + bytes([value]),
            sample[:at] + tail,
        )[how]

    some = st.builds(
        changed, st.sampled_from(samples), st.integers(0, 4095), st.integers(0, 255), st.integers(0, 3)
    )
    return some | st.binary(max_size=120)
