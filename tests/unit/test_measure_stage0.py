from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError, MeasureError
from recipes.golden.diff import first_moved
from recipes.golden.explain import explain
from recipes.machine.qemu import Accelerator
from recipes.machine.sev import SevMode, SevVmm
from recipes.machine.stage0 import Stage0Generation, Stage0Machine
from recipes.measure import sev
from recipes.measure.sev_launch import SevFirmware, SevLaunch
from recipes.measure.stage0 import LOG_LABELS, REGISTERS, AcpiTables, Stage0Kernel, replay
from recipes.measure.stage0_acpi import acpi_trace
from recipes.measure.stage0_event import encode_event
from recipes.measure.trace import Established, HashAlgorithm, Trace
from recipes.units import GIB, MIB
from tests.unit import stage0_samples as samples
from tests.unit.bzimages import bzimage
from tests.unit.sev_firmware import firmware, stream

OLDER = Stage0Generation.OAK_55607DD8
ORACLE, SPEC_ONLY = Established.ORACLE, Established.SPEC_ONLY


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def trace_of(name: str, traces: tuple[Trace, ...]) -> Trace:
    return next(trace for trace in traces if trace.register == name)


def test_values_of_a_machine_with_snp() -> None:
    kernel, launch = bzimage(), samples.launch()
    found = replay(launch)
    assert launch.firmware is not None
    assert (
        found.amd_sev
        == sev.replay(SevLaunch(machine=samples.snp(cmdline=None), firmware=launch.firmware)).digest
    )
    assert found.kernel_image == sha256(kernel[2560:])
    # The bytes of the file, but for place and size of the initrd.
    assert found.kernel_setup_data == sha256(kernel[:0x218], bytes(8), kernel[0x220:2560])
    assert found.init_ram_fs == sha256(stream("initrd", 5000))
    acpi = samples.acpi()
    assert found.acpi_table == sha256(acpi.table_loader, acpi.rsdp, acpi.tables)
    assert found.cmdline == samples.CMDLINE
    assert found.event is not None
    assert found.event_sha256 == sha256(found.event)
    assert found.notes == ()


def test_values_of_a_machine_without_sev() -> None:
    kernel = bytearray(bzimage()[:2560])
    found = replay(samples.launch(samples.insecure(), firmware=None))
    assert found.amd_sev is None
    kernel[0x210], kernel[0x211] = 0xB0, kernel[0x211] | 0x80
    kernel[0x218:0x220] = bytes(8)
    kernel[0x224:0x226], kernel[0x228:0x22C] = b"\x00\xfe", b"\x00\x00\x02\x00"
    assert found.kernel_setup_data == sha256(bytes(kernel))
    assert [trace.register for trace in found.traces] == list(REGISTERS[1:])
    assert len(found.notes) == 1
    assert found.notes[0].startswith("no SEV: nothing vouches for these values")


def test_the_place_of_the_initrd_is_not_measured() -> None:
    values = {
        replay(samples.launch(samples.insecure(memory=memory), initrd=initrd)).kernel_setup_data
        for memory in (GIB, 8 * GIB)
        for initrd in (None, samples.hashed("a", b"a"), samples.hashed("b", bytes(9000)))
    }
    assert len(values) == 1


@pytest.mark.parametrize("initrd", [None, samples.hashed("empty", b"")])
def test_no_initrd(initrd: Any) -> None:
    found = replay(samples.launch(initrd=initrd))
    assert found.init_ram_fs == bytes(32)
    assert explain([trace_of("init_ram_fs_sha256", found.traces)]).endswith(f"= sha256 {'0' * 64}\n")
    assert [note for note in found.notes if "empty" in note] == (
        ["empty is empty, which stage0 takes for no initrd"] if initrd else []
    )


def test_without_acpi_tables_there_is_no_event() -> None:
    found = replay(samples.launch(acpi=None))
    assert (found.acpi_table, found.event, found.event_sha256) == (None, None, None)
    assert "acpi_table_sha256" not in found.established
    assert found.notes == ("no ACPI tables are given: acpi_table_sha256 and the event are left out",)


def test_the_older_generation_has_no_digest_of_tables() -> None:
    found = replay(samples.launch(samples.machine(generation=OLDER)))
    assert (found.acpi_table, found.event) == (None, None)
    assert found.notes == (
        (
            "oak-55607dd8 hashes its own buffers of ACPI tables, not the files; "
            "acpi_table_sha256 is not modelled"
        ),
    )


def test_labels() -> None:
    found = replay(samples.launch())
    assert list(found.established) == [trace.register for trace in found.traces] == list(REGISTERS)
    assert LOG_LABELS.keys() == set(REGISTERS) - {"stage0_measurement"}
    assert found.established == {
        "stage0_measurement": ORACLE,
        "kernel_image_sha256": ORACLE,
        "kernel_setup_data_sha256": SPEC_ONLY,
        "init_ram_fs_sha256": ORACLE,
        "memory_map_sha256": ORACLE,
        "acpi_table_sha256": SPEC_ONLY,
        "kernel_cmd_line_regex": ORACLE,
    }


@pytest.mark.parametrize(
    ("machine", "register", "label"),
    [
        (samples.insecure(), "kernel_setup_data_sha256", ORACLE),
        (samples.insecure(), "memory_map_sha256", ORACLE),
        (samples.insecure(), "acpi_table_sha256", SPEC_ONLY),
        (samples.insecure(vcpus=1, max_vcpus=1), "acpi_table_sha256", SPEC_ONLY),
        (samples.insecure(generation=OLDER), "memory_map_sha256", SPEC_ONLY),
        (samples.machine(generation=OLDER), "memory_map_sha256", ORACLE),
        (samples.machine(sev=None, amd=False), "memory_map_sha256", SPEC_ONLY),
        (samples.machine(sev=None, type="pc-q35-7.0"), "memory_map_sha256", SPEC_ONLY),
        (samples.machine(memory=512 * MIB), "memory_map_sha256", SPEC_ONLY),
    ],
)
def test_labels_of_other_machines(machine: Stage0Machine, register: str, label: Established) -> None:
    assert replay(samples.launch(machine)).established[register] is label


def test_every_piece_is_a_step() -> None:
    found = replay(samples.launch())
    for trace in found.traces:
        assert trace.steps
        assert all(step.register == trace.register and step.after and step.spec for step in trace.steps)
    assert len(trace_of("memory_map_sha256", found.traces).steps) == 9
    steps = trace_of("acpi_table_sha256", found.traces).steps
    assert [(step.operation, step.source, step.count) for step in steps] == [
        ("ALLOCATE", "etc/table-loader", 1),
        ("ALLOCATE", "etc/table-loader", 1),
        ("ADD_CHECKSUM", "etc/table-loader", 1),
        ("ADD_POINTER", "etc/table-loader", 1),
        ("EMPTY", "etc/table-loader", 2),
        ("READ_FILE", "etc/acpi/rsdp", 1),
        ("READ_FILE", "etc/acpi/tables", 1),
        ("READ_FILE", "etc/acpi/tables", 1),
        ("READ_FILE", "etc/acpi/tables", 1),
    ]
    assert [step.description for step in steps[-3:]] == ["FACS at 0x0", "DSDT at 0x40", "padding at 0x68"]
    text = explain(found.traces)
    assert "  = sha384 " in text
    assert "E820_ACPI 0x3ff00000 to 0x40000000" in text
    assert "input: stage0: ACPI tables  [project-oak/oak stage0/src/zero_page.rs (d88ccaf9)]" in text
    assert samples.CMDLINE in text


def test_what_moved_is_named() -> None:
    before = replay(samples.launch())
    tables = bytearray(samples.TABLES)
    tables[64 + 20] ^= 1
    changed = samples.launch(samples.machine(memory=4 * GIB), acpi=samples.acpi(tables=bytes(tables)))
    after = replay(changed)
    moved = [
        str(first_moved(name, trace_of(name, before.traces), trace_of(name, after.traces)))
        for name in REGISTERS
    ]
    assert moved == [
        *["None"] * 4,
        (
            "memory_map_sha256: first differs at step 8, E820_RAM 0x100000000 to 0x180000000; "
            "input: -m, above 4 GiB; before: to 0x268480000"
        ),
        "acpi_table_sha256: first differs at step 8, READ_FILE DSDT at 0x40; input: etc/acpi/tables",
        "None",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"machine": samples.machine(cmdline="a\0b")},
            "kernel command line: holds a NUL, behind which QEMU sees nothing; change it",
        ),
        (
            {"machine": samples.machine(cmdline="\udcff")},
            "kernel command line: is no UTF-8, and stage0 stops; change it",
        ),
        (
            {"machine": samples.machine(cmdline="x" * 2048)},
            "kernel command line: has 2048 bytes, and Linux takes fewer than 2048; change it",
        ),
        (
            {"machine": samples.machine(sev=samples.snp(mode=SevMode.SEV_ES))},
            "sev: sev-es of qemu; appraisal policies know sev-snp of QEMU alone; use sev-snp-guest, or none",
        ),
        (
            {"machine": samples.machine(sev=samples.snp(vmm=SevVmm.EC2))},
            "sev: sev-snp of ec2; appraisal policies know sev-snp of QEMU alone; use sev-snp-guest, or none",
        ),
        (
            {"machine": samples.machine(sev=samples.snp(kernel_hashes=True))},
            (
                "sev: oak-d6f890b7 has no place for kernel hashes, and QEMU does not start; "
                "leave out kernel-hashes=on"
            ),
        ),
        (
            {"machine": samples.machine(vcpus=3)},
            "sev: 2 vCPUs in a machine with 3; give one number",
        ),
        (
            {"machine": samples.machine(accelerator=Accelerator.TCG)},
            "sev: needs KVM and a CPU of AMD; add -accel kvm -cpu host",
        ),
        ({"firmware": None}, "sev: stage0 is measured itself; give its file (-bios)"),
        (
            {"firmware": SevFirmware.of("stage0_bin", [firmware(size=0x18000)])},
            (
                "stage0_bin: 98304 bytes, QEMU starts with a -bios of whole 64 KiB alone; "
                "give the file that it loads"
            ),
        ),
        (
            {
                "initrd": samples.hashed("initrd", b"x" * (3 * MIB)),
                "machine": samples.machine(memory=2 * MIB),
            },
            (
                "initrd: 3 MiB do not fit below 0x1d7fff in a machine with 2 MiB; "
                "give the machine more memory, or a smaller initrd"
            ),
        ),
    ],
)
def test_launches_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    changes = dict(changes)
    with pytest.raises(MeasureError) as caught:
        replay(
            samples.launch(**{"value" if key == "machine" else key: item for key, item in changes.items()})
        )
    assert str(caught.value) == message


RSDP, TABLES = samples.allocate("etc/acpi/rsdp", 16, 2), samples.allocate("etc/acpi/tables")


@pytest.mark.parametrize(
    ("commands", "message"),
    [
        (
            (RSDP, TABLES, samples.write_pointer("etc/vmgenid_addr", "etc/acpi/tables")),
            (
                "etc/table-loader: command 2: WRITE_POINTER to etc/vmgenid_addr, at which stage0 stops; "
                "leave out the device that needs it, such as vmgenid"
            ),
        ),
        (
            (RSDP, TABLES, RSDP),
            (
                "etc/table-loader: command 2: ALLOCATE of etc/acpi/rsdp for the second time, "
                "at which stage0 stops; capture the tables again"
            ),
        ),
        (
            (RSDP, samples.allocate("etc/tpm/log")),
            (
                "etc/table-loader: command 1: ALLOCATE of etc/tpm/log, "
                "which is not among the captured files; capture it too"
            ),
        ),
        (
            (TABLES,),
            (
                "etc/table-loader: allocates no RSDP, and stage0 stops without one; "
                "start the machine with acpi=on"
            ),
        ),
        (
            (samples.add_checksum("etc/acpi/tables"),),
            (
                "etc/table-loader: command 0: ADD_CHECKSUM names etc/acpi/tables, "
                "which is not allocated yet, and stage0 stops; capture the tables again"
            ),
        ),
        (
            (RSDP, samples.add_pointer("etc/acpi/rsdp", "etc/acpi/tables")),
            (
                "etc/table-loader: command 1: ADD_POINTER names etc/acpi/tables, which is not allocated yet, "
                "and stage0 stops; capture the tables again"
            ),
        ),
        (
            (RSDP, TABLES, samples.add_pointer("etc/acpi/rsdp", "etc/acpi/tables", 17, 4)),
            (
                "etc/table-loader: command 2: ADD_POINTER ends behind etc/acpi/rsdp, which has 20 bytes, "
                "and stage0 stops; capture all files from one QEMU"
            ),
        ),
        (
            (RSDP, samples.add_checksum("etc/acpi/rsdp", 20)),
            (
                "etc/table-loader: command 1: ADD_CHECKSUM ends behind etc/acpi/rsdp, which has 20 bytes, "
                "and stage0 stops; capture all files from one QEMU"
            ),
        ),
        (
            (RSDP, samples.add_checksum("etc/acpi/rsdp", 8, 0, 21)),
            (
                "etc/table-loader: command 1: ADD_CHECKSUM ends behind etc/acpi/rsdp, which has 20 bytes, "
                "and stage0 stops; capture all files from one QEMU"
            ),
        ),
    ],
)
def test_scripts_that_stage0_does_not_follow(commands: tuple[bytes, ...], message: str) -> None:
    with pytest.raises(MeasureError) as caught:
        acpi_trace(samples.acpi(*commands))
    assert str(caught.value) == message


def test_tables_that_are_too_large() -> None:
    with pytest.raises(MeasureError) as caught:
        acpi_trace(samples.acpi(RSDP, TABLES, tables=bytes(MIB + 1)))
    assert str(caught.value) == (
        "etc/table-loader: command 1: etc/acpi/tables with 1.0 MiB does not fit in what stage0 has "
        "for zone HIGH; leave out devices"
    )


def test_further_files() -> None:
    log = samples.allocate("etc/tpm/log", 1, 1)
    acpi: AcpiTables = samples.acpi(RSDP, log, TABLES, further=(("etc/tpm/log", b"log"),))
    expected = sha256(RSDP, log, TABLES, samples.RSDP, b"log", samples.TABLES)
    assert acpi_trace(acpi).steps[-1].after == expected


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 6 * 128 - 1), st.integers(0, 255)), max_size=4))
def test_mutated_scripts_are_measured_or_refused(changes: list[tuple[int, int]]) -> None:
    acpi = samples.acpi()
    loader = bytearray(acpi.table_loader)
    for place, value in changes:
        loader[place] = value
    try:
        trace = acpi_trace(samples.acpi(table_loader=bytes(loader)))
    except (FormatError, MeasureError):
        return
    assert trace.steps[-1].after[:1]
    assert sum(step.size for step in trace.steps) == len(loader) + len(acpi.rsdp) + len(acpi.tables)


@settings(max_examples=60)
@given(st.lists(st.integers(1, 5000), max_size=8), st.sampled_from([0, 1, 4, 39]))
def test_a_kernel_is_the_same_in_any_pieces(sizes: list[int], sectors: int) -> None:
    data = bzimage(setup_sects=sectors)

    def pieces() -> Iterator[bytes]:
        at = 0
        for size in sizes:
            yield data[at : at + size]
            at += size
        yield data[at:]

    split = ((sectors or 4) + 1) * 512
    kernel = Stage0Kernel.of("vmlinuz", pieces())
    assert (kernel.setup, kernel.sha256, kernel.size) == (data[:split], sha256(data[split:]), len(data))


@pytest.mark.parametrize("size", [0, 100, 0x237, 0x238, 2559])
def test_a_truncated_kernel(size: int) -> None:
    with pytest.raises(FormatError, match="truncated"):
        Stage0Kernel.of("vmlinuz", [bzimage()[:size]])


def test_the_event_leaves_out_what_is_empty_and_counts_long_texts() -> None:
    digests = [bytes([number]) * 32 for number in range(5)]
    short, long = (encode_event(digests=digests, cmdline=text) for text in (b"", b"x" * 300))
    inner = b"".join(bytes([number << 3 | 2, 32]) + value for number, value in enumerate(digests, 1))
    url = b"type.googleapis.com/oak.attestation.v1.Stage0Measurements"
    value = b"\x0a\x39" + url + b"\x12\xaa\x01" + inner
    assert short == b"\x0a\x06Stage0" + b"\x12" + bytes([0x80 | len(value) & 0x7F, len(value) >> 7]) + value
    assert long.endswith(b"\x32\xac\x02" + b"x" * 300)


def test_firmware_of_another_build_changes_one_value() -> None:
    other = SevFirmware.of("stage0_bin", [firmware(size=0x10000, label="other")])
    before, after = replay(samples.launch()), replay(samples.launch(firmware=other))
    assert before.amd_sev != after.amd_sev
    assert before.event == after.event
    step = trace_of("stage0_measurement", after.traces).steps[0]
    assert step.digests.keys() == {HashAlgorithm.SHA384}
