"""Policies that HATs has published, and the signatures on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from recipes.hats import policy, signature
from recipes.hats.command_line import regex
from recipes.hats.policy import AmdSev, AppraisalPolicy, Insecure
from recipes.machine.hats import CvmType, HatsNetwork, HatsShape, NetworkMode, RegexForm, TcbVersion
from recipes.machine.sev_cpus import CpuSignature
from recipes.units import GIB, KIB

FOLDER = Path(__file__).parent / "hats"
FILES = {"kv.txtpb": 16, "kv-insecure.txtpb": 8}
# The key that a TVS checks policies by, and its private half out of HATs' own tests.
PUBLIC = (
    "048fa2c25d3d3368b23f7877c9ac84866f440f9dd7a94e7ca5440ef1bc611f77db"
    "2940cca2233d06c9cfbf503ee73fdf5cf1f4c637f376bb7daaf637faf05656e4"
)
PRIVATE = "cf8d805ed629f4f95d20714a847773b3e53d3d8ab155e52c882646f702a98ce8"
# What HATs' tests sign with that key, and what comes of it.
LAUNCH = bytes.fromhex(
    "de654ed1eb03b69567338d357f86735c64fc771676bcd5d05ca6afe86f3eb9f7549222afae6139a8d282a34d09d59f95"
)
# The launch digest of the first policy of `kv.txtpb`.
GENOA = bytes.fromhex(
    "79a2cde473c9bb5708b16e9dd5ad0f3a38ed9da8c1d75f8c4bd5bc80dc1ea994d31987dab22e7feb910945e038e006a4"
)
TCB = TcbVersion(boot_loader=7, snp=15, microcode=62)
TESTED = AppraisalPolicy(
    description="Test AMD-SNP measurements",
    stage0=AmdSev(LAUNCH, TCB),
    kernel_image=bytes.fromhex("442a36913e2e299da2b516814483b6acef11b63e03f735610341a8561233f7bf"),
    kernel_setup_data=bytes.fromhex("68cb426afaa29465f7c71f26d4f9ab5a82c2e1926236648bec226a8194431db9"),
    init_ram_fs=bytes.fromhex("3b30793d7f3888742ad63f13ebe6a003bc9b7634992c6478a6101f9ef323b5ae"),
    memory_map=bytes.fromhex("4c985428fdc6101c71cc26ddc313cd8221bcbc54471991ec39b1be026d0e1c28"),
    acpi_table=bytes.fromhex("a4df9d8a64dcb9a713cec028d70d2b1599faef07ccd0d0e1816931496b4898c8"),
    kernel_cmd_line_regex=(
        "^ console=ttyS0 panic=-1 brd.rd_nr=1 brd.rd_size=10000000 brd.max_part=1 "
        "ip=10.0.2.15:::255.255.255.0::eth0:off$"
    ),
    system_image=bytes.fromhex("e3ded9e7cfd953b4ee6373fb8b412a76be102a6edd4e05aa7f8970e20bfc4bcd"),
    containers=(bytes.fromhex("bf173d846c64e5caf491de9b5ea2dfac349cfe22a5e6f03ad8048bb80ade430c"),),
)
TESTED_SIGNATURE = (
    "003cfc8524266b283d4381e967680765bbd2a9ac2598eb256ba82ba98b3e23b3"
    "84e72ad846c4ec3ff7b0791a53011b51d5ec1f61f61195ff083c4a97d383c13c"
)


def public() -> ec.EllipticCurvePublicKey:
    return signature.load_point(bytes.fromhex(PUBLIC), "the key of a TVS")


def published(name: str) -> tuple[str, tuple[AppraisalPolicy, ...]]:
    text = (FOLDER / name).read_text()
    return text, policy.load_text(text, name)


@pytest.mark.parametrize(("name", "count"), FILES.items())
def test_every_signature_is_of_the_published_key(name: str, count: int) -> None:
    _, policies = published(name)
    assert len(policies) == count
    assert [signature.verify(item, public()) for item in policies] == [True] * count


@pytest.mark.parametrize("name", FILES)
def test_text_is_written_as_it_was_read(name: str) -> None:
    text, policies = published(name)
    # The library writes an empty message over two lines, HATs' authors on one.
    assert policy.dump_text(policies) == text.replace("insecure {}", "insecure {\n      }")


@pytest.mark.parametrize("name", FILES)
def test_the_binary_form_holds_the_same(name: str) -> None:
    _, policies = published(name)
    assert policy.load_binary(policy.dump_binary(policies), name) == policies


CHANGES = {
    "launch digest": {"stage0": AmdSev(bytes(48), TCB)},
    "tcb": {"stage0": AmdSev(GENOA, replace(TCB, tee=1))},
    "insecure": {"stage0": Insecure()},
    **{
        name: {name: bytes(32)}
        for name in (
            *("kernel_image", "kernel_setup_data", "init_ram_fs", "memory_map", "acpi_table"),
            "system_image",
        )
    },
    "regex": {"kernel_cmd_line_regex": "^.*$"},
    "containers": {"containers": ()},
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_is_signed_cannot_be_changed(what: str) -> None:
    _, policies = published("kv.txtpb")
    assert not signature.verify(replace(policies[0], **CHANGES[what]), public())  # type: ignore[arg-type]


def test_the_description_is_not_signed() -> None:
    _, policies = published("kv.txtpb")
    assert signature.verify(replace(policies[0], description="anything"), public())


def test_signing_gives_the_bytes_that_hats_expects() -> None:
    key = ec.derive_private_key(int(PRIVATE, 16), ec.SECP256R1())
    signed = signature.sign(TESTED, key, "hats")
    assert signed.signatures[0].value.hex() == TESTED_SIGNATURE
    assert signature.public_point(key).hex() == PUBLIC
    assert signature.verify(signed, public())


def test_the_expression_is_the_published_one() -> None:
    shape = HatsShape(
        machine="genoa",
        cvm_type=CvmType.SEVSNP,
        cpu=CpuSignature(25, 17, 1),
        tcb=TcbVersion(boot_loader=7, snp=15, microcode=62),
        vcpus=1,
        memory=8000000 * KIB,
        ramdrive=10 * GIB,
        network=HatsNetwork(mode=NetworkMode.INBOUND_ONLY, port=8050),
        vmm="qemu-system-x86_64",
    )
    found = {item.kernel_cmd_line_regex for name in FILES for item in published(name)[1]}
    assert found == {regex(shape, RegexForm.HATS)}
