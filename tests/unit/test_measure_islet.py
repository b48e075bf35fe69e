from __future__ import annotations

import hashlib
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import MeasureError
from recipes.measure.islet import ProvisionedApplication, rem_after, rem_sets
from recipes.measure.trace import HashAlgorithm

FUZZ = settings(max_examples=60)
ZERO = bytes(32)


def application(number: int, signature_size: int = 103) -> ProvisionedApplication:
    return ProvisionedApplication(
        name=f"app{number}",
        public_key=bytes((number,)) * 120,
        public_key_signature=bytes((number + 100,)) * signature_size,
        config_digest=bytes((number + 200,)) * 48,
    )


def folded(algorithm: str, *data: bytes) -> bytes:
    """The register by the written rule: 64 bytes at a time, each application from its own start."""
    value = bytes(hashlib.new(algorithm).digest_size)
    for each in data:
        for start in range(0, len(each), 64):
            value = hashlib.new(algorithm, value + each[start : start + 64]).digest()
    return value


def measured(application: ProvisionedApplication) -> bytes:
    return application.public_key + application.public_key_signature + application.config_digest


@FUZZ
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(8, 104)), max_size=3), st.integers(0, 3))
def test_rem_after(shapes: list[tuple[int, int]], rem: int) -> None:
    applications = [application(*shape) for shape in shapes]
    for algorithm in (HashAlgorithm.SHA256, HashAlgorithm.SHA512):
        prediction = rem_after(applications, algorithm, rem)
        assert prediction.value == folded(algorithm.value, *map(measured, applications))
        assert prediction.trace.register == f"REM{rem}"


def test_trace() -> None:
    prediction = rem_after([application(1), application(2)], HashAlgorithm.SHA256)
    steps = prediction.trace.steps
    assert [(step.size, step.source, step.description) for step in steps[:5]] == [
        (64, "app1: vendor public key", "bytes 0 to 63"),
        (64, "app1: vendor public key, its signature", "bytes 64 to 127"),
        (64, "app1: its signature", "bytes 128 to 191"),
        (64, "app1: its signature, config digest", "bytes 192 to 255"),
        (15, "app1: config digest", "bytes 256 to 270"),
    ]
    assert [step.source[:4] for step in steps] == ["app1"] * 5 + ["app2"] * 5
    value = ZERO
    data = [measured(application(number)) for number in (1, 2)]
    chunks = [each[start : start + 64] for each in data for start in range(0, len(each), 64)]
    for step, chunk in zip(steps, chunks, strict=True):
        value = hashlib.sha256(value + chunk).digest()
        assert step.register == "REM0"
        assert step.operation == "RSI_MEASUREMENT_EXTEND"
        assert step.digests == {HashAlgorithm.SHA256: hashlib.sha256(chunk).digest()}
        assert step.after == value
    assert prediction.value == value


def test_no_application_leaves_the_register_at_zero() -> None:
    prediction = rem_after([], HashAlgorithm.SHA512)
    assert prediction.value == bytes(64)
    assert prediction.trace.steps == ()


@pytest.mark.parametrize(("count", "sets"), [(0, 1), (1, 2), (2, 3), (3, 7), (4, 25)])
def test_one_set_for_zeros_and_one_for_each_order(count: int, sets: int) -> None:
    applications = [application(number) for number in range(count)]
    found = rem_sets(applications, HashAlgorithm.SHA256)
    assert len(found) == sets
    assert found[0] == (ZERO,) * 4
    orders = [] if count == 0 else list(permutations(map(measured, applications)))
    assert found[1:] == tuple((folded("sha256", *order), ZERO, ZERO, ZERO) for order in orders)


def test_equal_applications_give_one_set() -> None:
    twice = [application(1), application(2), application(1)]
    found = rem_sets(twice, HashAlgorithm.SHA256, 2)
    assert len(found) == 1 + 3
    assert len(set(found)) == len(found)
    assert all(each[:2] == (ZERO, ZERO) and each[3] == ZERO for each in found)


def test_the_configuration_counts_by_its_sha384() -> None:
    config = b'{"architecture":"arm64"}'
    made = ProvisionedApplication.of_config(
        "app", config, public_key=bytes(120), public_key_signature=bytes(102)
    )
    assert made.config_digest == hashlib.sha384(config).digest()


@pytest.mark.parametrize(
    ("key", "signature", "digest", "text"),
    [
        (119, 102, 48, "application app: public key of 119 bytes, expected 120"),
        (120, 7, 48, "application app: its signature of 7 bytes, expected 8 to 104"),
        (120, 105, 48, "application app: its signature of 105 bytes, expected 8 to 104"),
        (120, 102, 32, "application app: config digest of 32 bytes, expected 48"),
    ],
)
def test_lengths_that_cannot_be(key: int, signature: int, digest: int, text: str) -> None:
    with pytest.raises(MeasureError) as caught:
        ProvisionedApplication(
            name="app",
            public_key=bytes(key),
            public_key_signature=bytes(signature),
            config_digest=bytes(digest),
        )
    assert str(caught.value) == text


def test_too_many_applications() -> None:
    with pytest.raises(MeasureError) as caught:
        rem_sets([application(number) for number in range(5)], HashAlgorithm.SHA256)
    assert str(caught.value) == (
        "5 applications: their order is not fixed and every order is a REM set; "
        "provision at most 4 in one realm"
    )


@pytest.mark.parametrize("rem", [-1, 4])
def test_no_such_register(rem: int) -> None:
    with pytest.raises(MeasureError, match=f"^rem{rem}: there is no such register; use rem0 to rem3$"):
        rem_after([], HashAlgorithm.SHA256, rem)


def test_an_algorithm_that_no_realm_has() -> None:
    with pytest.raises(MeasureError, match="sha1"):
        rem_sets([], HashAlgorithm.SHA1)
