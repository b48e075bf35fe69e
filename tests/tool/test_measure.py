"""The replay judged by programs that compute or hold the same registers: systemd-measure and swtpm."""

from __future__ import annotations

import hashlib
import re
import socket
import struct
import subprocess
from pathlib import Path

import pytest

from recipes.measure import stub, tpm, userspace
from recipes.measure.stub import StubInputs
from recipes.measure.trace import ALL_ALGORITHMS, HashAlgorithm
from tests.support import require_tool
from tests.unit.measure_images import kernel, uki

pytestmark = pytest.mark.tool

# Sections that systemd-measure knows since version 252.
SECTIONS = {
    "osrel": b"ID=x\nVERSION_ID=1\n",
    "cmdline": b"console=ttyS0 quiet",
    "initrd": bytes(range(256)) * 41,
    "splash": b"BM",
    "dtb": b"\xd0\x0d\xfe\xed",
    "pcrpkey": b"-----BEGIN PUBLIC KEY-----\n",
}
PHASES = ("", "enter-initrd", "leave-initrd", "sysinit", "ready")


@pytest.mark.parametrize("names", [(), ("osrel", "cmdline", "initrd"), tuple(SECTIONS)])
def test_systemd_measure_computes_the_same_pcr_11(names: tuple[str, ...], tmp_path: Path) -> None:
    program = require_tool("/usr/lib/systemd/systemd-measure")
    argv = [program, "calculate", *(f"--bank={each.value}" for each in ALL_ALGORITHMS)]
    for name, data in {"linux": kernel(), **{name: SECTIONS[name] for name in names}}.items():
        (tmp_path / name).write_bytes(data)
        argv.append(f"--{name}={tmp_path / name}")
    argv += (f"--phase={':'.join(PHASES[1 : count + 1])}" for count in range(len(PHASES)))
    output = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    said = re.findall(r"^11:(sha[0-9]+)=([0-9a-f]+)$", output, re.MULTILINE)

    image = uki(**{name: SECTIONS[name] for name in names})
    steps = stub.stub_steps(stub.prepare(StubInputs(name="u.efi", uki=image)))
    boot = next(trace for trace in tpm.traces(steps) if trace.register == "PCR11")
    ours = [
        (algorithm.value, tpm.fold(trace, algorithm).hex())
        for trace in (boot, *userspace.phase_traces(boot))
        for algorithm in ALL_ALGORITHMS
    ]
    assert len(said) == len(PHASES) * len(ALL_ALGORITHMS)
    assert sorted(said) == sorted(ours)


def send(tpm_socket: socket.socket, command: bytes) -> bytes:
    """The response without its header; the response code is 0."""
    tpm_socket.sendall(command)
    head = tpm_socket.recv(10, socket.MSG_WAITALL)
    _, size, code = struct.unpack(">HII", head)
    body = tpm_socket.recv(size - 10, socket.MSG_WAITALL) if size > 10 else b""
    assert code == 0, f"{code:#x}"
    return body


def pcr_read(tpm_socket: socket.socket, index: int, algorithm: HashAlgorithm) -> bytes:
    """TPM2_PCR_Read of one register. Spec: TPM 2.0 Library part 3 section 22.4."""
    number = {"sha1": 0x04, "sha256": 0x0B, "sha384": 0x0C, "sha512": 0x0D}[algorithm.value]
    selection = struct.pack(">IHB", 1, number, 3) + (1 << index).to_bytes(3, "little")
    body = send(tpm_socket, struct.pack(">HII", 0x8001, 10 + len(selection), 0x17E) + selection)
    return body[-algorithm.size :]


def test_a_tpm_takes_the_extend_commands(tmp_path: Path) -> None:
    program = require_tool("swtpm")
    ours, theirs = socket.socketpair()
    argv = [program, "socket", "--tpm2", "--fd", str(theirs.fileno()), "--tpmstate", f"dir={tmp_path}"]
    process = subprocess.Popen([*argv, "--flags", "not-need-init,startup-clear"], pass_fds=[theirs.fileno()])
    theirs.close()
    try:
        ours.settimeout(20)
        for algorithm in ALL_ALGORITHMS:
            bank = tpm.PcrBank(algorithm)
            for index in (11, 11, 15, 23):
                digest = hashlib.new(algorithm.value, bytes([index])).digest()
                send(ours, tpm.pcr_extend_command(index, digest, algorithm))
                bank.extend(index, digest)
            for index in (0, 11, 15, 17, 22, 23):
                assert pcr_read(ours, index, algorithm) == bank.value(index), (index, algorithm)
    finally:
        ours.close()
        process.wait(timeout=20)
