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
from recipes.broker.trust import EnrolledKeys
from recipes.errors import SpecError
from recipes.golden.manifest import GoldenMachine, Omitted, Policy, RegisterPolicy
from recipes.measure.trace import HashAlgorithm
from tests.unit.test_broker_guest import (
    EVENTS,
    PHASE,
    REGISTERS,
    SELECTION,
    Ticks,
    golden_machine,
    manifest,
    pcr,
)

RULES = (VolumeRule(volume="data"),)


def without(machine: GoldenMachine, *registers: str) -> GoldenMachine:
    kept = tuple(row for row in machine.registers if row.register not in registers)
    return replace(machine, registers=kept)


def test_the_values_of_the_moment_of_release() -> None:
    (found,) = ReleasePolicy([manifest()], RULES).expected("data", "")
    assert found.selection == SELECTION
    values = {each.index: each.value for each in found.expectation.values}
    unphased = {index: pcr(index) for index in REGISTERS}
    assert values == unphased | {11: pcr(11, (*EVENTS, (11, PHASE)))}
    (later,) = ReleasePolicy([manifest()], RULES, phase="leave-initrd").expected("data", "")
    assert later.expectation.values[-2].value == pcr(11, (*EVENTS, (11, PHASE), (11, b"leave-initrd")))
    policy = ReleasePolicy([manifest()], RULES, phase="leave-initrd")
    assert [record.string for record in policy.phase_records()] == ["enter-initrd", "leave-initrd"]


def test_a_manifest_without_phases() -> None:
    bare = without(golden_machine(), "PCR11:enter-initrd", "PCR11:leave-initrd")
    (found,) = ReleasePolicy([manifest(bare)], RULES).expected("data", "")
    assert found.expectation.values[-2].value == pcr(11)


def test_registers_with_no_policy_are_enforced() -> None:
    machine = replace(golden_machine(), policies=())
    (found,) = ReleasePolicy([manifest(machine)], RULES).expected("data", "q35")
    assert found.selection == "sha256:0,1,2,4,7,9,11,12"


def only_recorded(machine: GoldenMachine) -> GoldenMachine:
    rows = [
        RegisterPolicy(register=item.register, policy=Policy.RECORD, covers="") for item in machine.policies
    ]
    return replace(machine, policies=tuple(rows))


def realm(machine: GoldenMachine) -> GoldenMachine:
    rows = [replace(row, register="RIM") for row in machine.registers[:1]]
    return replace(machine, registers=(*machine.registers, *rows))


NO_REGISTERS = "image: q35: PCR4, PCR7, PCR9, PCR11, PCR12 are not enforced in the bank {}; "
NOTHING = f"{NO_REGISTERS}any program would get the key"
NOT_ENFORCED = "image: q35: {} is not enforced in the bank sha256; {} would get the key"
PCR11 = ("PCR11", "PCR11:enter-initrd", "PCR11:leave-initrd")
BAD_MACHINES: dict[Callable[[GoldenMachine], GoldenMachine], str] = {
    only_recorded: NOTHING.format("sha256"),
    lambda machine: replace(machine, registers=()): NOTHING.format("sha256"),
    lambda machine: without(machine, "PCR4"): NOT_ENFORCED.format("PCR4", "any program"),
    lambda machine: without(machine, "PCR7"): NOT_ENFORCED.format(
        "PCR7", "a guest with another Secure Boot policy"
    ),
    lambda machine: without(machine, "PCR9"): NOT_ENFORCED.format(
        "PCR9", "a guest with another command line or initramfs"
    ),
    lambda machine: without(machine, *PCR11): NOT_ENFORCED.format(
        "PCR11", "a guest with another UKI, or past its initramfs,"
    ),
    lambda machine: without(machine, "PCR12"): NOT_ENFORCED.format(
        "PCR12", "a guest with a host's command line or credentials"
    ),
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
            NOTHING.format("sha384"),
        ),
    ],
)
def test_rules_that_do_not_fit(rules: tuple[VolumeRule, ...], options: dict[str, Any], error: str) -> None:
    with pytest.raises(SpecError) as caught:
        ReleasePolicy([manifest()], rules, **options)
    assert str(caught.value).startswith(error.removesuffix("; known: "))


def lacking(machine: GoldenMachine, *registers: str) -> GoldenMachine:
    """As the predictor leaves it where a rule of the platform is not known."""
    omitted = tuple(Omitted(register=name, reason=f"{name} is unknown") for name in registers)
    policies = tuple(item for item in machine.policies if item.register not in registers)
    return replace(without(machine, *registers), omitted=omitted, policies=policies)


def with_acpi(machine: GoldenMachine) -> GoldenMachine:
    """PCR 1 enforced as well."""
    return replace(machine, policies=tuple(item for item in machine.policies if item.register != "PCR1"))


HINT = "; accept that with --accept-omitted, or name other machines with --rules"
LACKING = {
    ("PCR0",): "PCR0 is not in the golden manifest (PCR0 is unknown); a host's firmware would not be seen",
    ("PCR2",): "PCR2 is not in the golden manifest (PCR2 is unknown); a host's option ROM would not be seen",
    ("PCR1", "PCR2"): (
        "PCR1, PCR2 are not in the golden manifest (PCR1 is unknown; PCR2 is unknown); "
        "a host's ACPI tables or boot order or option ROM would not be seen"
    ),
}


@pytest.mark.parametrize("registers", LACKING)
def test_a_machine_whose_first_code_is_not_covered(registers: tuple[str, ...]) -> None:
    golden = [manifest(lacking(with_acpi(golden_machine()), *registers), golden_machine("whole"))]
    warning = f"machine q35: {LACKING[registers]}"
    with pytest.raises(SpecError) as caught:
        ReleasePolicy(golden, RULES)
    assert str(caught.value) == warning + HINT
    accepting = (VolumeRule(volume="data", accept_omitted=True),)
    for policy in (ReleasePolicy(golden, RULES, accept_omitted=True), ReleasePolicy(golden, accepting)):
        assert policy.warnings[0] == warning
        (found,) = policy.expected("data", "q35")
        assert not {f"PCR{value.index}" for value in found.expectation.values} & set(registers)
    # One rule does not speak for another.
    with pytest.raises(SpecError, match="accept that"):
        ReleasePolicy(golden, (*accepting, VolumeRule(volume="root")))
    # And a machine that may have nothing is no matter.
    others = (VolumeRule(volume="data", machines=("whole",)),)
    assert not any("machine q35" in warning for warning in ReleasePolicy(golden, others).warnings)


def test_a_register_that_is_only_recorded_is_not_covered() -> None:
    machine = golden_machine()
    policies = [
        replace(item, policy=Policy.RECORD) if item.register == "PCR2" else item for item in machine.policies
    ]
    with pytest.raises(SpecError, match=r"PCR1, PCR2 are not in .* a host's .* option ROM would not be seen"):
        ReleasePolicy([manifest(replace(machine, policies=tuple(policies)))], RULES)


def test_the_configuration_of_the_platform_alone_may_be_missing() -> None:
    golden = [manifest(lacking(golden_machine(), "PCR1"))]
    what = "PCR1 is not in the golden manifest (PCR1 is unknown)"
    expected = f"machine q35: {what}; a host's ACPI tables or boot order would not be seen"
    assert ReleasePolicy(golden, RULES).warnings == (expected,)
    assert ReleasePolicy([manifest(with_acpi(golden_machine()))], RULES).warnings == ()


def test_a_volume_without_machines() -> None:
    with pytest.raises(SpecError, match="the golden manifests have no machine; build and measure one"):
        ReleasePolicy([replace(manifest(), machines=())], RULES)


def test_rules_are_read_from_yaml() -> None:
    text = (
        "volumes:\n- {volume: data, machines: [q35], attestation_keys: host-1}\n"
        "- {volume: root, accept_omitted: true}\n"
    )
    assert load_rules(text, "rules.yaml") == (
        VolumeRule(volume="data", machines=("q35",), attestation_keys=("host-1",)),
        VolumeRule(volume="root", accept_omitted=True),
    )
    with pytest.raises(SpecError) as caught:
        load_rules("volumes:\n- {volume: data, machine: q35}\n", "rules.yaml")
    assert str(caught.value) == "rules.yaml:2:18: unknown key 'machine'; did you mean 'machines'?"


NO_CERTIFICATE = (
    "broker: 192.0.2.1 is no loopback address, and there is no certificate; "
    "over plain HTTP anybody can answer in the broker's place"
)


def config(**changes: Any) -> BrokerConfig:
    return BrokerConfig(golden=(), keys=Path("keys"), trust=EnrolledKeys({}), **changes)


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
        ({"port": 65536}, "broker: port 65536 is not within 0 to 65535; 8443 is usual"),
        ({"port": -1}, "broker: port -1 is not within 0 to 65535; 8443 is usual"),
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
