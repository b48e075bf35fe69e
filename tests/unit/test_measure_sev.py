"""Launch digests with AMD SEV: the rules one by one, what cannot be launched, and what a page moves."""

from __future__ import annotations

import hashlib
import itertools
import struct
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError, ImageError, MeasureError
from recipes.formats.ovmf_footer import Area
from recipes.golden.whatif_sev import compare
from recipes.machine.sev import SevMachine, SevMode, SevVmm
from recipes.machine.sev_cpus import CPU_MODELS, CpuSignature
from recipes.measure import sev
from recipes.measure.gctx import LaunchDigest, PageType, page_digests
from recipes.measure.kernel_hashes import KernelHashes
from recipes.measure.sev import HashedFile, SevFirmware, SevLaunch
from recipes.measure.trace import Established
from recipes.measure.vmsa import RESET_EIP, vmsa_page
from tests.unit import sev_firmware as fw

MACHINE = SevMachine(
    name="m", mode=SevMode.SEV_SNP, vcpus=2, cpu=CPU_MODELS["EPYC-Milan"], features=1, cmdline=None
)
KERNEL = HashedFile(name="K", size=3, sha256=hashlib.sha256(b"abc").digest())


def firmware(**changes: Any) -> SevFirmware:
    return SevFirmware.of("F", [fw.firmware(**changes)])


def launch(image: SevFirmware | None = None, *, kernel: bool = False, **changes: Any) -> SevLaunch:
    direct: dict[str, Any] = {"kernel_hashes": True, "cmdline": "x"} if kernel else {}
    machine = replace(MACHINE, **direct, **changes)
    return SevLaunch(machine=machine, firmware=image or firmware(), kernel=KERNEL if kernel else None)


def page_info(state: bytes, digest: bytes, kind: int, address: int) -> bytes:
    """PAGE_INFO, field by field."""
    return hashlib.sha384(
        state + digest + struct.pack("<HBBBBBBQ", 0x70, kind, 0, 0, 0, 0, 0, address)
    ).digest()


def test_every_page_in_order() -> None:
    image, state = fw.firmware(), bytes(48)
    for at in range(0, len(image), 4096):
        digest = hashlib.sha384(image[at : at + 4096]).digest()
        state = page_info(state, digest, 1, (1 << 32) - len(image) + at)
    kinds = {fw.SEC_MEM: 3, fw.SECRETS_PAGE: 5, fw.CPUID: 6, fw.CAA: 3, fw.KERNEL_HASHES: 3}
    for address, size, kind in fw.SECTIONS:
        for place in range(address, address + size, 4096):
            state = page_info(state, bytes(48), kinds[kind], place)
    for eip in (RESET_EIP, fw.AP_EIP, fw.AP_EIP):
        page = vmsa_page(SevVmm.QEMU, eip=eip, signature=0xA00F11, features=1)
        state = page_info(state, hashlib.sha384(page).digest(), 2, 0xFFFF_FFFF_F000)
    prediction = sev.replay(launch(vcpus=3))
    assert prediction.digest == state
    assert prediction.trace.steps[-1].after == state
    assert [step.count for step in prediction.trace.steps] == [8, 3, 1, 1, 1, 2, 1, 1, 2]
    assert prediction.established is Established.ORACLE


def test_windows_do_not_matter() -> None:
    image = fw.firmware()
    cuts = (0, 1, 4095, 4096, 9000, 9001, len(image))
    pieces = [image[start:end] for start, end in itertools.pairwise(cuts)]
    whole, cut = SevFirmware.of("F", [image]), SevFirmware.of("F", pieces)
    assert (whole.page_digests, whole.tail, whole.size) == (cut.page_digests, cut.tail, cut.size)
    assert whole.sha256.digest() == cut.sha256.digest() == hashlib.sha256(image).digest()


def test_the_tail_is_kept_across_windows() -> None:
    image = fw.firmware(size=0x60000)
    for window in (0x1000, 0x3F000, 0x40000, 0x50000):
        cut = SevFirmware.of("F", [image[at : at + window] for at in range(0, len(image), window)])
        assert cut.tail == image[-0x40000:], window


def test_a_matrix_is_what_the_replays_are() -> None:
    cpus = [CPU_MODELS[name] for name in ("EPYC-Turin", "EPYC-Rome")]
    for entry in sev.matrix(launch(kernel=True), [4, 1, 2], cpus):
        shape = launch(kernel=True, vcpus=entry.vcpus, cpu=entry.cpu)
        assert sev.replay(shape).digest == entry.digest


def test_signatures() -> None:
    # Spec: AMD 25481, CPUID Fn0000_0001_EAX; QEMU's EPYC-Milan and EPYC-Turin, and a CPU with base family 6.
    known = {(25, 1, 1): 0xA00F11, (26, 0, 0): 0xB00F00, (6, 0x9E, 0xA): 0x906EA, (270, 255, 15): 0xFFF0FFF}
    for numbers, eax in known.items():
        assert CpuSignature(*numbers).eax == eax
        assert CpuSignature.of_eax(eax) == CpuSignature(*numbers)
    for numbers, text in (
        ((271, 0, 0), "family 271"),
        ((25, 256, 0), "model 256"),
        ((25, 0, -1), "stepping -1"),
    ):
        with pytest.raises(ValueError, match=text):
            CpuSignature(*numbers)


def test_the_table_of_hashes() -> None:
    hashes = KernelHashes.of(b"k" * 32, None, "")
    assert len(hashes.table) == 176
    assert hashes.cmdline == hashlib.sha256(b"\0").digest()
    assert hashes.initrd == hashlib.sha256(b"").digest()
    page = hashes.page(Area(0x81_0C00, 0x400), "F")
    assert page == bytes(0xC00) + hashes.table + bytes(0x1000 - 0xC00 - 176)


@pytest.mark.parametrize("area", [Area(0x81_0C00, 175), Area(0x81_0F60, 0x400)])
def test_a_table_without_room(area: Area) -> None:
    with pytest.raises(MeasureError, match="0xb0 in one page are needed"):
        KernelHashes.of(b"k" * 32, None, "").page(area, "F")


USE = "use a build of OvmfPkg/AmdSev (Debian: ovmf-amdsev), or leave out kernel-hashes=on"
REFUSED: dict[str, tuple[SevLaunch, str]] = {
    "no vcpus": (launch(vcpus=0), "vcpus: 0 is not from 1 to 4096; give a number of them"),
    "too many": (launch(vcpus=4097), "vcpus: 4097 is not from 1 to 4096; give a number of them"),
    "no cpu": (
        launch(cpu=None),
        "cpu: family, model and stepping are measured; give a CPU model or the numbers",
    ),
    "features": (launch(features=1 << 64), "sev-features: 0x10000000000000000 has more than 64 bits"),
    "no area": (launch(firmware(hashes=None), kernel=True), f"F: has no place for kernel hashes; {USE}"),
    "no section": (
        launch(firmware(sections=fw.SECTIONS[:-1]), kernel=True),
        f"F: its SEV metadata has no SNP_KERNEL_HASHES section; {USE}",
    ),
    "other page": (
        launch(firmware(hashes=(0x82_0C00, 0x400)), kernel=True),
        (
            "F: the SNP_KERNEL_HASHES section is at 0x810000, and the table in the page 0x820000; "
            "the firmware is damaged"
        ),
    ),
    "no metadata": (
        launch(firmware(sections=None)),
        (
            "F: no SEV metadata, and SEV-SNP does not start without; "
            "give a build for SEV-SNP (Debian: ovmf-amdsev)"
        ),
    ),
    "no reset block": (
        launch(firmware(reset=None)),
        "F: no SEV-ES reset block, so only one vCPU can start; give a build for SEV-ES",
    ),
    "overlaps": (
        launch(firmware(sections=((0xFFFF_7000, 0x2000, fw.SEC_MEM),))),
        "F: SNP_SEC_MEM at 0xffff7000 overlaps the firmware at 0xffff8000; the file is damaged",
    ),
    "no svsm": (launch(vmm=SevVmm.SVSM), "svsm: a machine with an SVSM has its file, any other has none"),
    "plain on ec2": (
        launch(vmm=SevVmm.EC2, mode=SevMode.SEV),
        "vmm ec2: plain SEV is modelled for QEMU alone",
    ),
    "cmdline alone": (
        launch(cmdline="x"),
        "kernel: initrd and command line are for one; give a kernel, or leave them out",
    ),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_refused(name: str) -> None:
    wrong, message = REFUSED[name]
    with pytest.raises(MeasureError) as caught:
        sev.replay(wrong)
    assert str(caught.value) == message


def test_one_vcpu_needs_no_reset_block() -> None:
    assert len(sev.replay(launch(firmware(reset=None), vcpus=1)).digest) == 48


@pytest.mark.parametrize("pieces", [[], [b""], [bytes(4095)], [bytes(4096), b"x"]])
def test_what_is_no_firmware(pieces: list[bytes]) -> None:
    size = sum(map(len, pieces))
    with pytest.raises(
        MeasureError, match=rf"^F: {size} bytes, firmware is made of whole pages of 4096; give"
    ):
        SevFirmware.of("F", pieces)


def test_plain_sev_needs_no_table() -> None:
    image = SevFirmware.of("F", [bytes(4096)])
    prediction = sev.replay(launch(image, mode=SevMode.SEV, cpu=None))
    assert prediction.digest == hashlib.sha256(bytes(4096)).digest()
    with pytest.raises(FormatError, match="no table of OVMF's ends here"):
        sev.replay(launch(image))


def test_matrix_is_for_snp() -> None:
    with pytest.raises(MeasureError, match=r"^matrix: sev has none; it is for sev-snp$"):
        sev.matrix(launch(mode=SevMode.SEV), [1], [CPU_MODELS["EPYC"]])
    with pytest.raises(MeasureError, match=r"^matrix: give at least one number of vCPUs and one CPU$"):
        sev.matrix(launch(), [], [CPU_MODELS["EPYC"]])
    with pytest.raises(MeasureError, match=r"^vcpus: 0 is not from 1 to 4096"):
        sev.matrix(launch(), [0, 3], [CPU_MODELS["EPYC"]])


def test_notes() -> None:
    (note,) = sev.replay(launch(kernel_hashes=True)).notes
    what = "no kernel, so there is nothing for kernel-hashes=on to hash"
    assert note == f"{what}: QEMU 10.0 aborts so; leave it out, which is what is measured here"
    es = launch(kernel_hashes=True, mode=SevMode.SEV_ES, features=0, legacy_vm_type=False)
    assert sev.replay(es).notes == (what,)
    unhashed = SevLaunch(machine=replace(MACHINE, cmdline="x"), firmware=firmware(), kernel=KERNEL)
    assert sev.replay(unhashed).notes[0].startswith("kernel, initrd and command line are not measured")
    assert sev.replay(unhashed).digest == sev.replay(launch()).digest
    assert "lacks bit 0" in sev.replay(launch(features=0x20)).notes[0]


def test_debug_swap_under_sev_es_has_no_oracle() -> None:
    plain, swap = (
        sev.replay(launch(mode=SevMode.SEV_ES, features=bits, legacy_vm_type=False)) for bits in (0, 0x20)
    )
    assert (plain.established, swap.established) == (Established.ORACLE, Established.SPEC_ONLY)
    assert plain.digest != swap.digest


@pytest.mark.parametrize(
    ("changes", "proved"),
    [
        ({"features": 0x21}, True),
        ({"features": 0x201}, False),
        ({"vmm": SevVmm.EC2, "features": 0x21}, True),
        ({"vmm": SevVmm.EC2, "features": 0x5}, False),
        ({"vmm": SevVmm.GCE, "features": 0x1}, True),
        ({"vmm": SevVmm.GCE, "features": 0}, False),
        ({"vmm": SevVmm.GCE, "features": 0x20, "mode": SevMode.SEV_ES}, False),
    ],
)
def test_what_an_oracle_knows(changes: dict[str, Any], proved: bool) -> None:
    label = Established.ORACLE if proved else Established.SPEC_ONLY
    assert sev.replay(launch(**changes)).established is label


@pytest.mark.parametrize("mode", list(SevMode))
def test_no_linux_kernel(mode: SevMode) -> None:
    legacy = False if mode is SevMode.SEV_ES else None
    known = launch(kernel=True, mode=mode, features=int(mode is SevMode.SEV_SNP), legacy_vm_type=legacy)
    odd = replace(known, linux=False)
    before, after = sev.replay(known), sev.replay(odd)
    assert (before.established, after.established) == (Established.ORACLE, Established.SPEC_ONLY)
    assert before.digest == after.digest
    assert any(note.startswith("-kernel K: no Linux kernel to QEMU") for note in after.notes)
    elsewhere = replace(odd, machine=replace(odd.machine, kernel_hashes=False))
    assert sev.replay(elsewhere).established is Established.ORACLE


def test_the_legacy_vm_type_has_no_fpu_state() -> None:
    # Linux 6.12 sev_es_sync_vmsa(): with KVM_X86_DEFAULT_VM, MXCSR (0x408) and FCW (0x410) stay zero.
    new, old = (
        vmsa_page(SevVmm.QEMU, eip=RESET_EIP, signature=1, features=0, legacy=legacy)
        for legacy in (False, True)
    )
    assert {at: (new[at], old[at]) for at in range(4096) if new[at] != old[at]} == {
        0x408: (0x80, 0),
        0x409: (0x1F, 0),
        0x410: (0x7F, 0),
        0x411: (0x03, 0),
    }
    by_type = {
        legacy: sev.replay(launch(mode=SevMode.SEV_ES, features=0, legacy_vm_type=legacy))
        for legacy in (True, False, None)
    }
    image = firmware()
    others = vmsa_page(SevVmm.QEMU, eip=fw.AP_EIP, signature=0xA00F11, features=0, legacy=True)
    page = bytearray(vmsa_page(SevVmm.QEMU, eip=RESET_EIP, signature=0xA00F11, features=0))
    page[0x408:0x412] = bytes(10)
    expected = image.sha256.copy()
    expected.update(bytes(page) + others)
    assert by_type[True].digest == expected.digest()
    assert by_type[None].digest == by_type[False].digest != by_type[True].digest
    labels = {legacy: prediction.established for legacy, prediction in by_type.items()}
    assert labels == {
        True: Established.SPEC_ONLY,
        False: Established.ORACLE,
        None: Established.SPEC_ONLY,
    }
    assert (by_type[True].notes, by_type[False].notes) == ((), ())
    (note,) = by_type[None].notes
    assert note == (
        "legacy-vm-type is not stated: measured as off, which needs QEMU 9.1 and Linux 6.10 or newer; "
        "QEMU by itself takes it as on, and that measures another value: "
        "write legacy-vm-type=on or legacy-vm-type=off"
    )


def test_the_legacy_vm_type_of_other_machines() -> None:
    for changes in (
        {},
        {"mode": SevMode.SEV, "cpu": None},
        {"mode": SevMode.SEV_ES, "vmm": SevVmm.EC2},
    ):
        with pytest.raises(MeasureError, match=r"^legacy-vm-type: is for sev-es and qemu, .*; leave it out$"):
            sev.replay(launch(legacy_vm_type=False, **changes))


@pytest.mark.parametrize("vmm", [SevVmm.EC2, SevVmm.GCE])
def test_a_kernel_where_none_is_booted(vmm: SevVmm) -> None:
    prediction = sev.replay(launch(kernel=True, vmm=vmm))
    assert prediction.established is Established.SPEC_ONLY
    assert prediction.notes == (
        f"vmm {vmm.value}: its hosts boot no kernel directly, so none measures this digest",
    )


def test_what_if_of_the_vm_type() -> None:
    text = differing(
        launch(mode=SevMode.SEV_ES, features=0, legacy_vm_type=False),
        launch(mode=SevMode.SEV_ES, features=0, legacy_vm_type=True),
    )
    assert "first differs at step 2, LAUNCH_UPDATE_VMSA vCPU 0" in text
    assert "  legacy-vm-type: off -> on\n" in text


def test_wrong_use_of_a_digest() -> None:
    state = LaunchDigest()
    for call in (
        lambda: LaunchDigest(b"x"),
        lambda: state.pages(0, b"x" * 47),
        lambda: state.pages(0, b""),
        lambda: state.pages(1, b"x" * 48),
        lambda: state.pages(0, b"x" * 48, PageType.ZERO),
        lambda: state.empty_pages(0, 4095, PageType.ZERO),
        lambda: state.empty_pages(0, 4096, PageType.NORMAL),
        lambda: state.empty_pages(-4096, 4096, PageType.CPUID),
        lambda: state.vcpu(b""),
    ):
        with pytest.raises(MeasureError, match=r"^launch digest: "):
            call()
    assert state.value == bytes(48)


def differing(one: SevLaunch, other: SevLaunch) -> str:
    return str(compare((one, other), (sev.replay(one), sev.replay(other))))


def test_what_if_names_the_page() -> None:
    image = fw.firmware()
    other = SevFirmware.of("G", [image[:0x3010] + b"\0" + image[0x3011:]])
    text = differing(launch(), launch(other))
    assert "LAUNCH_DIGEST: first differs at step 1, NORMAL 0xffff8000 x 8 firmware; input: G" in text
    assert "the first page that differs is at 0xffffb000" in text
    assert "-bios: F, 32768 bytes -> G, 32768 bytes" in text


@pytest.mark.parametrize(
    ("changes", "step", "cause"),
    [
        ({"vcpus": 3}, "step 9, VMSA 0xfffffffff000 x 2 vCPUs 1 to 2", "-smp: 2 -> 3"),
        ({"features": 0x21}, "step 8, VMSA 0xfffffffff000 vCPU 0", "--host sev-features: 0x1 -> 0x21"),
        ({"cpu": CPU_MODELS["EPYC-Genoa"]}, "step 8, VMSA", "-cpu: 25/1/1 -> 25/17/0"),
        ({"vmm": SevVmm.GCE}, "step 2, UNMEASURED 0x800000 x 3 SNP_SEC_MEM", "--machine vmm: qemu -> gce"),
        ({"vmm": SevVmm.EC2}, "step 4, ZERO 0x80f000 SVSM_CAA", "--machine vmm: qemu -> ec2"),
    ],
)
def test_what_if_names_the_cause(changes: dict[str, Any], step: str, cause: str) -> None:
    text = differing(launch(), launch(**changes))
    assert f"first differs at {step}" in text
    assert f"  {cause}\n" in text


def test_what_if_of_the_same() -> None:
    text = differing(launch(), launch(policy=0x70000))
    assert "the launch digest is the same, and so is every step" in text
    assert "policy: 0x30000 -> 0x70000 (not measured)" in text


def test_what_if_of_kernels() -> None:
    other = replace(launch(kernel=True), kernel=replace(KERNEL, sha256=bytes(32)))
    text = differing(launch(kernel=True), other)
    assert f"first differs at step 7, NORMAL 0x810000 table of kernel hashes: kernel {'00' * 32}, " in text
    assert "-kernel: K, sha256 ba7816bf" in text


@settings(max_examples=60)
@given(st.data())
def test_changed_firmware_is_measured_or_refused(data: st.DataObject) -> None:
    image = bytearray(fw.firmware(size=0x1000))
    for _ in range(data.draw(st.integers(1, 3))):
        image[data.draw(st.integers(0x1000 - 0x600, 0xFFF))] = data.draw(st.integers(0, 255))
    changed = SevFirmware.of("F", [bytes(image)])
    # Sections of many GiB are pages all the same, and take their time.
    try:
        if sum(item.size for item in changed.sections) > 1 << 24:
            return
        prediction = sev.replay(launch(changed, kernel=True))
    except ImageError:
        return
    assert len(prediction.digest) == 48
    assert page_digests(bytes(image)) == changed.page_digests
