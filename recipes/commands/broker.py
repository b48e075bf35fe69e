"""``goldsmith broker``: a server that releases volume keys to guests that booted as predicted."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..errors import ImageError
from .arguments import Commands, add_command


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Adds the command and its options."""
    parser = add_command(
        commands,
        "broker",
        summary="release volume keys to guests whose boot is the predicted one",
        usage="goldsmith broker --golden FILE --keys DIR (--enrolled DIR | --endorsed-by FILE) [options]",
        description="Serves the protocol that --protocol prints. A key goes only to a guest whose quote, "
        "nonce and event log match a golden manifest, under an attestation key that is trusted. Every answer "
        "is logged before it is sent, and no key ever is.",
    )
    parser.add_argument(
        "--protocol", action="store_true", help="print the protocol, for who writes the other side, and end"
    )
    parser.add_argument(
        "--golden", type=Path, action="append", default=[], metavar="FILE", help="golden.json"
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
    parser.add_argument("--rules", type=Path, metavar="FILE", help="YAML: who may have which volume's key")
    parser.add_argument(
        "--accept-omitted",
        action="store_true",
        help="release to machines whose golden manifest lacks PCR 0 or 2, with a warning",
    )
    parser.add_argument(
        "--certificate", type=Path, metavar="FILE", help="PEM; without it HTTP, on loopback only"
    )
    parser.add_argument("--private-key", type=Path, metavar="FILE", help="PEM, of the certificate")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; default 127.0.0.1")
    parser.add_argument("--port", type=int, default=8443, help="default 8443; 0 for any")
    parser.add_argument(
        "--audit", type=Path, metavar="FILE", help="append the log here; default: standard error"
    )
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Serves until it is stopped."""
    if options.protocol:
        from ..broker.protocol import PROTOCOL

        print(PROTOCOL.rstrip("\n"))
        return 0
    _check(options)
    from ..broker.config import BrokerConfig, read_rules
    from ..broker.server import serve
    from ..broker.trust import EndorsedKeys, EnrolledKeys, KeyTrust
    from .manifests import load

    trust: KeyTrust
    trust = (
        EnrolledKeys.read(options.enrolled) if options.enrolled else EndorsedKeys.read(options.endorsed_by)
    )
    if isinstance(trust, EnrolledKeys) and not len(trust):
        what = "no attestation key is enrolled, so every guest is refused; a refused guest shows its own"
        print(f"{options.enrolled}: {what}; put it there as NAME.pub", file=sys.stderr)
    config = BrokerConfig(
        golden=tuple(load(path) for path in options.golden),
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


def _check(options: argparse.Namespace) -> None:
    if not options.golden:
        raise ImageError("broker: whose boots are good? name golden manifests with --golden")
    if options.keys is None:
        raise ImageError("broker: where are the volumes' keys? name their folder with --keys")
    if options.enrolled is None and not options.endorsed_by:
        what = "whose TPMs are trusted? name attestation keys with --enrolled or CAs with --endorsed-by"
        raise ImageError(f"broker: {what}; correct PCRs under an unknown key prove nothing")
