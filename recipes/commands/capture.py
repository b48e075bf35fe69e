"""``goldsmith capture``: what only a VMM knows of a machine, asked once and kept."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..errors import ImageError
from .arguments import Commands, add_command

_USAGE = "goldsmith capture acpi [options] -- qemu-system-x86_64 ..."
_DESCRIPTION = """\
Asks a QEMU for the ACPI tables that it gives to stage0 on the machine of a
command line, and keeps them in a file for
`goldsmith measure --stage0 GENERATION --acpi FILE --qemu-version VERSION`.

The QEMU that the command line names is started as such a machine. It never
runs: it stands still, its tables are read, and it is ended, all in about a
second. Neither KVM nor SEV nor root is needed, and none of the files that the
command line names."""
_EPILOG = """\
What does not run here is stood in for by something with the same tables, and
is named: TCG for KVM, without memory encryption (and with SMM off, as SEV-SNP
has it); a virtio-rng-pci in the same slot for a device that needs the host,
such as vhost-vsock-pci. Back ends of networks and disks are not started.

A capture holds for that version of QEMU, the versioned machine type and the
whole machine: vCPUs, memory, PCI slots, serial ports, machine settings.
Capture again where one of them changes: a file holds any number of captures,
and one of the same machine and version takes the place of the old one.

Compare the digest printed here with what stage0 prints on the serial port,
"ACPI table generation digest".

examples:
  goldsmith capture acpi -o acpi.json -- qemu-system-x86_64 -enable-kvm \\
    -machine q35,acpi=on,confidential-guest-support=sev0 \\
    -object sev-snp-guest,id=sev0,cbitpos=51,reduced-phys-bits=1 \\
    -cpu host -m 8000000K -smp 4 -nodefaults -nographic -serial stdio \\
    -device virtio-net-pci,netdev=netdev -device vhost-vsock-pci,guest-cid=3
  goldsmith capture acpi -o acpi.json --host phys-bits=48 -- \\
    qemu-system-x86_64 -enable-kvm -machine microvm,acpi=on,pcie=on -cpu host \\
    -m 8000000K -smp 1 -nodefaults -nographic -serial stdio"""


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Adds the command and its options."""
    parser = add_command(
        commands,
        "capture",
        summary="what only a VMM knows of a machine: ACPI tables, from your own QEMU",
        description="Asks a VMM what no command line shows, and keeps it in a file.",
    )
    kinds = parser.add_subparsers(title="what", required=True, metavar="WHAT")
    acpi = add_command(
        kinds,
        "acpi",
        summary="ACPI tables that QEMU gives to stage0",
        usage=_USAGE,
        description=_DESCRIPTION,
    )
    acpi.formatter_class = argparse.RawDescriptionHelpFormatter
    acpi.epilog = _EPILOG
    acpi.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="add the capture to this file; default: print it"
    )
    acpi.add_argument(
        "--host",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="of the host that will run it, behind -cpu host: phys-bits (microvm), vendor=amd|intel "
        "(without SEV); may be given again",
    )
    acpi.add_argument("-v", "--verbose", action="store_true", help="say which options have no influence")
    acpi.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Captures, and prints or stores it."""
    if not options.launch:
        raise ImageError(f"capture: no command line; write it behind --: {_USAGE}")
    from ..steps.capture import capture_command_line, check_store, store
    from ..vmm.stage0_captures import dump_captures
    from ..vmm.stage0_parse import parse_host

    if options.output is not None:
        check_store(options.output)
    captured = capture_command_line(options.launch, parse_host(options.host))
    capture = captured.capture
    for text in captured.ignored if options.verbose else ():
        print(f"no influence: {text}", file=sys.stderr)
    for text in capture.stand_ins:
        print(f"note: {text}", file=sys.stderr)
    sizes = ", ".join(f"{name} {len(data)} bytes" for name, data in capture.files)
    print(f"{capture}: {sizes}", file=sys.stderr)
    print(f"acpi_table_sha256 {captured.acpi_table_sha256.hex()}", file=sys.stderr)
    if options.output is None:
        print(dump_captures([capture]), end="")
    else:
        count = len(store(options.output, [captured]))
        print(f"{options.output}: {count} {'capture' if count == 1 else 'captures'}", file=sys.stderr)
    return 0
