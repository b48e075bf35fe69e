"""Keys that hardware derives: the helper against a shim in place of the drivers, other programs as judges.

No such hardware is here. What is checked is what the helper sends, what it makes of an answer, and how it
ends; that the layouts are the hardware's is the word of the documents that it cites.
"""

from __future__ import annotations

import ctypes
import hashlib
import hmac
import itertools
import os
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tests.support import ROOT, require_tool
from tests.tool.built_helpers import SANITIZER_OPTIONS, helper

pytestmark = pytest.mark.tool

IKM = hashlib.sha256(b"what the hardware gives").digest()
INFO = "data 00112233-4455-6677-8899-aabbccddeeff"
FLAGS = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
FIELDS = "measurement,policy"


def volume_key(ikm: bytes, info: str) -> bytes:
    """The key that must come out, by another implementation of RFC 5869."""
    text = f"goldsmith volume key 1{info}".encode()
    return HKDF(algorithm=SHA256(), length=64, salt=None, info=text).derive(ikm)


def snp_answer(key: bytes = IKM, status: int = 0) -> str:
    """MSG_KEY_RSP: reserved bytes that are not zero show that nothing is taken from there."""
    return (struct.pack("<I", status) + b"\xee" * 28 + key).hex()


def shared_library(folder: Path, source: Path) -> Path:
    path = folder / f"{source.stem}.so"
    subprocess.run([require_tool("gcc"), *FLAGS, "-o", path, source], check=True)
    return path


@dataclass(frozen=True)
class Outcome:
    code: int
    key: bytes
    words: str
    calls: list[str]


@dataclass(frozen=True)
class Bench:
    """Runs programs with the shim in place of ioctl, an empty file as device, and a file as descriptor 3."""

    folder: Path
    shim: Path

    def run(self, *argv: str | Path, redirect: str = '3>"$KEY_FILE"', **environment: str) -> Outcome:
        files = {name: self.folder / name for name in ("device", "log", "key")}
        files["device"].touch()
        files["log"].unlink(missing_ok=True)
        files["key"].unlink(missing_ok=True)
        names = {
            "PATH": os.environ["PATH"],
            "GOLDSMITH_SEV_GUEST": str(files["device"]),
            "GOLDSMITH_RSI": str(files["device"]),
            "SHIM_LOG": str(files["log"]),
            "KEY_FILE": str(files["key"]),
            **SANITIZER_OPTIONS,
        }
        # The shim stands in front of the sanitizer, whose own ioctl is then not asked; it is not missed.
        names["ASAN_OPTIONS"] += ":verify_asan_link_order=0"
        line = f'exec env LD_PRELOAD="{self.shim}" "$@" {redirect}'
        done = subprocess.run(
            ["/bin/sh", "-c", line, "sh", *map(str, argv)], env=names | environment, capture_output=True
        )
        assert done.stdout == b""
        assert files["device"].read_bytes() == b""
        key = files["key"].read_bytes() if files["key"].exists() else b""
        calls = files["log"].read_text().splitlines() if files["log"].exists() else []
        return Outcome(done.returncode, key, done.stderr.decode(), calls)


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_library(tmp_path_factory.mktemp("shim"), ROOT / "tests/tool/ioctl_shim.c")


@pytest.fixture
def bench(shim: Path, tmp_path: Path) -> Bench:
    return Bench(tmp_path, shim)


@pytest.fixture(scope="module", params=["plain", "sanitized"])
def program(request: pytest.FixtureRequest) -> Path:
    return helper("derive-key", sanitized=request.param == "sanitized")


# -- SEV-SNP ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "root", "vmpl", "request_words"),
    [
        (FIELDS, "vcek", "0", (0, 0, 0b001001, 0, 0, 0)),
        ("policy,measurement", "vmrk", "3", (1, 0, 0b001001, 3, 0, 0)),
        ("policy,image-id,family-id,measurement", "vcek", "1", (0, 0, 0b001111, 1, 0, 0)),
        (f"{FIELDS},guest-svn=7", "vcek", "0", (0, 0, 0b011001, 0, 7, 0)),
        (f"{FIELDS},guest-svn=4294967295", "vcek", "0", (0, 0, 0b011001, 0, 0xFFFFFFFF, 0)),
        (f"tcb-version=0xd315000000000004,{FIELDS}", "vcek", "2", (0, 0, 0b101001, 2, 0, 0xD315000000000004)),
        (f"tcb-version=18446744073709551615,{FIELDS}", "vcek", "0", (0, 0, 0b101001, 0, 0, (1 << 64) - 1)),
    ],
)
def test_what_an_snp_guest_asks_and_makes_of_the_answer(
    bench: Bench, program: Path, fields: str, root: str, vmpl: str, request_words: tuple[int, ...]
) -> None:
    got = bench.run(program, "snp", fields, root, vmpl, INFO, SHIM_ANSWER=snp_answer())
    message = struct.pack("<IIQIIQ", *request_words).hex()
    assert (got.code, got.words) == (0, "")
    assert got.calls == [f"c0205301 {'01'.ljust(16, '0')} {message}"]
    assert got.key == volume_key(IKM, INFO)


def test_volumes_have_keys_of_their_own(bench: Bench, program: Path) -> None:
    keys = set()
    for info in ("a", "b", "a ", "x" * 256):
        got = bench.run(program, "snp", FIELDS, "vcek", "0", info, SHIM_ANSWER=snp_answer())
        assert got.key == volume_key(IKM, info)
        keys.add(got.key)
    assert len(keys) == 4


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            snp_answer(status=0x16),
            (
                "derive-key: sev-guest: the firmware refuses the request (0x16): "
                "the VMPL is below the guest's own, or the SVN or TCB version is above the machine's\n"
            ),
        ),
        (
            snp_answer(status=0x27),
            "derive-key: sev-guest: the firmware has no such root key (0x27); use vcek\n",
        ),
        (
            snp_answer(status=0x01000000),
            "derive-key: sev-guest: the firmware refuses with status 0x1000000; see AMD 56860, MSG_KEY_RSP\n",
        ),
        (
            snp_answer(key=bytes(32)),
            "derive-key: snp: the hardware gave a key of zeros, which is no secret; report it to its maker\n",
        ),
        (
            "",
            "derive-key: snp: the hardware gave a key of zeros, which is no secret; report it to its maker\n",
        ),
    ],
)
def test_an_answer_without_a_key(bench: Bench, program: Path, answer: str, words: str) -> None:
    got = bench.run(program, "snp", FIELDS, "vcek", "0", INFO, SHIM_ANSWER=answer)
    assert (got.code, got.key, got.words) == (20, b"", words)


BUSY = "derive-key: sev-guest: the host or the secure processor is busy ({})\n"
EIO, EAGAIN, ENOMEM, EBUSY, EINVAL, ENOTTY, ETIMEDOUT = 5, 11, 12, 16, 22, 25, 110


@pytest.mark.parametrize(
    ("error", "exitinfo", "code", "words"),
    [
        (EAGAIN, "0", 10, BUSY.format("Resource temporarily unavailable")),
        (EBUSY, "0", 10, BUSY.format("Device or resource busy")),
        (ENOMEM, "0", 10, BUSY.format("Cannot allocate memory")),
        (ETIMEDOUT, "0x200000000", 10, BUSY.format("Connection timed out")),
        (EIO, "0x200000000", 10, BUSY.format("Input/output error")),
        (
            EIO,
            "0x100000016",
            20,
            (
                "derive-key: sev-guest: no key: Input/output error, "
                "firmware error 0x16, hypervisor error 0x1; see the kernel log\n"
            ),
        ),
        (
            EIO,
            "0xff",
            20,
            (
                "derive-key: sev-guest: no key: Input/output error, "
                "firmware error 0xff, hypervisor error 0x0; see the kernel log\n"
            ),
        ),
        (
            ENOTTY,
            "0",
            20,
            (
                "derive-key: sev-guest: the kernel has given up the channel to the secure processor; "
                "start the machine again\n"
            ),
        ),
    ],
)
def test_no_answer_from_sev_guest(
    bench: Bench, program: Path, error: int, exitinfo: str, code: int, words: str
) -> None:
    got = bench.run(
        program, "snp", FIELDS, "vcek", "0", INFO,
        SHIM_ANSWER=snp_answer(), SHIM_ERRNO=str(error), SHIM_EXITINFO=exitinfo,
    )  # fmt: skip
    assert (got.code, got.key, got.words) == (code, b"", words)
    assert len(got.calls) == 1


# -- Arm CCA ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "request_words"),
    [
        ("none", (0, 0)),
        ("key", (1, 0)),
        ("rim", (2, 0)),
        ("realm-id", (4, 0)),
        ("key,rim,realm-id", (7, 0)),
        ("realm-id,svn=3", (12, 3)),
        ("svn=0xffffffffffffffff", (8, (1 << 64) - 1)),
    ],
)
def test_what_a_realm_asks_and_makes_of_the_answer(
    bench: Bench, program: Path, flags: str, request_words: tuple[int, int]
) -> None:
    got = bench.run(program, "cca", flags, INFO, SHIM_ANSWER=IKM.hex())
    assert (got.code, got.words) == (0, "")
    assert got.calls == [f"c03078c8 {struct.pack('<QQ', *request_words).hex()}"]
    assert got.key == volume_key(IKM, INFO)


REFUSES = "derive-key: rsi: the monitor refuses a key ({}); is the SVN above that of the realm's metadata?\n"
LACKS = "derive-key: rsi: the driver or the monitor has no sealing keys ({}); they need Islet's\n"
ENXIO, EBADF, EFAULT = 6, 9, 14


@pytest.mark.parametrize(
    ("environment", "code", "words"),
    [
        ({"SHIM_ERRNO": str(EFAULT)}, 20, REFUSES.format("Bad address")),
        ({"SHIM_ERRNO": str(EBADF)}, 20, REFUSES.format("Bad file descriptor")),
        ({"SHIM_RESULT": "48"}, 20, REFUSES.format("Input/output error")),
        ({"SHIM_ERRNO": str(ENXIO)}, 30, LACKS.format("No such device or address")),
        ({"SHIM_ERRNO": str(EINVAL)}, 30, LACKS.format("Invalid argument")),
        ({"SHIM_ERRNO": str(ENOTTY)}, 30, LACKS.format("Inappropriate ioctl for device")),
        (
            {"SHIM_ERRNO": str(ENOMEM)},
            10,
            "derive-key: rsi: the driver is busy (Cannot allocate memory)\n",
        ),
        (
            {"SHIM_ANSWER": "00" * 32},
            20,
            "derive-key: cca: the hardware gave a key of zeros, which is no secret; report it to its maker\n",
        ),
    ],
)
def test_no_answer_from_rsi(
    bench: Bench, program: Path, environment: dict[str, str], code: int, words: str
) -> None:
    got = bench.run(program, "cca", "realm-id", INFO, **{"SHIM_ANSWER": IKM.hex()} | environment)
    assert (got.code, got.key, got.words) == (code, b"", words)


# -- both ---------------------------------------------------------------------------------------------------


def test_another_machine_has_no_such_device(bench: Bench, program: Path, tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere")
    got = bench.run(program, "snp", FIELDS, "vcek", "0", INFO, GOLDSMITH_SEV_GUEST=nowhere)
    said = "derive-key: /dev/sev-guest: No such file or directory; this provider is for SEV-SNP guests\n"
    assert (got.code, got.key, got.words) == (30, b"", said)
    got = bench.run(program, "cca", "none", INFO, GOLDSMITH_RSI=nowhere)
    said = "derive-key: /dev/rsi: No such file or directory; this provider is for realms of Islet\n"
    assert (got.code, got.key, got.words) == (30, b"", said)


USAGE = "usage: derive-key snp FIELDS ROOT VMPL INFO | derive-key cca FLAGS INFO"
KNOWN = "known are policy image-id family-id measurement guest-svn tcb-version"
BOTH = "lacks measurement or policy, so the host could get the same key; name both"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], USAGE),
        (["snp"], USAGE),
        (["tdx", "none", INFO], USAGE),
        (["snp", FIELDS, "vcek", "0"], USAGE),
        (["snp", FIELDS, "vcek", "0", INFO, "more"], USAGE),
        (["cca", "none", INFO, "more"], USAGE),
        (["snp", FIELDS, "vcek", "0", ""], "INFO: 0 bytes; give 1 to 256"),
        (["cca", "none", "x" * 257], "INFO: 257 bytes; give 1 to 256"),
        (["snp", "", "vcek", "0", INFO], f"FIELDS: '' is not known; {KNOWN}"),
        (["snp", f"{FIELDS},", "vcek", "0", INFO], f"FIELDS: '' is not known; {KNOWN}"),
        (["snp", f",{FIELDS}", "vcek", "0", INFO], f"FIELDS: '' is not known; {KNOWN}"),
        (
            ["snp", "measurement policy", "vcek", "0", INFO],
            f"FIELDS: 'measurement policy' is not known; {KNOWN}",
        ),
        (["snp", "Policy", "vcek", "0", INFO], f"FIELDS: 'Policy' is not known; {KNOWN}"),
        (["snp", "y" * 90, "vcek", "0", INFO], f"FIELDS: '{'y' * 40}' is not known; {KNOWN}"),
        (["snp", "policy,policy", "vcek", "0", INFO], "FIELDS: policy is there twice; name it once"),
        (["snp", "policy=1", "vcek", "0", INFO], "FIELDS: policy takes no number; write policy alone"),
        (
            ["snp", "guest-svn", "vcek", "0", INFO],
            "FIELDS: 'guest-svn' lacks its number; write guest-svn=NUMBER, 1 to 4294967295",
        ),
        (
            ["snp", "guest-svn=4294967296", "vcek", "0", INFO],
            "FIELDS: 'guest-svn=4294967296' lacks its number; write guest-svn=NUMBER, 1 to 4294967295",
        ),
        (
            ["snp", "tcb-version=0", "vcek", "0", INFO],
            "FIELDS: 'tcb-version=0' lacks its number; write tcb-version=NUMBER, 1 to 18446744073709551615",
        ),
        (
            ["snp", "tcb-version=18446744073709551616", "vcek", "0", INFO],
            (
                "FIELDS: 'tcb-version=18446744073709551616' lacks its number; "
                "write tcb-version=NUMBER, 1 to 18446744073709551615"
            ),
        ),
        (
            ["snp", "tcb-version=-1", "vcek", "0", INFO],
            "FIELDS: 'tcb-version=-1' lacks its number; write tcb-version=NUMBER, 1 to 18446744073709551615",
        ),
        (["snp", "policy", "vcek", "0", INFO], f"FIELDS: 'policy' {BOTH}"),
        (["snp", "measurement,image-id", "vcek", "0", INFO], f"FIELDS: 'measurement,image-id' {BOTH}"),
        (
            ["snp", "policy,image-id,family-id,guest-svn=1", "vcek", "0", INFO],
            f"FIELDS: 'policy,image-id,family-id,guest-svn=1' {BOTH}",
        ),
        (["snp", FIELDS, "VCEK", "0", INFO], "ROOT: 'VCEK' is not known; write vcek or vmrk"),
        (["snp", FIELDS, "vcek", "4", INFO], "VMPL: '4' is not a privilege level; write 0 to 3"),
        (["snp", FIELDS, "vcek", "", INFO], "VMPL: '' is not a privilege level; write 0 to 3"),
        (["snp", FIELDS, "vcek", " 1", INFO], "VMPL: ' 1' is not a privilege level; write 0 to 3"),
        (["snp", FIELDS, "vcek", "0x", INFO], "VMPL: '0x' is not a privilege level; write 0 to 3"),
        (["cca", "", INFO], "FLAGS: '' is not known; known are key rim realm-id svn"),
        (["cca", "none,rim", INFO], "FLAGS: 'none' is not known; known are key rim realm-id svn"),
        (["cca", "svn", INFO], "FLAGS: 'svn' lacks its number; write svn=NUMBER, 1 to 18446744073709551615"),
        (
            ["cca", "svn=0", INFO],
            "FLAGS: 'svn=0' lacks its number; write svn=NUMBER, 1 to 18446744073709551615",
        ),
    ],
)
def test_words_that_make_no_sense(bench: Bench, program: Path, argv: list[str], words: str) -> None:
    got = bench.run(program, *argv, SHIM_ANSWER=snp_answer())
    assert (got.code, got.key, got.words, got.calls) == (40, b"", f"derive-key: {words}\n", [])


def test_without_descriptor_3_the_device_is_not_asked(bench: Bench, program: Path) -> None:
    said = "derive-key: descriptor 3: Bad file descriptor; open it for writing\n"
    got = bench.run(program, "cca", "none", INFO, redirect="3>&-", SHIM_ANSWER=IKM.hex())
    assert (got.code, got.words, got.calls) == (40, said, [])


def test_a_descriptor_3_that_takes_nothing(bench: Bench, program: Path) -> None:
    got = bench.run(program, "cca", "none", INFO, redirect="3</dev/null", SHIM_ANSWER=IKM.hex())
    assert (got.code, got.words) == (
        40,
        "derive-key: descriptor 3: Bad file descriptor; open it for writing\n",
    )
    got = bench.run(program, "cca", "none", INFO, redirect="3>/dev/full", SHIM_ANSWER=IKM.hex())
    said = "derive-key: descriptor 3: No space left on device; open it for writing\n"
    assert (got.code, got.words) == (40, said)


# -- the providers ------------------------------------------------------------------------------------------

DEFAULT_SNP = struct.pack("<IIQIIQ", 0, 0, 9, 0, 0, 0).hex()
CHOSEN_SNP = struct.pack("<IIQIIQ", 1, 0, 0b011001, 1, 5, 0).hex()


@pytest.mark.parametrize("shell", ["dash", "busybox"])
@pytest.mark.parametrize(
    ("provider", "config", "call"),
    [
        ("snp-derived-key", "", f"c0205301 0100000000000000 {DEFAULT_SNP}"),
        (
            "snp-derived-key",
            "DERIVE_FIELDS='policy,measurement,guest-svn=5'\nDERIVE_ROOT='vmrk'\nDERIVE_VMPL='1'\n",
            f"c0205301 0100000000000000 {CHOSEN_SNP}",
        ),
        ("cca-sealing-key", "", f"c03078c8 {struct.pack('<QQ', 4, 0).hex()}"),
        ("cca-sealing-key", "DERIVE_FLAGS='rim,svn=2'\n", f"c03078c8 {struct.pack('<QQ', 10, 2).hex()}"),
    ],
)
def test_a_provider_hands_the_recipes_options_on(
    bench: Bench, program: Path, tmp_path: Path, shell: str, provider: str, config: str, call: str
) -> None:
    (tmp_path / "conf").write_text(config)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/derive-key").symlink_to(program.resolve())
    script = str(ROOT / "initrd/unlock.d" / provider)
    argv = [require_tool(shell), *(["sh"] if shell == "busybox" else []), script]
    environment = {
        "UNLOCK_CONF": str(tmp_path / "conf"),
        "UNLOCK_VOLUME": "data",
        "UNLOCK_UUID": INFO.removeprefix("data "),
        "GOLDSMITH_LIB": str(tmp_path / "lib"),
        "SHIM_ANSWER": snp_answer() if provider == "snp-derived-key" else IKM.hex(),
    }
    got = bench.run(*argv, UNLOCK_KIND="volume-key", **environment)
    assert (got.code, got.words, got.calls) == (0, "", [call])
    assert got.key == volume_key(IKM, INFO)
    got = bench.run(*argv, UNLOCK_KIND="passphrase", **environment)
    said = "gives a volume key, not a passphrase; set the volume's header to none\n"
    assert (got.code, got.key, got.words, got.calls) == (40, b"", said, [])


# -- the digest beneath it ----------------------------------------------------------------------------------


class Sha256:
    """``sha256.c`` as a library, called without a program around it."""

    # More than any of its structures takes.
    ROOM = 1024

    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path))

    def digest(self, *parts: bytes) -> bytes:
        return self._run("sha256", (), parts)

    def hmac(self, key: bytes, *parts: bytes) -> bytes:
        return self._run("hmac_sha256", (key, ctypes.c_size_t(len(key))), parts)

    def _run(self, name: str, begin: tuple[object, ...], parts: tuple[bytes, ...]) -> bytes:
        state, out = ctypes.create_string_buffer(self.ROOM), ctypes.create_string_buffer(32)
        self.library[f"{name}_begin"](state, *begin)
        for part in parts:
            self.library[f"{name}_add"](state, part, ctypes.c_size_t(len(part)))
        self.library[f"{name}_end"](state, out)
        assert state.raw == bytes(self.ROOM), "what was computed from a secret is still in memory"
        return out.raw

    def hkdf(self, salt: bytes, ikm: bytes, info: bytes, size: int) -> bytes | None:
        out = ctypes.create_string_buffer(max(size, 1))
        sized = [value for part in (salt, ikm, info) for value in (part, ctypes.c_size_t(len(part)))]
        done: Callable[..., int] = self.library.hkdf_sha256
        return out.raw[:size] if done(*sized, out, ctypes.c_size_t(size)) == 0 else None


@pytest.fixture(scope="module")
def sha256(tmp_path_factory: pytest.TempPathFactory) -> Sha256:
    return Sha256(shared_library(tmp_path_factory.mktemp("sha256"), ROOT / "initrd/helpers/sha256.c"))


# FIPS 180-2 appendix B and its change notice; the empty message as in NIST's SHA256ShortMsg.rsp.
NIST = [
    (b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    (
        b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
    ),
    (b"a" * 1_000_000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
]

# RFC 4231 section 4: key, data, HMAC-SHA-256.
RFC_4231 = [
    (b"\x0b" * 20, b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
    (
        b"Jefe",
        b"what do ya want for nothing?",
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
    ),
    (
        b"\xaa" * 131,
        b"Test Using Larger Than Block-Size Key - Hash Key First",
        "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
    ),
]

# RFC 5869 appendix A.1 to A.3: salt, IKM, info, OKM.
RFC_5869 = [
    (
        bytes(range(0x0D)),
        b"\x0b" * 22,
        bytes(range(0xF0, 0xFA)),
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    ),
    (
        bytes(range(0x60, 0xB0)),
        bytes(range(0x50)),
        bytes(range(0xB0, 0x100)),
        (
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
            "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87"
        ),
    ),
    (
        b"",
        b"\x0b" * 22,
        b"",
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
    ),
]


@pytest.mark.parametrize(("message", "digest"), NIST)
def test_digests_of_nist(sha256: Sha256, message: bytes, digest: str) -> None:
    assert sha256.digest(message).hex() == digest


@pytest.mark.parametrize(("key", "data", "tag"), RFC_4231)
def test_tags_of_rfc_4231(sha256: Sha256, key: bytes, data: bytes, tag: str) -> None:
    assert sha256.hmac(key, data).hex() == tag


@pytest.mark.parametrize(("salt", "ikm", "info", "okm"), RFC_5869)
def test_keys_of_rfc_5869(sha256: Sha256, salt: bytes, ikm: bytes, info: bytes, okm: str) -> None:
    assert sha256.hkdf(salt, ikm, info, len(okm) // 2) == bytes.fromhex(okm)


def test_lengths_around_the_ends_of_blocks(sha256: Sha256) -> None:
    data = hashlib.shake_256(b"data").digest(300)
    for size in range(len(data)):
        assert sha256.digest(data[:size]) == hashlib.sha256(data[:size]).digest()
        assert sha256.hmac(data[:size], data) == hmac.digest(data[:size], data, "sha256")


def test_parts_are_as_good_as_the_whole(sha256: Sha256) -> None:
    data = hashlib.shake_256(b"parts").digest(200)
    for first, second in itertools.combinations((0, 1, 55, 56, 63, 64, 65, 127, 128, 199), 2):
        parts = (data[:first], data[first:second], data[second:])
        assert sha256.digest(*parts) == hashlib.sha256(data).digest()
        assert sha256.hmac(b"k", *parts) == hmac.digest(b"k", data, "sha256")


def test_sizes_of_derived_keys(sha256: Sha256) -> None:
    for size in (1, 31, 32, 33, 64, 255 * 32):
        expected = HKDF(algorithm=SHA256(), length=size, salt=b"salt", info=b"info").derive(IKM)
        assert sha256.hkdf(b"salt", IKM, b"info", size) == expected
    assert sha256.hkdf(b"salt", IKM, b"info", 255 * 32 + 1) is None
