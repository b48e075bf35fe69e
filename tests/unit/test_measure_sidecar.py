from __future__ import annotations

import pytest

from recipes.measure import sidecar
from recipes.measure.sidecar import SideFile


def newc(*entries: tuple[str, int, bytes]) -> bytes:
    """The archive that systemd-stub makes of names, modes and contents, field by field."""
    out = b""
    for number, (name, mode, data) in enumerate(entries, start=1):
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
        out += head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)
    trailer = b"070701" + b"00000000" * 4 + b"00000001" + b"00000000" * 6 + b"0000000B" + b"00000000"
    return out + trailer + b"TRAILER!!!\0\0\0\0"


EXTRA = (
    SideFile("z.cred", b"last"),
    SideFile("B.CRED", b"upper"),
    SideFile("a.cred", b""),
    SideFile("tool.raw", b"sysext"),
    SideFile("conf.confext.raw", b"confext"),
    SideFile("more.sysext.raw", b"more"),
    SideFile("x.addon.efi", b"not here"),
)


def test_archives_of_every_kind() -> None:
    made = sidecar.archives(EXTRA, (SideFile("g.cred", b"global"),))
    assert [(archive.description, archive.pcr) for archive in made] == [
        ("Credentials initrd", 12),
        ("Global credentials initrd", 12),
        ("System extension initrd", 13),
        ("Configuration extension initrd", 12),
    ]
    extra = (".extra", 0o40555, b"")
    assert [archive.data for archive in made] == [
        newc(
            extra,
            (".extra/credentials", 0o40500, b""),
            (".extra/credentials/B.CRED", 0o100400, b"upper"),
            (".extra/credentials/a.cred", 0o100400, b""),
            (".extra/credentials/z.cred", 0o100400, b"last"),
        ),
        newc(
            extra,
            (".extra/global_credentials", 0o40500, b""),
            (".extra/global_credentials/g.cred", 0o100400, b"global"),
        ),
        newc(
            extra,
            (".extra/sysext", 0o40555, b""),
            (".extra/sysext/more.sysext.raw", 0o100444, b"more"),
            (".extra/sysext/tool.raw", 0o100444, b"sysext"),
        ),
        newc(
            extra,
            (".extra/confext", 0o40555, b""),
            (".extra/confext/conf.confext.raw", 0o100444, b"confext"),
        ),
    ]


def test_no_files_no_archives() -> None:
    assert sidecar.archives((SideFile("readme.txt", b""),), ()) == ()


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("a.cred", True),
        (".hidden.cred", False),
        ("sch\xf6n.cred", False),
        ("x" * 250 + ".cred", True),
        ("x" * 251 + ".cred", False),
        ("a.cred.bak", False),
        (".cred", False),
    ],
)
def test_names_the_stub_takes(name: str, taken: bool) -> None:
    assert sidecar.select([SideFile(name, b"")], ".cred") == ([SideFile(name, b"")] if taken else [])


def test_embedded_archives_come_in_their_own_order() -> None:
    sections = [
        (".osrel", b"os"),
        (".profile", b"p"),
        (".pcrpkey", b"key"),
        (".linux", b"k"),
        (".pcrsig", b"{}"),
    ]
    expected = [
        ("tpm2-pcr-signature.json", b"{}"),
        ("tpm2-pcr-public-key.pem", b"key"),
        ("os-release", b"os"),
        ("profile", b"p"),
    ]
    assert list(sidecar.embedded_archives(sections)) == [
        newc((".extra", 0o40555, b""), (f".extra/{name}", 0o100444, data)) for name, data in expected
    ]
