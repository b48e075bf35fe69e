"""The helper that gets a volume's key, given answers, files and arguments that are wrong.

It is built with sanitizers, so that a read or write beyond a buffer is a fault that is seen. The server's
certificate is one of the pinned CA, and the TPM always says the same.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.tool.built_helpers import helper as helper_program
from tests.tool.kbs_lab import (
    CANNED,
    Authority,
    Body,
    Conversation,
    Ended,
    Helper,
    Script,
    Server,
    Talk,
    answering,
    http,
    library,
)
from tests.unit.test_broker_guest import KEY, Guest, b64

pytestmark = pytest.mark.tool

LATER, DENIED, ABSENT, MALFORMED = 10, 20, 30, 40


@pytest.fixture(scope="module")
def program() -> Path:
    return helper_program("kbs", sanitized=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def helper(tmp_path: Path, program: Path, authority: Authority) -> Helper:
    return Helper(program, tmp_path, library(tmp_path / "library", CANNED), authority.file)


Change = Callable[[bytes], bytes]


def head(text: str) -> Change:
    """Another head before the same body."""
    return lambda reply: text.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body_of(reply)


def body_of(reply: bytes) -> bytes:
    return reply.partition(b"\r\n\r\n")[2]


def chunks(*sizes: int, last: bytes = b"0\r\n\r\n", extra: bytes = b"") -> Change:
    """The body in pieces, the last of which takes the rest."""

    def change(reply: bytes) -> bytes:
        body = body_of(reply)
        found = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        for size in (*sizes, len(body)):
            piece, body = body[:size], body[size:]
            if piece:
                found += b"%x%s\r\n%s\r\n" % (len(piece), extra, piece)
        return found + last

    return change


def resized(size: bytes) -> Change:
    """Chunks, the first of which says that it has another size than 5."""
    return lambda reply: chunks(5)(reply).replace(b"\r\n5\r\n", b"\r\n" + size + b"\r\n")


def body(change: Callable[[Body], object]) -> Change:
    """Another body, with the head that fits."""
    return lambda reply: http(200, change(json.loads(body_of(reply))))


def value(name: str, change: Callable[[str], object]) -> Change:
    return body(lambda found: {**found, name: change(found[name])})


def flipped(text: str, index: int) -> str:
    data = bytearray(base64.b64decode(text))
    data[index] ^= 1
    return b64(bytes(data))


def canonical(found: object) -> bytes:
    return json.dumps(found, separators=(",", ":")).encode()


def old_fashioned(reply: bytes) -> bytes:
    return head(f"HTTP/1.0 200 Very well\nX-A: b\ncOnTent-LENGTH:\t {len(body_of(reply))}")(reply)


GOOD: dict[str, Change] = {
    "one chunk": chunks(),
    "chunks": chunks(1, 1, 17),
    "chunks with extensions": chunks(5, extra=b";a=b"),
    "chunks with trailers": chunks(5, last=b"0\r\nX: y\r\n\r\n"),
    "HTTP/1.0 and other words": old_fashioned,
    "more behind it": lambda reply: reply + b"HTTP/1.1 500 \r\n\r\n",
    "no line end": body(canonical),
    "a field more": body(lambda found: {**found, "more": "x"}),
}
LENGTHS = ("-1", "+1", "0x10", "1,1", "1 1", "", "123456789", "99999999999999999999")
OK = "HTTP/1.1 200 OK"


def short_session(found: Body) -> bytes:
    return canonical({**found, "session": found["session"][:-1]})


HTTP: dict[str, dict[str, Change]] = {
    "no status line": {
        "empty line": lambda reply: b"\r\n" + reply,
        "other protocol": head("SIP/2.0 200 OK\nContent-Length: 1"),
        "HTTP/2": head("HTTP/2 200\nContent-Length: 1"),
        "short status": head("HTTP/1.1 20\nContent-Length: 1"),
        "long status": head("HTTP/1.1 2000\nContent-Length: 1"),
        "nothing but lines": lambda reply: b"\n" * 9000,
    },
    "its head is too long": {
        "long line": lambda reply: b"HTTP/1.1 200 " + b"a" * 9000,
        "long head": head(OK + "\na: b" * 2000),
        "long trailer": chunks(last=b"0\r\n" + b"a: b\r\n" * 2000 + b"\r\n"),
    },
    "a zero byte in its head": {"zero in head": head(f"{OK}\na: \0")},
    "it needs either a Content-Length or chunks": {
        "no end": head(f"{OK}\nA: b"),
        "two ends": head(f"{OK}\nContent-Length: 9\nTransfer-Encoding: chunked"),
    },
    "a line in its head that is none, or that says where its body ends in a way not used here": {
        "two lengths": head(f"{OK}\nContent-Length: 9\nContent-Length: 9"),
        "two encodings": head(f"{OK}\nTransfer-Encoding: chunked\nTransfer-Encoding: chunked"),
        "gzip": head(f"{OK}\nTransfer-Encoding: gzip, chunked"),
        "folded line": head(f"{OK}\nA: b\n Content-Length: 9"),
        "blank before the colon": head(f"{OK}\nContent-Length : 9"),
        "no colon": head(f"{OK}\nContent-Length"),
        **{f"length {size!r}": head(f"{OK}\nContent-Length: {size}") for size in LENGTHS},
    },
    "it is too long": {
        "oversized": head(f"{OK}\nContent-Length: 16385"),
        "oversized chunk": resized(b"4001"),
        "many chunks": lambda reply: chunks(*[4000] * 9)(b"\r\n\r\n" + bytes(32000)),
    },
    "a chunk without a size": {
        "no size": resized(b""),
        "negative size": resized(b"-5"),
        "no digits": resized(b";5"),
        "huge size": resized(b"100000005"),
    },
    "a chunk that is longer than its size": {"wrong size": resized(b"4")},
}
PLAIN = "it is not one line of JSON with schema 1"
CHALLENGE: dict[str, dict[str, Change]] = {
    PLAIN: {
        "empty": body(lambda found: b""),
        "no JSON": body(lambda found: b"<html></html>"),
        "other schema": body(lambda found: {**found, "schema": 2}),
        "blanks": body(lambda found: json.dumps(found).encode()),
        "lines": body(lambda found: json.dumps(found, indent=1).encode()),
        "zero in body": body(lambda found: canonical(found)[:-1] + b"\0}"),
        "not ASCII": body(lambda found: canonical(found)[:-1] + b"\xc3\xa9}"),
        "cut": body(lambda found: canonical(found)[:-1]),
    },
    "session is not 32 hexadecimal digits": {
        "none": body(lambda found: {"schema": 1, "nonce": found["nonce"]}),
        "twice": body(lambda found: canonical(found)[:-1] + b',"session":"' + b"0" * 32 + b'"}'),
        "short": body(short_session),
        "long": value("session", lambda text: text + "0"),
        "upper case": value("session", str.upper),
        "escape": value("session", lambda text: text[1:] + '"'),
        "a number": value("session", lambda text: 5),
        "open end": body(lambda found: b'{"schema":1,"nonce":"","session":"' + b"0" * 32 + b"}"),
    },
    "nonce is not 32 bytes in base64": {
        "short": value("nonce", lambda text: b64(bytes(31))),
        "long": value("nonce", lambda text: b64(bytes(33))),
        "longer": value("nonce", lambda text: b64(bytes(9000))),
        "empty": value("nonce", lambda text: ""),
        "hex": value("nonce", lambda text: "0" * 64),
        "loose bits": value("nonce", lambda text: text[:-2] + "9="),
        "no padding": value("nonce", lambda text: text[:-1]),
        "padding within": value("nonce", lambda text: "AA==" + text[4:]),
        "padding only": value("nonce", lambda text: "====" * 11),
        "other alphabet": value("nonce", lambda text: "-_" + text[2:]),
    },
    "selection is no list of registers": {
        "empty": value("selection", lambda text: ""),
        "no bank": value("selection", lambda text: ":4"),
        "an option": value("selection", lambda text: "-o"),
        "a command": value("selection", lambda text: "sha256:4;id"),
        "long": value("selection", lambda text: text * 20),
    },
}
ACTIVATE: dict[str, dict[str, Change]] = {
    "credential is no base64": {
        "none": body(lambda found: {"schema": 1, "x": "credential"}),
        "empty": value("credential", lambda text: ""),
        "large": value("credential", lambda text: b64(bytes(5000))),
    },
}
ATTEST: dict[str, dict[str, Change]] = {
    "ephemeral is not 65 bytes in base64": {
        "none": value("ephemeral", lambda text: ""),
        "short": value("ephemeral", lambda text: b64(bytes(64))),
        "long": value("ephemeral", lambda text: b64(bytes(66))),
    },
    "key is no base64 of 48 to 528 bytes": {
        "none": body(lambda found: {"schema": 1, "ephemeral": found["ephemeral"]}),
        "short": value("key", lambda text: b64(bytes(47))),
        "long": value("key", lambda text: b64(bytes(529))),
    },
    "the key is not encrypted for this request": {
        "off the curve": value("ephemeral", lambda text: flipped(text, 40)),
        "other form": value("ephemeral", lambda text: flipped(text, 0)),
        "zeros": value("ephemeral", lambda text: b64(bytes(65))),
        "at infinity": value("ephemeral", lambda text: b64(b"\x04" + bytes(64))),
        "another point": value("ephemeral", lambda text: b64(Guest().point)),
        "cut": value("key", lambda text: b64(base64.b64decode(text)[:-1])),
        "wrong tag": value("key", lambda text: flipped(text, -1)),
        "wrong ciphertext": value("key", lambda text: flipped(text, 0)),
        "tag only": value("key", lambda text: b64(bytes(32) + base64.b64decode(text)[-16:])),
    },
}
WRONG = [
    pytest.param(asked, words, change, id=f"{asked}: {words[:24]}: {name}")
    for asked, table in (
        ("challenge", HTTP),
        ("challenge", CHALLENGE),
        ("activate", ACTIVATE),
        ("attest", ATTEST),
    )
    for words, changes in table.items()
    for name, change in changes.items()
]


class Changing(Conversation):
    """A conversation with one answer that is not as it should be."""

    def __init__(self, asked: str, change: Change) -> None:
        super().__init__()
        self.changed, self.change = asked, change

    def reply(self, path: str, body: Body) -> bytes:
        reply = super().reply(path, body)
        return self.change(reply) if path.endswith(self.changed) else reply


@pytest.fixture(scope="module")
def server(authority: Authority) -> Iterator[Server]:
    with Server(answering(Conversation().reply), authority.server()) as found:
        yield found


@pytest.mark.parametrize("name", GOOD)
def test_other_forms_of_a_good_answer(helper: Helper, server: Server, name: str) -> None:
    for asked in ("challenge", "activate", "attest"):
        server.script = answering(Changing(asked, GOOD[name]).reply)
        assert helper.run(server.url, "activate") == Ended(0, KEY, "")


@pytest.mark.parametrize(("asked", "words", "change"), WRONG)
def test_an_answer_that_is_wrong(
    helper: Helper, server: Server, asked: str, words: str, change: Change
) -> None:
    server.script = answering(Changing(asked, change).reply)
    ended = helper.run(server.url, "activate")
    said = " ".join(ended.words.splitlines())
    assert (ended.code, words in said) == (DENIED, True), said


def test_the_good_answer_of_these_tests_is_good(helper: Helper, server: Server) -> None:
    for size in (32, 33, 64, 511, 512):
        conversation = Conversation(key=os.urandom(size))
        server.script = answering(conversation.reply)
        assert helper.run(server.url, "activate") == Ended(0, conversation.key, "")
    for size in (31, 513):
        server.script = answering(Conversation(key=os.urandom(size)).reply)
        assert helper.run(server.url).code == DENIED


def test_what_the_guest_says(helper: Helper, server: Server) -> None:
    """Nothing that the protocol does not have, and a quote that is bound to it."""
    conversation = Conversation()
    server.script = answering(conversation.reply)
    assert helper.run(server.url, "activate", machine=r'a "b" \c').key == KEY
    (first, challenge), (second, activate), (third, attest) = conversation.asked
    assert (first, second, third) == ("/v1/challenge", "/v1/activate", "/v1/attest")
    assert challenge == {"schema": 1, "volume": "data", "machine": r'a "b" \c'}
    assert sorted(activate) == ["ak_public", "ek_certificates", "schema", "session"]
    assert [len(base64.b64decode(each)) for each in activate["ek_certificates"]] == [260]
    wanted = {"quote": b"quote", "signature": b"signature", "ak_public": b"ak_public"}
    wanted["activation"] = b"activation"
    found = {name: base64.b64decode(attest.pop(name)) for name in wanted}
    assert found == {name: word + b" of a machine" for name, word in wanted.items()}
    assert base64.b64decode(attest.pop("event_log")) == helper.log.read_bytes()
    point = base64.b64decode(attest.pop("ephemeral"))
    assert attest == {"schema": 1, "session": conversation.session}
    bound = hashlib.sha256(conversation.nonce + point + b"data").hexdigest()
    assert f"quote sha256:4,7,11 {bound} " in (helper.library / "calls").read_text()
    # A key pair is for one request.
    assert helper.run(server.url).key == KEY
    assert base64.b64decode(conversation.asked[-1][1]["ephemeral"]) != point


@given(
    asked=st.sampled_from(["challenge", "activate", "attest"]),
    at=st.floats(0, 1, exclude_max=True),
    length=st.integers(0, 30),
    piece=st.binary(max_size=30) | st.sampled_from([b'"', b'":"', b"\r\n", b"\\u", b"{", b"\n\n"]),
)
@example(asked="attest", at=0.0, length=0, piece=b"")
@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_mutations(helper: Helper, server: Server, asked: str, at: float, length: int, piece: bytes) -> None:
    """Whatever comes, it ends with a code of the contract; a key comes out only as it was sent."""

    def change(reply: bytes) -> bytes:
        start = int(at * len(reply))
        return reply[:start] + piece + reply[start + length :]

    server.script = answering(Changing(asked, change).reply)
    ended = helper.run(server.url, "activate")
    assert ended.code in (0, LATER, DENIED, MALFORMED)
    assert ended.key in (b"", KEY)


def closing(path: str, after: int | None) -> Script:
    """Ends the connection of one request at some point of the answer; ``None`` before it is read."""
    conversation = Conversation()

    def script(talk: Talk) -> None:
        talk.shake_hands()
        asked, body = talk.read()
        reply = conversation.reply(asked, body)
        talk.send(reply[:after] if asked == path else reply)

    return script


@pytest.mark.parametrize("path", ["/v1/challenge", "/v1/activate", "/v1/attest"])
def test_a_server_that_breaks_off(helper: Helper, authority: Authority, path: str) -> None:
    with Server(answering(Conversation().reply), authority.server()) as server:
        assert helper.run(server.url, "activate").key == KEY
        for after in (0, 1, 12, 40, 90, -1):
            server.script = closing(path, after)
            ended = helper.run(server.url, "activate")
            assert (ended.code, ended.words[:33]) == (LATER, "the answer of 127.0.0.1 failed: u"), after
        # It ends well with the last byte, whatever becomes of the connection.
        server.script = closing(path, None)
        assert helper.run(server.url, "activate").key == KEY


def test_a_server_that_breaks_off_early(helper: Helper, authority: Authority) -> None:
    with Server(lambda talk: None, authority.server()) as server:
        ended = helper.run(server.url)
        assert (ended.code, ended.words[:40]) == (LATER, "the TLS handshake with 127.0.0.1 failed:")
        server.script = Talk.shake_hands
        ended = helper.run(server.url)
        # The request may be on its way by then, or not.
        assert (ended.code, "of 127.0.0.1 failed" in ended.words.replace("to", "of")) == (LATER, True)


def test_files_of_the_machine(helper: Helper, server: Server) -> None:
    good = (helper.library / "tpm2").read_text()
    server.script = answering(Conversation().reply)
    work = helper.folder / "work"
    for name in ("quote", "signature", "ak_public", "ek_certificate", "activation"):
        words = f"{work}/{name} cannot be read, is empty, or is longer than "
        for spoil in ('rm "$folder"/X', ': >"$folder"/X', 'head -c 20000 /dev/zero >"$folder"/X'):
            library(helper.library, good + spoil.replace("X", name) + "\n")
            ended = helper.run(server.url, "activate")
            assert (ended.code, ended.words[: len(words)]) == (DENIED, words)
    library(helper.library, good + 'echo no >"$folder/ek_certificate"\n')
    ended = helper.run(server.url, "activate")
    assert (ended.code, ended.words[:45]) == (DENIED, "the TPM's endorsement certificate is none in ")
    library(helper.library, good)
    for size, code in ((0, ABSENT), (256 * 1024, 0), (256 * 1024 + 1, DENIED)):
        helper.log.write_bytes(bytes(size))
        assert helper.run(server.url).code == code
    helper.log.unlink()
    ended = helper.run(server.url)
    words = f"{helper.log}: the firmware left no event log; boot with firmware that measures, and mount "
    assert (ended.code, ended.words) == (ABSENT, f"{words}securityfs\n")


URLS = (
    *("", "http://127.0.0.1", "https:/127.0.0.1", "https://", "https:///v1", "https://:443", "https://a b"),
    *("https://user@127.0.0.1", "https://127.0.0.1:", "https://127.0.0.1:0", "https://127.0.0.1:65536"),
    *("https://127.0.0.1:1x", "https://127.0.0.1:123456", "https://[::1", "https://[::1]x", "https://::1"),
    *("https://[fe80::1%25lo]", "https://127.0.0.1/a?b", "https://127.0.0.1/a#b", "https://127.0.0.1/a\r\nb"),
    *(f"https://{'a' * 256}", f"https://a/{'b' * 128}", "https://127.0.0.1\n", "https://ä"),
)


def test_wrong_use(helper: Helper) -> None:
    for url in URLS:
        ended = helper.run(url)
        shown = "".join(char if " " <= char <= "~" else "?" * len(char.encode()) for char in url)
        words = (
            f"'{shown}' is no URL of a broker; write https://HOST, with :PORT and /PATH where it needs them"
        )
        assert (ended.code, ended.words.replace("\n", "")) == (MALFORMED, words) or len(url) > 100
        assert ended.code == MALFORMED
    for host in ("1.2.3", "999.1.1.1", "[1:2]", "0x7f.1"):
        assert helper.run(f"https://{host}:1", timeout=1).code in (LATER, MALFORMED)
    for volume in ("", ".", "-a", "a/b", "a" * 65, "a\n", "ä"):
        ended = helper.run("https://127.0.0.1:1", volume=volume)
        assert (ended.code, "is no volume's name" in ended.words) == (MALFORMED, True)
    for machine_name in ("a" * 129, "a\n", "ä"):
        ended = helper.run("https://127.0.0.1:1", machine=machine_name)
        words = "the machine's name is not at most 128 plain characters\n"
        assert (ended.code, ended.words) == (MALFORMED, words)
    for more in (("deactivate",), ("activate", "x")):
        ended = helper.run("https://127.0.0.1:1", *more)
        words = "wrong use; kbs URL CA_FILE VOLUME MACHINE FOLDER [activate|snp]\n"
        assert (ended.code, ended.words) == (MALFORMED, words)
