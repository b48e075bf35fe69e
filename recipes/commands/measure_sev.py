"""``goldsmith measure`` and ``explain`` for machines with AMD SEV."""

from __future__ import annotations

import argparse
import atexit
import gc
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import ImageError
from ..record import TYPE_CHECKING
from .arguments import LateHelp

if TYPE_CHECKING:
    from typing import Any

    from ..machine.sev import SevMachine
    from ..measure.igvm import IgvmLaunch
    from ..measure.sev import SevLaunch, SevPrediction
    from ..measure.trace import Established
    from ..steps.measure_sev import OpenedSev


def add_sev_options(parser: argparse.ArgumentParser) -> None:
    """Adds what is for machines with SEV alone."""
    sev = parser.add_argument_group("AMD SEV")
    sev.add_argument(
        "--machine",
        metavar="SETTINGS",
        help=LateHelp(_machine_help),
    )
    sev.add_argument("--firmware-only", action="store_true", help="the digest after the firmware alone")
    sev.add_argument("--matrix-vcpus", metavar="N,N,...", help="digests for these numbers of vCPUs")
    sev.add_argument(
        "--matrix-cpus",
        metavar="CPU,CPU,...",
        help="digests for these CPUs: models, or family/model/stepping",
    )
    sev.add_argument("--id-key", type=Path, metavar="PEM", help="sign an ID block with this P-384 key")
    sev.add_argument("--author-key", type=Path, metavar="PEM", help="a P-384 key that signs the ID key")


def _machine_help() -> str:
    from ..vmm.sev_described import settings_help

    return f"instead of a command line, KEY=VALUE,KEY=VALUE,... of {settings_help()}"


def sev_options(options: argparse.Namespace) -> list[tuple[object, str]]:
    """What was given of ``add_sev_options``, each with its name."""
    return [
        (options.machine, "--machine"),
        (options.firmware_only, "--firmware-only"),
        (options.matrix_vcpus, "--matrix-vcpus"),
        (options.matrix_cpus, "--matrix-cpus"),
        (options.id_key, "--id-key"),
        (options.author_key, "--author-key"),
    ]


def run_sev(options: argparse.Namespace) -> int:
    """Prints the launch digest, and what else was asked for."""
    if options.machine and options.launch:
        raise ImageError("measure: --machine stands for a command line; leave out one of the two")
    if options.author_key and not options.id_key:
        raise ImageError("measure: --author-key signs an ID key; give --id-key as well")
    if options.firmware_only:
        _check_firmware_only(options)
    # A process that is about to end looks for cycles once more, in everything that it has read: as long as
    # parsing a command line takes. What is frozen is left out of that.
    atexit.register(gc.freeze)
    opened = open_sev(options.host, options.launch, options.machine, with_sha256=options.json)
    mode = opened.launch.machine.mode.value
    if options.id_key and mode != "sev-snp":
        raise ImageError(
            f"measure: --id-key: an ID block is for sev-snp, this machine has {mode}; leave it out"
        )
    if options.firmware_only:
        return _firmware_only(options, opened)
    prediction = opened.replay()
    document = _document(opened, prediction, whole=options.json)
    if options.matrix_vcpus or options.matrix_cpus:
        document["matrix"] = _matrix(options, opened, prediction.established)
    if options.id_key:
        document["id_block"] = _id_block(options, opened.launch.machine, prediction)
    _say(options, opened, prediction.notes)
    if options.json:
        print(json.dumps(document, indent=1))
    else:
        _print_text(document)
    return 0


def open_sev(
    host: Sequence[str], launch: Sequence[str] | None, described: str | None, *, with_sha256: bool
) -> OpenedSev:
    """The launch of a command line, or of a described machine.

    Args:
        with_sha256: whether SHA-256 of files will be asked for that are measured by page.
    """
    from ..steps.measure_sev import open_command_line, open_described
    from ..vmm.sev_values import parse_host

    facts = parse_host(host)
    if described:
        return open_described(described, facts, with_sha256=with_sha256)
    return open_command_line(launch or (), facts, with_sha256=with_sha256)


def explain_sev(options: argparse.Namespace, launches: Sequence[Sequence[str]]) -> int:
    """Prints every step of a launch, or what differs between two; 1 where the digests do."""
    from ..golden.rows import trace_json

    compared = len(launches) == 2
    opened = [
        open_sev(options.host, launch, None if launch else options.machine, with_sha256=compared)
        for launch in launches
    ]
    predictions = [item.replay() for item in opened]
    for note in dict.fromkeys(
        note
        for item, prediction in zip(opened, predictions, strict=True)
        for note in (*item.notes, *prediction.notes)
    ):
        print(f"note: {note}", file=sys.stderr)
    if compared:
        from ..golden.whatif_sev import compare

        difference = compare((opened[0].launch, opened[1].launch), (predictions[0], predictions[1]))
        print(
            json.dumps(difference.to_json(), indent=1) if options.json else difference,
            end="\n" if options.json else "",
        )
        return 0 if difference.equal else 1
    if options.json:
        print(
            json.dumps(
                {"profile": _profile(opened[0].launch), "trace": [trace_json(predictions[0].trace)]}, indent=1
            )
        )
    else:
        from ..golden.explain import explain

        print(f"profile {_profile(opened[0].launch)}\n\n{explain([predictions[0].trace])}", end="")
    return 0


def _profile(launch: SevLaunch | IgvmLaunch) -> str:
    return f"{launch.machine.mode.value}-{launch.machine.vmm.value}"


def _say(options: argparse.Namespace, opened: OpenedSev, notes: Sequence[str]) -> None:
    _list_ignored(options, opened)
    for note in (*opened.notes, *notes):
        print(f"note: {note}", file=sys.stderr)


def _list_ignored(options: argparse.Namespace, opened: OpenedSev) -> None:
    for text in opened.ignored if options.verbose else ():
        print(f"no influence: {text}", file=sys.stderr)


def _document(opened: OpenedSev, prediction: SevPrediction, *, whole: bool) -> dict[str, Any]:
    """The digest and its machine; as a whole, which ``--json`` prints, every input and step as well."""
    from ..golden.rows import RegisterRow, trace_json
    from ..measure.sev import LAUNCH_DIGEST

    launch = opened.launch
    row = RegisterRow(
        register=LAUNCH_DIGEST,
        algorithm=prediction.algorithm,
        value=prediction.digest,
        established=prediction.established,
    )
    return {
        "profile": _profile(launch),
        "machine": json.loads(launch.machine.identity()),
        "inputs": _inputs(launch) if whole else [],
        "registers": [row.to_json()],
        "notes": [*opened.notes, *prediction.notes],
        "trace": [trace_json(prediction.trace)] if whole else [],
    }


def _inputs(launch: SevLaunch | IgvmLaunch) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for role, image in launch.images:
        digest = image.sha256.hexdigest()
        rows.append({"role": role, "name": image.name, "size": image.size, "sha256": digest})
    for role, file in (("kernel", launch.kernel), ("initrd", launch.initrd)):
        if file is not None:
            rows.append({"role": role, "name": file.name, "size": file.size, "sha256": file.sha256.hex()})
    return rows


def _check_firmware_only(options: argparse.Namespace) -> None:
    """Stops where something is asked for that is made from a whole launch."""
    for value, name in (
        (options.matrix_vcpus, "--matrix-vcpus"),
        (options.matrix_cpus, "--matrix-cpus"),
        (options.id_key, "--id-key"),
        (options.author_key, "--author-key"),
    ):
        if value:
            raise ImageError(f"measure: {name} needs the whole launch; leave out --firmware-only")


def _firmware_only(options: argparse.Namespace, opened: OpenedSev) -> int:
    from ..machine.sev import SevMode
    from ..measure.sev import LAUNCH_DIGEST, SevFirmware, firmware_digest
    from ..measure.trace import Established

    mode = opened.launch.machine.mode
    if mode is not SevMode.SEV_SNP:
        what = f"is for sev-snp, and this machine has {mode.value}"
        raise ImageError(f"measure: --firmware-only {what}; leave it out")
    ((_, firmware), *_) = opened.launch.images
    if not isinstance(firmware, SevFirmware):
        what = "an IGVM file is the whole launch, virtual CPUs and all"
        raise ImageError(f"measure: --firmware-only: {what}; leave it out")
    # What was assumed is of virtual CPUs, and of them nothing is in here.
    _list_ignored(options, opened)
    row = {
        "register": f"{LAUNCH_DIGEST}:firmware",
        "algorithm": "sha384",
        "value": firmware_digest(firmware).hex(),
        "established": Established.ORACLE.value,
    }
    if options.json:
        print(json.dumps({"inputs": _inputs(opened.launch), "registers": [row], "notes": []}, indent=1))
    else:
        print("  ".join(row.values()))
    return 0


def _matrix(
    options: argparse.Namespace, opened: OpenedSev, established: Established
) -> list[dict[str, object]]:
    """A row for each shape; numbers and models of CPUs decide nothing of how well digests are established."""
    from ..machine.sev_cpus import CpuSignature
    from ..vmm.sev_values import parse_cpu, vcpu_count

    machine = opened.launch.machine
    counts = _each_once("--matrix-vcpus", options.matrix_vcpus or str(machine.vcpus))
    vcpus = [vcpu_count(f"--matrix-vcpus {options.matrix_vcpus}", text) for text in counts]
    if options.matrix_cpus:
        if machine.cpu is None:
            what = f"vmm={machine.vmm.value} measures no CPU signature, so all of them have one digest"
            raise ImageError(f"measure: --matrix-cpus: {what}; leave it out")
        names = _each_once("--matrix-cpus", options.matrix_cpus)
        cpus = [parse_cpu(name, f"--matrix-cpus {name}") for name in names]
    else:
        names = [str(machine.cpu or machine.vmm.value)]
        cpus = [machine.cpu or CpuSignature(0, 0, 0)]
    labels = [name for name in names for _ in vcpus]
    return [
        {
            "cpu": label,
            "signature": None if machine.cpu is None else f"{entry.cpu.eax:#x}",
            "vcpus": entry.vcpus,
            "value": entry.digest.hex(),
            "established": established.value,
        }
        for label, entry in zip(labels, opened.matrix(vcpus, cpus), strict=True)
    ]


def _each_once(option: str, text: str) -> list[str]:
    """The items of a list, each of which has a row."""
    items: list[str] = text.split(",")
    for item in items:
        if items.count(item) > 1:
            raise ImageError(f"measure: {option} {text}: {item} is given twice; write it once")
    return items


def _id_block(options: argparse.Namespace, machine: SevMachine, prediction: SevPrediction) -> dict[str, str]:
    import base64

    from ..measure.id_block import sign_id_block
    from ..steps.measure_sev import read_signing_key

    signed = sign_id_block(
        prediction.digest,
        policy=machine.policy,
        id_key=read_signing_key(options.id_key),
        author_key=read_signing_key(options.author_key) if options.author_key else None,
    )
    return {
        "id-block": base64.b64encode(signed.block).decode(),
        "id-auth": base64.b64encode(signed.auth).decode(),
        "id_key_digest": signed.id_key_digest.hex(),
        "author_key_digest": signed.author_key_digest.hex(),
    }


def _print_text(document: dict[str, Any]) -> None:
    print(f"profile {document['profile']}")
    print(f"machine {json.dumps(document['machine'], sort_keys=True)}")
    for row in document["registers"]:
        print(f"{row['register']}  {row['algorithm']}  {row['value']}  {row['established']}")
    for row in document.get("matrix", ()):
        print(f"{row['cpu']} x {row['vcpus']}  {row['value']}  {row['established']}")
    for key, value in document.get("id_block", {}).items():
        print(f"{key}={value}")
