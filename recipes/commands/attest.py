"""``goldsmith attest``: asks a machine what it booted, judges the answer, and hands it another workload."""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ImageError, VerifyError
from .arguments import Commands, add_command, refuse, refuse_launch

if TYPE_CHECKING:
    from ..attest.client import Address, Credentials
    from ..formats.tpm2_public import Public
    from ..golden.manifest import GoldenMachine, GoldenManifest
    from ..golden.verify import Comparison
    from ..measure.trace import Step

_NONCE_SIZE = 32
# A TPM2B_PUBLIC of an RSA-4096 key has about 600 bytes.
_MAX_PUBLIC = 4096
# Names and digests; files that a workload has are listed elsewhere.
_MAX_MANIFEST = 4 << 20


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Adds the command and its options."""
    parser = add_command(
        commands,
        "attest",
        summary="ask a running machine what it booted, and hold that against golden values",
        usage="goldsmith attest URL --golden FILE --ak FILE [options]",
        description="Asks the service of the overlay `attest`; --protocol prints how. The quote must "
        "be by the attestation key that is named, over a new nonce and the TLS key of the connection, and "
        "every register and event the predicted one. With --workload the machine then gets another "
        "workload, and is judged once more.",
    )
    parser.add_argument("url", nargs="?", metavar="URL", help="https://HOST:PORT")
    parser.add_argument(
        "--protocol", action="store_true", help="print the protocol, for who writes the other side, and end"
    )
    parser.add_argument("--golden", type=Path, metavar="FILE", help="golden.json")
    parser.add_argument("--machine", help="of it; default: the only one")
    parser.add_argument("--disk", metavar="FORMAT", help="of the disk that it booted from; default: raw")
    parser.add_argument(
        "--ak", type=Path, metavar="FILE", help="the machine's attestation key, as tpm2_createak -u writes it"
    )
    parser.add_argument(
        "--trust-on-first-use",
        action="store_true",
        help="where there is no file --ak, write the key into it that the machine shows. Whoever answers the "
        "first time is believed then: any machine with any TPM",
    )
    parser.add_argument(
        "--after",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="workload.json of a workload that it was given since it booted; again for each, in order",
    )
    parser.add_argument("--workload", type=Path, metavar="FILE", help="workload.erofs to hand in")
    parser.add_argument("--manifest", type=Path, metavar="FILE", help="its workload.json; default: beside it")
    parser.add_argument("--certificate", type=Path, metavar="FILE", help="the operator's, PEM")
    parser.add_argument("--private-key", type=Path, metavar="FILE", help="PEM, of the certificate")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Says whether the machine is the predicted one; 1 where it is not."""
    from ..attest.client import hand_in, read_address
    from ..attest.protocol import PROTOCOL
    from ..golden.verify import check_tpm_decides
    from .manifests import load_on, machine_of

    refuse_launch("attest", options.launch)
    if options.protocol:
        sys.stdout.write(PROTOCOL)
        return 0
    _check(options)
    address = read_address(options.url)
    manifest = load_on(options.golden, options.disk)
    machine = machine_of(manifest, options.machine, options.golden)
    check_tpm_decides(machine)
    credentials, sent = _credentials(options), None
    later = [_workload(path, machine) for path in options.after]
    if credentials is not None:
        sent = _workload(options.manifest or options.workload.with_suffix(".json"), machine)
    judge = _Judge(address, options.ak, manifest, machine, first_use=options.trust_on_first_use)
    comparison = judge.ask(tuple(later))
    if credentials is not None and sent is not None and judge.accepts(comparison):
        word = hand_in(address, credentials, options.workload, judge.tls_key)
        if word != sent.description:
            raise VerifyError(f"{machine.name}: it measured {word!r}, the workload is {sent.description!r}")
        comparison = judge.ask((*later, sent))
    return _show(judge, comparison, sent, as_json=options.json)


class _Judge:
    """Asks one machine, as often as needed, and believes one attestation key only.

    Attributes:
        tls_key: SHA-256 of the machine's TLS public key, once the quote has proved it.
    """

    def __init__(
        self, address: Address, ak: Path, manifest: GoldenManifest, machine: GoldenMachine, *, first_use: bool
    ) -> None:
        self._address, self._ak, self._first_use = address, ak, first_use
        self._manifest, self.machine = manifest, machine
        self._key = None if first_use and not ak.exists() else _read_key(ak)
        self.tls_key = b""

    @property
    def key_name(self) -> str:
        """The TPM's name of the attestation key, in hex."""
        return self._key.name.hex() if self._key else ""

    def ask(self, later: tuple[Step, ...]) -> Comparison:
        """The machine's boot, and what it was given since, held against the manifest.

        Raises:
            VerifyError: nothing that it says can be believed.
        """
        from ..attest.client import collateral
        from ..attest.collateral import BANK, judge, read_collateral, with_workloads
        from ..formats.tpm2_public import read_sized_public
        from ..golden.verify import compare

        nonce = secrets.token_bytes(_NONCE_SIZE)
        answer = collateral(self._address, nonce)
        found = read_collateral(answer.body)
        key = self._key or read_sized_public(found.ak_public, "ak_public")
        observation = judge(found, key, nonce, answer.tls_key)
        if self._key is None:
            print(f"goldsmith: {self._ak}: trusted on first use: {key.name.hex()}", file=sys.stderr)
            with self._ak.open("xb") as out:
                out.write(found.ak_public)
        self._key, self.tls_key = key, answer.tls_key
        expected = with_workloads(self.machine, later)
        return compare(expected, observation, banks=(BANK,), wildcards=self._manifest.wildcards)

    def accepts(self, comparison: Comparison) -> bool:
        """Whether nothing differs that the manifest's policy enforces."""
        return not comparison.enforced(self.machine)


def _check(options: argparse.Namespace) -> None:
    for value, name in (
        (options.url, "URL"),
        (options.golden, "--golden"),
        (options.ak, "--ak"),
    ):
        if value is None:
            raise ImageError(f"attest: {name} is missing; see goldsmith attest --help")
    handing_in = (
        (options.manifest, "--manifest"),
        (options.certificate, "--certificate"),
        (options.private_key, "--private-key"),
    )
    if options.workload is None:
        refuse("attest", handing_in, "is for --workload")
    elif options.certificate is None or options.private_key is None:
        raise ImageError("attest: --workload needs --certificate and --private-key, an operator's")


def _credentials(options: argparse.Namespace) -> Credentials | None:
    from ..attest.client import Credentials

    if options.workload is None:
        return None
    return Credentials(options.certificate, options.private_key)


def _read_key(path: Path) -> Public:
    from ..formats.tpm2_public import read_sized_public

    if not path.exists():
        advice = "enrol the machine's key there, or say --trust-on-first-use once"
        raise ImageError(f"{path}: no attestation key; {advice}")
    with path.open("rb") as file:
        data = file.read(_MAX_PUBLIC + 1)
    if len(data) > _MAX_PUBLIC:
        raise ImageError(f"{path}: larger than any public key; give a TPM2B_PUBLIC")
    return read_sized_public(data, str(path))


def _workload(path: Path, machine: GoldenMachine) -> Step:
    """What is measured of a workload, in the register and under the name of the machine's first one."""
    from ..measure.userspace import workload_step

    with path.open("rb") as file:
        data = file.read(_MAX_MANIFEST + 1)
    if len(data) > _MAX_MANIFEST or not data.startswith(b"{"):
        raise ImageError(f"{path}: this is no workload.json; give the one beside workload.erofs")
    for trace in machine.traces:
        for step in trace.steps:
            kind, _, rest = step.description.partition(":")
            if kind == "workload":
                return workload_step(int(step.register.removeprefix("PCR")), rest.partition(":")[0], data)
    raise ImageError(f"attest: {machine.name} has no workload in its golden manifest; leave {path} out")


def _show(judge: _Judge, comparison: Comparison, sent: Step | None, *, as_json: bool) -> int:
    machine = judge.machine
    enforced = comparison.enforced(machine)
    if as_json:
        document: dict[str, Any] = {
            "machine": machine.name,
            "equal": comparison.equal,
            "attestation_key": judge.key_name,
            "tls_key": judge.tls_key.hex(),
            "enforced": [item.message for item in enforced],
            "differences": [item.message for item in comparison.differences],
            "registers": [
                {
                    "register": item.register,
                    "algorithm": item.algorithm.value,
                    "expected": item.expected.hex(),
                    "observed": None if item.observed is None else item.observed.hex(),
                }
                for item in comparison.results
                if not item.equal
            ],
        }
        if sent is not None and not enforced:
            document["measured"] = sent.description
        if comparison.not_compared:
            document["not_compared"] = [asdict(item) for item in comparison.not_compared]
        print(json.dumps(document, indent=1))
        return 1 if enforced else 0
    if enforced:
        raise VerifyError(f"{machine.name}: {'; '.join(item.message for item in enforced)}")
    print(
        f"{machine.name}: quoted now, over this connection, by {judge.key_name}:"
        f" {len(comparison.equal_results)} registers and {comparison.equal_events} events as predicted"
    )
    if sent is not None:
        print(f"{machine.name}: runs {sent.description}")
    for item in comparison.not_compared:
        print(f"{machine.name}: {item.register} {item.event} was not compared: {item.reason}")
    return 0
