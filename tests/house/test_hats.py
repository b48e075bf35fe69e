"""The recipe for HATs as its users build it: twice, in other surroundings, read by other programs."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.house.differences import describe, first_difference
from tests.house.project import Project, checkout, copy_keys
from tests.house.test_reproducible import LONG_NAME, SURROUNDINGS
from tests.support import VECTORS, require_tool

IMAGE = "hats-snp"
# None of its files is ours to ship, so all of them stand in here.
POLICY = "stand-in.appraisal_policy.txtpb"


@pytest.fixture(scope="module")
def built(workshop: Path) -> Project:
    project = replace(checkout(workshop / "hats", locks=(f"images/{IMAGE}",)), image=IMAGE)
    project.build(IMAGE)
    return project


def test_the_same_key_gives_the_same_bytes_anywhere(built: Project, workshop: Path) -> None:
    place = workshop / "hats elsewhere" / LONG_NAME
    project = replace(checkout(place, locks=(f"images/{IMAGE}",), umask=0o077, mtime=86_400), image=IMAGE)
    copy_keys(built, project)
    if os.geteuid() == 0:
        project.root.parent.chmod(0o755)
        project = project.as_nobody()
    processor = (require_tool("taskset"), "-c", str(max(os.sched_getaffinity(0))))
    project = replace(project, environment=SURROUNDINGS, prefix=(*processor, *project.prefix))
    project.build("-n", "0", IMAGE)
    names = sorted(built.products())
    assert POLICY in names
    assert sorted(project.products()) == names
    pairs = [(built.out / name, project.out / name) for name in names]
    differing = [describe(*pair) for pair in pairs if first_difference(*pair) is not None]
    assert not differing, "\n".join(differing)


def test_launch_digests_are_those_of_another_program(built: Project) -> None:
    text = (built.out / POLICY).read_text()
    shape = re.compile(
        r"Family: (\d+), Model: (\d+), Stepping: (\d+)\)\. Cores: (\d+), .*?sha384: \"([0-9a-f]{96})\"",
        re.DOTALL,
    )
    found = set(shape.findall(text))
    assert len(found) >= 3
    for family, model, stepping, vcpus, digest in found:
        words = [
            "--vcpu-family",
            family,
            "--vcpu-model",
            model,
            "--vcpu-stepping",
            stepping,
            "--vcpus",
            vcpus,
        ]
        words += ["--mode", "snp", "--ovmf", str(built.out / "stand-in.stage0_bin")]
        program = require_tool("sev-snp-measure")
        said = subprocess.run([program, *words], capture_output=True, text=True, check=True).stdout
        assert said.strip() == digest


def test_memory_maps_are_the_published_ones(built: Project) -> None:
    text = (built.out / POLICY).read_text()
    published = json.loads((VECTORS / "snp" / "snp.json").read_text())["hats"]["memory_map"]
    wanted = {item["sha256"] for item in published if item["shape"] != "insecure_microvm"}
    assert len(wanted) == 2
    assert set(re.findall(r'memory_map_sha256: "([0-9a-f]{64})"', text)) == wanted


def test_protoc_reads_the_policies(built: Project) -> None:
    argv = [require_tool("protoc"), f"-I{built.root / 'recipes' / 'hats'}", "appraisal_policies.proto"]
    argv += ["--encode=pcit.tvs.AppraisalPolicies"]
    done = subprocess.run(argv, input=(built.out / POLICY).read_bytes(), capture_output=True, check=True)
    assert done.stdout == (built.out / POLICY.replace("txtpb", "binarypb")).read_bytes()


def test_tar_reads_the_bundles(built: Project) -> None:
    def names(path: Path) -> list[str]:
        argv = [require_tool("tar"), "-tf", str(path)]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()

    system = names(built.out / "stand-in.system_bundle.tar")
    assert [name.removeprefix("./stand-in.") for name in system[1:]] == [
        "initrd.cpio.xz",
        "kernel_bin",
        "stage0_bin",
        "system.tar.xz",
    ]
    assert {"./config.json", "./rootfs/usr/bin/hello"} <= set(names(built.out / "runtime_bundle.tar"))


def test_a_second_build_has_nothing_to_do(built: Project) -> None:
    before = built.products()
    assert "sha256" not in "".join(re.findall(rf"^  {IMAGE}/.*$", built.build(IMAGE), re.MULTILINE))
    assert built.products() == before
