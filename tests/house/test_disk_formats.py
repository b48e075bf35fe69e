"""Disks in several formats: what is asked for in vain, and what is left when a disk is not finished."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import yaml

from tests.house.conftest import Small
from tests.house.project import Project, finish
from tests.house.test_interrupted import complaint, lines
from tests.house.test_mistakes import RECIPE, edited

ARCHIVE = "disk.tar.gz"
TASK = "disk:debian-cvm.gce"
MIB = 1 << 20


def start_over(project: Project) -> Path:
    """Where the archive will be, which is not there any more."""
    for path in project.out.glob(f"*{ARCHIVE}*"):
        path.unlink()
    return project.out / ARCHIVE


def test_a_format_is_a_task_of_its_own(small: Small) -> None:
    start_over(small.project)
    assert lines(small.project.build(TASK)) == [ARCHIVE]
    assert small.project.products() == small.products
    manifest = json.loads((small.project.out / "golden.json").read_text())
    disks = {disk["format"]: disk["size"] for disk in manifest["disks"]}
    assert disks == {"raw": (small.project.out / "disk.raw").stat().st_size, "gce": 1 << 30}
    facts = {item["name"]: item["sha256"] for item in manifest["artefacts"]}
    assert facts[ARCHIVE] == small.products[ARCHIVE]


def test_formats_that_cannot_be_are_named_before_anything_is_made(small: Small) -> None:
    recipe = yaml.safe_load(small.project.recipe.read_text())
    recipe["disk"]["formats"] = ["raw", "vmdkk", "gce", "gce", "VHD"]
    text = yaml.safe_dump(recipe)
    rows = text.splitlines()
    place = {word: rows.index(f"  - {word}") + 1 for word in ("vmdkk", "VHD")}
    with edited(small.project.recipe, text):
        said = complaint(small.project.run())
    assert said == (
        f"ERROR: {RECIPE}:{place['VHD'] - 1}:5: disk format 'gce' is listed twice\n"
        f"{RECIPE}:{place['VHD']}:5: disk.formats[4]: 'VHD' is not allowed; write for example debian-cvm\n"
    )
    recipe["disk"]["formats"] = ["raw", "vmdkk", "gce"]
    with edited(small.project.recipe, yaml.safe_dump(recipe)):
        for command in ([], ["list"], ["rootfs:debian-cvm"]):
            said = complaint(small.project.run(*command))
            what = "disk format 'vmdkk' is not known; did you mean 'vmdk'?"
            assert said == f"ERROR: {RECIPE}:{place['vmdkk']}:5: {what}\n"


def test_killed_while_it_writes_a_format_a_build_goes_on_to_the_same_bytes(small: Small) -> None:
    archive = start_over(small.project)
    unfinished = archive.with_name(f".{ARCHIVE}.tmp")
    process = small.project.start("-n", "0")
    for _ in range(3000):
        if unfinished.exists():
            break
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    finish(process)
    assert unfinished.exists(), "the build was over before it could be killed"
    assert not archive.exists()
    assert small.project.unsound() == []
    assert lines(small.project.build()) == [ARCHIVE]
    assert small.project.products() == small.products
    assert small.project.leftovers() == []


def test_no_room_for_a_format_is_one_message_and_leaves_nothing(small: Small) -> None:
    archive = start_over(small.project)
    failed = replace(small.project, prefix=("prlimit", f"--fsize={2 * MIB}")).run()
    assert "file too large; raise the limit on file sizes and run the same command again" in complaint(failed)
    assert failed.returncode == 1
    assert not archive.exists()
    assert small.project.unsound() == []
    assert small.project.leftovers() == []
    assert lines(small.project.build()) == [ARCHIVE]
    assert small.project.products() == small.products


def test_a_wildcard_for_an_event_that_nobody_predicts(small: Small) -> None:
    recipe = yaml.safe_load(small.project.recipe.read_text())
    wildcard = {"register": "PCR5", "event": "EV_EFI_GPT_EVENT", "reason": "the guest grows its table"}
    recipe["golden"] = {"wildcards": [wildcard, {**wildcard, "event": "EV_IPL"}]}
    text = yaml.safe_dump(recipe)
    rows = [number for number, row in enumerate(text.splitlines(), 1) if row.startswith("  - event: EV_IPL")]
    with edited(small.project.recipe, text):
        said = complaint(small.project.run())
    machine = json.loads((small.project.out / "golden.json").read_text())["machines"][0]["name"]
    what = f"PCR5 of {machine} has no event EV_IPL predicted; a wildcard is for exactly one"
    assert said == f"\ngolden:debian-cvm failed:\n{RECIPE}:{rows[0]}:5: {what}\n"
