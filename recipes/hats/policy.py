"""Appraisal policies: what a HATs verifier (TVS) accepts, as values, as text and as bytes.

Spec: private-compute-infra-toolkit/hats 7d61840, tvs/proto/appraisal_policies.proto and
tvs/appraisal_policies/policy_manager/src/lib.rs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from google.protobuf import json_format, text_format
from google.protobuf.message import DecodeError, Message

from ..errors import FormatError
from ..machine.hats import HatsShape, TcbVersion
from ..machine.sev_cpus import CpuSignature
from ..units import KIB
from .proto_file import message_classes

_MESSAGES = message_classes("appraisal_policies.proto")
_SHA256, _SHA384, _SIGNATURE = 32, 48, 64
# Ours: a policy has 1.5 kB.
MAX_POLICIES = 16 << 20


@dataclass(frozen=True)
class AmdSev:
    """The launch digest that a report must show, and the lowest firmware versions; SHA-384, 48 bytes."""

    sha384: bytes
    tcb: TcbVersion


@dataclass(frozen=True)
class AmdSevDynamic:
    """What a verifier computes launch digests from by itself.

    Attributes:
        firmware: SHA-256 of each stage0 that is accepted.
        vcpus: how many a machine may have.
    """

    firmware: tuple[bytes, ...]
    tcb: TcbVersion
    cpus: tuple[CpuSignature, ...]
    vcpus: tuple[int, ...]


@dataclass(frozen=True)
class Insecure:
    """Nothing vouches for the firmware."""


Stage0Reference = AmdSev | AmdSevDynamic | Insecure


@dataclass(frozen=True)
class PolicySignature:
    """ECDSA on P-256 with SHA-256: r and s, 64 bytes; and who signed, in the verifier's words."""

    value: bytes
    signer: str


@dataclass(frozen=True, kw_only=True)
class AppraisalPolicy:
    """One machine that is accepted; digests are SHA-256, 32 bytes.

    Attributes:
        containers: of the runtime bundles that may run; a TVS overlooks a policy without any.
    """

    description: str
    stage0: Stage0Reference
    kernel_image: bytes
    kernel_setup_data: bytes
    init_ram_fs: bytes
    memory_map: bytes
    acpi_table: bytes
    kernel_cmd_line_regex: str
    system_image: bytes
    containers: tuple[bytes, ...]
    signatures: tuple[PolicySignature, ...] = ()


# The digests of a policy, by the names that the format has for them, in the order of its fields.
_DIGESTS = {
    "kernel_image_sha256": "kernel_image",
    "kernel_setup_data_sha256": "kernel_setup_data",
    "init_ram_fs_sha256": "init_ram_fs",
    "memory_map_sha256": "memory_map",
    "acpi_table_sha256": "acpi_table",
    "system_image_sha256": "system_image",
}


def description(title: str, shape: HatsShape, missing: Sequence[str] = ()) -> str:
    """What a policy says of its machine, for people; it is not signed.

    Args:
        missing: files that a stand-in took the place of.
    """
    kind = "an insecure VM"
    if shape.cpu is not None:
        cpu = shape.cpu
        numbers = f"Family: {cpu.family}, Model: {cpu.model}, Stepping: {cpu.stepping}"
        kind = f"an AMD SEV-SNP CVM ({shape.machine}, {numbers})"
    size = f"Cores: {shape.vcpus}, RAM: {shape.memory // KIB} KB, network: {shape.network.mode.value}"
    warning = f"STAND-IN for {', '.join(missing)}, accepts nothing real. " if missing else ""
    return f"{warning}{title} in {kind}. {size}"


def dump_text(policies: Sequence[AppraisalPolicy]) -> str:
    """``appraisal_policy.txtpb``."""
    return text_format.MessageToString(_message(policies))


def dump_binary(policies: Sequence[AppraisalPolicy]) -> bytes:
    """The same in the wire format, the same bytes each time."""
    return _message(policies).SerializeToString(deterministic=True)


def load_text(text: str, source: str) -> tuple[AppraisalPolicy, ...]:
    """The policies of a text file.

    Raises:
        FormatError: it does not parse, or holds what no policy can.
    """
    message = _MESSAGES["AppraisalPolicies"]()
    if len(text) > MAX_POLICIES:
        raise FormatError(source, f"{len(text)} characters; at most {MAX_POLICIES} are read")
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as error:
        raise FormatError(source, f"no appraisal policies: {error}") from None
    return _policies(message, source)


def load_binary(data: bytes, source: str) -> tuple[AppraisalPolicy, ...]:
    """The policies of a file in the wire format.

    Raises:
        FormatError: it does not parse, or holds what no policy can.
    """
    message = _MESSAGES["AppraisalPolicies"]()
    if len(data) > MAX_POLICIES:
        raise FormatError(source, f"{len(data)} bytes; at most {MAX_POLICIES} are read")
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise FormatError(source, f"no appraisal policies: {error}") from None
    return _policies(message, source)


def _message(policies: Sequence[AppraisalPolicy]) -> Message:
    message = _MESSAGES["AppraisalPolicies"]()
    json_format.ParseDict({"policies": [_plain(policy) for policy in policies]}, message)
    return message


def _plain(policy: AppraisalPolicy) -> dict[str, Any]:
    measurement: dict[str, Any] = {
        key: getattr(policy, attribute).hex() for key, attribute in _DIGESTS.items()
    }
    measurement |= {
        "stage0_measurement": _plain_stage0(policy.stage0),
        "kernel_cmd_line_regex": policy.kernel_cmd_line_regex,
        "container_binary_sha256": [item.hex() for item in policy.containers],
    }
    signatures = [{"signature": item.value.hex(), "signer": item.signer} for item in policy.signatures]
    return {"description": policy.description, "measurement": measurement, "signature": signatures}


def _plain_stage0(stage0: Stage0Reference) -> dict[str, Any]:
    if isinstance(stage0, Insecure):
        return {"insecure": {}}
    tcb = {item.name: getattr(stage0.tcb, item.name) for item in fields(TcbVersion)}
    if isinstance(stage0, AmdSev):
        return {"amd_sev": {"sha384": stage0.sha384.hex(), "min_tcb_version": tcb}}
    cpus = [{"family": cpu.family, "model": cpu.model, "stepping": cpu.stepping} for cpu in stage0.cpus]
    return {
        "amd_sev_dynamic": {
            "stage0_ovmf_binary_hash": [item.hex() for item in stage0.firmware],
            "min_tcb_version": tcb,
            "cpu_info": cpus,
            "vcpu_count": list(stage0.vcpus),
        }
    }


def _policies(message: Message, source: str) -> tuple[AppraisalPolicy, ...]:
    plain = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return tuple(
        _policy(item, f"{source}: policy {number}") for number, item in enumerate(plain["policies"], 1)
    )


def _policy(plain: Mapping[str, Any], where: str) -> AppraisalPolicy:
    measurement = plain.get("measurement")
    if measurement is None:
        raise FormatError(where, "there is no measurement")
    return AppraisalPolicy(
        description=plain["description"],
        stage0=_stage0(measurement.get("stage0_measurement", {}), where),
        **{name: _hex(measurement[key], _SHA256, key, where) for key, name in _DIGESTS.items()},
        kernel_cmd_line_regex=measurement["kernel_cmd_line_regex"],
        containers=tuple(
            _hex(item, _SHA256, "container_binary_sha256", where)
            for item in measurement["container_binary_sha256"]
        ),
        signatures=tuple(
            PolicySignature(_hex(item["signature"], _SIGNATURE, "signature", where), item["signer"])
            for item in plain["signature"]
        ),
    )


def _stage0(plain: Mapping[str, Any], where: str) -> Stage0Reference:
    if "insecure" in plain:
        return Insecure()
    if "amd_sev" in plain:
        value = plain["amd_sev"]
        return AmdSev(_hex(value["sha384"], _SHA384, "sha384", where), _tcb(value, where))
    if "amd_sev_dynamic" not in plain:
        raise FormatError(where, "stage0_measurement says neither amd_sev nor amd_sev_dynamic nor insecure")
    value = plain["amd_sev_dynamic"]
    try:
        cpus = tuple(CpuSignature(**item) for item in value["cpu_info"])
    except ValueError as error:
        raise FormatError(where, f"cpu_info: {error}") from None
    name = "stage0_ovmf_binary_hash"
    return AmdSevDynamic(
        tuple(_hex(item, _SHA256, name, where) for item in value[name]),
        _tcb(value, where),
        cpus,
        tuple(value["vcpu_count"]),
    )


def _tcb(plain: Mapping[str, Any], where: str) -> TcbVersion:
    if "min_tcb_version" not in plain:
        raise FormatError(where, "min_tcb_version is missing; a TVS demands it")
    return TcbVersion(**plain["min_tcb_version"])


def _hex(text: str, size: int, name: str, where: str) -> bytes:
    if re.fullmatch(rf"[0-9a-fA-F]{{{2 * size}}}", text) is None:
        raise FormatError(where, f"{name} is {text[:200]!r}, expected {2 * size} hexadecimal digits")
    return bytes.fromhex(text)
