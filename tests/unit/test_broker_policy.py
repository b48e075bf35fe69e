from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recipes.broker.audit import AuditError, AuditLog, Facts, Outcome
from recipes.broker.clock import Clock
from recipes.broker.config import BrokerConfig, load_rules
from recipes.broker.limits import MAX_CLIENTS, Rate, RateLimiter, client_group
from recipes.broker.policy import ReleasePolicy, VolumeRule
from recipes.broker.trust import ReportedKeys
from recipes.errors import SpecError
from recipes.golden.manifest import GoldenMachine, Policy, RegisterPolicy
from recipes.measure.trace import HashAlgorithm
from tests.unit.test_broker_guest import EVENTS, PHASE, Ticks, golden_machine, manifest, pcr

RULES = (VolumeRule(volume="data"),)


def without(machine: GoldenMachine, *registers: str) -> GoldenMachine:
    kept = tuple(row for row in machine.registers if row.register not in registers)
    return replace(machine, registers=kept)


def test_the_values_of_the_moment_of_release() -> None:
    (found,) = ReleasePolicy([manifest()], RULES).expected("data", "")
    assert found.selection == "sha256:4,7,11"
    values = [(each.index, each.value) for each in found.expectation.values]
    assert values == [(4, pcr(4)), (7, pcr(7)), (11, pcr(11, (*EVENTS, (11, PHASE))))]
    (later,) = ReleasePolicy([manifest()], RULES, phase="leave-initrd").expected("data", "")
    assert later.expectation.values[2].value == pcr(11, (*EVENTS, (11, PHASE), (11, b"leave-initrd")))
    policy = ReleasePolicy([manifest()], RULES, phase="leave-initrd")
    assert [record.string for record in policy.phase_records()] == ["enter-initrd", "leave-initrd"]


def test_a_manifest_without_phases() -> None:
    bare = without(golden_machine(), "PCR11:enter-initrd", "PCR11:leave-initrd")
    (found,) = ReleasePolicy([manifest(bare)], RULES).expected("data", "")
    assert found.expectation.values[2].value == pcr(11)


def test_registers_with_no_policy_are_enforced() -> None:
    machine = replace(golden_machine(), policies=())
    (found,) = ReleasePolicy([manifest(machine)], RULES).expected("data", "q35")
    assert found.selection == "sha256:1,4,7,11"


def only_recorded(machine: GoldenMachine) -> GoldenMachine:
    rows = [
        RegisterPolicy(register=item.register, policy=Policy.RECORD, covers="") for item in machine.policies
    ]
    return replace(machine, policies=tuple(rows))


def realm(machine: GoldenMachine) -> GoldenMachine:
    rows = [replace(row, register="RIM") for row in machine.registers[:1]]
    return replace(machine, registers=(*machine.registers, *rows))


NO_CODE = "image: q35: PCR4 is not enforced in the bank sha256; any program would get the key"
PCR11 = ("PCR11", "PCR11:enter-initrd", "PCR11:leave-initrd")
BAD_MACHINES: dict[Callable[[GoldenMachine], GoldenMachine], str] = {
    only_recorded: NO_CODE,
    lambda machine: replace(machine, registers=()): NO_CODE,
    lambda machine: without(machine, "PCR4", *PCR11): NO_CODE,
    lambda machine: without(machine, "PCR11:enter-initrd"): (
        "image: q35: PCR11 has no value for the phase enter-initrd; measure the image again"
    ),
    realm: "image: q35: no TPM quote covers RIM; this broker releases keys to TPM guests",
}


@pytest.mark.parametrize("change", BAD_MACHINES)
def test_machines_that_no_key_can_be_released_to(change: Callable[[GoldenMachine], GoldenMachine]) -> None:
    with pytest.raises(SpecError) as caught:
        ReleasePolicy([manifest(change(golden_machine()))], RULES)
    assert str(caught.value) == BAD_MACHINES[change]


@pytest.mark.parametrize(
    ("rules", "options", "error"),
    [
        (
            (VolumeRule(volume="data", machines=("q36",)),),
            {},
            "volume data: no golden machine 'q36'; known: ",
        ),
        (
            (VolumeRule(volume="data", machines=("q35", "q36")),),
            {},
            "volume data: no golden machine 'q36'; did you mean 'q35'?",
        ),
        ((*RULES, *RULES), {}, "rules: a volume is there twice; give it one rule"),
        (
            (VolumeRule(volume="../data"),),
            {},
            "volume '../data': not a name; use letters, digits, '.', '_' and '-'",
        ),
        (RULES, {"bank": HashAlgorithm.SHA1}, "bank sha1: it proves nothing any more; use sha256"),
        (
            RULES,
            {"phase": "enter-intrd"},
            "boot phase 'enter-intrd' is unknown; did you mean 'enter-initrd'?",
        ),
        (
            RULES,
            {"bank": HashAlgorithm.SHA384},
            "image: q35: PCR4 is not enforced in the bank sha384; any program would get the key",
        ),
    ],
)
def test_rules_that_do_not_fit(rules: tuple[VolumeRule, ...], options: dict[str, Any], error: str) -> None:
    with pytest.raises(SpecError) as caught:
        ReleasePolicy([manifest()], rules, **options)
    assert str(caught.value).startswith(error.removesuffix("; known: "))


def test_a_volume_without_machines() -> None:
    with pytest.raises(SpecError, match="the golden manifests have no machine; build and measure one"):
        ReleasePolicy([replace(manifest(), machines=())], RULES)


def test_rules_are_read_from_yaml() -> None:
    text = "volumes:\n- {volume: data, machines: [q35], attestation_keys: host-1}\n- {volume: root}\n"
    assert load_rules(text, "rules.yaml") == (
        VolumeRule(volume="data", machines=("q35",), attestation_keys=("host-1",)),
        VolumeRule(volume="root"),
    )
    with pytest.raises(SpecError) as caught:
        load_rules("volumes:\n- {volume: data, machine: q35}\n", "rules.yaml")
    assert str(caught.value) == "rules.yaml:2:18: unknown key 'machine'; did you mean 'machines'?"


NO_CERTIFICATE = (
    "broker: 192.0.2.1 is no loopback address, and there is no certificate; "
    "over plain HTTP anybody can answer in the broker's place"
)


def config(**changes: Any) -> BrokerConfig:
    return BrokerConfig(golden=(), keys=Path("keys"), trust=ReportedKeys(), **changes)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        (
            {"host": "192.0.2.1"},
            NO_CERTIFICATE,
        ),
        ({"host": "::"}, "broker: :: is no loopback address, and there is no certificate; over plain HTTP "),
        ({"host": "localhost"}, "broker: host 'localhost' is no IP address; write one such as ::1"),
        (
            {"certificate": Path("c")},
            "broker: a certificate and its private key go together; give both",
        ),
        ({"nonce_lifetime": 0.5}, "broker: nonces of 0.5 s are too short for a TPM; use 60"),
        ({"timeout": 0}, "broker: a limit is not above zero; leave it out for the usual one"),
        ({"rate": Rate(1, 0)}, "broker: a limit is not above zero; leave it out for the usual one"),
    ],
)
def test_configurations_that_do_not_fit(changes: dict[str, Any], error: str) -> None:
    config().check()
    config(host="::1").check()
    config(host="192.0.2.1", certificate=Path("c"), private_key=Path("k")).check()
    with pytest.raises(SpecError) as caught:
        config(**changes).check()
    assert str(caught.value).startswith(error)


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("unix", "unknown"),
        ("", "unknown"),
    ],
)
def test_whom_an_address_counts_for(address: str, group: str) -> None:
    assert client_group(address) == group


def test_remembered_clients_are_bounded() -> None:
    time = Ticks()
    limiter = RateLimiter(time.clock, Rate(1, 1), Rate(1, 10**6))
    assert limiter.admit("first") is None
    assert limiter.admit("first") is not None
    for number in range(MAX_CLIENTS):
        assert limiter.admit(str(number)) is None
    assert len(limiter) == MAX_CLIENTS
    # Forgotten, and so as good as new.
    assert limiter.admit("first") is None


def test_a_clock_that_goes_back_gives_nothing() -> None:
    time = Ticks()
    limiter = RateLimiter(time.clock, Rate(1, 1), Rate(10, 10))
    assert limiter.admit("a") is None
    time.seconds -= 3600
    assert limiter.admit("a") is not None
    time.seconds += 1
    assert limiter.admit("a") is None


def test_the_log_is_its_owners_and_only_grows(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    for status in (200, 403):
        log = AuditLog.append_to(path)
        log.write(
            Clock(wall=lambda: 0.25).now(), Facts("attest", "::1"), Outcome("x", status, "", "a\n\x1b[2J\xe4")
        )
        log.close()
    lines = path.read_text(encoding="ascii").splitlines()
    assert lines[0] == (
        '{"time": "1970-01-01T00:00:00.250000Z", "request": "attest", "client": "::1", "result": "x", '
        '"status": 200, "reason": "a\\n\\u001b[2J\\u00e4"}'
    )
    assert len(lines) == 2
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_log_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="No such file or directory; name a file that the broker may write"):
        AuditLog.append_to(tmp_path / "none" / "audit.log")


def test_half_a_line_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AuditLog.append_to(tmp_path / "audit.log")
    monkeypatch.setattr(os, "write", lambda file, line: len(line) - 1)
    with pytest.raises(AuditError, match="bytes were written; make room for it"):
        log.write(Clock().now(), Facts("attest", "::1"), Outcome("released", 200))
    log.close()


def test_a_full_disk_is_noticed() -> None:
    log = AuditLog.append_to(Path("/dev/full"))
    with pytest.raises(AuditError, match="audit log: No space left on device; make room for it"):
        log.write(Clock().now(), Facts("attest", "::1"), Outcome("released", 200))
    log.close()
