"""QEMU command lines with SEV, and described machines: what they say, and what is refused."""

from __future__ import annotations

import shlex
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import MeasureError
from recipes.machine.sev import SevMachine, SevMode, SevVmm
from recipes.machine.sev_cpus import CPU_MODELS, CpuSignature
from recipes.vmm import sev_described, sev_parse
from recipes.vmm.sev_values import ParsedSev, SevFiles, SevHost, parse_cpu, parse_host

START = "qemu-system-x86_64 -machine q35,confidential-guest-support=sev0"
SNP = f"{START} -object sev-snp-guest,id=sev0,kernel-hashes=on"
PLAIN = f"{SNP} -cpu EPYC-v4 -smp 4 -bios F"
HOST = SevHost(features=1)


def parse(text: str, host: SevHost = HOST) -> ParsedSev:
    return sev_parse.parse(shlex.split(text), host=host, file_size=lambda path: 0x84000)


def test_the_whole_line() -> None:
    parsed = parse(f"{PLAIN} -kernel K -initrd I -append 'a b,c'")
    assert parsed.machine == SevMachine(
        name="command line",
        mode=SevMode.SEV_SNP,
        vmm=SevVmm.QEMU,
        vcpus=4,
        cpu=CPU_MODELS["EPYC-v4"],
        features=1,
        kernel_hashes=True,
        policy=0x30000,
        cmdline="a b,c",
    )
    assert parsed.files == SevFiles(firmware="F", kernel="K", initrd="I", rom=True)
    assert (parsed.ignored, parsed.notes) == ((), ())


def test_what_is_assumed_is_said() -> None:
    (note,) = parse(PLAIN, SevHost()).notes
    assert note == (
        "SEV_FEATURES 0x1 assumed; a host that turns more on measures another value: "
        "give --host sev-features=0x21 where KVM has debug_swap on"
    )
    both = PLAIN.replace("kernel-hashes=on", "debug-swap=on,secure-tsc=on")
    (note,) = parse(both, SevHost()).notes
    assert note == (
        "SEV_FEATURES 0x221 assumed; a host that turns more on measures another value: "
        "give --host sev-features=N where KVM does"
    )


def test_what_has_no_influence() -> None:
    line = (
        f"{PLAIN} -nodefaults -m 4G,slots=2 -enable-kvm -accel kvm -drive if=none,id=d,file=D"
        " -device virtio-blk-pci,drive=d -object memory-backend-memfd,id=ram1,size=4G"
        " -machine memory-backend=ram1,vmport=off -netdev user,id=n"
        " -drive if=pflash,unit=1,file=VARS -global ICH9-LPC.disable_s3=1"
    )
    parsed = parse(line.replace("-bios F", "-drive if=pflash,unit=0,format=raw,readonly=on,file=F"))
    assert parsed.machine == parse(PLAIN).machine
    assert parsed.files == SevFiles(firmware="F", flash=("F", "VARS"), raw=("F",))
    assert len(parsed.ignored) == 12


@pytest.mark.parametrize(
    ("smp", "vcpus"),
    [
        ("3", 3),
        ("cpus=5,maxcpus=8", 5),
        ("maxcpus=6", 6),
        ("sockets=2,cores=3,threads=2", 12),
        ("8,cores=8", 8),
        ("8,sockets=2", 8),
        ("2,maxcpus=8,sockets=2,cores=2,threads=2", 2),
        ("4,dies=2,modules=2,clusters=1", 4),
    ],
)
def test_vcpus(smp: str, vcpus: int) -> None:
    assert parse(PLAIN.replace("-smp 4", f"-smp {smp}")).machine.vcpus == vcpus


def test_one_vcpu_where_none_are_named() -> None:
    assert parse(PLAIN.replace("-smp 4", "")).machine.vcpus == 1


@pytest.mark.parametrize(
    ("guest", "mode", "policy", "features"),
    [
        ("sev-guest", SevMode.SEV, 1, 0),
        ("sev-guest,policy=0x3", SevMode.SEV, 3, 0),
        ("sev-guest,policy=5", SevMode.SEV_ES, 5, 0),
        ("sev-guest,policy=0x5,debug-swap=on", SevMode.SEV_ES, 5, 0x20),
        ("sev-snp-guest,policy=0xb0000,cbitpos=51,reduced-phys-bits=1", SevMode.SEV_SNP, 0xB0000, 1),
        ("sev-snp-guest,debug-swap=on,secure-tsc=on", SevMode.SEV_SNP, 0x30000, 0x221),
    ],
)
def test_modes(guest: str, mode: SevMode, policy: int, features: int) -> None:
    machine = parse(PLAIN.replace("sev-snp-guest", guest), SevHost()).machine
    assert (machine.mode, machine.policy, machine.features) == (mode, policy, features)
    assert (machine.cpu is None) == (mode is SevMode.SEV)


ES = PLAIN.replace("sev-snp-guest", "sev-guest,policy=5")


@pytest.mark.parametrize(
    ("kind", "settings", "legacy", "note"),
    [
        ("q35", "", None, None),
        ("pc-q35-rhel9.4.0", "", None, None),
        ("q35", ",legacy-vm-type=on", True, None),
        ("q35", ",legacy-vm-type=off", False, None),
        ("pc-q35-8.2", ",legacy-vm-type=off", False, None),
        ("q35", ",legacy-vm-type=auto", True, None),
        ("q35", ",legacy-vm-type=auto,debug-swap=on", False, None),
        ("q35", ",debug-swap=on", False, None),
        ("pc-q35-9.0", "", True, "on"),
        ("pc-q35-10.1", "", True, "on"),
        ("pc-q35-11.0", ",debug-swap=on", False, "off"),
    ],
)
def test_vm_type(kind: str, settings: str, legacy: bool | None, note: str | None) -> None:
    line = ES.replace("q35,", f"{kind},").replace(",kernel-hashes=on", settings)
    parsed = parse(line, SevHost(features=0x20))
    assert (parsed.machine.mode, parsed.machine.legacy_vm_type) == (SevMode.SEV_ES, legacy)
    text = f"legacy-vm-type={note}: QEMU takes it so with {kind} where it is not stated"
    assert parsed.notes == ((text,) if note else ())


def test_vm_type_of_plain_sev() -> None:
    parsed = parse(PLAIN.replace("sev-snp-guest", "sev-guest,legacy-vm-type=on"), SevHost())
    assert parsed.machine.legacy_vm_type is None
    assert "-object sev-guest: legacy-vm-type=on" in parsed.ignored


def test_described_vm_type() -> None:
    text = "vmm=qemu,mode=sev-es,firmware=F,vcpus=1,cpu=EPYC"
    for setting, legacy in (("", None), (",legacy-vm-type=on", True), (",legacy-vm-type=off", False)):
        assert described(text + setting, SevHost()).machine.legacy_vm_type is legacy


def test_policies_of_today() -> None:
    # Bits 16 to 25 but 18 (a migration agent), and versions of the firmware.
    for policy in (0x20000, 0x3FBFFFF, 0xB0137):
        line = PLAIN.replace("kernel-hashes=on", f"policy={policy:#x}")
        assert parse(line).machine.policy == policy


def test_host_cpu() -> None:
    host = SevHost(features=1, family=25, model=17, stepping=1)
    line = PLAIN.replace("EPYC-v4", "host,+x2apic")
    assert parse(line, host).machine.cpu == CpuSignature(25, 17, 1)
    stated = PLAIN.replace("EPYC-v4", "EPYC-Genoa,stepping=1,-sse4a")
    assert parse(stated).machine.cpu == CpuSignature(25, 17, 1)


def test_units_of_flash() -> None:
    base = PLAIN.replace(" -bios F", "")
    for first in ("index=0,", "unit=0,", ""):
        options = "id=f,readonly=on,cache=none,aio=threads,discard=ignore,snapshot=on,werror=stop"
        parsed = parse(f"{base} -drive if=pflash,index=1,file=V -drive if=pflash,{first}file=F,{options}")
        assert parsed.files == SevFiles(firmware="F", flash=("F", "V"))


def test_globals_of_other_drivers() -> None:
    for text in (
        "driver=cfi.pflash01,property=secure,value=on",
        "ICH9-LPC.disable_s3=1",
        "virtio-net-pci.romfile=a,b=c",
        "property=romfile,driver=e1000,value=cpu",
    ):
        assert parse(f"{PLAIN} -global {text}").ignored == (f"-global {text}",)


def test_machines_of_one_kind() -> None:
    line = PLAIN.replace("q35,", "pc-q35-9.2,")
    assert parse(line).machine == parse(PLAIN).machine
    for kind in ("pc", "pc-i440fx-9.2", "microvm", "q35x", "isapc"):
        with pytest.raises(MeasureError) as caught:
            parse(PLAIN.replace("q35,", f"{kind},"))
        assert str(caught.value) == f"-machine {kind}: is not modelled; use q35"


@pytest.mark.parametrize(
    "host",
    [SevHost(features=1), SevHost(features=0), SevHost(family=25), SevHost(model=1), SevHost(stepping=1)],
)
def test_plain_sev_has_no_facts(host: SevHost) -> None:
    calls = [
        partial(parse, PLAIN.replace("sev-snp-guest", "sev-guest"), host),
        partial(described, "vmm=qemu,mode=sev,firmware=F,vcpus=1", host),
    ]
    if host.features is None:
        calls += [partial(described, f"vmm={vmm},firmware=F,vcpus=1", host) for vmm in ("ec2", "gce")]
    for call in calls:
        with pytest.raises(
            MeasureError, match=r"^--host [a-z-]+=\w+: .* no (vCPU|CPU signature).*; leave it out$"
        ):
            call()


def test_a_fact_beside_the_setting() -> None:
    with pytest.raises(MeasureError, match=r"^--host stepping=2: -cpu host says it; leave one of them out$"):
        parse(PLAIN.replace("EPYC-v4", "host,stepping=1"), SevHost(family=25, model=1, stepping=2))


def test_svsm() -> None:
    line = (
        f"{START} -object sev-snp-guest,id=sev0,svsm=on -cpu EPYC-Milan -drive if=pflash,unit=0,file=F"
        " -drive if=pflash,unit=1,file=V -drive if=pflash,unit=2,file=S"
    )
    parsed = parse(line)
    assert parsed.files == SevFiles(firmware="F", svsm="S", flash=("F", "V", "S"))
    assert (parsed.machine.vmm, parsed.machine.variables_size) == (SevVmm.SVSM, 0x84000)


MODELS = f"; known: {', '.join(sorted([*CPU_MODELS, 'host', 'max']))}"
HOW = "give --host family=F --host model=M --host stepping=S, as /proc/cpuinfo has them"
WRONG = {
    f"{SNP} -cpu EPYC-v4 -smp 0 -bios F": "-smp 0: '0' is no number of vCPUs; give one from 1",
    f"{SNP} -cpu host -bios F": f"-cpu host: the digest depends on the host's family; {HOW}",
    f"{SNP} -bios F": "-cpu: missing; family, model and stepping are measured, so name a model",
    f"{SNP} -cpu EPYC-Millan -bios F": (
        "-cpu EPYC-Millan: no such model of a CPU with SEV; did you mean 'EPYC-Milan'?"
    ),
    f"{SNP} -cpu qemu64 -bios F": f"-cpu qemu64: no such model of a CPU with SEV{MODELS}",
    f"{SNP} -cpu EPYC,stepping=16 -bios F": (
        "-cpu EPYC,stepping=16: stepping 16 is not from 0 to 15; no CPU has such a signature"
    ),
    f"{SNP} -cpu EPYC,family=x -bios F": (
        "-cpu EPYC,family=x: 'x' is no number; write for example 33 or 0x21"
    ),
    f"{SNP} -cpu EPYC": (
        "firmware: missing; give it by -bios FILE or by one -drive if=pflash,format=raw,file=FILE"
    ),
    f"{PLAIN} -pflash G": (
        "firmware: given by -bios and by -drive if=pflash; give it by -bios FILE or by one "
        "-drive if=pflash,format=raw,file=FILE"
    ),
    f"{PLAIN} -initrd I": "-initrd: there is no -kernel that it is for; give one, or leave it out",
    f"{PLAIN} -bios G": "-bios G: given twice, QEMU would take the last one; leave out one of them",
    f"{PLAIN} -machine kernel_irqchip=split,kernel-irqchip=on": (
        "-machine kernel_irqchip=split,kernel-irqchip=on: 'kernel-irqchip' is given twice, "
        "an underscore stands for the dash; write each setting once"
    ),
    f"{PLAIN} -accel tcg": "-accel tcg: SEV needs KVM; write -accel kvm",
    f"{PLAIN} -frobnicate": (
        "-frobnicate: unknown option; leave it out if it has no influence on the launch digest"
    ),
    f"{PLAIN} -m": "-m: its value is missing; it is the last word",
    f"{PLAIN} disk.img": "disk.img: a word without an option is not modelled; write -drive for a disk",
    f"{PLAIN} -device loader,file=x": (
        "-device loader,file=x: it puts a file into memory that is not measured; leave it out"
    ),
    **{
        f"{PLAIN} {option}": f"{option}: it adds a vCPU, which is measured; write how many there are at -smp"
        for option in (
            "-device EPYC-v4-x86_64-cpu,socket-id=1,core-id=0,thread-id=0",
            "-device driver=EPYC-v4-x86_64-cpu,core-id=1",
            "-device core-id=1,driver=host-x86_64-cpu",
            "-device max-x86_64-cpu",
        )
    },
    **{
        f"{PLAIN} {option}": f"{option}: write the setting at -cpu or -object"
        for option in (
            "-global property=stepping,driver=EPYC-v4-x86_64-cpu,value=7",
            "-global driver=EPYC-v4-x86_64-cpu,property=stepping,value=7",
            "-global value=7,property=stepping,driver=x86_64-cpu",
            "-global property=policy,driver=sev-guest,value=7",
            "-global sev-snp-guest.kernel-hashes=on",
            "-global property=stepping,driver=device,value=7",
        )
    },
    f"{PLAIN} -global property=stepping,value=7": ("-global property=stepping,value=7: driver= is missing"),
    **{
        f"{SNP} -cpu EPYC -drive if=pflash,file=F,{setting}": (
            f"-drive if=pflash,file=F,{setting}: setting {setting.partition('=')[0]!r} is not modelled; "
            "leave it out"
        )
        for setting in ("offset=4096,size=8192", "size=8192", "bus=1", "file.offset=4096")
    },
    f"{SNP} -cpu EPYC -drive if=pflash,index=1,unit=0,file=F": (
        "-drive if=pflash,index=1,unit=0,file=F: index is the unit of flash; write unit alone"
    ),
    f"{SNP} -cpu EPYC -drive readonly,if=pflash,file=F": (
        "-drive readonly,if=pflash,file=F: 'readonly' has no =; write key=value,key=value"
    ),
    f"{SNP} -cpu EPYC -drive if=pflash,index=1,file=F": (
        "firmware: missing; give it by -bios FILE or by one -drive if=pflash,format=raw,file=FILE"
    ),
    f"{PLAIN} -machine auto-kernel-cmdline=on": (
        "-machine auto-kernel-cmdline=on: setting 'auto-kernel-cmdline' is not modelled; leave it out"
    ),
    **{
        PLAIN.replace("-smp 4", f"-smp {smp}"): f"-smp {smp}: {what}"
        for smp, what in (
            (
                "9,sockets=2,cores=2",
                "4 of sockets, cores do not make 9 vCPUs; make them the number of maxcpus, or leave them out",
            ),
            (
                "4,sockets=2,cores=1,threads=1",
                (
                    "2 of sockets, cores, threads do not make 4 vCPUs; "
                    "make them the number of maxcpus, or leave them out"
                ),
            ),
            (
                "2,cores=4",
                "4 of cores do not make 2 vCPUs; make them the number of maxcpus, or leave them out",
            ),
            ("8,maxcpus=4", "8 vCPUs are more than maxcpus=4; QEMU does not start so"),
            ("4,clusters=2", "a q35 has no clusters; leave clusters out"),
        )
    },
    f"{PLAIN} -global EPYC-v4-x86_64-cpu.stepping=3": (
        "-global EPYC-v4-x86_64-cpu.stepping=3: write the setting at -cpu or -object"
    ),
    f"{PLAIN} -object igvm-cfg,id=i,file=x": (
        "-object igvm-cfg,id=i,file=x: no machine uses it, so it is not loaded; "
        "write -machine q35,igvm-cfg=ID, or leave it out"
    ),
    f"{PLAIN} -object tdx-guest,id=t": (
        "-object tdx-guest,id=t: TDX is not modelled yet; give a machine with SEV"
    ),
    f"{PLAIN} -object sev-thing,id=t": (
        "-object sev-thing,id=t: objects of type sev-thing are not modelled; "
        "leave it out if it has no influence on the launch"
    ),
    f"{PLAIN} -drive if=pflash,unit=1,file=V": (
        "-drive if=pflash,unit=1: QEMU takes none without unit 0; give both, or leave it out"
    ),
    f"{SNP} -cpu EPYC -drive if=pflash,file=F -drive if=pflash,unit=2,file=S -object sev-guest,id=x": (
        "-object: 2 of types sev-guest and sev-snp-guest; give one"
    ),
    PLAIN.replace("kernel-hashes=on", "legacy-vm-type=on"): (
        "-object sev-snp-guest,id=sev0,legacy-vm-type=on: setting 'legacy-vm-type' is not modelled; "
        "leave it out"
    ),
    PLAIN.replace("kernel-hashes=on", "policy=0x10000"): (
        "-object sev-snp-guest,id=sev0,policy=0x10000: policy 0x10000 lacks bit 17, which every SEV-SNP "
        "guest has; write policy=0x30000"
    ),
    PLAIN.replace("kernel-hashes=on", "policy=0x4070000"): (
        "-object sev-snp-guest,id=sev0,policy=0x4070000: policy 0x4070000 has bits 0x4040000, which KVM "
        "refuses; write policy=0x30000"
    ),
    PLAIN.replace("sev-snp-guest", "sev-guest,policy=0x100000001"): (
        "-object sev-guest,policy=0x100000001,id=sev0,kernel-hashes=on: policy 0x100000001 has more than "
        "32 bits; QEMU does not start so"
    ),
    PLAIN.replace("sev-snp-guest", "sev-guest,policy=5,legacy-vm-type=maybe"): (
        "-object sev-guest,policy=5,legacy-vm-type=maybe,id=sev0,kernel-hashes=on: legacy-vm-type=maybe is "
        "neither on nor off"
    ),
    PLAIN.replace("sev-snp-guest", "sev-guest,policy=5,legacy-vm-type=on,debug-swap=on"): (
        "-object sev-guest,policy=5,legacy-vm-type=on,debug-swap=on,id=sev0,kernel-hashes=on: debug-swap=on "
        "needs the newer VM type; write legacy-vm-type=off"
    ),
    PLAIN.replace(" -object sev-snp-guest,id=sev0,kernel-hashes=on", ""): (
        "-object: 0 of types sev-guest and sev-snp-guest; give one"
    ),
    """kvm -machine q35 -object '{"qom-type":"sev-snp-guest","id":"s"}'""": (
        '-object {"qom-type":"sev-snp-guest","id":"s"}: no machine uses it, so nothing is measured; '
        "write -machine q35,confidential-guest-support=s"
    ),
    **{
        f"{START} -cpu EPYC -bios F -object '{text}'": f"-object {text}: {what}"
        for text, what in (
            (
                '{"qom-type":"sev-snp-guest","id":"sev0","kernel-hashes":"on"}',
                "kernel-hashes is not true or false; write it so",
            ),
            (
                '{"qom-type":"sev-snp-guest","id":"sev0","policy":"0x30000"}',
                "policy is not a number; write it so",
            ),
            (
                '{"qom-type":"sev-snp-guest","id":"sev0","policy":true}',
                "policy is not a number; write it so",
            ),
            (
                '{"qom-type":"sev-snp-guest","id":["sev0"]}',
                "id is no text, whole number, true or false; write key=value,key=value",
            ),
            (
                '{"qom-type":"sev-snp-guest","id":"sev0","cbitpos":51.0}',
                "cbitpos is no text, whole number, true or false; write key=value,key=value",
            ),
            (
                '{"qom-type":"sev-snp-guest","id":"sev0","id":"sev1"}',
                "no JSON: a key is written twice in one object; write key=value,key=value",
            ),
            (
                '{"qom-type":"sev-snp-guest"',
                "no JSON: Expecting ',' delimiter: line 1 column 28 (char 27); write key=value,key=value",
            ),
            (
                '{"qom-type":"sev-snp-guest","id":"sev0","frob":1}',
                "setting 'frob' is not modelled; leave it out",
            ),
            ('{"id":"sev0"}', "qom-type= is missing"),
            (
                '{"qom-type":"sev-snp-guest,id=x"}',
                "qom-type 'sev-snp-guest,id=x' is not a name; write key=value,key=value",
            ),
            (
                '{"qom-type":"sev-snp-guest","a,b=c":1}',
                "'a,b=c' is not a setting's name; write key=value,key=value",
            ),
            (
                r'{"qom-type":"sev-snp-guest","id":"a\u0000"}',
                "id holds what no command line can; write key=value,key=value",
            ),
            (
                r'{"qom-type":"sev-snp-guest","id":"\ud800"}',
                "id holds what no command line can; write key=value,key=value",
            ),
        )
    },
    f"{PLAIN} -machine pflash0=n": (
        "-machine pflash0=n: flash by -blockdev is not modelled; "
        "write -drive if=pflash,unit=N,format=raw,file=..."
    ),
    f"{PLAIN} -machine kernel=K": "-machine kernel=K: setting 'kernel' is not modelled; leave it out",
    f"{PLAIN} -machine pc": "-machine pc: type is given twice with different values",
    f"{PLAIN} -object sev-guest,id=b": "-object: 2 of types sev-guest and sev-snp-guest; give one",
    f"{PLAIN} -shim S": (
        "-shim: not modelled; it is given to the firmware beside the kernel, and how is not modelled"
    ),
    f"{PLAIN} -drive if=pflash,unit=3,file=x": (
        "-drive if=pflash,unit=3,file=x: flash units are 0 (code), 1 (variables) and 2 (SVSM), once each"
    ),
    f"{PLAIN} -drive if=pflash,unit=1,format=qcow2,file=x": (
        "-drive if=pflash,unit=1,format=qcow2,file=x: flash is measured as it is in memory; "
        "convert it to raw, and write format=raw"
    ),
    "kvm -object sev-guest,id=b -cpu EPYC": (
        "-machine: missing; write -machine q35,confidential-guest-support=ID"
    ),
    "kvm -machine isapc -object sev-guest,id=b": "-machine isapc: is not modelled; use q35",
    "kvm -M q35 -object sev-guest,id=b": (
        "-object sev-guest,id=b: no machine uses it, so nothing is measured; "
        "write -machine q35,confidential-guest-support=b"
    ),
    PLAIN.replace("kernel-hashes=on", "kernel-hashes=maybe"): (
        "-object sev-snp-guest,id=sev0,kernel-hashes=maybe: kernel-hashes=maybe is neither on nor off"
    ),
    PLAIN.replace("kernel-hashes=on", "frob=1"): (
        "-object sev-snp-guest,id=sev0,frob=1: setting 'frob' is not modelled; leave it out"
    ),
    PLAIN.replace("kernel-hashes=on", "debug-swap=on"): (
        "-object sev-snp-guest,id=sev0,debug-swap=on: it turns on 0x20, --host sev-features=0x1 lacks it; "
        "add the bit"
    ),
    PLAIN.replace("kernel-hashes=on", "svsm=on"): (
        "svsm: an SVSM is svsm=on at the object, with its file in flash unit 2; give both or none"
    ),
}


@pytest.mark.parametrize("line", sorted(WRONG))
def test_wrong(line: str) -> None:
    with pytest.raises(MeasureError) as caught:
        parse(line)
    assert str(caught.value) == WRONG[line]


def test_two_words_for_one_cpu() -> None:
    with pytest.raises(MeasureError, match=r"^--host model=1: -cpu EPYC-v4 says it; leave one of them out$"):
        parse(PLAIN, SevHost(features=1, model=1))


def test_which_command_lines_are_meant() -> None:
    assert sev_parse.is_sev(shlex.split(PLAIN))
    for option, value in (
        ("--object", "qom-type=sev-guest,id=x"),
        ("-object", "id=x,policy=5,qom-type=sev-guest"),
        ("-object", "id=x,qom-type=sev-snp-guest,policy=5"),
        ("-object", '{"id": "x", "qom-type": "sev-snp-guest"}'),
        ("-object", "tdx-guest,id=x"),
        ("-machine", "q35,confidential-guest-support=x"),
        ("-M", "confidential-guest-support=x,type=q35"),
        ("--machine", "q35,memory-encryption=x"),
    ):
        assert sev_parse.is_sev(["/usr/bin/kvm", option, value]), value
        assert not sev_parse.is_sev(["/usr/bin/kvm", "-name", value])
    assert not sev_parse.is_sev(["qemu-system-x86_64", "-object", "rng-random,id=sev-guest"])
    assert not sev_parse.is_sev(["qemu-system-x86_64", "-object", "secret,id=a,data=sev-guest,format=raw"])
    assert not sev_parse.is_sev(["qemu-system-x86_64", "-machine", "q35,accel=kvm"])
    assert not sev_parse.is_sev(["lkvm", "-object", "sev-guest,id=x"])
    assert not sev_parse.is_sev([])


def test_host() -> None:
    facts = parse_host(["sev-features=0x21", "family=25", "model=0x11", "stepping=1"])
    assert facts == SevHost(features=0x21, family=25, model=17, stepping=1)
    known = "; known: family, model, sev-features, stepping"
    for item, what in (
        ("sev-feature=1", "no such fact of a host with SEV; did you mean 'sev-features'?"),
        ("num_bps=1", f"no such fact of a host with SEV{known}"),
        ("family", "write family=NUMBER"),
        ("family=-1", "'-1' is no number; write for example 33 or 0x21"),
        (
            "sev-features=0x10000000000000000",
            "'0x10000000000000000' is no number; write for example 33 or 0x21",
        ),
        (
            "sev-features=18446744073709551616",
            "'18446744073709551616' has more than 64 bits; write for example 33 or 0x21",
        ),
    ):
        with pytest.raises(MeasureError) as caught:
            parse_host([item])
        assert str(caught.value) == f"--host {item}: {what}"
    assert parse_host(["sev-features=18446744073709551615"]).features == (1 << 64) - 1
    with pytest.raises(MeasureError, match=r"^--host family=2: given twice; write it once$"):
        parse_host(["family=1", "family=2"])


def test_cpus_by_name_or_number() -> None:
    assert parse_cpu("EPYC-Genoa", "x") == CpuSignature(25, 17, 0)
    assert parse_cpu("25/0x11/1", "x") == CpuSignature(25, 17, 1)
    for text in ("EPYC-Mars", "25/1", "25/1/1/1", "25/a/1", "25/1/99"):
        with pytest.raises(MeasureError, match=r"^x: "):
            parse_cpu(text, "x")


def described(text: str, host: SevHost = HOST) -> ParsedSev:
    return sev_described.parse_described(text, host=host)


def test_described() -> None:
    parsed = described("vmm=gce,firmware=F,vcpus=2,kernel=K,append=a,,b c=d,sev-features=0x21", SevHost())
    assert parsed.machine == SevMachine(
        name="described",
        mode=SevMode.SEV_SNP,
        vmm=SevVmm.GCE,
        vcpus=2,
        cpu=None,
        features=0x21,
        kernel_hashes=True,
        cmdline="a,b c=d",
    )
    assert parsed.files == SevFiles(firmware="F", kernel="K")
    qemu = described("vmm=qemu,firmware=F,vcpus=1,cpu=25/17/1,mode=sev-es").machine
    assert (qemu.cpu, qemu.mode, qemu.policy) == (CpuSignature(25, 17, 1), SevMode.SEV_ES, 5)
    below = described("vmm=svsm,firmware=F,vcpus=1,cpu=EPYC,svsm=S,vars-size=0x84000")
    assert (below.files.svsm, below.machine.variables_size) == ("S", 0x84000)


DESCRIBED = {
    "ec2": "'ec2' has no =; write vmm=ec2,firmware=F,vcpus=N",
    "firmware=F": "vmm= is missing; one of qemu, ec2, gce, svsm",
    "vmm=azure": "vmm: 'azure' is none of qemu, ec2, gce, svsm",
    "vmm=ec2,vcpus=1": "firmware= is missing; write for example firmware=OVMF.fd",
    "vmm=ec2,firmware=F": "vcpus= is missing; write for example vcpus=2",
    "vmm=ec2,firmware=F,vcpus=1,mode=sev-es,legacy-vm-type=on": (
        "legacy-vm-type is for mode=sev-es and vmm=qemu, nothing else depends on it; leave it out"
    ),
    "vmm=qemu,firmware=F,vcpus=1,cpu=EPYC,legacy-vm-type=on": (
        "legacy-vm-type is for mode=sev-es and vmm=qemu, nothing else depends on it; leave it out"
    ),
    "vmm=qemu,firmware=F,vcpus=1,cpu=EPYC,kernel-hashes=on": (
        "kernel-hashes=on without a kernel: QEMU aborts so; give kernel=FILE, or leave it out"
    ),
    "vmm=ec2,firmware=F,vcpus=1,policy=1": (
        "policy 0x1 lacks bit 17, which every SEV-SNP guest has; write policy=0x20001"
    ),
    "vmm=qemu,firmware=F,vcpus=1,cpu=EPYC,mode=sev-es,policy=0xf00000005": (
        "policy 0xf00000005 has more than 32 bits; QEMU does not start so"
    ),
    "vmm=qemu,firmware=F,vcpus=1": "cpu= is missing; give a QEMU model or family/model/stepping",
    "vmm=ec2,firmware=F,vcpus=1,append=x": "initrd and append are for a kernel; give kernel=FILE",
    "vmm=ec2,firmware=F,vcpus=1,svsm=S": "svsm=FILE belongs to vmm=svsm, and to no other; leave it out",
    "vmm=svsm,firmware=F,vcpus=1,cpu=EPYC": "vmm=svsm starts an SVSM below the firmware; give svsm=FILE",
    "vmm=ec2,firmware=F,vcpus=1,frob=1": (
        "no such setting as 'frob'; known: append, cpu, firmware, igvm, initrd, kernel, kernel-hashes, "
        "legacy-vm-type, mode, policy, sev-features, svsm, vars-size, vcpus, vmm"
    ),
    "vmm=ec2,firmware=F,vcpu=1": "no such setting as 'vcpu'; did you mean 'vcpus'?",
    **{
        f"vmm={vmm},firmware=F,vcpus=1,cpu=EPYC": (
            f"vmm={vmm} measures no CPU signature, so nothing depends on cpu=EPYC; leave it out"
        )
        for vmm in ("ec2", "gce")
    },
    "vmm=qemu,firmware=F,vcpus=1,cpu=EPYC,vars-size=4096": (
        "vars-size is for an SVSM, below which the store is; leave it out"
    ),
    "vmm=qemu,firmware=F,vcpus=1,cpu=EPYC,mode=sev-es,policy=1": (
        "policy 0x1 is one of sev, and mode is sev-es; change one of the two"
    ),
    "vmm=ec2,firmware=F,vcpus=1,sev-features=1": "sev-features is given by --host as well; leave one out",
}


@pytest.mark.parametrize("text", sorted(DESCRIBED))
def test_wrong_description(text: str) -> None:
    with pytest.raises(MeasureError) as caught:
        described(text)
    assert str(caught.value) == f"--machine {text}: {DESCRIBED[text]}"


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ("cpu=EPYC", "sev measures no CPU signature, so nothing depends on cpu=EPYC; leave it out"),
        ("policy=5", "policy 0x5 is one of sev-es, and mode is sev; change one of the two"),
    ],
)
def test_wrong_description_of_plain_sev(settings: str, what: str) -> None:
    text = f"vmm=qemu,mode=sev,firmware=F,vcpus=1,{settings}"
    with pytest.raises(MeasureError) as caught:
        described(text, SevHost())
    assert str(caught.value) == f"--machine {text}: {what}"
    assert described("vmm=qemu,mode=sev,firmware=F,vcpus=1,policy=3", SevHost()).machine.policy == 3


def test_every_setting_of_the_help_is_read_and_no_other() -> None:
    used = set()
    for text, host in (
        ("vmm=qemu,firmware=F,vcpus=1,cpu=EPYC,mode=sev-es,policy=5,legacy-vm-type=on", HOST),
        ("vmm=gce,firmware=F,vcpus=1,kernel=K,initrd=I,append=a,kernel-hashes=off,sev-features=1", SevHost()),
        ("vmm=svsm,firmware=F,vcpus=1,cpu=EPYC,svsm=S,vars-size=4096", HOST),
        ("vmm=qemu,igvm=G,vcpus=1,cpu=EPYC", HOST),
    ):
        described(text, host)
        used |= {item.partition("=")[0] for item in text.split(",")}
    assert used == set(sev_described.SETTINGS)
    words = sev_described.settings_help()
    assert all(f"{key}=" in words for key in used)


def test_the_guest_as_libvirt_writes_it() -> None:
    # Flat JSON with typed values.
    guest = (
        '{"qom-type":"sev-snp-guest","id":"sev0","cbitpos":51,"reduced-phys-bits":1,"kernel-hashes":true,'
        '"policy":196608,"author-key-enabled":false}'
    )
    line = PLAIN.replace("sev-snp-guest,id=sev0,kernel-hashes=on", f"'{guest}'")
    memory = """-object '{"qom-type":"memory-backend-memfd","id":"pc.ram","size":4294967296,"share":true}'"""
    device = """-device '{"driver":"virtio-net-pci","netdev":"n","bus":"pci.1","multifunction":true}'"""
    parsed = parse(f"{line} {memory} {device} -kernel K")
    assert sev_parse.is_sev(shlex.split(line))
    assert parsed.machine == parse(f"{PLAIN} -kernel K").machine
    assert parsed.stated_policy
    debug = parse(line.replace("196608", "720896")).machine.policy
    assert debug == 0xB0000
    for bad, what in (("loader", "it puts a file into memory"), ("EPYC-x86_64-cpu", "it adds a vCPU")):
        with pytest.raises(MeasureError, match=what):
            parse(f"""{line} -device '{{"driver":"{bad}"}}'""")


def test_machine_settings_with_underscores() -> None:
    line = f"{PLAIN} -machine kernel_irqchip=split,dump_guest_core=off,memory_backend=ram1"
    assert parse(line).ignored == (
        "-machine dump-guest-core=off",
        "-machine kernel-irqchip=split",
        "-machine memory-backend=ram1",
    )
    other = PLAIN.replace("confidential-guest-support", "confidential_guest_support")
    assert parse(other).machine == parse(PLAIN).machine
    assert sev_parse.is_sev(["kvm", "-machine", "q35,confidential_guest_support=x"])


def test_short_globals() -> None:
    assert parse(f"{PLAIN} -global a.b=c").ignored == ("-global a.b=c",)
    for text in ("a.b", "x=y.b=c", f"{'a' * 64}.b=c", f"a.{'b' * 64}=c"):
        with pytest.raises(MeasureError, match="driver= is missing"):
            parse(f"{PLAIN} -global {text}")


def test_no_vcpus() -> None:
    with pytest.raises(
        MeasureError, match=r"^--machine vmm=ec2,.*: '0' is no number of vCPUs; give one from 1$"
    ):
        described("vmm=ec2,firmware=F,vcpus=0")


WORDS = [
    *shlex.split(PLAIN),
    "-kernel",
    "K",
    "-append",
    "",
    "-drive",
    "if=pflash",
    "file=x",
    "-cpu",
    "host,x=,",
    "-object",
    '{"qom-type":1,"id":"sev0"}',
    '{"qom-type":"sev-snp-guest","id":[]}',
    "-device",
    '{"driver":null}',
    '{"driver":"a","b":1e5}',
]


@settings(max_examples=150)
@given(st.lists(st.sampled_from(WORDS) | st.text(max_size=12), max_size=16), st.text(max_size=40))
def test_any_words_are_read_or_refused(words: list[str], text: str) -> None:
    for call in (
        lambda: parse(shlex.join(["kvm", *words])),
        lambda: parse(f"{PLAIN} {shlex.join(words)}"),
        lambda: described(text),
        lambda: described(f"vmm=ec2,firmware=F,vcpus=1,{text}"),
        lambda: parse_host(words),
    ):
        try:
            call()
        except MeasureError as error:
            assert ": " in str(error)
