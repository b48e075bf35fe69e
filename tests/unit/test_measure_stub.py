from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace

import pytest

from recipes.errors import MeasureError
from recipes.measure import stub
from recipes.measure.sidecar import SideFile
from recipes.measure.stub import StubInputs
from recipes.measure.trace import HashAlgorithm, Step, measured
from recipes.measure.ukifile import Addon, MeasuredUki, StubSection
from tests.unit.measure_images import kernel, pe_image, uki
from tests.unit.test_measure_sidecar import newc

CMDLINE = b" quiet\n"
IMAGE = uki(osrel=b"ID=x\n", cmdline=CMDLINE, initrd=b"initrd", uname=b"6.12")
INPUTS = StubInputs(name="u.efi", uki=IMAGE)
SMBIOS = ["io.systemd.stub.kernel-cmdline-extra=from-smbios"]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def utf16(text: str) -> bytes:
    return (text + "\0").encode("utf-16-le")


def rows(steps: Iterable[Step], *registers: str) -> list[tuple[str, str, str]]:
    return [
        (step.register, step.operation, step.digests[HashAlgorithm.SHA256].hex())
        for step in steps
        if not registers or step.register in registers
    ]


def ipl(register: str, data: bytes) -> tuple[str, str, str]:
    return (register, "EV_IPL", sha256(data))


def tag(register: str, data: bytes) -> tuple[str, str, str]:
    return (register, "EV_EVENT_TAG", sha256(data))


def os_release() -> bytes:
    return newc((".extra", 0o40555, b""), (".extra/os-release", 0o100444, b"ID=x\n"))


def test_a_plain_uki() -> None:
    prepared = stub.prepare(INPUTS)
    assert rows(stub.stub_steps(prepared)) == [
        ipl("PCR11", b".linux\0"),
        ipl("PCR11", kernel()),
        ipl("PCR11", b".osrel\0"),
        ipl("PCR11", b"ID=x\n"),
        ipl("PCR11", b".cmdline\0"),
        ipl("PCR11", CMDLINE),
        ipl("PCR11", b".initrd\0"),
        ipl("PCR11", b"initrd"),
        ipl("PCR11", b".uname\0"),
        ipl("PCR11", b"6.12"),
        (
            "PCR4",
            "EV_EFI_BOOT_SERVICES_APPLICATION",
            prepared.uki.kernel.digests[HashAlgorithm.SHA256].hex(),
        ),
        tag("PCR9", utf16("quiet")),
        tag("PCR9", b"initrd\0\0" + os_release()),
    ]


def test_secure_boot_leaves_the_kernel_out_of_pcr_4() -> None:
    prepared = stub.prepare(INPUTS)
    with_it = rows(stub.stub_steps(prepared))
    without = rows(stub.stub_steps(prepared, secure_boot=True))
    assert [row for row in with_it if row[0] != "PCR4"] == without


def addon(**sections: bytes) -> bytes:
    return pe_image([(f".{name}", data) for name, data in sections.items()])


ADDONS = replace(
    INPUTS,
    extra=(
        SideFile(
            "b.addon.efi", addon(cmdline=b"b=1\n", dtb=b"tree-b", initrd=b"initrd-b", ucode=b"ucode-b!")
        ),
        SideFile("a.ADDON.efi", addon(cmdline=b"a=1", initrd=b"initrd-a")),
        SideFile("old.addon.efi", addon(cmdline=b"old=1", uname=b"5.10\0")),
        SideFile("c.cred", b"secret"),
        SideFile("s.raw", b"sysext"),
        SideFile("c.confext.raw", b"confext"),
    ),
    global_addons=(
        SideFile("z.addon.efi", addon(cmdline=b"z=1", ucode=b"ucode-z")),
        SideFile("note.txt", b""),
    ),
    global_credentials=(SideFile("g.cred", b"global"),),
)


def archive(folder: str, mode: int, name: str, file_mode: int, data: bytes) -> bytes:
    path = f".extra/{folder}"
    return newc(
        (".extra", 0o40555, b""), (path, 0o40000 | mode, b""), (f"{path}/{name}", 0o100000 | file_mode, data)
    )


CREDENTIALS = archive("credentials", 0o500, "c.cred", 0o400, b"secret")
GLOBAL = archive("global_credentials", 0o500, "g.cred", 0o400, b"global")
SYSEXT = archive("sysext", 0o555, "s.raw", 0o444, b"sysext")
CONFEXT = archive("confext", 0o555, "c.confext.raw", 0o444, b"confext")


def test_everything_beside_a_uki() -> None:
    prepared = stub.prepare(ADDONS)
    steps = stub.stub_steps(prepared, smbios_strings=SMBIOS)
    images = [step.source for step in steps if step.register == "PCR4"]
    assert images == ["z.addon.efi", "a.ADDON.efi", "b.addon.efi", "old.addon.efi", "u.efi .linux"]
    assert rows(steps, "PCR12", "PCR13", "PCR9") == [
        ipl("PCR12", utf16("z=1 a=1 b=1")),
        ipl("PCR12", utf16("from-smbios")),
        tag("PCR12", b"tree-b"),
        ipl("PCR12", CREDENTIALS),
        ipl("PCR12", GLOBAL),
        ipl("PCR13", SYSEXT),
        ipl("PCR12", CONFEXT),
        tag("PCR12", b"ucode-b!"),
        tag("PCR12", b"ucode-z"),
        tag("PCR12", b"initrd-a"),
        tag("PCR12", b"initrd-b"),
        tag("PCR9", utf16("quiet z=1 a=1 b=1 from-smbios")),
        tag(
            "PCR9",
            b"ucode-b!ucode-z\0initrd\0\0"
            + CREDENTIALS
            + GLOBAL
            + SYSEXT
            + CONFEXT
            + os_release()
            + b"initrd-ainitrd-b",
        ),
    ]


def test_a_confidential_vm_ignores_smbios() -> None:
    prepared = stub.prepare(INPUTS)
    steps = stub.stub_steps(prepared, smbios_strings=SMBIOS, confidential_vm=True)
    assert rows(steps, "PCR12") == []
    assert rows(steps, "PCR9")[0] == tag("PCR9", utf16("quiet"))


def test_verified_addons_have_their_authority_in_front() -> None:
    prepared = stub.prepare(ADDONS)
    note = Step(register="PCR7", operation="EV_EFI_VARIABLE_AUTHORITY", digests={}, size=0, source="db")
    steps = stub.stub_steps(prepared, secure_boot=True, addon_authorities=((), (note,), (), ()))
    shown = [step.source for step in steps if step.register in ("PCR4", "PCR7")]
    assert shown == ["z.addon.efi", "db", "a.ADDON.efi", "b.addon.efi", "old.addon.efi"]


@pytest.mark.parametrize(
    ("secure_boot", "passed", "final"), [(False, ["debug"], "debug"), (True, [], "quiet")]
)
def test_load_options(secure_boot: bool, passed: list[str], final: str) -> None:
    steps = stub.stub_steps(
        stub.prepare(replace(INPUTS, load_options="debug ")), secure_boot=secure_boot, smbios_strings=()
    )
    assert rows(steps, "PCR12") == [ipl("PCR12", utf16(text)) for text in passed]
    assert rows(steps, "PCR9")[0] == tag("PCR9", utf16(final))


def test_a_profile_is_measured_unless_it_is_the_first() -> None:
    sections = [(".profile", b"ID=main"), (".profile", b"ID=debug"), (".cmdline", b"debug")]
    magic = b"#### LoaderInfo: systemd-stub 257.13-1~deb13u1 ####\0"
    image = pe_image([(".sdmagic", magic), (".linux", kernel()), *sections])
    found = {}
    for options in ("@0", "@1"):
        steps = stub.stub_steps(stub.prepare(StubInputs(name="u.efi", uki=image, load_options=options)))
        found[options] = rows(steps, "PCR12")
        profile = newc((".extra", 0o40555, b""), (".extra/profile", 0o100444, sections[int(options[1])][1]))
        # A single part is handed on as it is; archives are a multiple of 4 anyway.
        assert rows(steps, "PCR9")[-1] == tag("PCR9", profile)
    assert found == {"@0": [], "@1": [tag("PCR12", utf16("1"))]}


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({}, []),
        ({"initrd": b"abc"}, [tag("PCR9", b"abc")]),
        ({"cmdline": b" "}, [tag("PCR9", b"\0\0")]),
        ({"ucode": b"u", "initrd": b"abc"}, [tag("PCR9", b"u\0\0\0abc\0")]),
    ],
)
def test_what_the_kernel_is_handed(sections: dict[str, bytes], expected: list[tuple[str, str, str]]) -> None:
    steps = stub.stub_steps(stub.prepare(StubInputs(name="u.efi", uki=uki(**sections))))
    assert rows(steps, "PCR9") == expected


@pytest.mark.parametrize("version", ["258.1", "256.9", "25.7", "v257", "257rc"])
def test_only_known_stubs(version: str) -> None:
    image = measured(b"")
    linux = StubSection(".linux", b"k", measured(b"k"))
    found = MeasuredUki(name="u.efi", stub_version=version, image=image, kernel=image, sections=(linux,))
    if version == "257rc":
        assert stub.check_version(found) == 257
        return
    with pytest.raises(MeasureError) as caught:
        stub.check_version(found)
    expected = f"u.efi: the stub is systemd-stub {version}, and only the rules of 257 are known"
    assert str(caught.value) == f"{expected}; build the UKI with such a stub"


def test_an_unknown_stub_is_refused_before_anything_is_predicted() -> None:
    image = IMAGE.replace(b"systemd-stub 257.13-1~deb13u1", b"systemd-stub 258.13-1~deb13u1")
    with pytest.raises(MeasureError, match=r"u\.efi: the stub is systemd-stub 258\.13-1~deb13u1"):
        stub.prepare(replace(INPUTS, uki=image))


def test_a_command_line_that_is_not_text() -> None:
    prepared = stub.prepare(StubInputs(name="u.efi", uki=uki(cmdline=b"a\xff")))
    with pytest.raises(MeasureError) as caught:
        stub.stub_steps(prepared)
    assert str(caught.value) == "u.efi .cmdline: byte 1 is not UTF-8; write the text in ASCII"


def test_nothing_of_an_addon_for_another_kernel_is_used() -> None:
    other = Addon(name="x", image=measured(b""), uname=b"5.10\0", command_line=b"x")
    prepared = replace(stub.prepare(INPUTS), addons=(other,))
    assert prepared.used_addons == ()
