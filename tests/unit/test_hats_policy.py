"""Policies and their signatures: what goes in comes out, and what is none is refused in one sentence."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError, ImageError
from recipes.hats import policy, signature
from recipes.hats.policy import (
    AmdSev,
    AmdSevDynamic,
    AppraisalPolicy,
    Insecure,
    PolicySignature,
    description,
)
from recipes.machine.hats import CvmType, HatsNetwork, HatsShape, NetworkMode, TcbVersion
from recipes.machine.sev_cpus import CpuSignature
from recipes.units import GIB, KIB

DIGEST = st.binary(min_size=32, max_size=32)
TCB = st.builds(
    TcbVersion,
    boot_loader=st.integers(0, 255),
    tee=st.integers(0, 255),
    snp=st.integers(0, 255),
    microcode=st.integers(0, 255),
)
CPU = st.builds(CpuSignature, st.integers(0, 270), st.integers(0, 255), st.integers(0, 15))
LIST = {"max_size": 3}
STAGE0 = st.one_of(
    st.just(Insecure()),
    st.builds(AmdSev, st.binary(min_size=48, max_size=48), TCB),
    st.builds(
        AmdSevDynamic,
        st.lists(DIGEST, **LIST).map(tuple),  # type: ignore[arg-type]
        TCB,
        st.lists(CPU, **LIST).map(tuple),  # type: ignore[arg-type]
        st.lists(st.integers(0, 255), **LIST).map(tuple),  # type: ignore[arg-type]
    ),
)
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=40)
POLICY = st.builds(
    AppraisalPolicy,
    description=TEXT,
    stage0=STAGE0,
    kernel_image=DIGEST,
    kernel_setup_data=DIGEST,
    init_ram_fs=DIGEST,
    memory_map=DIGEST,
    acpi_table=DIGEST,
    kernel_cmd_line_regex=TEXT,
    system_image=DIGEST,
    containers=st.lists(DIGEST, **LIST).map(tuple),  # type: ignore[arg-type]
    signatures=st.lists(
        st.builds(PolicySignature, st.binary(min_size=64, max_size=64), TEXT), max_size=2
    ).map(tuple),
)
DIGITS = "ab" * 32
MEASUREMENT = "\n".join(
    f'{name}: "{DIGITS}"'
    for name in (
        *("kernel_image_sha256", "kernel_setup_data_sha256", "init_ram_fs_sha256", "memory_map_sha256"),
        *("acpi_table_sha256", "system_image_sha256", "container_binary_sha256"),
    )
)


@settings(max_examples=40)
@given(st.lists(POLICY, max_size=3))
def test_both_forms_hold_what_was_written(policies: list[AppraisalPolicy]) -> None:
    assert policy.load_text(policy.dump_text(policies), "text") == tuple(policies)
    assert policy.load_binary(policy.dump_binary(policies), "binary") == tuple(policies)


@settings(max_examples=150)
@given(st.binary(max_size=200))
def test_other_bytes_are_refused_as_such(data: bytes) -> None:
    try:
        policy.load_binary(data, "binary")
    except FormatError as error:
        assert str(error).startswith("binary: ")
    try:
        policy.load_text(data.decode("latin-1"), "text")
    except FormatError as error:
        assert str(error).startswith("text: ")


def one(stage0: str = "insecure {}", more: str = MEASUREMENT) -> str:
    return f"policies {{ measurement {{ stage0_measurement {{ {stage0} }}\n{more} }} }}"


BAD = {
    "policies {": 'p: no appraisal policies: 1:10 : Expected "}".',
    "nothing: 1": (
        'p: no appraisal policies: 1:1 : Message type "pcit.tvs.AppraisalPolicies" '
        'has no field named "nothing".'
    ),
    "policies {}": "p: policy 1: there is no measurement",
    one(""): "p: policy 1: stage0_measurement says neither amd_sev nor amd_sev_dynamic nor insecure",
    f"policies {{ measurement {{ {MEASUREMENT} }} }}": (
        "p: policy 1: stage0_measurement says neither amd_sev nor amd_sev_dynamic nor insecure"
    ),
    one("amd_sev {}"): "p: policy 1: sha384 is '', expected 96 hexadecimal digits",
    one(f'amd_sev {{ sha384: "{"ab" * 48}" }}'): (
        "p: policy 1: min_tcb_version is missing; a TVS demands it"
    ),
    one("amd_sev_dynamic { min_tcb_version {} cpu_info { family: 999 } }"): (
        "p: policy 1: cpu_info: family 999 is not from 0 to 270"
    ),
    one('amd_sev_dynamic { stage0_ovmf_binary_hash: "ab" min_tcb_version {} }'): (
        "p: policy 1: stage0_ovmf_binary_hash is 'ab', expected 64 hexadecimal digits"
    ),
    one(more=MEASUREMENT.replace(f'kernel_image_sha256: "{DIGITS}"', 'kernel_image_sha256: "xy"')): (
        "p: policy 1: kernel_image_sha256 is 'xy', expected 64 hexadecimal digits"
    ),
    one(more=MEASUREMENT + '\ncontainer_binary_sha256: "12"'): (
        "p: policy 1: container_binary_sha256 is '12', expected 64 hexadecimal digits"
    ),
    one()[:-1] + ' signature { signature: "00" } }': (
        "p: policy 1: signature is '00', expected 128 hexadecimal digits"
    ),
}


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_policy(text: str) -> None:
    with pytest.raises(FormatError) as caught:
        policy.load_text(text, "p")
    assert str(caught.value) == BAD[text]


def test_too_much_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "MAX_POLICIES", 8)
    with pytest.raises(FormatError, match="p: 9 characters; at most 8 are read"):
        policy.load_text(" " * 9, "p")
    with pytest.raises(FormatError, match="p: 9 bytes; at most 8 are read"):
        policy.load_binary(bytes(9), "p")


def plain(stage0: AmdSev | AmdSevDynamic | Insecure) -> AppraisalPolicy:
    return AppraisalPolicy(
        description="",
        stage0=stage0,
        kernel_image=b"1" * 32,
        kernel_setup_data=b"2" * 32,
        init_ram_fs=b"3" * 32,
        memory_map=b"4" * 32,
        acpi_table=b"5" * 32,
        kernel_cmd_line_regex="^x$",
        system_image=b"6" * 32,
        containers=(b"7" * 32, b"8" * 32),
    )


def test_what_is_signed() -> None:
    tcb = TcbVersion(boot_loader=1, tee=2, snp=3, microcode=0x0405)
    digests = [bytes([ord("0") + number]) * 32 for number in range(1, 9)]
    rest = b"".join([*digests[:5], b"^x$", *digests[5:]])
    versions = bytes.fromhex("00000001 00000002 00000003 00000405")
    assert signature.signed_bytes(plain(AmdSev(b"d" * 48, tcb))) == b"d" * 48 + versions + rest
    assert signature.signed_bytes(plain(Insecure())) == rest
    assert signature.signed_bytes(plain(AmdSevDynamic((b"f" * 32,), tcb, (), (1,)))) == rest


def test_a_policy_is_signed_alike_each_time_and_by_one_key() -> None:
    key = signature.load_key(signature.make_key(), "keys/hats-test.pem")
    other = signature.load_key(signature.make_key(), "keys/hats-other.pem")
    tested = plain(AmdSev(bytes(48), TcbVersion(boot_loader=1, snp=2, microcode=3)))
    signed = signature.sign(tested, key, "us")
    assert signed == signature.sign(signed, key, "us")
    assert signature.verify(signed, key.public_key())
    assert not signature.verify(signed, other.public_key())
    assert not signature.verify(tested, key.public_key())
    # The first one counts, whatever stands behind it.
    both = replace(signed, signatures=(PolicySignature(bytes(64), ""), *signed.signatures))
    assert not signature.verify(both, key.public_key())


@pytest.mark.parametrize(
    "stage0",
    [Insecure(), AmdSevDynamic((b"f" * 32,), TcbVersion(boot_loader=1, snp=2, microcode=3), (), (1,))],
)
def test_nothing_is_signed_that_a_signature_does_not_cover(stage0: policy.Stage0Reference) -> None:
    with pytest.raises(ImageError) as caught:
        signature.sign(plain(stage0), signature.load_key(signature.make_key(), "k"), "us")
    assert str(caught.value).endswith(
        ": a signature covers nothing of what vouches for its firmware; only amd_sev policies are signed"
    )


def pem(key: ec.EllipticCurvePrivateKey, *, secret: bytes | None = None) -> bytes:
    lock = NoEncryption() if secret is None else BestAvailableEncryption(secret)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock)


MAKE = "make one with `openssl ecparam -genkey -name prime256v1 -noout`"


def test_what_is_no_key() -> None:
    bad = {
        b"": f"no PEM file of an unencrypted private key; {MAKE}",
        pem(ec.generate_private_key(ec.SECP256R1()), secret=b"x"): (
            f"no PEM file of an unencrypted private key; {MAKE}"
        ),
        pem(ec.generate_private_key(ec.SECP384R1())): f"not a key on P-256, and HATs takes no other; {MAKE}",
        bytes(20000): f"20000 bytes are no key file; {MAKE}",
    }
    for data, what in bad.items():
        with pytest.raises(FormatError) as caught:
            signature.load_key(data, "keys/k")
        assert str(caught.value) == f"keys/k: {what}"
    assert signature.load_key(pem(ec.generate_private_key(ec.SECP256R1())), "k").key_size == 256


def test_what_is_no_point() -> None:
    bad = {b"\4" * 64: "64 bytes, a public key has 65 (4, X, Y)", b"\4" * 65: "not a point of P-256"}
    for data, what in bad.items():
        with pytest.raises(FormatError) as caught:
            signature.load_point(data, "p")
        assert str(caught.value) == f"p: {what}"


def test_a_description_says_what_it_is_of() -> None:
    shape = HatsShape(
        machine="genoa",
        cvm_type=CvmType.SEVSNP,
        cpu=CpuSignature(25, 17, 1),
        tcb=None,
        vcpus=2,
        memory=4000000 * KIB,
        ramdrive=GIB,
        network=HatsNetwork(mode=NetworkMode.VIRTUAL_BRIDGE),
        vmm="q",
    )
    what = "i 1.0.0 in an AMD SEV-SNP CVM (genoa, Family: 25, Model: 17, Stepping: 1)."
    size = "Cores: 2, RAM: 4000000 KB, network: virtual_bridge"
    assert description("i 1.0.0", shape) == f"{what} {size}"
    assert description("i 1.0.0", replace(shape, cpu=None), ["a", "b"]) == (
        f"STAND-IN for a, b, accepts nothing real. i 1.0.0 in an insecure VM. {size}"
    )
