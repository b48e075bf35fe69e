"""What unlocking costs a boot: when the volume is open, by provider. What it costs the initramfs stands in
``out/<image>/initramfs.sizes.txt``.

Each row is one UEFI boot under TCG of an image that is built: the time from the kernel's start to the moment
after which no key can be had any more (the phase ``leave-initrd``), and in brackets what the unlock driver
took of it. It is no ratio: nothing else does the same.
"""

from __future__ import annotations

import base64
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from recipes.golden.report import parse_report
from tests.bench.common import Row, print_table
from tests.boot.support import Built, Run, altered, boot_uefi
from tests.boot.test_jindisk import IMAGE as CONVERTED
from tests.boot.test_jindisk import Lab, shown_key
from tests.boot.test_tpm2_unlock import IMAGE as SEALED
from tests.boot.test_tpm2_unlock import Life
from tests.boot.variants import Variant

SHIPPED = Variant()
PLAIN = Built()
# systemd's log as the boot report has it, and in it when the phase was extended, in microseconds.
_MEASURED = re.compile(rb"GOLDSMITH-REPORT [0-9]+ measure-log ([A-Za-z0-9+/=]+)")
_LEFT = re.compile(rb'"string":"leave-initrd".*?"timestamp":([0-9]+)')


def rows() -> list[Row]:
    """The measured boots; images that are not built have none."""
    if not all(built.golden.is_file() for built in (PLAIN, SEALED, CONVERTED)):
        return []
    with tempfile.TemporaryDirectory(prefix="goldsmith-bench.") as name:
        return [_row(title, run) for title, run in boots(Path(name))]


def boots(folder: Path) -> Iterator[tuple[str, Run]]:
    """A boot for each way to open a volume."""
    yield "ephemeral, no header", boot_uefi(PLAIN, PLAIN.machine("q35-1cpu-512m-tis"), [copy(PLAIN, folder)])
    with altered(SEALED, folder) as disk:
        life = Life(folder, disk)
        yield "tpm2, LUKS2, first boot: format", life.boot(SHIPPED)
        yield "tpm2, LUKS2", life.boot(SHIPPED)
    with altered(CONVERTED, folder) as disk:
        lab = Lab(folder, disk)
        (lab.enrolled / "machine.pub").write_bytes(shown_key(lab.boot()))
        yield "kbs, LUKS2, broker on loopback", lab.boot()


def copy(built: Built, folder: Path) -> Path:
    """The shipped disk, to be written to."""
    path = folder / "plain.raw"
    subprocess.run(["cp", "--sparse=always", built.disk, path], check=True)
    path.chmod(0o600)
    return path


def _row(title: str, run: Run) -> Row:
    driver = sum(volume.milliseconds for volume in parse_report(run.console, title).volumes) / 1000
    log = b"".join(base64.b64decode(text) for text in _MEASURED.findall(run.console))
    found = _LEFT.search(log)
    assert found is not None, title
    return Row(f"boot to unlocked: {title} (driver {driver:.1f} s)", 0, int(found[1]) / 1e6, 0, 0)


if __name__ == "__main__":
    print_table(rows())
