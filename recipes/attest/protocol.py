"""What the attestation service and its clients say to each other.

``PROTOCOL`` is the whole of it: a client or a service that keeps to it works with the other side here. The
service is the overlay ``attest``.
"""

from __future__ import annotations

import hashlib

from ..errors import SpecError
from ..units import KIB, MIB

SCHEMA = 1
COLLATERAL, WORKLOAD = "/v1/collateral", "/v1/workload"
# Ours: shorter nonces could be met twice, and nobody needs longer ones.
NONCE_SIZES = range(16, 65)
MAX_ANSWER = 4 * MIB
MAX_HEAD = 8 * KIB
# The registers that are quoted, of the SHA-256 bank: all of them.
REGISTERS = 24
_DOMAIN = b"goldsmith attest 1\n"

PROTOCOL = """\
# Attestation service, version 1

A machine says what it booted, and takes another workload from its operators. It listens on TCP port
8000, where the recipe says no other, over TLS 1.3 and nothing older. A connection is one request.

## Who is who

The server's certificate is signed by nobody: its key is made in every boot and is in memory only. What
vouches for the key is the quote, which is over its digest (below). So a client accepts any certificate,
asks for collateral, and believes the connection, and every other one with the same key, when the quote
is right and its attestation key is one that the client already knew. Who only compares what
an answer says about itself has trusted whoever is in between.

A client that hands in a workload shows a certificate in the TLS handshake. It is the one that the
recipe names with `attest.operators`, or that one has signed it. It lies in the root file system,
whose digest is in the UKI, so a machine's measurements say who its operators are. A certificate that
is not theirs ends the handshake. There are no passwords and no tokens. Its dates are judged by the
machine's clock, which the host sets.

## Form

* Requests are HTTP/1.1, the head at most 8 KiB, a body with `Content-Length` (no `Transfer-Encoding`).
* Answers are one line of JSON in ASCII; every one has `"schema": 1`, and `Connection: close`.
* *base64* is RFC 4648 section 4, with padding and without line ends. *hex* is lower case.
* `||` joins bytes.
* A client (an IPv4 address, or the /64 of an IPv6 one) has at most 4 connections at once and may have
  10 quotes at once, then one every 2 seconds. A head has 15 seconds to arrive, a workload 20 seconds
  between two pieces of it and 30 minutes at all. An answer is to be read within 5 seconds, and one more
  for every 128 KiB of it.
* There are 16 connections at once. Where all are taken, the oldest one whose request is not complete, or
  is answered already, is ended for a newcomer: of the client that has most, if it has no fewer than the
  newcomer. Who is ended so sees the connection close without an answer, and may ask again. This holds
  against a few clients: whoever has many IPv6 networks, or asks for quotes from many addresses, can still
  crowd the service. So a port that strangers reach needs a firewall in front where that matters.

## GET /v1/collateral?nonce=NONCE

`NONCE` is 16 to 64 bytes in hex, new for this request; nothing else stands in the request.

    {"schema":1, "nonce":hex, "key":hex, "quote":base64, "signature":base64, "ak_public":base64,
     "registers":base64, "event_log":base64, "measure_log":base64}

* `nonce`: that of the request. `key`: SHA-256 of the SubjectPublicKeyInfo (DER) of the server's key.
  Both are there to tell one mistake from another; what counts is in the quote.
* `quote`, `signature`: TPMS_ATTEST and TPMT_SIGNATURE of TPM2_Quote over PCR 0 to 23 of the SHA-256
  bank. Its extraData is

      SHA-256("goldsmith attest 1" || 0x0a || nonce || SHA-256(SubjectPublicKeyInfo))

* `ak_public`: TPM2B_PUBLIC of the key that signed. It is a function of the TPM's endorsement seed, the
  same in every boot. It is a claim like the rest: a client knows the key beforehand, or it knows nothing.
* `registers`: 24 values of 32 bytes, PCR 0 first. `event_log`: the firmware's (TCG PC Client PFP).
  `measure_log`: that of user space, systemd's JSON text sequence, at most 1 MiB each.

Quote, registers and user space's log are taken under the lock that systemd holds when it extends a
register, so they are of one moment. A client checks the signature; that extraData is over its nonce
and over the key of this connection; that the registers hash to the quote's digest; that the logs
replay to the registers; and compares these with the golden manifest.

## POST /v1/workload

Only with an operator's certificate. The body is the file `workload.erofs` that the build makes of
a workload of the same name, whole, at most 4 GiB and what /var has room for.

    {"schema":1, "measured":"workload:NAME:sha256:HEX"}

The machine checks the image: every file is what the list of digests says, the list is that of
`workload.json`, no other file or folder is there. Until then nothing has happened: a workload that is
refused (422) stops nothing, and is measured nowhere. Then the old workload is stopped, the word above
is extended into the workload's register (HEX is the SHA-256 of `workload.json`), the new one is
started, and the answer comes. Of `secrets/` only the names are measured; here they come from an operator.

Where the new one is measured and then does not start, the answer is 500 with the word, which the
register holds from then on:

    {"schema":1, "error":TEXT, "field":"measured", "measured":"workload:NAME:sha256:HEX"}

Any other 500 measures no workload. Where the old one does not end, it stays what is measured; where the new
word cannot be extended, nothing runs, and the register ends in `workload:NAME:refused` if it can.

A register cannot be set back. It holds the old word and then the new one, as many as there
were, until the machine is booted again, with the workload of its disk. So a client that
judges the machine later must know which workloads it was given, in order.

## Refusals

    {"schema":1, "error":TEXT, "field":TEXT}

400 malformed; 403 no operator's certificate; 404 and 405 another path or method; 408 too slow; 411 no
length; 413 too large; 422 the workload is not whole, or not for this machine; 429 too many quotes;
500 the machine cannot (its log says why); 503 busy with another request of this kind.
"""


def binding(nonce: bytes, key_digest: bytes) -> bytes:
    """What a quote is over: the nonce, and the SHA-256 of the server's public key.

    Raises:
        SpecError: the nonce is too short or too long.
    """
    if len(nonce) not in NONCE_SIZES:
        what = f"nonce of {len(nonce)} bytes, expected {NONCE_SIZES[0]} to {NONCE_SIZES[-1]}"
        raise SpecError(f"attest: {what}; leave it out for a random one")
    return hashlib.sha256(_DOMAIN + nonce + key_digest).digest()
