"""What a machine says about its boot: read as the untrusted document it is, and judged.

The order is that of how much has to be believed: the attestation key is the client's own, then comes the
signature, then nonce and TLS key, then the registers, and last the logs, which must replay to these.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from dataclasses import dataclass, replace

from ..document import Fields, read_document
from ..errors import FormatError, VerifyError
from ..formats import eventlog
from ..formats.tpm2_public import Public, read_sized_public
from ..golden.manifest import GoldenMachine
from ..golden.report import userspace_steps
from ..golden.verify import Observation
from ..measure.quote import Evidence, Expectation, QuoteError, Reason, verify_quote
from ..measure.tpm import event_steps, fold, register
from ..measure.tpm_policy import PcrValue
from ..measure.trace import HashAlgorithm, Step, Trace
from ..measure.userspace import PHASES, parse_measure_log
from .protocol import MAX_ANSWER, REGISTERS, SCHEMA, binding

SOURCE = "collateral"
BANK = HashAlgorithm.SHA256
_MAX_PART, _MAX_LOG = 4096, 2 << 20


@dataclass(frozen=True, kw_only=True)
class Collateral:
    """An answer whose form is right; nothing in it is believed yet.

    Attributes:
        nonce: that it says it is for.
        key: SHA-256 of the TLS key that it says it came over.
        registers: values of the SHA-256 bank, PCR 0 first.
    """

    nonce: bytes
    key: bytes
    quote: bytes
    signature: bytes
    ak_public: bytes
    registers: tuple[bytes, ...]
    event_log: bytes
    measure_log: bytes


def read_collateral(data: bytes) -> Collateral:
    """The document.

    Raises:
        FormatError: it is none, a field is missing, unknown or too large.
    """
    fields = read_document(_ascii(data), SOURCE, SCHEMA)
    nonce = fields.octets("nonce", 64)
    values = {name: _base64(fields, name, _MAX_PART) for name in ("quote", "signature", "ak_public")}
    key, bank = fields.hexadecimal("key", BANK.size), _base64(fields, "registers", REGISTERS * BANK.size)
    logs = {name: _base64(fields, name, _MAX_LOG) for name in ("event_log", "measure_log")}
    fields.finish()
    if len(bank) != REGISTERS * BANK.size:
        what = f"'registers' is {len(bank)} bytes, expected {REGISTERS} values of {BANK.size}"
        raise FormatError(SOURCE, what)
    registers = tuple(bank[start : start + BANK.size] for start in range(0, len(bank), BANK.size))
    return Collateral(nonce=nonce, key=key, registers=registers, **values, **logs)


def judge(collateral: Collateral, key: Public, nonce: bytes, tls_key: bytes) -> Observation:
    """What the machine's TPM vouches for, over this connection and now.

    Args:
        key: the attestation key that the client knows to be the machine's.
        nonce: that of the request.
        tls_key: SHA-256 of the public key that the server has proved to have.

    Raises:
        VerifyError: it was signed by another key, is for another request or connection, or the registers are
            not those of the quote.
        FormatError: a part of it is no such thing.
    """
    found = read_sized_public(collateral.ak_public, f"{SOURCE}: ak_public")
    if found.name != key.name:
        what = f"its attestation key is {found.name.hex()}, expected {key.name.hex()}"
        raise VerifyError(f"{SOURCE}: {what}; this is another machine, or has another TPM")
    values = tuple(PcrValue(BANK, index, value) for index, value in enumerate(collateral.registers))
    try:
        verify_quote(
            Evidence(collateral.quote, collateral.signature),
            key,
            binding(nonce, tls_key),
            [Expectation("registers", values)],
        )
    except QuoteError as error:
        raise VerifyError(_explained(error, collateral, nonce, tls_key)) from None
    observed = {(register(index), BANK): value for index, value in enumerate(collateral.registers)}
    return Observation(values=observed, steps=_steps(collateral))


def with_workloads(machine: GoldenMachine, later: tuple[Step, ...]) -> GoldenMachine:
    """The machine as it is when it was given workloads since it booted.

    Args:
        later: what was measured of each, in order.

    Raises:
        VerifyError: the manifest predicts no register of a workload.
    """
    for step in later:
        name = f"{step.register}:{PHASES[-1]}"
        old = next((trace for trace in machine.traces if trace.register == name), None)
        if old is None:
            what = f"{machine.name} has no register {name}, so nothing says what a workload adds to it"
            raise VerifyError(f"golden manifest: {what}; it is of an image without a workload")
        new = Trace(old.register, (*old.steps, step))
        machine = replace(
            machine,
            traces=tuple(new if trace is old else trace for trace in machine.traces),
            registers=tuple(
                replace(row, value=fold(new, row.algorithm)) if row.register == name else row
                for row in machine.registers
            ),
        )
    return machine


def _steps(collateral: Collateral) -> tuple[Step, ...]:
    log = eventlog.parse(collateral.event_log, f"{SOURCE}: event_log")
    records = parse_measure_log(collateral.measure_log, f"{SOURCE}: measure_log")
    return (*event_steps(log, "event log"), *userspace_steps(records))


def _explained(error: QuoteError, collateral: Collateral, nonce: bytes, tls_key: bytes) -> str:
    """Why a quote is refused; a nonce that differs has a reason of its own, if the answer admits it."""
    if all(each.reason is not Reason.NONCE for each in error.refusals):
        return str(error)
    if not hmac.compare_digest(collateral.nonce, nonce):
        what = f"an answer to the nonce {collateral.nonce.hex() or 'empty'}, expected {nonce.hex()}"
        return f"quote: {what}; it is an older one, or another's"
    if not hmac.compare_digest(collateral.key, tls_key):
        what = f"for the TLS key {collateral.key.hex()}, the connection has {tls_key.hex()}"
        return f"quote: {what}; somebody is in between"
    return f"{error}; nonce and TLS key are not what the TPM signed"


def _ascii(data: bytes) -> str:
    if len(data) > MAX_ANSWER:
        raise FormatError(SOURCE, f"{len(data)} bytes; at most {MAX_ANSWER} are read")
    try:
        return data.decode("ascii")
    except UnicodeDecodeError as error:
        raise FormatError(SOURCE, "not ASCII", offset=error.start) from None


def _base64(fields: Fields, key: str, limit: int) -> bytes:
    text = fields.text(key)
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise FormatError(SOURCE, f"{key!r} is not base64") from None
    if len(data) > limit:
        raise FormatError(SOURCE, f"{key!r} is {len(data)} bytes; at most {limit} are read")
    return data
