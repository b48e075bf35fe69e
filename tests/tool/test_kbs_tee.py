"""The helper ``kbs`` and a broker that trusts reports of AMD SEV-SNP.

The kernel's configfs is a folder here, the processor a thread with a chain of certificates that the test
made, and the TPM swtpm: all of it shows that both sides mean the same, and proves no hardware. The helper is
built with sanitizers.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from recipes.broker.tee_policy import TeePolicy
from recipes.broker.tee_roots import sort_certificates
from recipes.broker.trust import ReportedKeys
from recipes.formats.pss_certificate import read_pem
from tests.tool.built_helpers import helper as helper_program
from tests.tool.kbs_lab import CANNED, Authority, Conversation, Ended, Helper, Server, answering, library
from tests.tool.software_tpm import SoftwareTpm
from tests.tool.test_kbs_helper import Machine, Provider, broker, machine
from tests.unit.snp_samples import (
    MEASUREMENT,
    VCEK_GUID,
    Chip,
    chip_extensions,
    issue,
    table,
    unsigned_report,
)
from tests.unit.test_broker_guest import KEY, b64

pytestmark = pytest.mark.tool

LATER, DENIED, ABSENT, MALFORMED = 10, 20, 30, 40
POLICY = TeePolicy(frozenset({MEASUREMENT}))
LABEL = b"goldsmith attestation key 2" + bytes(5)
# The broker looks at the clock of the machine that tests run on.
DAYS = (-4000, 40000)


@pytest.fixture(scope="module")
def program() -> Path:
    return helper_program("kbs", sanitized=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def guest(program: Path, authority: Authority) -> Iterator[Machine]:
    with machine(program, authority, SoftwareTpm()) as found:
        yield found


@pytest.fixture(scope="module")
def chip() -> Chip:
    ark = issue("ARK-Milan", days=DAYS)
    ask = issue("SEV-Milan", ark, days=DAYS)
    key = ec.generate_private_key(ec.SECP384R1())
    return Chip(ark, ask, issue("SEV-VCEK", ask, key=key, extensions=chip_extensions(), days=DAYS))


Answer = Callable[[bytes], bytes]


@dataclass
class Kernel:
    """What the helper sees of configfs: a folder for one request, and somebody who answers there.

    Attributes:
        answer: gives ``outblob`` for what was written to ``inblob``.
    """

    folder: Path
    answer: Answer
    certificates: bytes | None = None
    asked: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.entry = self.folder / "goldsmith-data"
        self.entry.mkdir(parents=True)
        self.inblob, self.outblob = self.entry / "inblob", self.entry / "outblob"
        self.put("provider", b"sev_guest\n")
        self.put("privlevel_floor", b"0\n")
        self.put("privlevel", b"")
        self.put("inblob", b"")
        if self.certificates is not None:
            self.put("auxblob", self.certificates)
        os.mkfifo(self.outblob)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="kernel")

    def put(self, name: str, data: bytes) -> None:
        (self.entry / name).write_bytes(data)

    def __enter__(self) -> Kernel:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def _serve(self) -> None:
        while not self._ending.wait(0.005):
            # A reader may come before the bytes that it asks about, or never.
            if self.inblob.stat().st_size == 0:
                continue
            with contextlib.suppress(OSError):
                file = os.open(self.outblob, os.O_WRONLY | os.O_NONBLOCK)
                data = self.inblob.read_bytes()
                self.inblob.write_bytes(b"")
                self.asked.append(data)
                with contextlib.suppress(BrokenPipeError):
                    os.write(file, self.answer(data))
                os.close(file)


@pytest.fixture
def kernel(tmp_path: Path, chip: Chip) -> Iterator[Kernel]:
    with Kernel(tmp_path / "report", chip.report, chip.table) as found:
        yield found


def trust(chip: Chip, policy: TeePolicy = POLICY, more: bytes = b"") -> ReportedKeys:
    return ReportedKeys(sort_certificates(read_pem(chip.roots + more, "roots"), "roots"), policy)


def ask(guest: Machine, kernel: Kernel, url: str, *more: str) -> Ended:
    return guest.helper.run(url, *(more or ("snp",)), GOLDSMITH_TSM=str(kernel.folder))


def test_a_key_for_a_guest_that_the_processor_vouches_for(
    tmp_path: Path, authority: Authority, guest: Machine, chip: Chip, kernel: Kernel
) -> None:
    with broker(tmp_path, authority, trust(chip)) as (url, lines):
        assert ask(guest, kernel, url) == Ended(0, KEY, "")
        key = guest.attestation_key()
        assert kernel.asked == [LABEL + hashlib.sha256(key).digest()]
        assert (lines[-1]["result"], lines[-1]["ak"]) == ("released", f"snp:{MEASUREMENT.hex()}")
        assert (kernel.entry / "privlevel").read_bytes() == b""
        # The next one finds what this one left, as after a run that was ended.
        assert ask(guest, kernel, url).key == KEY
        # Without its processor's word it gets nothing.
        ended = guest.helper.run(url)
        words = (
            "the broker answers 403: report: no TEE report vouches for the key; send one with /v1/attest\n"
        )
        assert (ended.code, ended.words) == (DENIED, words)


def test_a_host_that_has_no_certificates(
    tmp_path: Path, authority: Authority, guest: Machine, chip: Chip
) -> None:
    for number, certificates in enumerate((None, b"", bytes(16385))):
        folder = tmp_path / str(number)
        folder.mkdir()
        with Kernel(folder / "report", chip.report, certificates) as kernel:
            with broker(folder, authority, trust(chip)) as (url, lines):
                ended = ask(guest, kernel, url)
                assert (ended.code, lines[-1]["field"]) == (DENIED, "report")
                said = "VCEK: no certificate of it came along, and the operator has none for chip "
                assert lines[-1]["reason"].startswith(said)
            with broker(folder, authority, trust(chip, more=chip.vcek.pem)) as (url, _):
                assert ask(guest, kernel, url).key == KEY


def test_a_guest_below_another_level(
    tmp_path: Path, authority: Authority, guest: Machine, chip: Chip, kernel: Kernel
) -> None:
    kernel.put("privlevel_floor", b"2\n")
    kernel.answer = lambda data: chip.report(data, vmpl=int((kernel.entry / "privlevel").read_bytes()))
    with broker(tmp_path, authority, trust(chip)) as (url, _):
        ended = ask(guest, kernel, url)
        words = "the broker answers 403: report: VMPL: it is 2, expected 0\n"
        assert (ended.code, ended.words) == (DENIED, words)
    with broker(tmp_path, authority, trust(chip, replace(POLICY, vmpl=2))) as (url, _):
        assert ask(guest, kernel, url).key == KEY


FORGED: dict[str, tuple[dict[str, Any], str]] = {
    "another guest": ({"measurement": bytes(48)}, f"MEASUREMENT: {'00' * 48} is not in the operator's list"),
    "a guest that is debugged": (
        {"policy": 0xB0000},
        "POLICY: it allows debugging (bit 19): the host may read the guest's memory",
    ),
}


@pytest.mark.parametrize("name", FORGED)
def test_reports_of_other_guests(
    tmp_path: Path, authority: Authority, guest: Machine, chip: Chip, kernel: Kernel, name: str
) -> None:
    changes, words = FORGED[name]
    with broker(tmp_path, authority, trust(chip)) as (url, lines):
        assert ask(guest, kernel, url).key == KEY
        kernel.answer = lambda data: chip.report(data, **changes)
        assert ask(guest, kernel, url).code == DENIED
        assert (lines[-1]["field"], lines[-1]["reason"]) == ("report", words)


def test_a_processor_of_the_hosts_own(
    tmp_path: Path, authority: Authority, guest: Machine, chip: Chip, kernel: Kernel
) -> None:
    """Everything as it should be, under a chain of the host's making."""
    own = replace(chip, ark=issue("ARK-Milan", key=issue("own").key, days=DAYS))
    own = replace(own, ask=issue("SEV-Milan", own.ark, key=issue("mine").key, days=DAYS))
    key = ec.generate_private_key(ec.SECP384R1())
    vcek = issue("SEV-VCEK", own.ask, key=key, extensions=chip_extensions(), days=DAYS)
    with broker(tmp_path, authority, trust(chip)) as (url, lines):
        assert ask(guest, kernel, url).key == KEY
        kernel.answer = replace(own, vcek=vcek).report
        kernel.put("auxblob", table((VCEK_GUID, vcek.der)))
        assert ask(guest, kernel, url).code == DENIED
        said = "VCEK: its certificate is signed by no ASK or ASVK of the operator's"
        assert lines[-1]["reason"] == said
        # And under AMD's certificate, with a key that is not its own.
        kernel.put("auxblob", chip.table)
        assert ask(guest, kernel, url).code == DENIED
        assert lines[-1]["reason"] == "SIGNATURE: the VCEK has not made it"


# What the helper finds wrong by itself. The server behind it takes everything.


@pytest.fixture
def helper(tmp_path: Path, program: Path, authority: Authority) -> Helper:
    return Helper(program, tmp_path, library(tmp_path / "library", CANNED), authority.file)


def test_what_is_sent(helper: Helper, authority: Authority, chip: Chip, kernel: Kernel) -> None:
    conversation = Conversation()
    with Server(answering(conversation.reply), authority.server()) as server:
        assert helper.run(server.url, "snp", GOLDSMITH_TSM=str(kernel.folder)) == Ended(0, KEY, "")
        (data,) = kernel.asked
        assert data == LABEL + hashlib.sha256(b"ak_public of a machine").digest()
        path, body = conversation.asked[-1]
        assert path == "/v1/attest"
        assert base64.b64decode(body["report"])[0x50:0x90] == data
        assert body["report_certificates"] == b64(chip.table)
        assert [path for path, _ in conversation.asked] == ["/v1/challenge", "/v1/attest"]
        assert helper.run(server.url) == Ended(0, KEY, "")
        assert not {"report", "report_certificates"} & set(conversation.asked[-1][1])


def other_data(data: bytes) -> bytes:
    return unsigned_report(report_data=bytes(64))


def too_short(data: bytes) -> bytes:
    return unsigned_report(report_data=data)[:-1]


NO_REPORT = "/goldsmith-data/outblob: {} bytes that are no report over the attestation key\n"
ANSWERS: dict[Answer, str] = {
    other_data: NO_REPORT.format(1184),
    too_short: NO_REPORT.format(1183),
    lambda data: b"": NO_REPORT.format(0),
    lambda data: bytes(4096): NO_REPORT.format(4096),
    lambda data: bytes(4097): "/goldsmith-data/outblob: no report: File too large; see the kernel log\n",
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_reports_that_are_none(helper: Helper, authority: Authority, kernel: Kernel, answer: Answer) -> None:
    with Server(answering(Conversation().reply), authority.server()) as server:
        assert helper.run(server.url, "snp", GOLDSMITH_TSM=str(kernel.folder)).key == KEY
        kernel.answer = answer
        ended = helper.run(server.url, "snp", GOLDSMITH_TSM=str(kernel.folder))
        assert (ended.code, folded(ended)) == (DENIED, f"{kernel.folder}{ANSWERS[answer]}")


def folded(ended: Ended) -> str:
    """Its words, of which a long line was made several."""
    return " ".join(ended.words.splitlines()) + "\n"


def no_folder(kernel: Kernel) -> None:
    kernel.folder = kernel.folder / "none"


def another_tee(kernel: Kernel) -> None:
    kernel.put("provider", b"tdx_guest\n")


def no_provider(kernel: Kernel) -> None:
    (kernel.entry / "provider").unlink()


def a_level_that_is_not_taken(kernel: Kernel) -> None:
    kernel.put("privlevel_floor", b"3")
    (kernel.entry / "privlevel").unlink()


def no_answer(kernel: Kernel) -> None:
    kernel.outblob.unlink()


HINT = "a report is there in SEV-SNP guests with Linux 6.7 or later, configfs and sev-guest\n"
BROKEN: dict[Callable[[Kernel], None], tuple[int, str]] = {
    no_folder: (ABSENT, f"{{folder}}: No such file or directory; {HINT}"),
    another_tee: (ABSENT, "{folder}/goldsmith-data: the machine's reports are not those of SEV-SNP\n"),
    no_provider: (ABSENT, "{folder}/goldsmith-data: the machine's reports are not those of SEV-SNP\n"),
    a_level_that_is_not_taken: (DENIED, "{folder}/goldsmith-data/privlevel does not take '3'\n"),
    no_answer: (
        DENIED,
        "{folder}/goldsmith-data/outblob: no report: No such file or directory; see the kernel log\n",
    ),
}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda each: each.__name__)
def test_machines_that_have_no_report(
    helper: Helper, authority: Authority, kernel: Kernel, broken: Callable[[Kernel], None]
) -> None:
    code, words = BROKEN[broken]
    with Server(answering(Conversation().reply), authority.server()) as server:
        assert helper.run(server.url, "snp", GOLDSMITH_TSM=str(kernel.folder)).key == KEY
        broken(kernel)
        ended = helper.run(server.url, "snp", GOLDSMITH_TSM=str(kernel.folder))
        assert (ended.code, folded(ended)) == (code, words.format(folder=kernel.folder))


def test_a_folder_that_is_no_configfs(helper: Helper, authority: Authority, tmp_path: Path) -> None:
    """A folder is made there and nothing appears in it; nothing is left of it."""
    folder = tmp_path / "plain"
    folder.mkdir()
    with Server(answering(Conversation().reply), authority.server()) as server:
        ended = helper.run(server.url, "snp", GOLDSMITH_TSM=str(folder))
        assert ended.code == ABSENT
        assert list(folder.iterdir()) == []
        ended = helper.run(server.url, "snp", GOLDSMITH_TSM="/" + "x" * 600)
        assert (ended.code, ended.words.endswith("is too long a path\n")) == (MALFORMED, True)
        assert helper.run(server.url, "tdx").code == MALFORMED


@pytest.mark.parametrize("shell", ["dash", "busybox"])
def test_the_provider_passes_it_on(helper: Helper, authority: Authority, kernel: Kernel, shell: str) -> None:
    """The entry is the volume's; its name at the broker names what is asked for."""
    kernel.entry = kernel.entry.rename(kernel.folder / "goldsmith-disk")
    kernel.inblob, kernel.outblob = kernel.entry / "inblob", kernel.entry / "outblob"
    configfs = kernel.folder.parent / "configfs"
    (configfs / "tsm").mkdir(parents=True)
    provider = Provider(helper, shell)
    text = provider.script.read_text()
    assert "/sys/kernel/config" in text
    provider.script.write_text(text.replace("/sys/kernel/config", str(configfs)))
    helper.environment["GOLDSMITH_TSM"] = str(kernel.folder)
    conversation = Conversation()
    with Server(answering(conversation.reply), authority.server()) as server:
        assert provider.run(server.url, KBS_TEE="none") == Ended(0, KEY, "")
        assert "report" not in conversation.asked[-1][1]
        assert provider.run(server.url, KBS_TEE="snp") == Ended(0, KEY, "")
        assert "report" in conversation.asked[-1][1]
        assert provider.run(server.url, KBS_TEE="none", KBS_ACTIVATE="yes") == Ended(0, KEY, "")
        for options in ({"KBS_TEE": "tdx"}, {"KBS_TEE": "snp", "KBS_ACTIVATE": "yes"}):
            ended = provider.run(server.url, 20, **options)
            words = f"KBS_TEE is '{options['KBS_TEE']}'; write none, or snp where KBS_ACTIVATE is no\n"
            assert (ended.code, ended.words) == (MALFORMED, words)
