"""The recorded boots of tests/vectors/pcr as inputs of the replay.

The UKIs themselves are not stored: their digests and small sections are. Large sections therefore stand as
zeros of the right length, with the recorded digests. Where a record has fewer banks than the TPM, the digest
of the other banks is taken from the log entry with the same SHA-256.
"""

from __future__ import annotations

import base64
import gzip
import json
import lzma
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from uuid import UUID

from recipes.formats import eventlog, ovmf, varstore
from recipes.formats.efi import EFI_CERT_X509_GUID, Variable
from recipes.formats.efi_signature import parse_signature_lists
from recipes.formats.eventlog import EventLog
from recipes.machine import QemuMachine
from recipes.measure import boot, firmware, sidecar, stub, uefi
from recipes.measure.boot import PreparedBoot, SourceNames
from recipes.measure.firmware import BootOption, FirmwareFile, FirmwareModel, Patch, PreparedFirmware
from recipes.measure.sidecar import SideFile
from recipes.measure.stub import PreparedStub
from recipes.measure.trace import HashAlgorithm, Measured, Step, measured
from recipes.measure.uefi import AcpiTables
from recipes.measure.ukifile import SECTIONS, Addon, MeasuredUki, StubSection
from recipes.units import MIB
from recipes.vmm import qemu_parse

HERE = Path(__file__).parent
PCR = HERE / "pcr"
X86_CASES = (
    "q35-512m-1cpu",
    "q35-512m-1cpu-extradisk",
    "q35-512m-1cpu-nobootindex",
    "q35-512m-1cpu-secureboot",
    "q35-512m-1cpu-addons",
    "q35-512m-1cpu-ovmf2022",
    "pc-512m-1cpu",
)
AARCH64_CASE = "aarch64-virt-1024m-1cpu"
CASES = (*X86_CASES, AARCH64_CASE)

# The firmware of the recorded boots; patches come from firmware.json.
_APPLICATIONS = UUID("7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1")
_AARCH64_APPLICATIONS = UUID("64074afe-340a-4be6-94ba-91b5b4d0f71e")
_UI_APP = UUID("462caa21-7614-4503-836e-8ab6f4662331")
_SHELL = UUID("7c04a583-9e3e-4f1c-ad65-e05268d0b4d1")
DISK_OPTION = BootOption("UEFI Misc Device", 0x1)


def _ui_app(volume: UUID) -> BootOption:
    return BootOption("UiApp", 0x109, FirmwareFile(volume, _UI_APP))


_SHELL_OPTION = BootOption("EFI Internal Shell", 0x1, FirmwareFile(_APPLICATIONS, _SHELL))
WITH_SHELL = (_ui_app(_APPLICATIONS), DISK_OPTION, _SHELL_OPTION)
WITHOUT_SHELL = WITH_SHELL[:2]
AARCH64_OPTIONS = (_ui_app(_AARCH64_APPLICATIONS), DISK_OPTION)


@dataclass(frozen=True)
class Case:
    """A recorded boot."""

    name: str
    record: Mapping[str, Any]
    log: EventLog
    fw_cfg: Mapping[str, bytes]

    @property
    def uki(self) -> str:
        return str(self.record["uki"])

    def pcr(self, algorithm: HashAlgorithm, index: int) -> bytes:
        """What the TPM said."""
        return bytes.fromhex(self.record["pcrs"][algorithm.value][str(index)])


@lru_cache
def load(name: str) -> Case:
    record = json.loads((PCR / f"{name}.json").read_text())
    log = eventlog.parse(gzip.decompress((PCR / f"{name}.eventlog.gz").read_bytes()), name)
    blobs = json.loads(gzip.decompress((PCR / f"{name}.fwcfg.json.gz").read_bytes()))
    return Case(name, record, log, {key: base64.b64decode(value) for key, value in blobs.items()})


@lru_cache
def _json(name: str) -> Any:
    return json.loads((PCR / name).read_text())


@lru_cache
def flash(name: str) -> bytes:
    """A firmware file of tests/vectors/firmware."""
    return lzma.decompress((HERE / "firmware" / f"{name}.xz").read_bytes())


@lru_cache
def volumes(name: str) -> tuple[bytes, ...]:
    return ovmf.measured_volumes(flash(name), name)


def stored_flash(case: Case) -> str:
    """Name of the case's code flash in tests/vectors/firmware."""
    package, version, _ = case.record["firmware"]["package"].split(" ", 2)
    return f"{package}-{version}.{case.record['firmware']['code_file']}"


def model(case: Case) -> FirmwareModel:
    """The model of the case's firmware; memory and chipset of the patches stand in their names."""
    told = case.record["firmware"]
    package, version, _ = told["package"].split(" ", 2)
    name = f"{package} {version} {told['code_file']}"
    built_in_2025 = version.startswith("2025")
    secboot = "secboot" in told["code_file"]
    entry = _json("firmware.json")[name]
    return FirmwareModel(
        name=name,
        code_sha256=bytes.fromhex(told["code_sha256"]),
        crtm_version=told["crtm_version"],
        secure_boot_variable=secboot or not built_in_2025,
        measures_acpi=built_in_2025,
        boot_options=WITHOUT_SHELL if secboot else WITH_SHELL,
        patches=tuple(_patch(key, words) for key, words in entry["peifv_runtime_patch"].items()),
    )


def _patch(key: str, words: Sequence[tuple[str, str]]) -> Patch:
    chipset, _, memory = key.partition("-")
    return Patch(
        chipset,
        int(memory.removesuffix("m")) * MIB if memory else None,
        tuple((int(offset, 16), bytes.fromhex(word)) for offset, word in words),
    )


def prepared_firmware(case: Case) -> PreparedFirmware:
    return _prepared_firmware(case.name, firmware.apply)


@lru_cache
def _prepared_firmware(name: str, _apply: Callable[..., bytes]) -> PreparedFirmware:
    # Hashed once for all tests, and again where a mutation replaces the patching.
    case = load(name)
    return firmware.hash_volumes(volumes(stored_flash(case)), model(case), "CODE")


def machine(case: Case) -> QemuMachine:
    """The machine of the recorded command line."""
    argv = shlex.split(case.record["qemu"]["cmdline"])
    return qemu_parse.parse(argv, name=case.name, secure_boot=case.name.endswith("-secureboot")).machine


def acpi(case: Case) -> AcpiTables:
    blobs = case.fw_cfg
    return AcpiTables(blobs["etc/table-loader"], blobs["etc/acpi/rsdp"], blobs["etc/acpi/tables"])


def variables(case: Case) -> tuple[Variable, ...]:
    """The store before the boot: an empty one, or that of the Secure Boot case."""
    if case.name.endswith("-secureboot"):
        path = PCR / f"{case.name}.vars.fd.xz"
        return varstore.read(lzma.decompress(path.read_bytes()), path.name)
    package, version, _ = case.record["firmware"]["package"].split(" ", 2)
    return varstore.read(flash(f"{package}-{version}.OVMF_VARS_4M.fd"), "OVMF_VARS_4M.fd")


def event_data(case: Case, kind: eventlog.EventType) -> bytes:
    """Data of the only event of that type."""
    (found,) = (event.data for event in case.log.events if event.type == kind)
    return found


# --- UKI


def uki(case: Case) -> MeasuredUki:
    """The UKI of the case, from its recorded digests."""
    entry = _json("ukis.json")[case.uki]
    table = {item["name"]: item for item in entry["sections"]}
    texts = entry["small_sections"]
    sections = tuple(_section(case, table[name], texts.get(name)) for name in SECTIONS if name in table)
    version = re.search(r",(257[^,]*),https://tracker", texts[".sbat"])
    assert version is not None
    return MeasuredUki(
        name=case.uki,
        stub_version=version[1],
        image=_hashed(entry["authenticode"], entry["size"]),
        kernel=_hashed(entry["linux_authenticode"], table[".linux"]["virtual_size"]),
        sections=sections,
    )


def _section(case: Case, entry: Mapping[str, Any], text: str | None) -> StubSection:
    size = entry["virtual_size"]
    if text is not None:
        data = text.encode()
        assert (len(data), measured(data).digests[HashAlgorithm.SHA256].hex()) == (size, entry["sha256"])
        return StubSection(entry["name"], data, measured(data))
    return StubSection(entry["name"], bytes(size), _other_banks(case, entry, size))


def _hashed(digests: Mapping[str, str], size: int) -> Measured:
    return Measured({each: bytes.fromhex(digests[each.value]) for each in HashAlgorithm}, size)


def _other_banks(case: Case, entry: Mapping[str, Any], size: int) -> Measured:
    known = {each: bytes.fromhex(entry[each.value]) for each in HashAlgorithm if each.value in entry}
    for event in case.log.events:
        if event.digests.get("sha256") == known[HashAlgorithm.SHA256]:
            known = {each: event.digests[each.value] for each in HashAlgorithm} | known
    return Measured(known, size)


def combined_initrd(case: Case) -> Measured:
    """What the kernel was handed, as recorded; with files beside the UKI only the log has its digest."""
    entry = _json("ukis.json")[case.uki]
    if case.uki != "full":
        return _hashed(entry["stub_combined_initrd"], entry["stub_combined_initrd_size"])
    events = [event for event in case.log.events if event.pcr == 9]
    return Measured({each: events[-1].digests[each.value] for each in HashAlgorithm}, 0)


def prepared_stub(case: Case) -> PreparedStub:
    inputs = _json(f"{case.name}.inputs.json") if case.uki == "full" else {"addons": {}, "files": {}}
    extra = tuple(
        SideFile(path.rpartition("/")[2], _content(text))
        for path, text in inputs["files"].items()
        if ".extra.d/" in path
    )
    global_credentials = tuple(
        SideFile(path.rpartition("/")[2], _content(text))
        for path, text in inputs["files"].items()
        if path.startswith("loader/credentials/")
    )
    return PreparedStub(
        uki=uki(case),
        addons=tuple(_addon(name, entry) for name, entry in inputs["addons"].items()),
        archives=sidecar.archives(extra, global_credentials),
        initrd=combined_initrd(case),
    )


def _content(text: str) -> bytes:
    """A file's content; long ones are recorded as a product."""
    match = re.fullmatch(r'"(.*)" \* ([0-9]+)', text)
    return match[1].encode() * int(match[2]) if match else text.encode()


def _addon(name: str, entry: Mapping[str, str]) -> Addon:
    return Addon(name=name, image=_hashed(entry, 0), command_line=entry["cmdline"].encode())


# --- whole boots


def prepared_boot(case: Case) -> PreparedBoot:
    """What ``boot.prepare`` makes of files, made of records."""
    prepared = prepared_stub(case)
    return PreparedBoot(
        firmware=prepared_firmware(case),
        variables=variables(case),
        secure_boot=case.name.endswith("-secureboot"),
        authorities=((_authority(case)), *((),) * len(prepared.addons)),
        gpt=uefi.gpt_step(event_data(case, eventlog.EventType.EV_EFI_GPT_EVENT), "disk"),
        stub=prepared,
        sources=SourceNames(),
    )


def _authority(case: Case) -> tuple[Step, ...]:
    """The only entry of db; that it verifies the UKI cannot be computed without the UKI."""
    found = [item.data for item in variables(case) if item.name == "db"]
    if not found:
        return ()
    (entries,) = parse_signature_lists(found[0], "db")
    assert entries.type == EFI_CERT_X509_GUID
    (entry,) = entries.signatures
    return (uefi.authority_step(entry.pack(), "store", "test db"),)


def predict(case: Case) -> boot.Prediction:
    """The prediction for an x86 case."""
    return boot.replay_boot(machine(case), prepared_boot(case), acpi(case))


def aarch64_steps(case: Case) -> tuple[Step, ...]:
    """The steps of the aarch64 case, put together from the rules."""
    told = case.record["firmware"]
    blob = uefi.FirmwareBlob("flash", measured(ovmf.aarch64_blob(flash(stored_flash(case)), "AAVMF")))
    prepared = prepared_stub(case)
    return (
        *uefi.firmware_steps(told["crtm_version"], [blob], "AAVMF"),
        *uefi.secure_boot_policy_steps((), False, "store"),
        *uefi.acpi_steps(acpi(case), "ACPI"),
        *uefi.boot_variable_steps(
            firmware.boot_option_variables(AARCH64_OPTIONS, 1, disk_first=True), "AAVMF"
        ),
        *uefi.ready_to_boot_steps(),
        uefi.gpt_step(event_data(case, eventlog.EventType.EV_EFI_GPT_EVENT), "disk"),
        uefi.image_step(prepared.uki.image, "UKI"),
        *stub.stub_steps(prepared),
        *uefi.exit_boot_services_steps(),
    )


def sequence(case: Case) -> tuple[Step, ...]:
    """The predicted steps of any case, in log order."""
    return aarch64_steps(case) if case.name == AARCH64_CASE else predict(case).sequence
