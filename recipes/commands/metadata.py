"""``goldsmith metadata``: an Islet ``metadata.bin`` read back."""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import Commands, add_command, refuse_launch


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Adds the command and its options."""
    parser = add_command(commands, "metadata", summary="read signed realm metadata back, or check it")
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    show = add_command(actions, "show", summary="what a metadata.bin says")
    show.add_argument("file", type=Path, help="metadata.bin")
    show.add_argument("--json", action="store_true", help="print it as JSON")
    show.set_defaults(command=_show)
    verify = add_command(actions, "verify", summary="check signature and fields as Islet's RMM does")
    verify.add_argument("file", type=Path, help="metadata.bin")
    verify.add_argument(
        "--public-key", type=Path, metavar="FILE", help="DER or PEM of the key that must have signed it"
    )
    verify.add_argument("--rim", metavar="HEX", help="the RIM that it must be for")
    verify.set_defaults(command=_verify)


def _show(options: argparse.Namespace) -> int:
    from ..steps.metadata import show

    refuse_launch("metadata show", options.launch)
    print(show(options.file, as_json=options.json))
    return 0


def _verify(options: argparse.Namespace) -> int:
    from ..steps.metadata import verify

    refuse_launch("metadata verify", options.launch)
    print(verify(options.file, options.public_key, options.rim))
    return 0
