"""What a recipe may say about its encrypted volume, and every mistake with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipes.errors import SpecError
from recipes.schema import load_image
from recipes.schema.volumes import CcaField, FormatPolicy, SnpField, TpmSealing, VolumeHeader, VolumeIntegrity
from tests.unit.test_schema import RECIPE, write

PROVIDERS = ("ephemeral", "tpm2", "kbs", "exec", "snp-derived-key", "cca-sealing-key", "passphrase")
TAGS = "integrity tags are the kernel's to write, and with format never the build makes the volume"
PLAIN = "data: {size: 64MiB, unlock: [ephemeral]}"


def recipe(folder: Path, data: str) -> Path:
    path = write(folder, RECIPE.replace(PLAIN, f"data: {data}"))
    for name in PROVIDERS:
        (folder / "initrd" / "unlock.d" / name).touch()
    return path


def mistakes(folder: Path, data: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load_image(recipe(folder, data), folder)
    return [line.partition(": ")[2] for line in str(caught.value).splitlines()]


def test_all_that_can_be_said(tmp_path: Path) -> None:
    data = """
  size: 64MiB
  format: if-blank
  header: luks2
  integrity: hmac-sha256
  unlock: [tpm2, passphrase]
  timeout: 90
  provider_timeout: 45
  escrow: keys/escrow.pem
  tpm2: {policy: literal, pcrs: [4, 7, 11]}
"""
    spec = load_image(recipe(tmp_path, data), tmp_path).recipe.data
    assert (spec.format, spec.header) == (FormatPolicy.IF_BLANK, VolumeHeader.LUKS2)
    assert spec.integrity is VolumeIntegrity.HMAC_SHA256
    assert (spec.unlock, spec.timeout, spec.provider_timeout) == (("tpm2", "passphrase"), 90, 45)
    assert spec.tpm2 is not None
    assert (spec.tpm2.policy, spec.tpm2.pcrs, spec.tpm2.release) == (TpmSealing.LITERAL, (4, 7, 11), 0)
    assert spec.escrow == "keys/escrow.pem"


def test_options_of_the_other_providers(tmp_path: Path) -> None:
    data = """
  size: 64MiB
  unlock: [kbs, exec, snp-derived-key, cca-sealing-key]
  kbs: {url: "https://10.0.2.2:8443", ca: keys/broker-ca.pem, volume: data-1, machine: q35, activate: true}
  exec: {program: usr/bin/site-key}
  snp: {fields: [measurement, policy, image-id], guest_svn: 3, tcb_version: 15210063316513718276, vmpl: 1}
  cca: {fields: [rim, realm-id], svn: 2}
"""
    spec = load_image(recipe(tmp_path, data), tmp_path).recipe.data
    assert spec.format is FormatPolicy.IF_BLANK
    assert spec.kbs is not None
    assert (spec.kbs.url, spec.kbs.volume, spec.kbs.activate) == ("https://10.0.2.2:8443", "data-1", True)
    assert spec.exec is not None
    assert spec.exec.program == "usr/bin/site-key"
    assert spec.snp is not None
    assert spec.snp.fields == (SnpField.MEASUREMENT, SnpField.POLICY, SnpField.IMAGE_ID)
    assert (spec.snp.guest_svn, spec.snp.tcb_version) == (3, 15210063316513718276)
    assert spec.cca is not None
    assert (spec.cca.fields, spec.cca.svn) == ((CcaField.RIM, CcaField.REALM_ID), 2)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("{size: 64MiB, unlock: []}", "data.unlock: the list is empty; name a provider"),
        ("{size: 64MiB, unlock: [tpm2, tpm2]}", "provider tpm2 is listed twice"),
        (
            "{size: 64MiB, unlock: [tpm]}",
            "there is no provider initrd/unlock.d/tpm; did you mean 'tpm2'?",
        ),
        ("{size: 64MiB, unlock: [kbs]}", "provider kbs needs data.kbs"),
        (
            "{size: 64MiB, unlock: [passphrase], format: never, integrity: hmac-sha256}",
            f"{TAGS}; use if-blank, or leave integrity out",
        ),
        *(
            (
                f"{{size: 64MiB, unlock: [passphrase, tpm2], format: {policy}}}",
                (
                    f"format {policy}: a TPM knows the volumes that it formatted, and no others; use format "
                    "if-blank with tpm2, or another provider"
                ),
            )
            for policy in ("never", "always")
        ),
        (
            "{size: 64MiB, unlock: [ephemeral], tpm2: {}}",
            "data.tpm2 is for provider tpm2, which is not in unlock; add it there",
        ),
        ("{size: 64MiB, unlock: [tpm2], tpm2: {policy: literal, pcrs: [24]}}", "PCR 24: a TPM has 0 to 23"),
        (
            "{size: 64MiB, unlock: [tpm2], tpm2: {policy: literal, pcrs: [11, 11]}}",
            "PCR 11 is listed twice",
        ),
        (
            "{size: 64MiB, unlock: [tpm2], tpm2: {pcrs: [4, 11]}}",
            "a signature in the UKI speaks of PCR 7, 11 and 12; [11, 12] is for machines without Secure Boot",
        ),
        (
            "{size: 64MiB, unlock: [tpm2], tpm2: {policy: literal}}",
            "data.tpm2: policy literal needs pcrs, such as [4, 7, 11]",
        ),
        (
            "{size: 64MiB, unlock: [tpm2], tpm2: {policy: literal, pcrs: [11], release: 2}}",
            "release is for policy signed; a literal policy knows one boot only",
        ),
        ("{size: 64MiB, unlock: [snp-derived-key], snp: {vmpl: 4}}", "vmpl 4 is not 0 to 3"),
        (
            "{size: 64MiB, unlock: [snp-derived-key], snp: {fields: [measurement]}}",
            "without policy a host gets the same key with a guest of its own; add it",
        ),
        (
            "{size: 64MiB, unlock: [snp-derived-key], snp: {fields: [measurement, policy, policy]}}",
            "policy is listed twice",
        ),
        (
            f"{{size: 64MiB, unlock: [snp-derived-key], snp: {{guest_svn: {1 << 32}}}}}",
            f"guest_svn {1 << 32} is not 1 to 2**32-1",
        ),
        (
            "{size: 64MiB, unlock: [snp-derived-key], snp: {tcb_version: 0}}",
            "tcb_version 0 is not 1 to 2**64-1",
        ),
        ("{size: 64MiB, unlock: [cca-sealing-key], cca: {svn: 0}}", "svn 0 is not 1 to 2**64-1"),
        ("{size: 64MiB, unlock: [cca-sealing-key], cca: {fields: [rim, rim]}}", "rim is listed twice"),
        (
            "{size: 64MiB, unlock: [cca-sealing-key], cca: {fields: [svn]}}",
            "data.cca.fields[0]: 'svn' is not known; known: key, realm-id, rim",
        ),
        (
            "{size: 64MiB, unlock: [tpm2], timeout: 10}",
            "provider_timeout 30 is more than timeout 10, which is for all; write less",
        ),
        (
            "{size: 64MiB, unlock: [tpm2], timeout: 4000}",
            "data.timeout: 4000 is not 1 to 3600 seconds",
        ),
        (
            "{size: 64MiB, unlock: [tpm2], tpm2: {release: 1001}}",
            "release 1001 is above 1000; the TPM's counter is raised one by one",
        ),
        (
            f"{{size: 64MiB, unlock: [tpm2], tpm2: {{release: {10**18}}}}}",
            f"release {10**18} is above 1000; the TPM's counter is raised one by one",
        ),
        (
            f"{{size: 64MiB, unlock: [tpm2], tpm2: {{release: {10**40}}}}}",
            "data.tpm2.release: a number of 41 digits; none may have more than 40",
        ),
        (
            "{size: 64MiB, unlock: [kbs], kbs: {url: 'https://b:70000', ca: keys/ca.pem}}",
            "port 70000 is not 1 to 65535",
        ),
        (
            "{size: 64MiB, unlock: [kbs], kbs: {url: 'https://b', ca: ca.pem, activate: true, tee: snp}}",
            (
                "data.kbs: activate and tee exclude each other, because a broker trusts one kind of proof; "
                "remove one"
            ),
        ),
        (
            "{size: 64MiB, unlock: [kbs], kbs: {url: 'https://b', ca: keys/ca.pem, tee: tdx}}",
            "data.kbs.tee: 'tdx' is not known; known: none, snp",
        ),
        (
            "{size: 64MiB, unlock: [tpm2], timeout: 3600, provider_timeout: 0}",
            "data.provider_timeout: 0 is not 1 to 3600 seconds",
        ),
        (
            "{size: 64MiB, unlock: [kbs], kbs: {url: 'http://b', ca: keys/ca.pem}}",
            "data.kbs.url: 'http://b' is not allowed; write for example https://broker.example:8443",
        ),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, data: str, said: str) -> None:
    assert mistakes(tmp_path, data) == [said]


@pytest.mark.parametrize("name", ["tpm2", "kbs"])
def test_the_end_of_the_initramfs_must_show(tmp_path: Path, name: str) -> None:
    """Where the cap may be left out, a running system asks the TPM or the broker once more."""
    data = f"{{size: 64MiB, unlock: [passphrase, {name}], kbs: {{url: 'https://b', ca: keys/ca.pem}}}}"
    data = data if name == "kbs" else f"{{size: 64MiB, unlock: [passphrase, {name}]}}"
    path = recipe(tmp_path, data)
    load_image(path, tmp_path)
    path.write_text(path.read_text().replace("initramfs: {", "initramfs: {tpm: if-present, "))
    with pytest.raises(SpecError) as caught:
        load_image(path, tmp_path)
    (line,) = str(caught.value).splitlines()
    what = f"provider {name} gives its key to the initramfs alone, whose end PCR 11 must show"
    assert line.partition(": ")[2] == f"{what}; write initramfs.tpm: required"


def test_the_place_of_a_policy_that_a_tpm_cannot_follow(tmp_path: Path) -> None:
    path = recipe(tmp_path, "\n  size: 64MiB\n  unlock: [tpm2]\n  format: never")
    with pytest.raises(SpecError) as caught:
        load_image(path, tmp_path)
    (line,) = str(caught.value).splitlines()
    number = path.read_text().splitlines().index("  format: never") + 1
    assert line.split(": ")[0].endswith(f".yaml:{number}:11")
