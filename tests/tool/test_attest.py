"""The attestation service's traffic, judged by our client, by curl, by openssl and by tpm2-tools."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import resource
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from recipes.attest.client import collateral, read_address
from recipes.attest.collateral import Collateral, judge, read_collateral
from recipes.errors import FormatError, VerifyError
from recipes.formats.tpm2_public import read_sized_public
from tests.support import require_tool
from tests.tool.attest_lab import FIRST, SECOND, AttestLab, word

pytestmark = pytest.mark.tool

NONCE = bytes(range(32))
AS_PREDICTED = (
    r"m: quoted now, over this connection, by [0-9a-f]{68}: 17 registers and 29 events as predicted\n"
)


@pytest.fixture(scope="module")
def lab() -> Iterator[AttestLab]:
    """A machine that no test changes."""
    with AttestLab() as made:
        yield made


@pytest.fixture
def own() -> Iterator[AttestLab]:
    with AttestLab() as made:
        yield made


def ask(lab: AttestLab, nonce: bytes = NONCE) -> dict[str, str]:
    status, document = lab.curl(f"/v1/collateral?nonce={nonce.hex()}")
    assert status == 200, document
    return document


def send(lab: AttestLab, workload: bytes, manifest: bytes, who: tuple[Path, Path]) -> tuple[object, ...]:
    """Options that hand in a workload."""
    image = lab.folder / "new.erofs"
    image.write_bytes(workload)
    image.with_suffix(".json").write_bytes(manifest)
    return "--ak", lab.ak, "--workload", image, "--certificate", who[0], "--private-key", who[1]


def test_our_client_finds_the_machine_as_predicted(lab: AttestLab) -> None:
    done = lab.goldsmith("--ak", lab.ak)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(AS_PREDICTED, done.stdout), done.stdout
    document = json.loads(lab.goldsmith("--ak", lab.ak, "--json").stdout)
    assert (document["machine"], document["equal"], document["differences"]) == ("m", True, [])
    name = hashlib.sha256(lab.ak.read_bytes()[2:]).hexdigest()
    assert document["attestation_key"] == f"000b{name}"


def test_foreign_programs_agree(lab: AttestLab, tmp_path: Path) -> None:
    """The TLS key by openssl, the quote by tpm2_checkquote, what it is over by hand."""
    answer = ask(lab)
    shown = subprocess.run(
        [require_tool("openssl"), "s_client", "-connect", f"127.0.0.1:{lab.port}", "-tls1_3"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
    ).stdout
    pem = subprocess.run(
        ["openssl", "x509", "-noout", "-pubkey"], input=shown, capture_output=True, check=True
    ).stdout
    der = ["openssl", "pkey", "-pubin", "-outform", "DER"]
    key = hashlib.sha256(subprocess.run(der, input=pem, capture_output=True, check=True).stdout).digest()
    assert answer["key"] == key.hex()
    binding = hashlib.sha256(b"goldsmith attest 1\n" + NONCE + key).hexdigest()
    paths = {}
    for name in ("quote", "signature", "ak_public"):
        paths[name] = tmp_path / name
        paths[name].write_bytes(base64.b64decode(answer[name], validate=True))
    check = ("tpm2_checkquote", "-u", paths["ak_public"], "-m", paths["quote"], "-s", paths["signature"])
    lab.tpm.tools.run(*map(str, (*check, "-g", "sha256", "-q", binding)))
    other = hashlib.sha256(b"goldsmith attest 1\n" + NONCE + bytes(32)).hexdigest()
    assert lab.tpm.tools.attempt(*map(str, (*check, "-g", "sha256", "-q", other))).returncode != 0
    quote = lab.tpm.tools.run("tpm2_print", "-t", "TPMS_ATTEST", paths["quote"]).decode()
    registers = base64.b64decode(answer["registers"], validate=True)
    assert f"pcrDigest: {hashlib.sha256(registers).hexdigest()}" in quote
    assert f"extraData: {binding}" in quote
    assert "pcrSelect: ffffff" in quote
    shown = lab.tpm.tools.run("tpm2_pcrread", "sha256:14")
    assert registers[14 * 32 : 15 * 32].hex().upper().encode() in shown


def test_older_tls_is_refused(lab: AttestLab) -> None:
    argv = [require_tool("openssl"), "s_client", "-connect", f"127.0.0.1:{lab.port}", "-tls1_2"]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode != 0
    assert "alert protocol version" in done.stderr


@pytest.mark.parametrize(
    ("path", "options", "status", "field", "error"),
    [
        ("/", (), 404, "path", "unknown; there are /v1/collateral and /v1/workload"),
        (
            "/v1/collateral",
            (),
            400,
            "nonce",
            "give ?nonce= and 16 to 64 bytes in lower-case hex, nothing else",
        ),
        ("/v1/collateral?nonce=" + "a" * 30, (), 400, "nonce", None),
        ("/v1/collateral?nonce=" + "a" * 33, (), 400, "nonce", None),
        ("/v1/collateral?nonce=" + "a" * 130, (), 400, "nonce", None),
        ("/v1/collateral?nonce=" + "A" * 32, (), 400, "nonce", None),
        ("/v1/collateral?nonce=" + "a" * 32 + "&x=1", (), 400, "nonce", None),
        ("/v1/collateral?nonce=" + "a" * 32 + "%0a", (), 400, "nonce", None),
        ("/v1/collateral?nonce=" + "a" * 32, ("-d", "x"), 405, "method", "use GET"),
        (
            "/v1/collateral?nonce=" + "a" * 32,
            ("-X", "GET", "-d", "x"),
            400,
            "body",
            "there is one; a GET has none",
        ),
        ("/v1/workload", (), 405, "method", "use POST"),
        (
            "/v1/workload",
            ("-d", "x"),
            403,
            "certificate",
            "none was shown; a workload takes an operator's",
        ),
        ("/v1/workload", ("-H", "Authorization: Bearer x", "-d", "x"), 403, "certificate", None),
        ("/v1/collateral", ("-H", "Transfer-Encoding: chunked", "-d", "x"), 411, "Transfer-Encoding", None),
        ("/v1/collateral", ("-H", f"X: {'a' * 9000}"), 413, "head", "more than 8192 bytes"),
        (
            "/v1/collateral",
            ("-H", "X: a", "-H", "X: b"),
            400,
            "head",
            "a header is malformed, or there twice",
        ),
    ],
)
def test_requests_that_are_refused(
    lab: AttestLab, path: str, options: tuple[str, ...], status: int, field: str, error: str | None
) -> None:
    found, document = lab.curl(path, *options)
    assert (found, document["field"]) == (status, field), document
    assert error in (None, document["error"])


@pytest.mark.parametrize(
    "data",
    [
        b"GET /\r\n\r\n",
        b"\x16\x03\x01\r\n\r\n",
        b"GET /v1/collateral HTTP/1.0\r\n\r\n",
        b"GET  / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\n a: b\r\n\r\n",
        b"GET / HTTP/1.1\r\na : b\r\n\r\n",
        b"GET / HTTP/1.1\r\na: \x00\r\n\r\n",
        b"POST /v1/workload HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/workload HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n",
    ],
)
def test_what_is_no_request(lab: AttestLab, data: bytes) -> None:
    head, _, body = lab.say(data).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 "), head
    assert json.loads(body)["field"] in ("head", "Content-Length")


def test_the_operator_exchanges_the_workload(own: AttestLab) -> None:
    """The machine is judged before, and once more behind what it measured then."""
    waiting = own.folder / "busy"
    waiting.touch()

    def systemd() -> None:
        """What the guest's script would have systemd extend, before it says so."""
        while not (own.folder / "taken").exists():
            time.sleep(0.02)
        own.measure((14, word(SECOND)))
        waiting.unlink()

    measuring = threading.Thread(target=systemd)
    measuring.start()
    done = own.goldsmith(*send(own, SECOND, SECOND, own.operator))
    measuring.join()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f"m: runs {word(SECOND)}\n")
    assert (own.folder / "taken").read_bytes() == SECOND
    assert list((own.folder / "state").iterdir()) == []
    fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(own.operator[0].read_text())).hexdigest()
    assert f"operator - sha256:{fingerprint} sends a workload\n" in own.log
    done = own.goldsmith("--ak", own.ak)
    assert done.returncode == 1
    assert "PCR14 differs at event 2 of 1: predicted nothing more, observed EV_IPL" in done.stderr
    manifest = own.folder / "new.json"
    assert own.goldsmith("--ak", own.ak, "--after", manifest).returncode == 0
    assert own.goldsmith("--ak", own.ak, "--after", manifest, "--after", manifest).returncode == 1


def test_a_workload_is_handed_to_no_machine_that_differs(own: AttestLab) -> None:
    own.measure((14, "workload:site:refused"))
    done = own.goldsmith(*send(own, SECOND, SECOND, own.operator))
    assert done.returncode == 1
    assert "PCR14 differs at event 2 of 1" in done.stderr
    assert not (own.folder / "taken").exists()
    assert "POST" not in own.log


def test_what_a_machine_says_it_measured_must_be_the_workload(own: AttestLab) -> None:
    done = own.goldsmith(*send(own, b"an image", SECOND, own.operator))
    assert done.returncode == 1
    assert f"m: it measured {word(b'an image')!r}, the workload is {word(SECOND)!r}" in done.stderr


def test_a_workload_that_is_not_whole_is_refused(lab: AttestLab) -> None:
    done = lab.goldsmith(*send(lab, b"not whole", SECOND, lab.operator))
    assert done.returncode == 2
    assert done.stderr == (
        "goldsmith: attest: the machine refuses (422): workload: a file is not what its manifest says\n"
    )
    assert lab.goldsmith("--ak", lab.ak).returncode == 0


def test_a_workload_that_is_measured_and_does_not_start(lab: AttestLab) -> None:
    """It is refused by nobody: the register has it."""
    data = b"no start"
    options = ("--cert", lab.operator[0], "--key", lab.operator[1], "--data-binary")
    status, document = lab.curl("/v1/workload", *options, data.decode())
    error = "it does not start; see the log of workload.service"
    assert (status, document) == (
        500,
        {"schema": 1, "error": error, "field": "measured", "measured": word(data)},
    )
    done = lab.goldsmith(*send(lab, data, SECOND, lab.operator))
    assert done.returncode == 2
    what = f"the machine measured {word(data)!r} and failed (500): {error}; say --after for it from now on"
    assert done.stderr == f"goldsmith: attest: {what}\n"


@pytest.mark.parametrize(
    ("data", "error"),
    [("no end", "the containers that run do not end"), ("killed", "see the log of attest-workload")],
)
def test_a_machine_that_cannot_take_a_workload(lab: AttestLab, data: str, error: str) -> None:
    options = ("--cert", lab.operator[0], "--key", lab.operator[1], "--data-binary")
    status, document = lab.curl("/v1/workload", *options, data)
    assert (status, document) == (500, {"schema": 1, "error": error, "field": "workload"})


def test_the_service_outlives_a_lack_of_files(own: AttestLab) -> None:
    """Neither accept() nor dup() may end it, or keep the places of those who found it so."""
    pid = own.service
    few = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    old = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    # One more is a connection without a copy, none more is no connection.
    for more in (1, 0):
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (few + more, old[1]))
        for _ in range(6):
            with suppress(OSError), socket.create_connection(("127.0.0.1", own.port), timeout=2) as line:
                line.settimeout(0.3)
                line.recv(1)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, old)
    assert "Too many open files" in own.log
    assert "nobody - no connection" in own.log
    # Six had a place, and a client has no more than four.
    assert own.goldsmith("--ak", own.ak).returncode == 0


def test_a_workload_that_is_too_large_is_refused(lab: AttestLab) -> None:
    done = lab.goldsmith(*send(lab, bytes((1 << 20) + 1), SECOND, lab.operator))
    assert done.returncode == 2
    assert "the machine refuses (413): body: 1048577 bytes; at most 1048576 are taken" in done.stderr


def test_without_a_length_no_workload_is_taken(lab: AttestLab) -> None:
    certificate = ("--cert", lab.operator[0], "--key", lab.operator[1])
    for options, status in ((("-X", "POST"), 411), (("-d", "", "-H", "Content-Length: 0"), 411)):
        found, document = lab.curl("/v1/workload", *certificate, *options)
        assert (found, document["field"]) == (status, "Content-Length")
    found, document = lab.curl("/v1/workload?x=1", *certificate, "-d", "x")
    assert (found, document["field"]) == (400, "path")


def test_curl_hands_in_a_workload_too(own: AttestLab) -> None:
    image = own.folder / "image"
    image.write_bytes(bytes(1 << 20))
    options = ("--cert", own.operator[0], "--key", own.operator[1], "-H", "Expect: 100-continue")
    status, document = own.curl("/v1/workload", *options, "--data-binary", f"@{image}")
    assert (status, document) == (200, {"schema": 1, "measured": word(bytes(1 << 20))})


def operators_line(lab: AttestLab) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(*lab.operator)
    return context.wrap_socket(socket.create_connection(("127.0.0.1", lab.port), timeout=60))


def test_a_workload_that_is_cut_short_is_refused(own: AttestLab) -> None:
    with operators_line(own) as line:
        line.sendall(b"POST /v1/workload HTTP/1.1\r\nContent-Length: 100\r\n\r\n" + bytes(60))
        # The service answers before it says good-bye, which unwrap() is surprised by.
        with suppress(ssl.SSLError):
            line.unwrap()
    log = own.folder / "run/workload.log"
    what = "it ends after 60 of 100 bytes\n"
    limit = time.monotonic() + 30
    while time.monotonic() < limit and not (what in own.log and log.exists() and what in log.read_text()):
        time.sleep(0.05)
    assert f"400 POST /v1/workload: body: {what}" in own.log
    assert f"refused {what}" in log.read_text()
    assert not (own.folder / "taken").exists()


def test_one_workload_at_a_time(own: AttestLab) -> None:
    (own.folder / "busy").touch()
    with operators_line(own) as line:
        line.sendall(b"POST /v1/workload HTTP/1.1\r\nContent-Length: 1\r\n\r\nx")
        while not (own.folder / "taken").exists():
            time.sleep(0.02)
        certificate = ("--cert", own.operator[0], "--key", own.operator[1])
        status, document = own.curl("/v1/workload", *certificate, "-d", "x")
        assert (status, document["error"]) == (503, "another one is being taken; wait for it")
        assert own.goldsmith("--ak", own.ak).returncode == 0
        (own.folder / "busy").unlink()
        assert line.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_strangers_certificate_ends_the_handshake(lab: AttestLab) -> None:
    done = lab.goldsmith(*send(lab, SECOND, SECOND, lab.stranger))
    assert done.returncode == 2
    assert "TLS failed: " in done.stderr
    assert "is this the service, and yours the certificate?" in done.stderr
    status, document = lab.curl(
        "/v1/workload", "--cert", lab.stranger[0], "--key", lab.stranger[1], "-d", "x"
    )
    assert (status, document) == (0, {"error": "56"})
    assert not (lab.folder / "taken").exists() or (lab.folder / "taken").read_bytes() != SECOND


def test_an_image_without_operators_takes_nothing() -> None:
    with AttestLab(operators=False) as lab:
        assert lab.goldsmith("--ak", lab.ak).returncode == 0
        done = lab.goldsmith(*send(lab, SECOND, SECOND, lab.operator))
        assert done.returncode == 2
        assert "(403): certificate: none was shown" in done.stderr


def test_slow_clients_are_ended_and_hold_up_nobody(lab: AttestLab) -> None:
    """Three of the four connections that one client may have; the service gives a head 15 s."""
    lines = [lab.connect() for _ in range(3)]
    started = time.monotonic()
    try:
        assert lab.goldsmith("--ak", lab.ak).returncode == 0
        assert time.monotonic() - started < 10
        answer = b""
        while not answer and time.monotonic() - started < 30:
            # One byte at a time does not help: it is the whole that is timed.
            lines[0].settimeout(0.5)
            try:
                lines[0].sendall(b"G")
                answer = lines[0].recv(65536)
            except TimeoutError:
                continue
            except OSError:
                break
        assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert 10 < time.monotonic() - started < 25
    finally:
        for line in lines:
            line.close()


def test_who_asks_too_often_waits(own: AttestLab) -> None:
    statuses = [own.curl(f"/v1/collateral?nonce={number:032x}")[0] for number in range(14)]
    assert statuses[:10] == [200] * 10
    assert 429 in statuses[10:]
    assert set(statuses) == {200, 429}


def test_an_attestation_key_is_known_beforehand(lab: AttestLab, tmp_path: Path) -> None:
    ak = tmp_path / "ak.pub"
    done = lab.goldsmith("--ak", ak)
    assert done.returncode == 2
    advice = "enrol the machine's key there, or say --trust-on-first-use once"
    assert done.stderr == f"goldsmith: {ak}: no attestation key; {advice}\n"
    done = lab.goldsmith("--ak", ak, "--trust-on-first-use")
    assert done.returncode == 0
    assert f"{ak}: trusted on first use: 000b" in done.stderr
    assert ak.read_bytes() == lab.ak.read_bytes()
    with AttestLab() as other:
        done = lab.goldsmith("--ak", ak, "--trust-on-first-use", url=other.url)
    assert done.returncode == 1
    assert "; this is another machine, or has another TPM" in done.stderr


def tls_key(lab: AttestLab) -> bytes:
    return hashlib.sha256((lab.folder / "run/tls.spki").read_bytes()).digest()


def read(lab: AttestLab, nonce: bytes = NONCE) -> Collateral:
    return read_collateral(collateral(read_address(lab.url), nonce).body)


def test_an_older_answer_is_refused(lab: AttestLab) -> None:
    key = read_sized_public(lab.ak.read_bytes(), "ak")
    answer, newer = read(lab), bytes(32)
    judge(answer, key, NONCE, tls_key(lab))
    with pytest.raises(
        VerifyError, match=f"^quote: an answer to the nonce {NONCE.hex()}, expected 0{{64}}; it is"
    ):
        judge(answer, key, newer, tls_key(lab))
    # Nobody makes it a newer one by writing so.
    forged = Collateral(**{**vars(answer), "nonce": newer})
    with pytest.raises(VerifyError, match=r"extraData is [0-9a-f]{64}, expected .*not what the TPM signed$"):
        judge(forged, key, newer, tls_key(lab))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("registers", lambda value: (bytes(32), *value[1:]), "quote: pcrDigest is "),
        ("quote", lambda value: value[:-1] + bytes([value[-1] ^ 1]), "quote: signature is not by it"),
        ("signature", lambda value: value[:-1] + bytes([value[-1] ^ 1]), "quote: signature is not by it"),
        ("ak_public", lambda value: value[:-1] + bytes([value[-1] ^ 1]), "; this is another machine"),
    ],
)
def test_a_changed_answer_is_refused(
    lab: AttestLab, name: str, change: Callable[[object], object], message: str
) -> None:
    answer, key = read(lab), read_sized_public(lab.ak.read_bytes(), "ak")
    changed = Collateral(**{**vars(answer), name: change(getattr(answer, name))})
    with pytest.raises(VerifyError, match=message):
        judge(changed, key, NONCE, tls_key(lab))


def test_a_changed_log_does_not_replay(own: AttestLab) -> None:
    """The log is outside of what is signed, so it is believed as far as it leads to the registers."""
    text = (own.folder / "words").read_text()
    (own.folder / "words").write_text(text.replace(hashlib.sha256(b"sysinit").hexdigest(), "00" * 32))
    done = own.goldsmith("--ak", own.ak, "--json")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert document["equal"] is False
    assert any("the log replays to sha256" in each for each in document["differences"])
    (own.folder / "words").write_text("no log")
    done = own.goldsmith("--ak", own.ak)
    assert done.returncode == 2
    assert "not a JSON text sequence" in done.stderr


@contextmanager
def in_between(lab: AttestLab) -> Iterator[str]:
    """The URL of somebody who has a TLS key of their own and passes on every byte."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*lab.stranger)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            plain, _ = listener.accept()
            with context.wrap_socket(plain, server_side=True) as client, lab.connect() as server:
                server.sendall(client.recv(65536))
                while piece := server.recv(65536):
                    client.sendall(piece)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"
        thread.join(30)


def test_somebody_in_between_is_found_out(lab: AttestLab) -> None:
    with in_between(lab) as url:
        done = lab.goldsmith("--ak", lab.ak, url=url)
    assert done.returncode == 1
    assert done.stderr.endswith("; somebody is in between\n")
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "answer: 41 bytes that are no answer of HTTP/1.1 with a length"),
        (b"Content-Length: 9\r\n\r\n{}", "answer: 2 bytes of 9 came"),
        (b"Content-Length: 2\r\n\r\n{}", "'schema' is missing"),
        (b'Content-Length: 12\r\n\r\n{"schema":2}', "schema 2; this version reads schema 1"),
        (b'Content-Length: 12\r\n\r\n{"schema":1}', "'nonce' is missing"),
    ],
)
def test_servers_that_answer_nonsense(lab: AttestLab, body: bytes, message: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*lab.stranger)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            plain, _ = listener.accept()
            with context.wrap_socket(plain, server_side=True) as client:
                client.recv(65536)
                client.sendall(
                    b"HTTP/1.1 200 OK\r\nConnection: close\r\nX: y\r\n"[: 41 if not body else None] + body
                )

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        done = lab.goldsmith("--ak", lab.ak, url=f"https://127.0.0.1:{listener.getsockname()[1]}")
        thread.join(30)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_machine_without_a_measured_boot_says_so(own: AttestLab) -> None:
    (own.folder / "words").unlink()
    status, document = own.curl(f"/v1/collateral?nonce={NONCE.hex()}")
    assert (status, document["field"]) == (500, "quote")
    assert document["error"] == "no evidence; the log of attest-evidence says why"
    assert "the machine needs a measured boot" in (own.folder / "run/evidence.log").read_text()


@pytest.mark.parametrize("nonce", ["", "zz" * 16, "a" * 31, "ab" * 15, "ab" * 65, "AB" * 16])
def test_the_evidence_script_believes_nobody(lab: AttestLab, nonce: str) -> None:
    """Whoever has taken over the service that speaks with the network gets no other quotes."""
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(lab.folder / "run/evidence"))
        line.sendall(f"{nonce}\n".encode())
        line.settimeout(60)
        assert line.recv(65536) == b""


@pytest.mark.parametrize("size", ["", "0", "-1", "1 1", "x", "9" * 13])
def test_the_taking_script_believes_nobody(lab: AttestLab, size: str) -> None:
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(lab.folder / "run/workload"))
        line.sendall(f"{size}\n".encode())
        line.settimeout(60)
        assert line.recv(65536) == b"refused its size is no number of bytes\n"


def test_documents_that_cannot_be_read(lab: AttestLab) -> None:
    good = json.loads(json.dumps(ask(lab)))
    for key, value, message in (
        ("quote", "%", "'quote' is not base64"),
        ("quote", base64.b64encode(bytes(5000)).decode(), "'quote' is 5000 bytes; at most 4096 are read"),
        (
            "registers",
            base64.b64encode(bytes(64)).decode(),
            "'registers' is 64 bytes, expected 24 values of 32",
        ),
        ("key", "00", "'key' is not 64 lower-case hexadecimal digits"),
        ("more", "x", "'more' is unknown; remove it or use a newer version"),
    ):
        with pytest.raises(FormatError, match=re.escape(message)):
            read_collateral(json.dumps({**good, key: value}).encode())
    with pytest.raises(FormatError, match="not ASCII"):
        read_collateral(b"\xff")


def test_the_words_of_a_workload_are_as_in_a_guest() -> None:
    assert word(FIRST) == f"workload:site:sha256:{hashlib.sha256(FIRST).hexdigest()}"
