from __future__ import annotations

from dataclasses import replace

import pytest

from recipes.golden.unlock import Formatting, TpmPolicy, UnlockVolume
from recipes.golden.unlock_lint import Finding, Severity, lint
from tests.unit.unlock_samples import literal, machine, signed, volume

ACPI = "c: there is no capture of its ACPI tables; make one with the update task of the image"
MACHINES = (machine("a"), machine("b"), machine("c", omitted={"PCR1": ACPI}))
FAKED = (
    "whatever program the host starts instead can extend PCR 11 as this image does and get the key; "
    "add PCR 7 and Secure Boot, or use policy literal with PCR 4"
)
ADDED_WORDS = "a host that adds rdinit= to the command line gets a shell that can have the key"
WIPED = (
    "a host that wipes the disk gets a new, empty volume, and nothing in the guest can tell; "
    "use provider tpm2, which marks the TPM, or format never once the volume is made"
)


def found(volume: UnlockVolume, *, insecure: tuple[str, ...] = ()) -> list[tuple[str, str, str]]:
    return [
        (item.severity.value, ".".join(map(str, item.key)), item.message)
        for item in lint([volume], MACHINES, insecure=insecure)
    ]


def test_a_volume_with_nothing_wrong() -> None:
    assert found(volume("tpm2", tpm2=signed(7, 12))) == []
    assert found(volume("tpm2", tpm2=literal(4, 11, 12), escrow=True)) == []
    assert found(volume("ephemeral", formatting=Formatting.ALWAYS, marker=False)) == []
    assert found(volume("kbs", "passphrase", formatting=Formatting.NEVER, marker=False)) == []
    assert lint([], MACHINES) == ()


def test_findings_come_in_the_order_of_volumes() -> None:
    pair = [volume("tpm2", tpm2=signed(12)), replace(volume("kbs", marker=False), name="x", key=("x",))]
    assert [item.key for item in lint(pair, MACHINES)] == [("data", "tpm2", "pcrs"), ("x", "format")]
    assert lint(pair[:1], MACHINES) == (
        Finding(severity=Severity.WARNING, key=("data", "tpm2", "pcrs"), message=FAKED),
    )


@pytest.mark.parametrize(
    ("policy", "insecure", "expected"),
    [
        (signed(12), ("a",), [("warning", "data.tpm2.pcrs", FAKED)]),
        (
            signed(7),
            (),
            [("error", "data.tpm2.pcrs", f"{ADDED_WORDS}; add PCR 12")],
        ),
        (
            signed(7, 12),
            ("a", "c"),
            [
                (
                    "warning",
                    "data.tpm2.pcrs",
                    (
                        "machine a (and 1 more) boots without Secure Boot, so nothing is signed for it and"
                        " the volume does not open there; use firmware with Secure Boot"
                    ),
                )
            ],
        ),
        (
            signed(4, 7, 9, 12),
            (),
            [
                (
                    "error",
                    "data.tpm2.pcrs",
                    (
                        "the signature stands in the UKI and cannot speak of PCR 4, 9; "
                        "sign for PCR 7, 11 and 12"
                    ),
                )
            ],
        ),
    ],
)
def test_signed_policies(
    policy: TpmPolicy, insecure: tuple[str, ...], expected: list[tuple[str, str, str]]
) -> None:
    assert found(volume("tpm2", tpm2=policy), insecure=insecure) == expected


@pytest.mark.parametrize(
    ("pcrs", "insecure", "severity", "message"),
    [
        ((), (), "error", "a literal policy without registers opens for everything; write pcrs: [4, 11, 12]"),
        ((0, 2), (), "error", "PCR 0, 2 cover firmware and not the image; add PCR 4, 11 and 12"),
        (
            (4, 7),
            (),
            "error",
            "without PCR 11 the key can still be had once the initramfs is left; add it",
        ),
        ((4, 11), (), "error", f"{ADDED_WORDS}; add PCR 12"),
        (
            (9, 11),
            (),
            "error",
            (
                "PCR 9, 11: whatever program the host starts instead can extend PCR 11 likewise; "
                "add PCR 4, which holds the program"
            ),
        ),
        (
            (7, 11, 12),
            ("b",),
            "warning",
            (
                "machine b boots without Secure Boot, where PCR 7 keeps no program out; "
                "add PCR 4, which holds the program"
            ),
        ),
    ],
)
def test_literal_policies(
    pcrs: tuple[int, ...], insecure: tuple[str, ...], severity: str, message: str
) -> None:
    key = "data.tpm2.pcrs" if pcrs else "data.tpm2"
    assert found(volume("tpm2", tpm2=literal(*pcrs), escrow=True), insecure=insecure) == [
        (severity, key, message)
    ]


def test_pcr_7_is_enough_with_secure_boot_everywhere() -> None:
    assert found(volume("tpm2", tpm2=literal(7, 11, 12), escrow=True)) == []


def test_updates_lock_the_data_out() -> None:
    findings = found(volume("tpm2", tpm2=literal(0, 2, 4, 7, 9, 11, 12)))
    assert findings == [
        (
            "warning",
            "data.tpm2.pcrs",
            (
                "an update of the image changes PCR 4, 9, 11 and locks the data out; "
                "use policy signed, or escrow"
            ),
        ),
        (
            "warning",
            "data.tpm2.pcrs",
            "a roll-out of firmware changes PCR 0, 2 and locks the data out; leave them out, or use escrow",
        ),
    ]


@pytest.mark.parametrize("index", [16, 23])
def test_registers_that_software_resets(index: int) -> None:
    (finding,) = found(volume("tpm2", tpm2=literal(4, 11, 12, index), escrow=True))
    what = f"provider tpm2 depends on PCR {index}, which software can reset; leave it out"
    assert finding == ("error", "data.tpm2.pcrs", what)


@pytest.mark.parametrize("index", range(17, 23))
def test_registers_of_a_dynamic_launch(index: int) -> None:
    (finding,) = found(volume("tpm2", tpm2=literal(4, 11, 12, index), escrow=True))
    what = "which only a dynamic launch or another locality extends; leave it out"
    assert finding == ("error", "data.tpm2.pcrs", f"provider tpm2 depends on PCR {index}, {what}")


def test_every_register_that_is_not_predicted_on_some_machine() -> None:
    messages = [item[2] for item in found(volume("tpm2", tpm2=literal(1, 4, 8, 11, 12), escrow=True))]
    assert messages == [
        (
            "provider tpm2 depends on PCR 1, which is not predicted on machine c "
            "(c: there is no capture of its ACPI tables); leave it out, or the machine"
        ),
        (
            "provider tpm2 depends on PCR 8, which is not predicted on machine a (and 2 more) "
            "(no prediction covers it); leave it out, or the machine"
        ),
    ]


def test_registers_of_other_providers() -> None:
    site = volume("exec")
    (provider,) = site.providers
    depends = replace(site, providers=(replace(provider, registers=(11, 10)),))
    assert found(depends) == [
        (
            "error",
            "data.unlock.0",
            (
                "provider exec depends on PCR 10, which is not predicted on machine a (and 2 more) "
                "(no prediction covers it); leave it out, or the machine"
            ),
        )
    ]


def not_its_own(provider: str, maker: str) -> str:
    return f"provider {provider} knows no key but its own, and {maker} makes this one; leave one of them out"


def nobody(provider: str, maker: str) -> str:
    what = f"nobody outside the guest has the key that {maker} makes, so {provider} cannot give it"
    return f"{what}; add escrow, or leave {provider} out"


@pytest.mark.parametrize(
    ("names", "escrow", "expected"),
    [
        (("tpm2", "kbs"), False, [("error", "data.unlock.1", nobody("kbs", "tpm2"))]),
        (("tpm2", "kbs"), True, []),
        (("tpm2", "passphrase"), False, [("warning", "data.unlock.1", nobody("passphrase", "tpm2"))]),
        (("tpm2", "passphrase"), True, []),
        (("tpm2", "exec"), False, [("warning", "data.unlock.1", nobody("exec", "tpm2"))]),
        (("tpm2", "keyfile"), False, [("error", "data.unlock.1", nobody("keyfile", "tpm2"))]),
        (("kbs", "tpm2"), True, [("error", "data.unlock.1", not_its_own("tpm2", "kbs"))]),
        (("kbs", "passphrase"), False, []),
        (("passphrase", "kbs"), False, []),
        (("snp-derived-key", "cca-sealing-key"), False, []),
        (
            ("snp-derived-key", "tpm2"),
            True,
            [("error", "data.unlock.1", not_its_own("tpm2", "snp-derived-key"))],
        ),
    ],
)
@pytest.mark.parametrize("formatting", [Formatting.IF_BLANK, Formatting.NEVER])
def test_a_volume_has_one_key(
    names: tuple[str, ...], escrow: bool, expected: list[tuple[str, str, str]], formatting: Formatting
) -> None:
    assert found(volume(*names, escrow=escrow, formatting=formatting)) == expected


def test_who_makes_the_key_may_stand_behind_who_cannot() -> None:
    """A provider that answers for existing volumes only does not make the key."""
    pair = volume("exec", "tpm2", escrow=True)
    first, second = pair.providers
    assert found(replace(pair, providers=(replace(first, formats=False), second))) == []
    assert (
        found(replace(pair, providers=tuple(replace(item, formats=False) for item in pair.providers))) == []
    )


def test_a_wiped_disk_goes_unnoticed_without_a_marker() -> None:
    assert found(volume("kbs", marker=False)) == [("warning", "data.format", WIPED)]
    assert found(volume("kbs", marker=True)) == []
    assert found(volume("kbs", marker=False, formatting=Formatting.NEVER)) == []
