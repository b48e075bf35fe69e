"""What a server does to a guest when it has the broker's certificate and key, and not the broker's mind.

The host may be that server: then it reads all that is said, says what it likes, and asks the real broker.
What it cannot do is make a quote of the guest's TPM.
"""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Callable

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.tool.kbs_lab import Body, Talk, http
from tests.unit.test_broker_guest import b64, new_key

from .kbs_host import Front

Attack = Callable[[Front, Talk], None]
_CHALLENGE, _ATTEST = "/v1/challenge", "/v1/attest"
_LARGE = 4000


def _changing(
    *,
    ask: Callable[[Front, Body], Body] = lambda front, body: body,
    challenge: Callable[[Front, bytes], bytes] = lambda front, reply: reply,
    attest: Callable[[Front, bytes], bytes] = lambda front, reply: reply,
) -> Attack:
    """Passes on what is said but for what the guest attests, and what it is told."""
    tell = {_CHALLENGE: challenge, _ATTEST: attest}

    def attack(front: Front, talk: Talk) -> None:
        talk.shake_hands()
        path, body = talk.read()
        status, reply = front.post(path, ask(front, body) if path == _ATTEST else body)
        front.noted(path, body, reply)
        talk.send(http(status, tell[path](front, reply)))

    return attack


def no_handshake(front: Front, talk: Talk) -> None:
    """Accepts, and never says a word; the guest hangs up."""
    while talk.plain.recv(_LARGE):
        pass


def no_answer(front: Front, talk: Talk) -> None:
    """Takes the request, and never says a word."""
    talk.shake_hands()
    talk.read()
    talk.file.recv(_LARGE)


def slow(front: Front, talk: Talk) -> None:
    """A good answer, a byte at a time."""
    talk.shake_hands()
    for byte in front.reply(*talk.read()):
        talk.send(bytes([byte]))
        if talk.wait(0.3):
            return


def truncated(front: Front, talk: Talk) -> None:
    """A good answer without its end."""
    talk.shake_hands()
    talk.send(front.reply(*talk.read())[:-20])


def no_http(front: Front, talk: Talk) -> None:
    """Another service."""
    talk.shake_hands()
    talk.read()
    talk.send(b"SSH-2.0-OpenSSH_9.2\r\n")


def oversized(front: Front, talk: Talk) -> None:
    """An answer that does not end; it says no length, so that each piece looks small."""
    talk.shake_hands()
    talk.read()
    talk.send(b"HTTP/1.1 200 \r\ntransfer-encoding: chunked\r\n\r\n")
    for _ in itertools.count():
        talk.send(f"{_LARGE:x}\r\n".encode() + b" " * _LARGE + b"\r\n")


def spent_session(front: Front, talk: Talk) -> None:
    """The host asks for the key first, in the guest's words."""
    talk.shake_hands()
    path, body = talk.read()
    if path == _ATTEST:
        front.reply(path, body)
    talk.send(front.reply(path, body))


def _earlier(front: Front, path: str) -> tuple[Body, bytes]:
    return next((body, reply) for seen, body, reply in front.seen if seen == path)


def _old_quote(front: Front, body: Body) -> Body:
    old, _ = _earlier(front, _ATTEST)
    return body | {"quote": old["quote"], "signature": old["signature"]}


def _old_nonce(front: Front, reply: bytes) -> bytes:
    """The new session, with the nonce of one that is over."""
    _, old = _earlier(front, _CHALLENGE)
    said: Body = json.loads(reply)
    return json.dumps(said | {"nonce": json.loads(old)["nonce"]}, separators=(",", ":")).encode() + b"\n"


def _own_point(front: Front, body: Body) -> Body:
    """The host's own key, so that the answer would be the host's to read."""
    point = new_key().public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return body | {"ephemeral": b64(point)}


def _own_quote(front: Front, body: Body) -> Body:
    """A quote that the host's own TPM makes for this very request, over the same registers."""
    nonce = json.loads(_latest(front, _CHALLENGE))["nonce"]
    quoted = front.lab.other.quote(base64.b64decode(nonce), base64.b64decode(body["ephemeral"]), front.name)
    return body | {name: b64(data) for name, data in quoted.items()}


def _latest(front: Front, path: str) -> bytes:
    return [reply for seen, _, reply in front.seen if seen == path][-1]


malformed = _changing(attest=lambda front, reply: b"<html><body>Welcome</body></html>\n")
replayed_quote = _changing(ask=_old_quote)
stale_nonce = _changing(challenge=_old_nonce)
old_challenge = _changing(challenge=lambda front, reply: _earlier(front, _CHALLENGE)[1])
old_answer = _changing(attest=lambda front, reply: _earlier(front, _ATTEST)[1])
own_key = _changing(ask=_own_point)
other_tpm = _changing(ask=_own_quote)
