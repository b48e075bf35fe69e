from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest

from recipes.errors import SpecError, VerifyError
from recipes.formats import pcrsig
from recipes.golden.unlock import Formatting, Rollback, Sealing, TpmPolicy, boot_digest
from recipes.golden.unlock_lint import Finding, Severity
from recipes.machine import UefiFirmware
from recipes.measure.trace import measured
from recipes.measure.ukifile import MeasuredUki, StubSection
from recipes.reader import Marks
from recipes.schema import Image
from recipes.schema.volumes import FormatPolicy, Tpm2Spec, TpmSealing, UnlockSpec
from recipes.steps import firmware, golden, unlock_keys, unlock_policy, volumes
from recipes.steps.golden import Predicted
from recipes.steps.volumes import Volume
from tests.unit.boot_images import key_pair, signing_key
from tests.unit.test_steps_unlock_keys import public_of
from tests.unit.unlock_samples import machine

TPM2 = UnlockSpec(unlock=("tpm2", "passphrase"), tpm2=Tpm2Spec(pcrs=(11,)))
OTHER = UnlockSpec(unlock=("kbs",))


def options(**changes: Any) -> UnlockSpec:
    return replace(TPM2, tpm2=Tpm2Spec(**changes))


def volume(spec: UnlockSpec, format_policy: FormatPolicy = FormatPolicy.IF_BLANK) -> Volume:
    return Volume(
        name="data",
        image="i",
        key=("data",),
        partition=str(UUID(int=3)),
        mountpoint="/var",
        unlock=spec,
        format=format_policy,
    )


def test_what_a_recipe_says_about_the_tpm() -> None:
    assert unlock_policy.tpm_policy(OTHER) is None
    assert unlock_policy.tpm_policy(TPM2) == TpmPolicy(sealing=Sealing.SIGNED, pcrs=(11,))
    default = replace(TPM2, tpm2=None)
    assert unlock_policy.tpm_policy(default) == TpmPolicy(sealing=Sealing.SIGNED, pcrs=(7, 11, 12))
    limited = TpmPolicy(sealing=Sealing.SIGNED, pcrs=(7, 11, 12), rollback=Rollback(0x01801C00, 3))
    assert unlock_policy.tpm_policy(options(release=3)) == limited
    literal = TpmPolicy(sealing=Sealing.LITERAL, pcrs=(4, 11))
    assert unlock_policy.tpm_policy(options(policy=TpmSealing.LITERAL, pcrs=(11, 4))) == literal
    assert literal.registers == (4, 11)


def test_what_our_key_signs() -> None:
    literal = options(policy=TpmSealing.LITERAL, pcrs=(4, 11))
    assert unlock_policy.signed_policy([volume(OTHER), volume(literal)]) is None
    assert unlock_policy.signed_policy([]) is None
    assert unlock_policy.signed_policy([volume(OTHER), volume(TPM2)]) == TpmPolicy(
        sealing=Sealing.SIGNED, pcrs=(11,)
    )


PROVIDER = """#!/bin/sh
#: summary s
#: kinds passphrase
#: formats {formats}
#: modules none
#: binaries none
#: helpers none
#: files none
#: network no
#: registers {registers}
#: remembers no
#: profile any
"""


@pytest.fixture
def providers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for module in (volumes, unlock_policy):
        monkeypatch.setattr(module, "PROVIDERS", tmp_path)
    for name, formats, registers in (
        ("tpm2", "yes", "options"),
        ("passphrase", "no", "none"),
        ("kbs", "yes", "sha256:11 sha256:4"),
    ):
        (tmp_path / name).write_text(PROVIDER.format(formats=formats, registers=registers))
    return tmp_path


def test_the_volume_that_is_judged(providers: Path) -> None:
    spec = replace(options(policy=TpmSealing.LITERAL, pcrs=(4, 11)), escrow="keys/escrow.pem")
    judged = unlock_policy.judged(volume(spec))
    assert [(item.name, item.formats, item.registers) for item in judged.providers] == [
        ("tpm2", True, (4, 11)),
        ("passphrase", False, ()),
    ]
    assert (judged.name, judged.key, judged.formatting) == ("data", ("data",), Formatting.IF_BLANK)
    assert (judged.marker, judged.escrow) == (True, True)
    kbs = unlock_policy.judged(volume(OTHER, FormatPolicy.NEVER))
    assert [item.registers for item in kbs.providers] == [(4, 11)]
    assert (kbs.formatting, kbs.marker, kbs.escrow, kbs.tpm2) == (Formatting.NEVER, False, False, None)
    assert unlock_policy.provider_files([volume(TPM2), volume(TPM2)]) == (
        providers / "tpm2",
        providers / "passphrase",
    )


def test_machines_that_pcr_7_is_signed_for(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = UefiFirmware(package="ovmf", code="CODE.fd", vars="VARS.fd")
    machines = (
        SimpleNamespace(name="a", firmware=plain),
        SimpleNamespace(name="b", firmware=replace(plain, secure_boot=True)),
    )

    image = cast("Image", SimpleNamespace(name="i", machines=machines))
    monkeypatch.setattr(unlock_policy, "volumes", lambda _: (volume(options()),))
    (found,) = unlock_policy.secure_machines(image)
    assert found.machine.name == "b"
    assert found.variables == firmware.variables_path(image, machines[1].firmware)
    for spec in (TPM2, OTHER, options(policy=TpmSealing.LITERAL, pcrs=(7, 11))):
        monkeypatch.setattr(unlock_policy, "volumes", lambda _, spec=spec: (volume(spec),))
        assert unlock_policy.secure_machines(image) == ()


def finding(severity: Severity, *key: str | int) -> Finding:
    return Finding(severity=severity, key=key, message=f"{severity.value} at {key[-1]}; mend it")


def test_errors_stop_the_build_where_the_recipe_has_them() -> None:
    marks = Marks(
        "recipes/images/i.yaml", places={(): (1, 1), ("data",): (9, 7), ("data", "format"): (9, 20)}
    )
    findings = (
        finding(Severity.ERROR, "data", "tpm2", "pcrs"),
        finding(Severity.WARNING, "data", "format"),
        finding(Severity.ERROR, "data", "format"),
    )
    with pytest.raises(SpecError) as caught:
        golden.heed(findings, marks)
    assert str(caught.value).splitlines() == [
        "recipes/images/i.yaml:9:7: error at pcrs; mend it",
        "recipes/images/i.yaml:9:20: error at format; mend it",
    ]


def test_warnings_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    marks = Marks("i.yaml", places={("data",): (9, 7)})
    golden.heed((finding(Severity.WARNING, "data", "unlock", 1),), marks)
    assert capsys.readouterr().out == "  warning: i.yaml:9:7: warning at 1; mend it\n"
    golden.heed((), marks)
    assert capsys.readouterr().out == ""


@pytest.fixture
def public(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    pem = public_of(signing_key("policy").private_key)
    (tmp_path / "pcr.pub").write_bytes(pem)
    monkeypatch.setattr(unlock_keys, "PUBLIC", tmp_path / "pcr.pub")
    return pem


def uki(**sections: bytes) -> MeasuredUki:
    found = tuple(StubSection(f".{name}", data, measured(data)) for name, data in sections.items())
    return MeasuredUki(
        name="u.efi", stub_version="257", image=measured(b""), kernel=measured(b""), sections=found
    )


def approval(digest: bytes) -> bytes:
    return pcrsig.render([pcrsig.sign(key_pair("policy")[0], "sha256", [11], digest)])


def test_the_manifest_has_what_the_image_approves(public: bytes) -> None:
    machines = (machine("a"), machine("b"))
    digest = boot_digest(machines[0].value, (11,))
    image = uki(pcrsig=approval(digest), pcrpkey=public)
    (policy,) = golden.unlock_policies([volume(TPM2)], Predicted(machines, image), ())
    assert [item.digest for item in policy.machines] == [digest, digest]
    assert policy.approval is not None
    assert policy.approval.sealed == unlock_keys.signed_policy_digest(public)
    stale = uki(pcrsig=approval(bytes(32)), pcrpkey=public)
    with pytest.raises(VerifyError, match=r"^u\.efi \.pcrsig: policy 0{64} is approved, to which no"):
        golden.unlock_policies([volume(TPM2)], Predicted(machines, stale), ())


def test_a_literal_policy_needs_no_key() -> None:
    literal = options(policy=TpmSealing.LITERAL, pcrs=(4, 11))
    (policy,) = golden.unlock_policies([volume(literal)], Predicted((machine("a"),), uki()), ())
    assert (policy.registers, policy.approval) == ((4, 11), None)
    assert golden.unlock_policies([volume(OTHER)], Predicted((machine("a"),), uki()), ()) == ()
