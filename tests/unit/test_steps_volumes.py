from __future__ import annotations

from recipes.schema.volumes import (
    CcaField,
    CcaSpec,
    FormatPolicy,
    KbsSpec,
    SnpField,
    SnpRoot,
    SnpSpec,
    TeeReport,
    UnlockSpec,
)
from recipes.steps import volumes
from recipes.steps.volumes import Volume

# A CA is only looked at here; which one does not matter.
CA = "tests/vectors/debian13/certificates/ISRG_Root_X2.crt"


def unlock(**changes: object) -> UnlockSpec:
    kbs = KbsSpec(url="https://broker.example", ca=CA, **changes)  # type: ignore[arg-type]
    return UnlockSpec(unlock=("kbs", "passphrase"), kbs=kbs)


def options(spec: UnlockSpec) -> dict[str, str]:
    volume = Volume(
        name="data",
        image="image",
        key=("data",),
        partition="5d1d1f4c-54a6-4f4c-9c8e-0123456789ab",
        mountpoint="/var",
        unlock=spec,
        format=FormatPolicy.IF_BLANK,
    )
    return dict(volumes.read_volume(volume).options)


def test_how_the_attestation_key_is_proved() -> None:
    given = {"KBS_URL": "https://broker.example", "KBS_VOLUME": "data", "KBS_MACHINE": ""}
    assert options(unlock()) == given | {"KBS_ACTIVATE": "no", "KBS_TEE": "none"}
    assert options(unlock(activate=True)) == given | {"KBS_ACTIVATE": "yes", "KBS_TEE": "none"}
    assert options(unlock(tee=TeeReport.SNP)) == given | {"KBS_ACTIVATE": "no", "KBS_TEE": "snp"}


def test_what_a_derived_key_is_mixed_with() -> None:
    """The words are those that the helper is tested with: tests/tool/test_derive_key_helper.py."""
    plain = {"DERIVE_FIELDS": "measurement,policy", "DERIVE_ROOT": "vcek", "DERIVE_VMPL": "0"}
    assert options(UnlockSpec(unlock=("snp-derived-key",))) == plain
    fields = (SnpField.MEASUREMENT, SnpField.POLICY, SnpField.FAMILY_ID)
    snp = SnpSpec(fields=fields, guest_svn=3, tcb_version=9, root=SnpRoot.VMRK, vmpl=1)
    assert options(UnlockSpec(unlock=("snp-derived-key",), snp=snp)) == {
        "DERIVE_FIELDS": "measurement,policy,family-id,guest-svn=3,tcb-version=9",
        "DERIVE_ROOT": "vmrk",
        "DERIVE_VMPL": "1",
    }


def test_what_a_sealing_key_is_mixed_with() -> None:
    assert options(UnlockSpec(unlock=("cca-sealing-key",))) == {"DERIVE_FLAGS": "realm-id"}
    for cca, words in (
        (CcaSpec(fields=(CcaField.RIM, CcaField.KEY), svn=2), "rim,key,svn=2"),
        (CcaSpec(fields=(), svn=7), "svn=7"),
        (CcaSpec(fields=()), "none"),
    ):
        assert options(UnlockSpec(unlock=("cca-sealing-key",), cca=cca)) == {"DERIVE_FLAGS": words}


def test_only_an_image_that_wants_a_report_has_what_gives_it() -> None:
    plain, _ = volumes.read_providers(unlock())
    reported, other = volumes.read_providers(unlock(tee=TeeReport.SNP))
    assert (plain.modules, reported.modules) == ((), ("sev-guest",))
    assert other == volumes.read_providers(unlock())[1]
