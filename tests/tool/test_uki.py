from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pefile  # type: ignore[import-untyped]
import pytest
from virt.peutils.pesign import pe_authenticode_hash

from recipes.formats.authenticode import image_digest, sign
from recipes.formats.authenticode_verify import verify
from recipes.formats.uki import SECTION_ORDER, UkiSection, build
from tests.support import require_tool
from tests.unit.boot_images import OPTIONAL, kernel, key_pair, le32, patched, signing_key, stub

pytestmark = pytest.mark.tool

PAYLOAD = [
    UkiSection(".linux", kernel()),
    UkiSection(".initrd", b"070701" * 5001),
    UkiSection(".cmdline", b"console=ttyS0 panic=-1"),
    UkiSection(".osrel", b"ID=test\n"),
    UkiSection(".uname", b"6.12.0-test"),
]
ALL = [
    *PAYLOAD,
    *(UkiSection(name, name.encode()) for name in SECTION_ORDER if name not in {p.name for p in PAYLOAD}),
]
IMAGES = {
    "plain": build(stub(), PAYLOAD),
    "all sections": build(stub(), ALL),
    # A stub whose headers end so early that they must grow.
    "grown headers": build(patched(stub(), OPTIONAL + 60, le32(0x400)), ALL),
}


def run(*argv: str | Path) -> str:
    done = subprocess.run([str(part) for part in argv], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", IMAGES)
def test_objdump_reads_every_section(name: str, tmp_path: Path) -> None:
    path = tmp_path / "uki.efi"
    path.write_bytes(IMAGES[name])
    output = run(require_tool("objdump"), "-h", path)
    assert "warning" not in output.lower()
    found = {
        match[1]: (int(match[2], 16), int(match[3], 16))
        for match in re.finditer(
            r"^ +\d+ (\S+) +([0-9a-f]{8}) +[0-9a-f]+ +[0-9a-f]+ +([0-9a-f]{8})", output, re.MULTILINE
        )
    }
    sections = PAYLOAD if name == "plain" else ALL
    assert len(found) == 6 + len(sections)
    for section in sections:
        size, offset = found[section.name]
        assert IMAGES[name][offset : offset + size] == section.data


@pytest.mark.parametrize("name", IMAGES)
def test_objcopy_extracts_the_kernel(name: str, tmp_path: Path) -> None:
    path, out = tmp_path / "uki.efi", tmp_path / "linux"
    path.write_bytes(IMAGES[name])
    run(require_tool("objcopy"), "-O", "binary", "--only-section=.linux", path, out)
    assert out.read_bytes() == kernel()


@pytest.mark.parametrize("name", IMAGES)
def test_pefile_agrees(name: str) -> None:
    image = pefile.PE(data=IMAGES[name])
    sections = {part.Name.rstrip(b"\0").decode(): part for part in image.sections}
    for payload in PAYLOAD if name == "plain" else ALL:
        section = sections[payload.name]
        assert section.Misc_VirtualSize == len(payload.data)
        assert section.get_data()[: section.Misc_VirtualSize] == payload.data
    optional = image.OPTIONAL_HEADER
    last = max(part.VirtualAddress + part.Misc_VirtualSize for part in image.sections)
    assert optional.SizeOfImage == -(-last // optional.SectionAlignment) * optional.SectionAlignment
    assert optional.CheckSum == 0
    assert image.FILE_HEADER.TimeDateStamp == 0
    assert not image.get_warnings()
    assert [part.PointerToRawData for part in image.sections] == sorted(
        part.PointerToRawData for part in image.sections
    )


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "sha384", "sha512"])
@pytest.mark.parametrize("name", IMAGES)
def test_virt_firmware_agrees_on_the_digest(name: str, algorithm: str) -> None:
    expected = pe_authenticode_hash(pefile.PE(data=IMAGES[name]), algorithm)
    assert image_digest(IMAGES[name], algorithm) == expected


@pytest.mark.parametrize("name", IMAGES)
def test_sbsign_and_sbverify_accept(name: str, tmp_path: Path) -> None:
    key, certificate = tmp_path / "db.key", tmp_path / "db.pem"
    key.write_bytes(signing_key().private_key)
    certificate.write_bytes(signing_key().certificate)
    path, out = tmp_path / "uki.efi", tmp_path / "signed.efi"
    path.write_bytes(IMAGES[name])
    output = run(require_tool("sbsign"), "--key", key, "--cert", certificate, "--output", out, path)
    assert "warning" not in output.lower()
    assert "Signature verification OK" in run(require_tool("sbverify"), "--cert", certificate, out)
    assert verify(out.read_bytes(), [key_pair()[1]]) == key_pair()[1]
    # Signing does not change what PCR 4 measures.
    assert image_digest(out.read_bytes(), "sha384") == image_digest(IMAGES[name], "sha384")
    path.write_bytes(sign(IMAGES[name], *key_pair()))
    output = run(require_tool("sbverify"), "--cert", certificate, path)
    assert "warning" not in output.lower()
    assert "Signature verification OK" in output
