"""The converted image: its root opens with a key that the broker releases after a matching quote.

UEFI boots. The broker runs on this host's loopback, which is 10.0.2.2 for the guest, with the certificate
that the image pins; the port is the recipe's.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from recipes.broker.config import BrokerConfig
from recipes.broker.policy import VolumeRule
from recipes.broker.server import running
from recipes.broker.trust import EnrolledKeys
from recipes.golden.verify import compare
from recipes.measure.trace import ALL_ALGORITHMS
from recipes.schema import ConvertedImage
from recipes.steps import broker_keys
from recipes.steps.develop import TESTED_CONVERSION
from recipes.steps.volumes import KEYS, volumes

from .support import Boot, Boots, Built, Run, altered, boot_uefi
from .unlocking import failure, is_over, report
from .variants import Variant, make_uki, put_uki

pytestmark = pytest.mark.boot

MACHINE = "q35"
IMAGE = Built(TESTED_CONVERSION)
NETWORK = ("-netdev", "user,id=net0")
SHIPPED = Variant()
OTHER = Variant(files={"usr/bin/added": b"#!/bin/sh\n"})


@dataclass(frozen=True)
class Lab:
    """A broker's folders, and the disk and TPM of one machine."""

    folder: Path
    disk: Path

    @cached_property
    def enrolled(self) -> Path:
        path = self.folder / "enrolled"
        path.mkdir(mode=0o700)
        return path

    def boot(self, variant: Variant = SHIPPED) -> Run:
        """One boot with a broker that knows the keys enrolled by now."""
        spec = image().recipe.root.kbs
        assert spec is not None
        config = BrokerConfig(
            golden=(IMAGE.manifest,),
            keys=KEYS,
            trust=EnrolledKeys.read(self.enrolled),
            certificate=broker_keys.SERVER,
            private_key=broker_keys.SERVER_KEY,
            port=urlsplit(spec.url).port or 443,
            audit=self.folder / "audit",
            rules=(VolumeRule(volume=spec.volume),),
        )
        work = self.folder / "work"
        work.mkdir()
        put_uki(self.disk, make_uki(IMAGE, work, variant))
        state = self.folder / "tpm"
        state.mkdir(exist_ok=True)
        with running(config):
            run = boot_uefi(
                IMAGE, IMAGE.machine(MACHINE), [self.disk], until=is_over, tpm=state, options=NETWORK
            )
        shutil.rmtree(work)
        return run


@dataclass(frozen=True)
class Lived:
    """What one machine's boots showed, and the broker's log of all of them."""

    runs: Mapping[str, Run]
    audit: tuple[Mapping[str, object], ...]


def image() -> ConvertedImage:
    found = IMAGE.image
    assert isinstance(found, ConvertedImage)
    return found


def shown_key(run: Run) -> bytes:
    """The attestation key that a refused guest shows, for whoever wants to enrol it."""
    (text,) = set(re.findall(r"attestation key: ([A-Za-z0-9+/=]+)", run.text))
    return base64.b64decode(text)


def boot_life(built: Built, folder: Path) -> Lived:
    """Refused while the TPM is unknown; enrolled, it opens; with another initramfs it does not."""
    with altered(IMAGE, folder) as disk:
        lab = Lab(folder, disk)
        runs = {"unknown": lab.boot()}
        (lab.enrolled / "machine.pub").write_bytes(shown_key(runs["unknown"]))
        runs["enrolled"] = lab.boot()
        runs["initramfs"] = lab.boot(OTHER)
        runs["again"] = lab.boot()
    lines = (folder / "audit").read_text().splitlines()
    return Lived(runs, tuple(json.loads(line) for line in lines))


BOOTS: dict[str, Boot] = {"jindisk-style": boot_life}


@pytest.fixture(scope="module")
def lived(boots: Boots) -> Lived:
    found: Lived = boots["jindisk-style"].result()
    return found


def test_the_root_opens_after_a_matching_quote(lived: Lived) -> None:
    for name in ("enrolled", "again"):
        found = report(lived.runs[name])
        (volume,) = found.volumes
        assert (volume.volume, volume.provider, volume.result) == ("root", "kbs", "opened")
        assert found.facts["state"] == "running"
        expected = IMAGE.expected(MACHINE)
        result = compare(expected, found.observation, banks=ALL_ALGORITHMS)
        assert result.differences == ()
        # A network device without an option ROM leaves PCR 2 as it is.
        assert "PCR2" in {row.register for row in expected.registers}


def test_right_registers_under_an_unknown_key_are_refused(lived: Lived) -> None:
    """Any host can run a software TPM and extend into it what it likes."""
    assert failure(lived.runs["unknown"]).startswith("volume root is not open: denied by kbs(20)")


def test_another_initramfs_is_refused_by_its_registers(lived: Lived) -> None:
    run = lived.runs["initramfs"]
    assert failure(run).startswith("volume root is not open: denied by kbs(20)")
    assert re.search(r"PCR(4|9|11)", run.text)


def test_the_log_has_every_answer_and_no_key(lived: Lived) -> None:
    results = [line["result"] for line in lived.audit if line["request"] == "attest"]
    assert results == ["refused", "released", "refused", "released"]
    key = volumes(image())[0].key_file.read_bytes()
    everything = json.dumps(lived.audit).encode() + b"".join(run.console for run in lived.runs.values())
    for piece in (key[:24], base64.b64encode(key)[:32], key.hex().encode()[:32]):
        assert piece not in everything
