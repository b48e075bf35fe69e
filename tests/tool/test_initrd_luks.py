"""The header check of the initramfs, run by two shells over every forged header."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from recipes.formats import luks2
from recipes.formats.luks2_json import Charset
from recipes.formats.luks2_model import Argon2id, Expected, Integrity, KdfBounds, TokenField, TokenShape
from recipes.formats.luks2_template import shell_table, template
from tests.boot.luks_forgeries import EXPECTED, FAULTS, forged
from tests.support import ROOT, require_tool
from tests.unit import luks2_forgeries as forge

pytestmark = pytest.mark.tool

SHELLS = pytest.mark.parametrize("shell", ["dash", "busybox"])
APPLETS = ("cmp", "dd", "mkdir", "od", "rm", "sha256sum", "stat", "tr")
# What surrounds the check in the driver, and the answer for every header, a line each.
FRAME = """\
set -u
volume=v header=header parts=parts METADATA_SIZE={size}
finish() {{ shift 2; echo "finish: $*"; exit; }}
. ./luks.sh
for copy in "$@"; do
    cp "$copy" header
    if check_header; then echo right; else echo "$fault"; fi
done
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    script = (ROOT / "initrd/luks.sh").read_text()
    assert script.count("/etc/unlock/$volume.header") == 1
    (tmp_path / "luks.sh").write_text(script.replace("/etc/unlock/$volume.header", "table"))
    (tmp_path / "bin").mkdir()
    return tmp_path


def judged(shell: str, folder: Path, expected: Expected, headers: list[bytes]) -> list[str]:
    """What the check says of each header: ``right``, or the fault."""
    (folder / "table").write_text(shell_table(template(expected)))
    return judged_by_table(shell, folder, expected.metadata_size, headers)


def judged_by_table(shell: str, folder: Path, size: int, headers: list[bytes]) -> list[str]:
    names = [f"header-{number}" for number in range(len(headers))]
    for name, header in zip(names, headers, strict=True):
        (folder / name).write_bytes(header)
    program, path = require_tool(shell), os.environ["PATH"]
    if shell == "busybox":
        for applet in (*APPLETS, "cp"):
            (folder / "bin" / applet).unlink(missing_ok=True)
            (folder / "bin" / applet).symlink_to(program)
        path = str(folder / "bin")
    argv = [program, *(["sh"] if shell == "busybox" else []), "-c", FRAME.format(size=size), "sh", *names]
    env = {"PATH": path, "LC_ALL": "C"}
    result = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True)
    assert result.stderr == ""
    return result.stdout.splitlines()


@SHELLS
def test_every_forged_header_is_refused_and_the_good_one_is_not(shell: str, folder: Path) -> None:
    good = forge.volume(EXPECTED)
    corpus = forged()
    said = judged(shell, folder, EXPECTED, [good, *(data for data, _ in corpus.values()), good])
    assert (said[0], said[-1]) == ("right", "right")
    assert dict(zip(corpus, said[1:-1], strict=True)) == {name: fault for name, (_, fault) in corpus.items()}


def test_every_forgery_of_the_corpus_is_judged() -> None:
    assert set(FAULTS) == {each.name for each in forge.FORGERIES}


@SHELLS
def test_any_byte_outside_the_holes_counts(shell: str, folder: Path) -> None:
    good = forge.volume(EXPECTED)
    shape = template(EXPECTED)
    binary = [hole for hole in shape.holes if hole.charset is Charset.BINARY]
    places = [*range(0, forge.AREA, 641), 21, 24, 103, 168, 4096, 4404, 16383, 20480, forge.AREA - 1]
    places = [at for at in places if not any(hole.offset <= at < hole.offset + hole.size for hole in binary)]
    # No alphabet but that of the binary holes has this byte.
    headers = [forge.patched(good, at, b"\x01", reseal=not 448 <= at % forge.COPY < 512) for at in places]
    assert all(header != good for header in headers)
    assert "right" not in judged(shell, folder, EXPECTED, headers)


@SHELLS
def test_what_the_holes_allow_is_allowed(shell: str, folder: Path) -> None:
    good = forge.volume(EXPECTED)
    sequence = forge.patched(forge.patched(good, 22, b"\0\x0a"), forge.COPY + 22, b"\0\x0a")
    salts = forge.patched(forge.patched(good, 104, b"\n" * 64), forge.COPY + 104, bytes(64))
    area = forge.patched(good, forge.AREA, bytes(1000))
    assert judged(shell, folder, EXPECTED, [sequence, salts, area]) == ["right"] * 3


@SHELLS
def test_a_volume_with_a_token_and_integrity(shell: str, folder: Path) -> None:
    blob = TokenField("blob", size=62, padding=2)
    fields = (blob, TokenField("digest", size=64, charset=Charset.HEX), TokenField("pin", False))
    expected = Expected(
        keyslots=(KdfBounds(Argon2id(1, 64, 1)),),
        tokens=(TokenShape("x", (0,), fields),),
        integrity=Integrity.HMAC_SHA256,
    )
    expected = replace(expected, uuid=forge.VOLUME_UUID)
    text = ["A" * 62, "0f" * 32]
    good = luks2.format(
        expected,
        uuid=forge.VOLUME_UUID,
        seed=luks2.Seed(bytes(32)),
        volume_key=bytes(96),
        passphrases=[forge.PASSPHRASE],
        tokens=[text],
    )
    at = good.index(b"0f0f0f")
    upper = forge.patched(forge.patched(good, at, b"0F"), forge.COPY + at, b"0F")
    other = forge.edited(good, lambda value: value["tokens"]["0"].update(pin=True))
    longer = forge.edited(good, lambda value: value["tokens"]["0"].update(blob="A" * 66 + "=="))
    said = judged(shell, folder, expected, [good, upper, other, longer])
    assert said[:2] == ["right", "tokens.0.digest is not hex text"]
    assert all(line.endswith("in the primary JSON area") for line in said[2:])


@SHELLS
@pytest.mark.parametrize(
    "spoil",
    [
        lambda lines: lines[:-1],
        lambda lines: [*lines, "literal 290816 4 " + "0" * 64],
        lambda lines: lines[1:],
        lambda lines: [*lines[:4], *lines[5:]],
        lambda lines: [*lines[:-1], "hole keyslot.0 32768 258048 uuid"],
        lambda lines: [*lines[:-1], "hole keyslot.0 32768 258048"],
        lambda lines: [*lines[:-1], "anything 32768 258048"],
        lambda _: [],
    ],
    ids=["short", "long", "no start", "gap", "unknown alphabet", "no alphabet", "unknown part", "empty"],
)
def test_a_template_that_is_not_whole_lets_nothing_through(
    shell: str, folder: Path, spoil: Callable[[list[str]], list[str]]
) -> None:
    lines = shell_table(template(EXPECTED)).splitlines()
    (folder / "table").write_text("".join(f"{line}\n" for line in spoil(lines)))
    said = judged_by_table(shell, folder, EXPECTED.metadata_size, [forge.volume(EXPECTED)])
    assert said == ["finish: the template of the header is not whole; build the image again"]
