"""``goldsmith broker``: a server that releases volume keys to guests that booted as predicted."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ImageError
from .arguments import Commands, add_command

if TYPE_CHECKING:
    from ..broker.trust import KeyTrust


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Adds the command and its options."""
    parser = add_command(
        commands,
        "broker",
        summary="release volume keys to guests whose boot is the predicted one",
        usage="goldsmith broker --golden FILE --keys DIR "
        "(--enrolled DIR | --endorsed-by FILE | --tee-roots DIR) [options]",
        description="Serves the protocol that --protocol prints. A key goes only to a guest whose quote, "
        "nonce and event log match a golden manifest, under an attestation key that is trusted. Every answer "
        "is logged before it is sent, and no key ever is. Read anew while it runs: the folder of --enrolled "
        "for every attestation, and a volume's key whenever it is released. All other files are read once: "
        "start the broker anew after a change. What says whom to believe may be written by the broker's own "
        "user and root alone; keys may not even be read by others.",
    )
    parser.add_argument(
        "--protocol", action="store_true", help="print the protocol, for who writes the other side, and end"
    )
    parser.add_argument(
        "--golden", type=Path, action="append", default=[], metavar="FILE", help="golden.json"
    )
    parser.add_argument(
        "--disk", action="append", metavar="FORMAT", help="that guests boot from; default: raw"
    )
    parser.add_argument(
        "--keys", type=Path, metavar="DIR", help="a file of key bytes for each volume, mode 0600"
    )
    trust = parser.add_mutually_exclusive_group()
    trust.add_argument(
        "--enrolled", type=Path, metavar="DIR", help="attestation keys, NAME.pub of tpm2_createak"
    )
    trust.add_argument(
        "--endorsed-by",
        type=Path,
        action="append",
        metavar="FILE",
        help="CAs of endorsement certificates, PEM; the key is then proved by credential activation",
    )
    _add_tee(parser, trust)
    parser.add_argument("--rules", type=Path, metavar="FILE", help="YAML: who may have which volume's key")
    parser.add_argument(
        "--accept-omitted",
        action="store_true",
        help="release to machines whose golden manifest lacks PCR 0 or 2, with a warning",
    )
    parser.add_argument(
        "--certificate", type=Path, metavar="FILE", help="PEM; without it HTTP, on loopback only"
    )
    parser.add_argument("--private-key", type=Path, metavar="FILE", help="PEM, of the certificate, mode 0600")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; default 127.0.0.1")
    parser.add_argument("--port", type=int, default=8443, help="default 8443; 0 for any")
    parser.add_argument(
        "--audit", type=Path, metavar="FILE", help="append the log here; default: standard error"
    )
    parser.set_defaults(command=run)


def _add_tee(parser: argparse.ArgumentParser, trust: argparse._MutuallyExclusiveGroup) -> None:
    trust.add_argument(
        "--tee-roots",
        type=Path,
        metavar="DIR",
        help="AMD's ARK and ASK, *.pem, and VCEKs for guests whose host gives them none; the key is then "
        "proved by an SEV-SNP report. That shows a TPM inside the guest only where the launch measurement "
        "covers the TPM and all code that can ask for a report: any other guest may have been given the "
        "host's TPM. Spec-only: never tried with a guest on such hardware",
    )
    parser.add_argument(
        "--tee-measurements",
        type=Path,
        metavar="FILE",
        help="with --tee-roots: launch measurements of guests with a TPM inside, in hex, one a line",
    )
    parser.add_argument(
        "--tee-vmpl",
        type=int,
        metavar="N",
        help="with --tee-roots: privilege level that asked for the report; default 0. At another one it is "
        "usually a kernel that no launch measures, and could ask for any key",
    )
    parser.add_argument(
        "--tee-minimum-tcb",
        action="append",
        metavar="PRODUCT:PART=N,...",
        help="with --tee-roots: least patch levels, Milan:snp=24,microcode=219; once for each product. "
        "Without it firmware with known holes will do",
    )


def run(options: argparse.Namespace) -> int:
    """Serves until it is stopped."""
    if options.protocol:
        from ..broker.protocol import PROTOCOL

        print(PROTOCOL.rstrip("\n"))
        return 0
    _check(options)
    from ..broker.config import BrokerConfig, read_golden, read_rules
    from ..broker.server import serve
    from ..broker.trust import EnrolledKeys

    trust = _trust(options)
    if isinstance(trust, EnrolledKeys) and not len(trust):
        what = "no attestation key is enrolled, so every guest is refused; a refused guest shows its own"
        print(f"{options.enrolled}: {what}; put it there as NAME.pub", file=sys.stderr)
    if options.tee_roots is not None and not options.tee_minimum_tcb:
        what = "reports of any patch level will do, of firmware with known holes too; name the least good"
        print(f"{options.tee_roots}: {what} with --tee-minimum-tcb", file=sys.stderr)
    formats = list(dict.fromkeys(options.disk or [None]))
    manifests = [read_golden(path) for path in options.golden]
    golden = tuple(each if name is None else each.on_disk(name) for each in manifests for name in formats)
    for manifest in dict.fromkeys(item.image for item in golden if item.wildcards):
        what = "its wildcards are for verifiers; a key goes only where every register is as predicted"
        print(f"{manifest}: {what}", file=sys.stderr)
    config = BrokerConfig(
        golden=golden,
        keys=options.keys,
        trust=trust,
        rules=read_rules(options.rules) if options.rules else (),
        accept_omitted=options.accept_omitted,
        certificate=options.certificate,
        private_key=options.private_key,
        host=options.host,
        port=options.port,
        audit=options.audit,
    )
    try:
        serve(config, ready=lambda url: print(f"listening on {url}", file=sys.stderr, flush=True))
    except KeyboardInterrupt:
        print("broker: stopped", file=sys.stderr)
    return 0


def _trust(options: argparse.Namespace) -> KeyTrust:
    from ..broker.tee_policy import MinimumTcb, TeePolicy, read_measurements
    from ..broker.tee_roots import TeeRoots
    from ..broker.trust import EndorsedKeys, EnrolledKeys, ReportedKeys

    if options.enrolled:
        return EnrolledKeys.read(options.enrolled)
    if options.endorsed_by:
        return EndorsedKeys.read(options.endorsed_by)
    policy = TeePolicy(
        read_measurements(options.tee_measurements),
        0 if options.tee_vmpl is None else options.tee_vmpl,
        tuple(MinimumTcb.parse(text) for text in options.tee_minimum_tcb or ()),
    )
    return ReportedKeys(TeeRoots.read(options.tee_roots), policy)


def _check(options: argparse.Namespace) -> None:
    if not options.golden:
        raise ImageError("broker: whose boots are good? name golden manifests with --golden")
    if options.keys is None:
        raise ImageError("broker: where are the volumes' keys? name their folder with --keys")
    if options.enrolled is None and not options.endorsed_by and options.tee_roots is None:
        what = "whose TPMs are trusted? name attestation keys with --enrolled, CAs with --endorsed-by"
        hint = "correct PCRs under an unknown key prove nothing"
        raise ImageError(f"broker: {what}, or AMD's roots with --tee-roots; {hint}")
    if options.tee_roots is not None and options.tee_measurements is None:
        what = "which guests have their TPM inside? name their launch measurements with --tee-measurements"
        raise ImageError(f"broker: {what}; a report of any other guest proves nothing")
    if options.tee_roots is None:
        for name in ("tee_measurements", "tee_vmpl", "tee_minimum_tcb"):
            if getattr(options, name) is not None:
                what = f"--{name.replace('_', '-')} is for reports, which only --tee-roots accepts"
                raise ImageError(f"broker: {what}; leave it out, or name the roots")
