from __future__ import annotations

import hashlib
import json

import jsonschema
import pytest

from recipes.golden import manifest_reader
from recipes.golden.manifest import GoldenManifest, Policy, dump
from recipes.golden.verify import Observation, compare
from recipes.golden.workload import unmeasured, with_workload
from recipes.measure.trace import Established, HashAlgorithm
from recipes.measure.userspace import workload_step
from tests.support import ROOT
from tests.unit.unlock_samples import machine

MANIFEST = b'{"version": 1}\n'
WORD = f"workload:site:sha256:{hashlib.sha256(MANIFEST).hexdigest()}".encode()
GOLDEN = with_workload(machine("a"), workload_step(14, "site", MANIFEST))


@pytest.mark.parametrize("algorithm", HashAlgorithm)
def test_the_register_holds_one_word(algorithm: HashAlgorithm) -> None:
    """Spec: TPM 2.0 Library part 1 section 17.2."""
    name = algorithm.value
    inner = hashlib.new(name, WORD).digest()
    expected = hashlib.new(name, bytes(len(inner)) + inner).digest()
    assert GOLDEN.value("PCR14:ready", algorithm) == expected


def test_it_is_enforced_and_as_well_established_as_the_boot_phases() -> None:
    (policy,) = [item for item in GOLDEN.policies if item.register == "PCR14"]
    assert policy.policy is Policy.ENFORCE
    labels = {row.established for row in GOLDEN.registers if row.register == "PCR14:ready"}
    assert labels == {row.established for row in GOLDEN.registers if row.register == "PCR11:ready"}
    assert labels <= set(Established)


def test_the_manifest_can_be_read_back() -> None:
    manifest = GoldenManifest(image="i", version="1", artefacts=(), machines=(GOLDEN,), unmeasured=("a",))
    text = dump(manifest)
    schema = json.loads((ROOT / "recipes/golden/manifest.schema.json").read_text())
    jsonschema.validate(json.loads(text), schema)
    assert manifest_reader.load(text, "golden.json") == manifest


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (WORD, None),
        (b"workload:site:refused", "PCR14 differs at event 1 of 1 (EV_IPL "),
        (None, "PCR14 differs at event 1 of 1: predicted EV_IPL "),
    ],
)
def test_a_verifier_sees_what_was_measured(word: bytes | None, message: str | None) -> None:
    """The other registers are as predicted; this one is what the guest extended."""
    values = {
        (row.register.partition(":")[0], row.algorithm): row.value
        for row in GOLDEN.registers
        if not row.register.startswith("PCR11:") or row.register == "PCR11:ready"
    }
    steps = [
        step
        for trace in GOLDEN.traces
        if trace.register.partition(":")[0] not in ("PCR11", "PCR14") or trace.register == "PCR11:ready"
        for step in trace.steps
    ]
    for algorithm in HashAlgorithm:
        start = bytes(algorithm.size)
        extended = start if word is None else algorithm.digest(start + algorithm.digest(word))
        values["PCR14", algorithm] = extended
    if word is not None:
        (step,) = next(trace for trace in GOLDEN.traces if trace.register == "PCR14:ready").steps
        found = {algorithm: algorithm.digest(word) for algorithm in HashAlgorithm}
        steps.append(type(step)(**{**vars(step), "digests": found}))
    result = compare(GOLDEN, Observation(values=values, steps=tuple(steps)))
    ours = [item.message for item in result.differences if item.register == "PCR14"]
    assert ours == [] if message is None else ours[0].startswith(message)
    assert [item for item in result.differences if item.register != "PCR14"] == []


def test_what_no_register_covers_is_said() -> None:
    assert unmeasured(verified=True, secrets=False) == ()
    assert len(unmeasured(verified=False, secrets=True)) == 2
