from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import SpecError
from recipes.sources.providers import KINDS, Provider, read_provider
from tests.support import ROOT

LINES = (
    b"#!/bin/sh",
    b"#: summary asks somebody",
    b"#: kinds passphrase volume-key",
    b"#: formats yes",
    b"#: remembers yes",
    b"#: modules dm-crypt virtio_net",
    b"#: binaries usr/sbin/cryptsetup usr/lib/x/y.so-1+b",
    b"#: helpers tpm2 derive-key",
    b"#: files tpm2.pub kbs-ca.pem",
    b"#: network yes",
    b"#: registers sha256:11 sha384:0 sha512:23",
    b"#: profile dev",
    b"exit 30",
    b"#: a comment further down, \xff",
)
SCRIPT = b"\n".join(LINES)
NOTHING = (
    b"#!/bin/sh\n#: summary s\n#: kinds volume-key\n#: formats no\n#: remembers no\n#: modules none\n"
    b"#: binaries none\n#: helpers none\n#: files none\n#: network no\n#: registers none\n#: profile any\n"
)
# Which kinds of key each of the project's providers gives, and whether it can give one for a new volume.
OURS = {
    "ephemeral": (("volume-key",), True),
    "keyfile": (("passphrase", "volume-key"), True),
    "passphrase": (("passphrase",), True),
    "tpm2": (("passphrase",), True),
    "kbs": (("passphrase", "volume-key"), True),
    "snp-derived-key": (("volume-key",), True),
    "cca-sealing-key": (("volume-key",), True),
    "exec": (("passphrase", "volume-key"), True),
}
KNOWN = "summary, kinds, formats, remembers, modules, binaries, helpers, files, network, registers, profile"


def test_what_a_provider_says_about_itself() -> None:
    assert read_provider("asks", SCRIPT) == Provider(
        name="asks",
        script=SCRIPT,
        summary="asks somebody",
        kinds=("passphrase", "volume-key"),
        formats=True,
        remembers=True,
        modules=("dm-crypt", "virtio_net"),
        binaries=("usr/sbin/cryptsetup", "usr/lib/x/y.so-1+b"),
        helpers=("tpm2", "derive-key"),
        files=("tpm2.pub", "kbs-ca.pem"),
        network=True,
        registers=("sha256:11", "sha384:0", "sha512:23"),
        development=True,
    )


def test_a_provider_that_needs_nothing() -> None:
    assert read_provider("a", NOTHING) == Provider(
        name="a", script=NOTHING, summary="s", kinds=("volume-key",)
    )


def test_registers_of_the_recipe() -> None:
    script = NOTHING.replace(b"registers none", b"registers options")
    assert read_provider("a", script).registers == ("options",)


def with_line(key: str, value: str) -> bytes:
    """The script with another line for ``key``."""
    mark = f"#: {key} ".encode()
    return b"\n".join(mark + value.encode() if line.startswith(mark) else line for line in LINES)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (SCRIPT[2:], ": has no interpreter line; begin it with #!/bin/sh"),
        (SCRIPT.replace(b"kinds", b"kind"), f":3: unknown key 'kind'; known are {KNOWN}"),
        (
            SCRIPT.replace(b"#: network yes\n", b""),
            ": the header lacks network; write a line '#: network ...'",
        ),
        (
            SCRIPT.replace(b"\n#: modules", b"\n\n#: modules"),
            f": the header lacks {KNOWN.partition('remembers, ')[2]}; write a line '#: modules ...'",
        ),
        (
            SCRIPT.replace(b"network yes", b"kinds x"),
            ":10: kinds is there twice; write it once, with 'none' for nothing",
        ),
        (with_line("modules", ""), ":6: modules has no value; write it once, with 'none' for nothing"),
        (with_line("formats", "maybe"), ": formats is 'maybe'; write one of yes, no"),
        (with_line("remembers", "none"), ": remembers is 'none'; write one of yes, no"),
        (with_line("network", "none"), ": network is 'none'; write one of yes, no"),
        (with_line("profile", "release"), ": profile is 'release'; write one of any, dev"),
        *(
            (
                SCRIPT.replace(b"somebody", text),
                ":2: a header line is printable ASCII; replace the other characters",
            )
            for text in (b"\xff", b"a\tb", b"a\r", b"a\x7f", b"\x1b[2J")
        ),
        (with_line("kinds", "none"), ": kinds is 'none'; write passphrase or volume-key, or both"),
        (with_line("kinds", "key"), ": kinds: 'key' is not passphrase or volume-key; write that"),
        (
            with_line("modules", "xts none"),
            ": modules: none is there with others; write it alone, or leave it out",
        ),
        (with_line("modules", "xts xts"), ": modules: xts is there twice; write it once"),
        (
            with_line("modules", "a/b"),
            ": modules: 'a/b' is not a module's name such as dm-crypt; write that",
        ),
        *(
            (
                with_line("binaries", path),
                f": binaries: {path!r} is not a path such as usr/sbin/cryptsetup; write that",
            )
            for path in ("/usr/sbin/a", "sbin/a", "usr/../etc", "usr/", "usr//a", "usr/.x")
        ),
        (
            with_line("helpers", "Tpm2"),
            ": helpers: 'Tpm2' is not a helper's name such as tpm2; write that",
        ),
        (
            with_line("files", "../key"),
            ": files: '../key' is not a file's name such as tpm2.pub; write that",
        ),
        *(
            (
                with_line("registers", word),
                f": registers: {word!r} is not a register such as sha256:11, or options; write that",
            )
            for word in ("sha256:24", "sha1:11", "sha256", "sha256:011", "pcr11")
        ),
        (
            with_line("registers", "sha256:11 options"),
            ": registers: options is there with others; write it alone, or leave it out",
        ),
    ],
)
def test_headers_that_say_something_wrong(script: bytes, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_provider("a", script)
    assert str(caught.value) == f"initrd/unlock.d/a{message}"


@pytest.mark.parametrize("name", ["", "A", "a_b", "-a", "../a", "a\n", "\u00e4"])
def test_names_that_no_provider_has(name: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_provider(name, SCRIPT)
    assert str(caught.value) == (
        f"initrd/unlock.d: {name!r} is not a provider's name; use lower-case letters, digits and hyphens"
    )


def test_every_line_of_the_header_is_wanted() -> None:
    for line in LINES[1:12]:
        with pytest.raises(SpecError, match=r"the header lacks "):
            read_provider("a", SCRIPT.replace(line + b"\n", b""))


def judged(name: str, script: bytes) -> Provider | None:
    """The provider, when there is one; anything but SpecError is a bug."""
    try:
        return read_provider(name, script)
    except SpecError as error:
        assert "\n" not in str(error)
        return None


@settings(max_examples=150)
@given(st.integers(0, len(SCRIPT)), st.integers(0, 40), st.binary(max_size=40))
def test_a_mutated_provider_is_read_or_refused(start: int, drop: int, patch: bytes) -> None:
    provider = judged("a", SCRIPT[:start] + patch + SCRIPT[start + drop :])
    if provider is not None:
        assert set(provider.kinds) <= set(KINDS)
        assert provider.kinds
        assert provider.summary.isprintable()


@settings(max_examples=100)
@given(st.text(max_size=20), st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(name: str, data: bytes) -> None:
    assert judged("a", data) is None
    assert judged("a", b"#!" + data) is None
    if judged(name, SCRIPT) is not None:
        assert name
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


_WORD = st.text("abcxyz019-", min_size=1, max_size=8).filter(
    lambda word: word not in ("none", "options") and word[0] != "-"
)
_WORDS = st.lists(_WORD, max_size=4, unique=True).map(tuple)
_REGISTERS = st.lists(
    st.builds("{}:{}".format, st.sampled_from(("sha256", "sha384", "sha512")), st.integers(0, 23)),
    max_size=4,
    unique=True,
).map(tuple)


@settings(max_examples=100)
@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, unique=True).map(tuple),
    lists=st.tuples(_WORDS, _WORDS, _WORDS, _WORDS),
    registers=_REGISTERS,
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans()),
    order=st.permutations(range(11)),
)
def test_what_is_written_is_read(
    kinds: tuple[str, ...],
    lists: tuple[tuple[str, ...], ...],
    registers: tuple[str, ...],
    flags: tuple[bool, bool, bool, bool],
    order: list[int],
) -> None:
    modules, binaries, helpers, files = lists
    values = (
        "summary one that was drawn",
        f"kinds {' '.join(kinds)}",
        f"formats {'yes' if flags[0] else 'no'}",
        f"modules {' '.join(modules) or 'none'}",
        f"binaries {' '.join(f'usr/{name}' for name in binaries) or 'none'}",
        f"helpers {' '.join(helpers) or 'none'}",
        f"files {' '.join(files) or 'none'}",
        f"network {'yes' if flags[1] else 'no'}",
        f"registers {' '.join(registers) or 'none'}",
        f"profile {'dev' if flags[2] else 'any'}",
        f"remembers {'yes' if flags[3] else 'no'}",
    )
    script = "#!/bin/sh\n" + "".join(f"#: {values[index]}\n" for index in order)
    assert read_provider("drawn", script.encode()) == Provider(
        name="drawn",
        script=script.encode(),
        summary="one that was drawn",
        kinds=kinds,
        formats=flags[0],
        remembers=flags[3],
        modules=modules,
        binaries=tuple(f"usr/{name}" for name in binaries),
        helpers=helpers,
        files=files,
        network=flags[1],
        registers=registers,
        development=flags[2],
    )


def test_the_providers_of_the_project() -> None:
    folder = ROOT / "initrd" / "unlock.d"
    found = {path.name: read_provider(path.name, path.read_bytes()) for path in folder.iterdir()}
    assert {name: (each.kinds, each.formats) for name, each in found.items()} == OURS
    assert [name for name, each in found.items() if each.development] == ["keyfile"]
    assert [name for name, each in found.items() if each.network] == ["kbs"]
    assert [name for name, each in found.items() if each.remembers] == ["tpm2"]
    assert found["ephemeral"].registers == ()
    assert found["tpm2"].registers == ("options",)


def test_the_helpers_of_the_providers_have_sources() -> None:
    folder = ROOT / "initrd" / "unlock.d"
    names = {name for path in folder.iterdir() for name in read_provider("x", path.read_bytes()).helpers}
    assert names
    assert [name for name in sorted(names) if not (ROOT / "initrd/helpers" / f"{name}.c").is_file()] == []
