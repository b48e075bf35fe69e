"""Command lines and descriptions with an IGVM file."""

from __future__ import annotations

import shlex

import pytest

from recipes.errors import MeasureError
from recipes.vmm import sev_described, sev_parse
from recipes.vmm.sev_values import ParsedSev, SevFiles, SevHost

MACHINE = "-machine q35,confidential-guest-support=sev0,igvm-cfg=igvm0"
FILE = "-object igvm-cfg,id=igvm0,file=F"
PLAIN = f"qemu-system-x86_64 {MACHINE} -object sev-snp-guest,id=sev0 {FILE} -cpu EPYC-v4 -smp 4"


def parse(text: str, host: SevHost | None = None) -> ParsedSev:
    return sev_parse.parse(shlex.split(text), host=host, file_size=lambda path: 0)


def test_the_line() -> None:
    parsed = parse(PLAIN)
    assert parsed.files == SevFiles(igvm="F")
    assert (parsed.machine.vcpus, parsed.machine.features, parsed.notes) == (4, 1, ())
    assert not parsed.stated_policy
    assert not parsed.stated_features
    stated = parse(PLAIN.replace("id=sev0 ", "id=sev0,policy=0xb0000 "), SevHost(features=0x21))
    assert (stated.machine.policy, stated.machine.features) == (0xB0000, 0x21)
    assert stated.stated_policy
    assert stated.stated_features


def test_the_object_may_come_first() -> None:
    assert parse(f"qemu-system-x86_64 {FILE} {PLAIN.partition(' ')[2].replace(FILE, '')}").files.igvm == "F"


def test_described() -> None:
    parsed = sev_described.parse_described("vmm=qemu,igvm=F,vcpus=2,cpu=EPYC-v4")
    assert parsed.files == SevFiles(igvm="F")
    assert (parsed.machine.kernel_hashes, parsed.notes) == (False, ())


NO_MACHINE = "no machine uses it, so it is not loaded; write -machine q35,igvm-cfg=ID, or leave it out"
BAD = {
    PLAIN.replace(",igvm-cfg=igvm0", ""): f"-object igvm-cfg,id=igvm0,file=F: {NO_MACHINE}",
    f"{PLAIN} -object igvm-cfg,id=igvm1,file=G": f"-object igvm-cfg,id=igvm1,file=G: {NO_MACHINE}",
    f"{PLAIN} {FILE}": "-object: 2 of type igvm-cfg; give one",
    PLAIN.replace(FILE, ""): (
        "-machine igvm-cfg=igvm0: there is no such object; write -object igvm-cfg,id=igvm0,file=FILE"
    ),
    PLAIN.replace(",file=F", ""): "-object igvm-cfg,id=igvm0: file= is missing",
    PLAIN.replace(",file=F", ",file=F,x=1"): (
        "-object igvm-cfg,id=igvm0,file=F,x=1: setting 'x' is not modelled; leave it out"
    ),
    f"{PLAIN} -bios B": (
        "firmware: the firmware is in the IGVM file, and QEMU takes no other beside it; "
        "leave out -bios and -drive if=pflash"
    ),
    f"{PLAIN} -drive if=pflash,file=B": (
        "firmware: the firmware is in the IGVM file, and QEMU takes no other beside it; "
        "leave out -bios and -drive if=pflash"
    ),
    PLAIN.replace("id=sev0 ", "id=sev0,svsm=on "): "svsm=on: the SVSM is in the IGVM file; leave it out",
    PLAIN.replace("id=sev0 ", "id=sev0,kernel-hashes=on ") + " -kernel K": (
        "kernel-hashes=on: QEMU has no place for the hashes beside F, and does not start so; "
        "leave it out, or put the kernel into the IGVM file"
    ),
    PLAIN.replace("id=sev0 ", "id=sev0,debug-swap=on "): (
        "-object sev-snp-guest,id=sev0,debug-swap=on: debug-swap=on: QEMU takes SEV_FEATURES from the VMSA "
        "of the IGVM file; leave it out"
    ),
    PLAIN.replace("sev-snp-guest,id=sev0", "sev-guest,id=sev0,policy=0x5"): (
        "-object sev-guest,id=sev0,policy=0x5: sev-es from an IGVM file is not modelled; "
        "use sev-snp, or give the firmware itself"
    ),
}


@pytest.mark.parametrize(("line", "message"), BAD.items(), ids=[str(n) for n in range(len(BAD))])
def test_refused(line: str, message: str) -> None:
    with pytest.raises(MeasureError) as caught:
        parse(line)
    assert str(caught.value) == message


BAD_DESCRIBED = {
    "vmm=ec2,igvm=F,vcpus=1": "igvm=FILE is modelled for vmm=qemu, not for ec2; give firmware=FILE",
    "vmm=qemu,igvm=F,firmware=B,vcpus=1": "the firmware is in the IGVM file; leave out firmware=",
    "vmm=qemu,igvm=F,kernel=K,vcpus=1": (
        "nothing of a kernel beside an IGVM file is measured; leave out kernel=, initrd= and append="
    ),
}


@pytest.mark.parametrize(("text", "what"), BAD_DESCRIBED.items())
def test_refused_descriptions(text: str, what: str) -> None:
    with pytest.raises(MeasureError) as caught:
        sev_described.parse_described(text)
    assert str(caught.value) == f"--machine {text}: {what}"
