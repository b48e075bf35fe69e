"""Requests read strictly, and answers written in one way. Spec: ``protocol.PROTOCOL``."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ..document import Fields, read_document
from ..errors import FormatError
from ..formats.tpm2_attest import MAX_ATTEST
from ..units import KIB
from .protocol import (
    MAX_BODY,
    MAX_CERTIFICATES,
    MAX_EVENT_LOG,
    MAX_MEASURE_LOG,
    MAX_REPORT,
    MAX_REPORT_CERTIFICATES,
    POINT_SIZE,
    SCHEMA,
)
from .refusal import RefusedError

# Ours: certificates of endorsement keys are about 1 KiB, public areas and signatures of RSA-4096 half of it.
_MAX_CERTIFICATE = 4 * KIB
_MAX_PUBLIC = _MAX_SIGNATURE = 1 * KIB
_MAX_ACTIVATION = 64

_VOLUME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SESSION = re.compile(r"[0-9a-f]{32}")
_MAX_MACHINE = 128

T = TypeVar("T")


@dataclass(frozen=True)
class ChallengeRequest:
    """Body of ``/v1/challenge``; ``machine`` is empty where the guest does not say."""

    volume: str
    machine: str = ""


@dataclass(frozen=True)
class ActivateRequest:
    """Body of ``/v1/activate``."""

    session: str
    ak_public: bytes
    ek_certificates: tuple[bytes, ...]


@dataclass(frozen=True, kw_only=True)
class AttestRequest:
    """Body of ``/v1/attest``; what is optional and not there is empty, ``measure_log`` None."""

    session: str
    quote: bytes
    signature: bytes
    ak_public: bytes
    event_log: bytes
    ephemeral: bytes
    measure_log: bytes | None = None
    activation: bytes = b""
    report: bytes = b""
    report_certificates: bytes = b""


def is_volume_name(text: str) -> bool:
    """Whether a volume may be called so; such a name is a file name too."""
    return _VOLUME.fullmatch(text) is not None


def read_challenge(body: bytes) -> ChallengeRequest:
    """The request in a body.

    Raises:
        RefusedError: it is none; 400.
    """
    fields = _object(body)
    volume = _take("volume", lambda: fields.text("volume"))
    if not is_volume_name(volume):
        raise RefusedError(400, "volume", "not a volume's name; use letters, digits, '.', '_' and '-'")
    machine = ""
    if "machine" in fields.values:
        machine = _take("machine", lambda: fields.text("machine"))
        if not 1 <= len(machine) <= _MAX_MACHINE:
            raise RefusedError(400, "machine", f"{len(machine)} characters, expected 1 to {_MAX_MACHINE}")
    _finish(fields)
    return ChallengeRequest(volume, machine)


def read_activate(body: bytes) -> ActivateRequest:
    """The request in a body.

    Raises:
        RefusedError: it is none; 400.
    """
    fields = _object(body)
    session = _session(fields)
    ak_public = _data(fields, "ak_public", _MAX_PUBLIC)
    items = _take("ek_certificates", lambda: fields.items("ek_certificates"))
    if not 1 <= len(items) <= MAX_CERTIFICATES:
        what = f"{len(items)} certificates, expected 1 to {MAX_CERTIFICATES}"
        raise RefusedError(400, "ek_certificates", what)
    certificates = tuple(_decode(item, "ek_certificates", _MAX_CERTIFICATE) for item in items)
    _finish(fields)
    return ActivateRequest(session, ak_public, certificates)


def read_attest(body: bytes) -> AttestRequest:
    """The request in a body.

    Raises:
        RefusedError: it is none; 400.
    """
    fields = _object(body)
    request = AttestRequest(
        session=_session(fields),
        quote=_data(fields, "quote", MAX_ATTEST),
        signature=_data(fields, "signature", _MAX_SIGNATURE),
        ak_public=_data(fields, "ak_public", _MAX_PUBLIC),
        event_log=_data(fields, "event_log", MAX_EVENT_LOG),
        ephemeral=_data(fields, "ephemeral", POINT_SIZE),
        measure_log=_optional(fields, "measure_log", MAX_MEASURE_LOG),
        activation=_optional(fields, "activation", _MAX_ACTIVATION) or b"",
        report=_optional(fields, "report", MAX_REPORT) or b"",
        report_certificates=_optional(fields, "report_certificates", MAX_REPORT_CERTIFICATES) or b"",
    )
    _finish(fields)
    if len(request.ephemeral) != POINT_SIZE or request.ephemeral[0] != 0x04:
        what = f"not an uncompressed point on P-256, {POINT_SIZE} bytes that start with 04"
        raise RefusedError(400, "ephemeral", what)
    return request


def challenge_answer(session: str, nonce: bytes, expires: int, selection: str) -> bytes:
    """The answer to a challenge request."""
    return _answer(session=session, nonce=_encode(nonce), expires=expires, selection=selection)


def activate_answer(credential: bytes) -> bytes:
    """The answer to an activate request."""
    return _answer(credential=_encode(credential))


def attest_answer(ephemeral: bytes, key: bytes) -> bytes:
    """The answer to an attest request; ``key`` is encrypted."""
    return _answer(ephemeral=_encode(ephemeral), key=_encode(key))


def refusal_answer(refusal: RefusedError) -> bytes:
    """The answer to a request that is turned down."""
    return _answer(error=str(refusal), field=refusal.field)


def _answer(**values: str | int) -> bytes:
    return json.dumps({"schema": SCHEMA, **values}, separators=(",", ":")).encode("ascii") + b"\n"


def _object(body: bytes) -> Fields:
    if len(body) > MAX_BODY:
        raise RefusedError(413, "body", f"{len(body)} bytes; at most {MAX_BODY} are read")
    try:
        return read_document(body.decode("utf-8"), "body", SCHEMA)
    except UnicodeDecodeError as error:
        raise RefusedError(400, "body", f"not UTF-8 at byte {error.start}") from None
    except FormatError as error:
        raise RefusedError(400, "body", error.what) from None


def _take(field: str, take: Callable[[], T]) -> T:
    try:
        return take()
    except FormatError as error:
        raise RefusedError(400, field, error.what) from None


def _finish(fields: Fields) -> None:
    _take("body", fields.finish)


def _session(fields: Fields) -> str:
    session = _take("session", lambda: fields.text("session"))
    if _SESSION.fullmatch(session) is None:
        raise RefusedError(400, "session", "not 32 lower-case hexadecimal digits")
    return session


def _data(fields: Fields, key: str, limit: int) -> bytes:
    return _decode(_take(key, lambda: fields.take(key)), key, limit)


def _optional(fields: Fields, key: str, limit: int) -> bytes | None:
    return _data(fields, key, limit) if key in fields.values else None


def _decode(value: object, key: str, limit: int) -> bytes:
    """Bytes from base64 that has one spelling only: equal bytes are equal text."""
    if not isinstance(value, str):
        raise RefusedError(400, key, "not a string")
    if len(value) > 4 * -(-limit // 3):
        raise RefusedError(400, key, f"{len(value)} characters of base64; at most {limit} bytes are read")
    try:
        data = base64.b64decode(value.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        data = b""
    if _encode(data) != value:
        raise RefusedError(400, key, "not base64 as RFC 4648 section 4 has it, with padding")
    if len(data) > limit:
        raise RefusedError(400, key, f"{len(data)} bytes; at most {limit} are read")
    return data


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
