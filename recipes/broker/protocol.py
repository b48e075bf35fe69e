"""What guest and broker say to each other; ``messages`` reads and writes it.

``PROTOCOL`` is the whole of it: a server or a client that keeps to it works with the other side here.
"""

from __future__ import annotations

from ..units import KIB

PROTOCOL = """\
# Key release by attestation, version 1

A guest asks for the key of one volume. It proves with a TPM quote what it booted, and gets the key
encrypted to a key pair that it made for this one request. All of it goes over HTTPS (TLS 1.2 or
later); the guest accepts one pinned CA only. That CA is what tells the guest who its key is from:
the encryption below keeps the key from everybody else, but it does not say who sent it.

## Form

* Requests are `POST` with a JSON object in UTF-8, at most 640 KiB, `Content-Length` given or not. A
  key that is missing, unknown or there twice is a mistake. Every object has `"schema": 1`.
* *base64* is RFC 4648 section 4, with padding and without line ends. *hex* is lower case.
* Answers are one line of ASCII: a JSON object without blanks, its keys in the order given below, no
  string with an escape in it except in `error`. A client without a JSON parser may search for
  `"key":"` and take what stands before the next `"`.
* A volume's name matches `[A-Za-z0-9][A-Za-z0-9._-]{0,63}`, a machine's is 1 to 128 printable
  characters.
* `||` joins bytes. A name, or a session, stands for its ASCII bytes.

## 1. POST /v1/challenge

    {"schema":1, "volume":NAME, "machine":NAME}

`machine` is optional: the machine of the golden manifest that the guest says it is. Without it
every machine that the volume's rule allows is accepted.

    {"schema":1, "session":hex, "nonce":base64, "expires":N, "selection":TEXT}

`session` is 32 hex digits; `nonce` is 32 bytes, new for this session; the session ends after
`expires` seconds or with the first `/v1/attest` that names it, whatever comes of it. `selection` is
what to quote, as tpm2-tools write it: `sha256:0,4,7,11`.

## 2. POST /v1/activate (only where the broker trusts endorsement certificates)

    {"schema":1, "session":hex, "ak_public":base64, "ek_certificates":[base64, ...]}

`ak_public` is the attestation key's TPM2B_PUBLIC. `ek_certificates` are 1 to 4 certificates in DER:
that of the endorsement key (RSA-2048 or P-256, made by default template L-1 or L-2 of the TCG EK
Credential Profile), then the CAs between it and a pinned one.

    {"schema":1, "credential":base64}

`credential` is TPM2B_ID_OBJECT || TPM2B_ENCRYPTED_SECRET, for TPM2_ActivateCredential with that
attestation key and that endorsement key. What it gives back, 32 bytes, is `activation` below. Once
in a session.

## 3. POST /v1/attest

    {"schema":1, "session":hex, "quote":base64, "signature":base64, "ak_public":base64, "event_log":base64,
     "measure_log":base64, "ephemeral":base64, "activation":base64, "report":base64,
     "report_certificates":base64}

* `ephemeral` is the guest's key for this request: a point on P-256, uncompressed, 65 bytes that
  start with 04.
* `quote` is the TPMS_ATTEST of TPM2_Quote over exactly `selection`, whose qualifyingData
  (extraData) is SHA-256(nonce || ephemeral || volume), 32 bytes; `signature` is its TPMT_SIGNATURE.
  The attestation key is restricted, fixedTPM and signs with SHA-256 or longer.
* `event_log` is the firmware's log, the file `binary_bios_measurements`, at most 256 KiB; it
  replays to what is quoted. `measure_log` is systemd's `tpm2-measure.log`, at most 64 KiB,
  optional: without it the broker assumes the boot phases of the moment that it releases keys at
  (`enter-initrd`).
* `activation` only after `/v1/activate`.
* `report` only where the broker trusts TEE reports: the ATTESTATION_REPORT of AMD SEV-SNP (1184
  bytes, versions 2, 3 and 5) whose REPORT_DATA, 64 bytes, is

      "goldsmith attestation key 2" || five zero bytes || SHA-256(ak_public)

  with the 27 ASCII bytes of that label as they are, outside of the hash, and `ak_public` as it is
  sent: a TPM2B_PUBLIC, its size of two bytes included. It is of VMPL 0 or as the operator says.
  `report_certificates` is the table that the host gives its guest with a report, at most 16 KiB
  (AMD 56421 section 4.1.8.1), optional: what is taken from it is the certificate of the VCEK or
  VLEK; ASK and ARK are the operator's. Linux has both as `outblob` and `auxblob` of configfs-tsm.

The answer:

    {"schema":1, "ephemeral":base64, "key":base64}

`ephemeral` is the broker's key for this answer, in the same form. With

    shared = x coordinate of ECDH(own private key, the other's public key), 32 bytes
    info   = "goldsmith key release 1" || broker's ephemeral || guest's ephemeral
    okm    = HKDF-SHA256(salt = nonce, IKM = shared, info, 44 bytes)          RFC 5869

`key` is AES-256-GCM under okm[0:32] with the IV okm[32:44] and the additional data session ||
volume || nonce: the ciphertext, as long as the volume's key (32 to 512 bytes), then the tag of 16
bytes. Both key pairs are used once, so no IV is used twice.

## Refusals

    {"schema":1, "error":"FIELD: REASON", "field":"FIELD"}

| status | meaning | the guest |
|---|---|---|
| 400 | the request is malformed; `field` says where | gives up |
| 401 | the session is unknown, used or expired | begins again |
| 403 | the evidence or the key is not accepted | gives up: denied |
| 404 | no such path, volume or machine | gives up |
| 413 | the body is too large | gives up |
| 429 | too many requests or open sessions | waits, begins again |
| 500 | the broker's own trouble; only its log says which | waits, begins again |

`field` is a key of the request, or `nonce` (extraData is not what it should be: another session,
volume or ephemeral key), `ak`, `ek`, `selection`, or a register: `PCR11`. A request has to arrive,
and its answer to be taken, within 10 seconds or as the operator says; then the connection is cut
without an answer.
"""
SCHEMA = 1
NONCE_SIZE = 32
POINT_SIZE = 65
MAX_BODY = 640 * KIB
MAX_EVENT_LOG = 256 * KIB
MAX_MEASURE_LOG = 64 * KIB
MAX_REPORT = 4 * KIB
MAX_REPORT_CERTIFICATES = 16 * KIB
MAX_CERTIFICATES = 4
