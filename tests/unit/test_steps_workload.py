from __future__ import annotations

import json
from pathlib import Path
from uuid import UUID

import pytest

from recipes.errors import SpecError
from recipes.schema.workload import SecretsPolicy, WorkloadSpec
from recipes.sources import lock as locks
from recipes.steps import verity, workload
from tests.erofs_reader import read_erofs
from tests.unit.workload_samples import COMPOSE, write_folder

SECRET = COMPOSE.replace('volumes: ["', 'volumes: ["./secrets/key:/run/key", "')
FILES = {"config/app.toml": b"port = 80\n", "secrets/key": b"hidden"}
HASHES = (str(UUID(int=2)), bytes(32))


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's folder without keys, and a lock whose epoch is known."""
    monkeypatch.setattr(workload, "ROOT", tmp_path)
    monkeypatch.setattr(workload, "own_keys", tuple)

    class Epoch:
        epoch = 1_700_000_000

    monkeypatch.setattr(locks, "load", lambda path: Epoch)
    return tmp_path


def build(folder: Path, spec: WorkloadSpec) -> tuple[Path, Path, Path]:
    """The partition, the manifest and the facts of the hash tree."""
    paths = [folder / name for name in ("w.erofs", "w.json", "w.verity", "w.facts")]
    workload.build(
        *paths[: 4 if spec.verity else 2],
        spec=spec,
        lock=folder / "lock",
        uuid=str(UUID(int=1)),
        hashes=HASHES,
    )
    return paths[0], paths[1], paths[3]


def test_the_partition_has_the_manifest_that_is_measured(project: Path) -> None:
    write_folder(project / "recipes/workloads/site")
    partition, manifest, facts = build(project, WorkloadSpec(path="recipes/workloads/site"))
    image = read_erofs(partition.read_bytes())
    files = {path.lstrip("/"): inode for path, inode in image.files.items()}
    assert files["workload.json"].content == manifest.read_bytes()
    assert json.loads(manifest.read_text())["name"] == "site"
    assert files[""].mode & 0o7777 == 0o700
    assert {inode.uid for inode in files.values()} == {0}
    assert len(verity.read_facts(facts).root_hash) == 32


def test_two_builds_are_the_same(project: Path) -> None:
    write_folder(project / "recipes/workloads/site")
    spec = WorkloadSpec(path="recipes/workloads/site")
    (project / "other").mkdir()
    first, second = build(project, spec), build(project / "other", spec)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_a_secret_is_refused_unless_the_recipe_says_so(project: Path) -> None:
    write_folder(project / "recipes/workloads/site", compose=SECRET, files=FILES)
    with pytest.raises(SpecError) as caught:
        build(project, WorkloadSpec(path="recipes/workloads/site"))
    assert str(caught.value) == (
        "recipes/workloads/site: secrets/key would be on a partition that is not encrypted, readable by "
        "whoever has the disk; give secrets to the guest at run time, or keep them on the encrypted data "
        "partition, or write workload.secrets: plaintext-readable-by-the-host into the recipe"
    )
    spec = WorkloadSpec(path="recipes/workloads/site", secrets=SecretsPolicy.PLAINTEXT, verity=False)
    partition, manifest, _ = build(project, spec)
    assert b"hidden" in partition.read_bytes()
    assert json.loads(manifest.read_text())["secrets"] == ["secrets/key"]


def test_a_key_among_the_configuration_is_found(project: Path) -> None:
    key = b"-----BEGIN PRIVATE KEY-----\nMIIBVgIBADANBgkqhkiG9w0BAQEFAASCAUAwggE8AgEAAkEAq7BFUpkGp3+LQmlQ\n"
    write_folder(project / "recipes/workloads/site", files={"config/app.toml": key})
    with pytest.raises(
        SpecError, match=r"^workload site: config/app\.toml:1: a private key \(PEM\) would be"
    ):
        build(project, WorkloadSpec(path="recipes/workloads/site"))


def test_a_partition_that_is_too_small(project: Path) -> None:
    write_folder(project / "recipes/workloads/site", files={"config/app.toml": bytes(1 << 20)})
    with pytest.raises(
        SpecError, match=r"^recipes/workloads/site: workload\.size is 1048576 bytes, the workl"
    ):
        build(project, WorkloadSpec(path="recipes/workloads/site", size=1 << 20))


def test_a_register_that_can_be_reset_is_warned_of(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(project / "recipes/workloads/site")
    build(project, WorkloadSpec(path="recipes/workloads/site", register=14))
    assert capsys.readouterr().out == ""
    build(project, WorkloadSpec(path="recipes/workloads/site", register=23))
    assert capsys.readouterr().out.startswith("  warning: workload.register 23: any program of the guest may")
