from __future__ import annotations

import pytest

from recipes.errors import MeasureError
from recipes.measure import commandline
from recipes.measure.commandline import CommandLine, LoadOptions


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        (" \t\n", ""),
        ("  a b\n", "a b"),
        ("a\tb\x7fc\x01d", "a b c d"),
        ("a  b", "a  b"),
        ("\x7f x \x7f", "x"),
        ("caf\xe9\xa0", "caf\xe9\xa0"),
    ],
)
def test_clean(text: str, expected: str) -> None:
    assert commandline.clean(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", LoadOptions()),
        ("\x01\x02", LoadOptions()),
        ("root=x", LoadOptions(0, "root=x")),
        ("@0", LoadOptions(0, "")),
        ("@3", LoadOptions(3, "")),
        ("@3 root=x ", LoadOptions(3, "root=x")),
        ("@3x", LoadOptions(0, "@3x")),
        ("@", LoadOptions(0, "@")),
        ("@4294967295 a", LoadOptions(4294967295, "a")),
    ],
)
def test_load_options(text: str, expected: LoadOptions) -> None:
    assert commandline.parse_load_options(text) == expected


def test_load_options_refuse_a_large_profile() -> None:
    with pytest.raises(MeasureError) as caught:
        commandline.parse_load_options("@4294967296")
    assert str(caught.value) == "load options '@4294967296': the profile must be below 4294967296"


def test_decode_stops_at_nul() -> None:
    assert commandline.decode("gr\xfc\xdf\0rest".encode(), "x") == "gr\xfc\xdf"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"ab\xff", "u.efi .cmdline: byte 2 is not UTF-8; write the text in ASCII"),
        ("\U0001f600".encode(), "u.efi .cmdline: a character is beyond U+FFFF; write the text in ASCII"),
    ],
)
def test_decode_refuses_what_the_stub_would_change(data: bytes, message: str) -> None:
    with pytest.raises(MeasureError) as caught:
        commandline.decode(data, "u.efi .cmdline")
    assert str(caught.value) == message


def test_encode_is_utf16_with_terminator() -> None:
    assert commandline.encode("a\u20ac") == b"a\0\xac\x20\0\0"


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], ""),
        ([" a ", "b\n"], "a b"),
        (["a", " ", "b"], "a  b"),
        ([" ", "b"], "b"),
        (["a", " "], "a"),
    ],
)
def test_addons_join(texts: list[str], expected: str) -> None:
    assert commandline.join_addons(texts) == expected


def test_first_smbios_string_counts() -> None:
    strings = ["other=1", "io.systemd.stub.kernel-cmdline-extra=a", "io.systemd.stub.kernel-cmdline-extra=b"]
    assert commandline.smbios_extra(strings) == "a"
    assert commandline.smbios_extra(["io.systemd.stub.kernel-cmdline-extra"]) == ""


SMBIOS = ["io.systemd.stub.kernel-cmdline-extra=s"]


@pytest.mark.parametrize(
    ("embedded", "passed", "secure_boot", "confidential_vm", "expected"),
    [
        ("e", "", False, False, CommandLine("e a s", None, "a", "s")),
        ("e", "", False, True, CommandLine("e a", None, "a", None)),
        ("e", "p", False, False, CommandLine("p a s", "p", "a", "s")),
        ("e", "p", False, True, CommandLine("p a", "p", "a", None)),
        ("e", "p", True, False, CommandLine("e a s", None, "a", "s")),
        ("e", "p", True, True, CommandLine("e a", None, "a", None)),
        (None, "p", True, False, CommandLine("p a s", "p", "a", "s")),
        (None, "p", True, True, CommandLine("a", None, "a", None)),
        (None, "", False, False, CommandLine("a s", None, "a", "s")),
        (" ", "", False, True, CommandLine("a", None, "a", None)),
    ],
)
def test_settle(
    embedded: str | None, passed: str, secure_boot: bool, confidential_vm: bool, expected: CommandLine
) -> None:
    found = commandline.settle(
        embedded, passed, ["a"], SMBIOS, secure_boot=secure_boot, confidential_vm=confidential_vm
    )
    assert found == expected


@pytest.mark.parametrize(("embedded", "final"), [(None, None), (" ", ""), (" x ", "x")])
def test_settle_tells_empty_from_missing(embedded: str | None, final: str | None) -> None:
    found = commandline.settle(embedded, "", [], [], secure_boot=False, confidential_vm=False)
    assert found == CommandLine(final)
