from __future__ import annotations

import hashlib
import json
import shutil
import stat
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from recipes.disks.format import aligned_size
from recipes.disks.format import lookup as format_of
from recipes.disks.source import RawDisk
from recipes.errors import FormatError, SpecError
from recipes.formats import authenticode
from recipes.golden import manifest_reader
from recipes.golden.manifest import (
    DiskRegisters,
    GoldenMachine,
    GoldenManifest,
    Omitted,
    Policy,
    RegisterPolicy,
    RegisterRow,
    ShippedDisk,
    dump,
)
from recipes.golden.verify import Comparison, Difference
from recipes.golden.workload import with_workload
from recipes.measure.tpm import fold
from recipes.measure.trace import Established, HashAlgorithm, Step, Trace
from recipes.measure.userspace import workload_step
from recipes.reader import Marks, Place
from recipes.schema import Image, load_image
from recipes.schema.publish import AwsSpec, AzureSpec, CloudSpec, GcpSpec, PublishSpec, SecurityFeature
from recipes.steps import digests, keys, publish, publish_golden, publish_kit
from recipes.steps.digests import DigestCache, sidecar, sidecar_text
from recipes.steps.publish_names import disk_name, note, shipment
from recipes.units import GIB, KIB, MIB
from tests.support import ROOT
from tests.unit.boot_images import key_pair, signing_key
from tests.unit.measure_images import uki

OWNER = "11111111-2222-3333-4444-555555555555"
SPECS: dict[str, CloudSpec] = {"azure": AzureSpec(), "gcp": GcpSpec(), "aws": AwsSpec()}
FORMATS = {"azure": "vhd", "gcp": "gce", "aws": "vmdk"}
SUFFIXES = {"azure": ".vhd", "gcp": ".tar.gz", "aws": ".vmdk"}


@pytest.mark.parametrize(
    ("image", "version", "name"),
    [
        ("debian-cvm", "1", "debian-cvm-1-0123456789abcdef"),
        ("debian-cvm", "1.0~rc1+X", "debian-cvm-1-0-rc1-x-0123456789abcdef"),
        ("9-lives", "1", "image-9-lives-1-0123456789abcdef"),
        ("a" * 41, "1.2.3", "a" * 41 + "-1-2-0123456789abcdef"),
        ("a" * 41, "1234.5", "a" * 41 + "-1234-0123456789abcdef"),
    ],
)
def test_names_of_disks(image: str, version: str, name: str) -> None:
    found = disk_name(image, version, "0123456789abcdef" + "f" * 48)
    assert found == name
    assert len(found) <= 63


def test_what_a_cloud_says_stands_where_the_recipe_says_it() -> None:
    from recipes.clouds.cloud import Finding

    places: dict[Place, tuple[int, int]] = {
        ("publish", "azure"): (40, 11),
        ("publish", "azure", "size"): (40, 20),
        ("disk", "formats"): (38, 3),
    }
    marks = Marks("recipe.yaml", places=places)
    findings = [
        Finding("vm-size", "too small", "Doc"),
        Finding("region", "closed"),
        Finding("disk", "too large"),
    ]
    note(marks, "azure", findings)
    assert [str(problem) for problem in sorted(marks.problems)] == [
        "recipe.yaml:38:3: publish.azure: disk: too large",
        "recipe.yaml:40:11: publish.azure: region: closed",
        "recipe.yaml:40:20: publish.azure: vm-size: too small [Doc]",
    ]


@pytest.mark.parametrize("cloud", sorted(SPECS))
def test_the_defaults_are_what_a_cloud_takes(cloud: str) -> None:
    from recipes.clouds.registry import lookup

    name = disk_name("debian-cvm", "1", "0" * 64)
    sent = shipment("debian-cvm", "1", "x86_64", SPECS[cloud], FORMATS[cloud], GIB, name)
    assert lookup(cloud).problems(sent) == ()
    assert {kind for kind, _ in sent.names} <= set(lookup(cloud).name_kinds)


@pytest.mark.parametrize("tee", ["tdx", "sev-snp", "none"])
@pytest.mark.parametrize("spec", [AzureSpec(), GcpSpec()], ids=["azure", "gcp"])
def test_the_machine_of_each_tee_is_what_a_cloud_takes(spec: AzureSpec | GcpSpec, tee: str) -> None:
    from recipes.clouds.registry import lookup
    from recipes.schema.publish import Tee

    cloud = "azure" if isinstance(spec, AzureSpec) else "gcp"
    sent = shipment(
        "i", "1", "x86_64", replace(spec, tee=Tee(tee)), FORMATS[cloud], GIB, "i-1-0123456789abcdef"
    )
    assert lookup(cloud).problems(sent) == ()


# The steps of an image.


def image_of(tmp_path: Path, spec: PublishSpec, formats: tuple[str, ...]) -> Image:
    path = ROOT / "recipes" / "images" / "debian-cvm.yaml"
    image = load_image(path, ROOT)
    recipe = replace(image.recipe, publish=spec, disk=replace(image.recipe.disk, formats=formats))
    return replace(image, recipe=recipe)


def test_a_step_for_each_cloud(tmp_path: Path) -> None:
    image = image_of(tmp_path, PublishSpec(azure=AzureSpec(), aws=AwsSpec()), ("raw", "vmdk", "vhd"))
    steps = publish.steps(image)
    assert [step.name for step in steps] == ["publish:debian-cvm.azure", "publish:debian-cvm.aws"]
    assert [step.products for step in steps] == [
        (publish.folder(image, "azure"),),
        (publish.folder(image, "aws"),),
    ]
    assert keys.key_path("PK") in steps[0].inputs
    plain = image_of(tmp_path, PublishSpec(azure=AzureSpec(secure_boot=False)), ("raw", "vhd"))
    assert keys.key_path("PK") not in publish.steps(plain)[0].inputs
    assert publish.steps(image_of(tmp_path, PublishSpec(), ("raw",))) == ()


def test_every_mistake_is_said_at_once(tmp_path: Path) -> None:
    spec = PublishSpec(
        azure=AzureSpec(size="Standard_D2s_v5"), gcp=GcpSpec(), aws=AwsSpec(region="eu-central-1")
    )
    with pytest.raises(SpecError) as caught:
        publish.steps(image_of(tmp_path, spec, ("raw", "vhd", "vmdk")))
    first, *others = sorted(problem.message for problem in caught.value.problems)
    assert first.startswith("publish.aws: region: 'eu-central-1' has no SEV-SNP")
    assert others[0].startswith("publish.azure: vm-size: 'Standard_D2s_v5' offers neither")
    assert others[1] == "publish.gcp: a disk in format gce is what it takes; add gce to disk.formats"


# The kit.


def rows(register: str, data: bytes) -> tuple[Trace, tuple[RegisterRow, ...]]:
    extended = {algorithm: hashlib.new(algorithm.value, data).digest() for algorithm in HashAlgorithm}
    trace = Trace(
        register,
        (
            Step(
                register=register,
                operation="EV_EVENT",
                description=register,
                size=1,
                digests=extended,
                source="x",
                spec="y",
            ),
        ),
    )
    return trace, tuple(
        RegisterRow(
            register=register, algorithm=each, value=fold(trace, each), established=Established.BOOTED
        )
        for each in HashAlgorithm
    )


def machine(name: str, *, secure_boot: bool, sizes: dict[str, int]) -> GoldenMachine:
    made = [
        rows(each, each.encode() + bytes([secure_boot]))
        for each in ("PCR0", "PCR4", "PCR5", "PCR7", "PCR9", "PCR11")
    ]
    grown = rows("PCR5", b"grown")
    return GoldenMachine(
        name=name,
        vmm="qemu",
        identity=json.dumps({"firmware": {"secure_boot": secure_boot}}),
        launch="run.sh",
        registers=tuple(row for _, each in made for row in each),
        policies=tuple(
            RegisterPolicy(register=trace.register, policy=Policy.ENFORCE, covers="x") for trace, _ in made
        ),
        omitted=(Omitted(register="PCR1", reason="no capture"),),
        traces=tuple(trace for trace, _ in made),
        disks=tuple(
            DiskRegisters(size=size, formats=(name,), registers=grown[1], traces=(grown[0],))
            for name, size in sizes.items()
        ),
    )


SIZE = 24 * MIB


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw disk with two pieces of content, shipped in three formats."""
    folder = tmp_path_factory.mktemp("disks")
    with (folder / "disk.raw").open("wb") as file:
        file.write(b"\x01" * KIB)
        file.seek(10 * MIB)
        file.write(b"\x02" * KIB)
        file.truncate(SIZE)
    for cloud, name in FORMATS.items():
        with (
            (folder / "disk.raw").open("rb") as source,
            (folder / f"disk{SUFFIXES[cloud]}").open("wb") as out,
        ):
            format_of(name).write(RawDisk.of("disk.raw", source), out, seed=bytes(32))
    return folder


@pytest.fixture
def files(disks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """These disks; keys, a UKI, and a golden manifest."""
    monkeypatch.setattr(keys, "FOLDER", tmp_path / "keys")
    monkeypatch.setattr(digests, "DIGESTS", DigestCache(tmp_path / "digests.json"))
    (tmp_path / "keys").mkdir()
    for role in keys.ROLES:
        made = signing_key(role)
        keys.key_path(role).write_bytes(made.private_key)
        keys.key_path(role).chmod(0o600)
        keys.certificate_path(role).write_bytes(made.certificate)
    for path in disks.iterdir():
        shutil.copyfile(path, tmp_path / path.name)
    for suffix in SUFFIXES.values():
        write_sidecar(tmp_path / f"disk{suffix}")
    sizes = {name: aligned_size(format_of(name), SIZE) for name in FORMATS.values()}
    (tmp_path / "image.efi").write_bytes(authenticode.sign(uki(cmdline=b"x"), *key_pair("db")))
    grown = {name: size for name, size in sizes.items() if size != SIZE}
    manifest = GoldenManifest(
        image="debian-cvm",
        version="1",
        artefacts=(),
        machines=tuple(machine(f"q35-{flag}", secure_boot=flag, sizes=grown) for flag in (False, True)),
        unmeasured=("secrets",),
        disks=(
            ShippedDisk(format="raw", file="disk.raw", size=SIZE),
            *(ShippedDisk(format=name, file=f"disk.{name}", size=size) for name, size in sizes.items()),
        ),
    )
    (tmp_path / "golden.json").write_text(dump(manifest))
    (tmp_path / "verity.json").write_text(
        json.dumps({"root_hash": "ab" * 32, "data_partition_uuid": OWNER, "hash_partition_uuid": OWNER})
    )
    return tmp_path


def write_sidecar(path: Path) -> None:
    sidecar(path).write_text(sidecar_text(path))


def build(files: Path, cloud: str, target: Path, spec: CloudSpec | None = None) -> None:
    subject = publish.Subject(
        image="debian-cvm",
        version="1",
        architecture="x86_64",
        cloud=cloud,
        spec=spec or SPECS[cloud],
        disk_format=FORMATS[cloud],
        owner=OWNER,
    )
    publish.build(
        target,
        subject=subject,
        shipped=files / f"disk{SUFFIXES[cloud]}",
        raw=files / "disk.raw",
        golden=files / "golden.json",
        boot_program=files / "image.efi",
        facts=(files / "verity.json",),
        noted=Marks("recipe.yaml"),
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("cloud", sorted(SPECS))
def test_a_kit(cloud: str, files: Path) -> None:
    build(files, cloud, files / "kit")
    found = contents(files / "kit")
    shipped = files / f"disk{SUFFIXES[cloud]}"
    digest = hashlib.sha256(shipped.read_bytes()).hexdigest()
    name = f"debian-cvm-1-{digest[:16]}{SUFFIXES[cloud]}"
    assert {"deploy.sh", "metadata.json", "golden.json", f"golden.{cloud}.json", name} < set(found)
    assert (files / "kit" / name).samefile(shipped)
    assert (files / "kit" / "deploy.sh").stat().st_mode & 0o777 == 0o755
    assert found["golden.json"] == (files / "golden.json").read_bytes()
    metadata = json.loads(found["metadata.json"])
    assert metadata["disk"] == {
        "file": name,
        "format": FORMATS[cloud],
        "size": shipped.stat().st_size,
        "virtual_size": GIB if cloud == "gcp" else SIZE,
        "sha256": digest,
    }
    assert metadata["root_hash"] == "ab" * 32
    for item in metadata["files"]:
        assert hashlib.sha256(found[item["file"]]).hexdigest() == item["sha256"]
        assert len(found[item["file"]]) == item["size"]
    listed = {item["file"] for item in metadata["files"]}
    assert set(found) - listed == {"metadata.json", name}


@pytest.mark.parametrize("cloud", sorted(SPECS))
def test_a_kit_is_the_same_every_time(cloud: str, files: Path) -> None:
    for target in ("one", "two"):
        build(files, cloud, files / target)
    assert contents(files / "one") == contents(files / "two")


def test_a_disk_where_there_are_no_hard_links(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", link)
    build(files, "aws", files / "kit")
    (made,) = (files / "kit").glob("*.vmdk")
    assert made.read_bytes() == (files / "disk.vmdk").read_bytes()
    assert not made.samefile(files / "disk.vmdk")


def test_no_keys_without_secure_boot(files: Path) -> None:
    build(files, "azure", files / "kit", spec=AzureSpec(secure_boot=False))
    found = contents(files / "kit")
    assert not any(name.startswith("secure-boot/") for name in found)
    metadata = json.loads(found["metadata.json"])
    assert metadata["secure_boot"] == {"enabled": False, "owner": OWNER, "certificates": []}
    assert not any(row["register"] == "PCR7" for row in metadata["golden"]["registers"])
    assert b"securityProfile" not in found["deploy.sh"]


def test_certificates_in_the_metadata(files: Path) -> None:
    build(files, "gcp", files / "kit")
    metadata = json.loads((files / "kit" / "metadata.json").read_text())
    for item in metadata["secure_boot"]["certificates"]:
        _, certificate = key_pair(item["role"])
        assert item["sha256"] == hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


@pytest.mark.parametrize("cloud", sorted(SPECS))
def test_what_a_machine_in_a_cloud_measures(cloud: str, files: Path) -> None:
    build(files, cloud, files / "kit")
    found = manifest_reader.load((files / "kit" / f"golden.{cloud}.json").read_text(), "x")
    (made,) = found.machines
    assert made.name == cloud
    base = machine("q35-True", secure_boot=True, sizes={})
    for register in ("PCR4", "PCR9", "PCR11"):
        assert made.value(register, HashAlgorithm.SHA256) == base.value(register, HashAlgorithm.SHA256)
    assert made.value("PCR0", HashAlgorithm.SHA256) is None
    grown = rows("PCR5", b"grown")[0]
    table = fold(grown, HashAlgorithm.SHA256) if cloud == "gcp" else base.value("PCR5", HashAlgorithm.SHA256)
    assert made.value("PCR5", HashAlgorithm.SHA256) == table
    from recipes.clouds.secure_boot import pcr7
    from recipes.measure.secureboot import LoadedImage

    program = LoadedImage("image.efi", (files / "image.efi").read_bytes())
    keys_there = pcr7(cloud, publish_kit.certificates(), UUID(OWNER), [program])
    assert made.value("PCR7", HashAlgorithm.SHA256) == keys_there.value(HashAlgorithm.SHA256)
    assert {row.established for row in made.registers} == {Established.SPEC_ONLY}
    policies = {item.register: item.policy for item in made.policies}
    assert policies == dict.fromkeys(("PCR4", "PCR5", "PCR7", "PCR9", "PCR11"), Policy.ENFORCE)
    assert {item.register for item in made.omitted} == {"PCR0", "PCR1"}
    identity = json.loads(made.identity)
    assert (identity["cloud"], identity["tee"]) == (cloud, "sev-snp" if cloud == "aws" else "tdx")
    metadata = json.loads((files / "kit" / "metadata.json").read_text())
    assert metadata["golden"]["machine"] == "q35-True"
    assert len(metadata["golden"]["registers"]) == 5 * len(HashAlgorithm)
    assert metadata["golden"]["assumptions"] == list(keys_there.assumptions)


def test_another_partition_table_is_a_difference_in_a_cloud_too(files: Path) -> None:
    found = publish_golden.cloud_golden(files / "golden.json", "gcp", "gce", {}, None)
    (made,) = manifest_reader.load(found.text, "x").machines
    difference = Difference(register="PCR5", message="another table")
    seen = Comparison(machine=made.name, results=(), differences=(difference,), events=1)
    assert seen.enforced(made) == (difference,)


def test_a_machine_like_that_is_not_needed(files: Path) -> None:
    manifest = manifest_reader.load((files / "golden.json").read_text(), "x")
    (files / "golden.json").write_text(dump(replace(manifest, machines=manifest.machines[:1])))
    found = publish_golden.cloud_golden(files / "golden.json", "aws", "vmdk", {}, None)
    assert found.machine == "q35-False"


@pytest.mark.parametrize("register", [14, 15, 23])
def test_the_workload_is_the_images_own_in_a_cloud_too(register: int, files: Path) -> None:
    manifest = manifest_reader.load((files / "golden.json").read_text(), "x")
    step = workload_step(register, "site", b"{}")
    trace, up = rows("PCR11:ready", b"up")
    machines = tuple(
        with_workload(replace(item, registers=(*item.registers, *up), traces=(*item.traces, trace)), step)
        for item in manifest.machines
    )
    (files / "golden.json").write_text(dump(replace(manifest, machines=machines)))
    found = publish_golden.cloud_golden(files / "golden.json", "azure", "vhd", {}, None)
    (made,) = manifest_reader.load(found.text, "x").machines
    name = f"PCR{register}"
    assert made.value(f"{name}:ready", HashAlgorithm.SHA256) == machines[0].value(
        f"{name}:ready", HashAlgorithm.SHA256
    )
    assert {item.register: item.policy for item in made.policies}[name] is Policy.ENFORCE
    assert name not in {item.register for item in made.omitted}


def test_a_disk_that_the_cloud_would_not_take(files: Path) -> None:
    with (files / "disk.vhd").open("r+b") as file:
        file.seek(-512, 2)
        file.write(b"x")
    write_sidecar(files / "disk.vhd")
    with pytest.raises(FormatError, match=r"disk\.vhd: footer"):
        build(files, "azure", files / "kit")
    assert not (files / "kit").exists()


@pytest.mark.parametrize("cloud", sorted(SPECS))
def test_a_machine_whose_disk_is_smaller_than_the_image(
    cloud: str, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is found only here, where the disk is: before, it may be as small as can be."""
    monkeypatch.setattr(publish, "_disk", large_disk)
    with pytest.raises(SpecError) as caught:
        build(files, cloud, files / "kit", replace(SPECS[cloud], disk_size=20 * GIB))
    (problem,) = caught.value.problems
    assert problem.message.startswith(
        f"publish.{cloud}: disk-size: the machine's disk has 20 GiB, and the image"
    )
    assert not (files / "kit").exists()


def large_disk(subject: publish.Subject, shipped: Path, raw: Path) -> publish_kit.KitDisk:
    size, sha256 = digests.read_sidecar(shipped)
    return publish_kit.KitDisk(
        file="disk", format=subject.disk_format, size=size, sha256=sha256, virtual_size=21 * GIB
    )


def test_a_disk_size_that_a_cloud_refuses_is_said_before_anything_is_built(tmp_path: Path) -> None:
    spec = PublishSpec(
        azure=AzureSpec(disk_size=5000 * GIB, security_feature=SecurityFeature.CONFIDENTIAL),
        gcp=GcpSpec(disk_size=2 * GIB),
        aws=AwsSpec(disk_size=70000 * GIB),
    )
    with pytest.raises(SpecError) as caught:
        publish.steps(image_of(tmp_path, spec, ("raw", "vhd", "vmdk", "gce")))
    assert sorted(problem.message.rpartition(": ")[0][:31] for problem in caught.value.problems) == [
        "publish.aws: disk-size",
        "publish.azure: disk-size",
        "publish.azure: security-feature",
        "publish.gcp: disk-size: the mac",
    ]


def test_a_disk_that_is_too_small(files: Path) -> None:
    with (files / "disk.raw").open("r+b") as file:
        file.truncate(4 * MIB)
    with pytest.raises(SpecError) as caught:
        build(files, "azure", files / "kit")
    (problem,) = caught.value.problems
    assert problem.message.startswith("publish.azure: disk: with its footer the disk has 4194816 bytes")


def test_files_of_a_kit_are_for_everybody_to_read(files: Path) -> None:
    build(files, "aws", files / "kit")
    for path in (files / "kit").rglob("*"):
        if path.is_file() and path.suffix not in (".sh", ".vmdk"):
            assert stat.S_IMODE(path.stat().st_mode) & 0o444 == 0o444
