"""What is handed to Islet's tools, from values that other programs computed."""

from __future__ import annotations

import hashlib
import json
import shlex
import uuid
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml

from recipes.app_manager import AppManagerConfig, Rem
from recipes.errors import ImageError
from recipes.formats.p384 import SigningKey
from recipes.golden.manifest import GoldenMachine, GoldenManifest, RegisterRow, dump
from recipes.machine import Irqchip, KvmtoolMachine, KvmtoolNetwork
from recipes.measure.trace import Established, HashAlgorithm, Trace
from recipes.schema.realm import ApplicationSpec, ManagerSpec, RealmSpec
from recipes.sources import lock as locks
from recipes.steps.keys import write_key
from recipes.steps.realm import keys, provision
from tests.vectors.kvmtool_inputs import vectors
from tests.vectors.test_islet import CASES, DATA, REM

ZERO = "00" * 32
NAMES = ("metadata.yaml", "metadata.bin", "reference.json", "warden.txt", "lkvm.txt", "measure.txt")
IDENTIFIER = uuid.UUID("3d9b4dbb-b5a6-527b-b1b9-a8af27f51cd2")
DEMO = next(vector for vector in vectors() if vector.name == "demo-islet")
MACHINE = KvmtoolMachine(
    name="islet-1cpu-256m",
    profile="kvmtool-eac5",
    islet=True,
    vcpus=1,
    memory=256 << 20,
    irqchip=Irqchip.GICV3,
    networks=(KvmtoolNetwork(options="tapif=tap100,guest_mac=52:55:00:d1:55:02"),),
    vsock=12344,
    disable_sve=True,
    disks=1,
)
MANIFEST = CASES["demo"]["manifest"]
REALM = RealmSpec(
    id=MANIFEST["realm_id"],
    svn=MANIFEST["svn"],
    registry="193.168.10.15:8888",
    manager=ManagerSpec(config=AppManagerConfig(extend=Rem.REM0)),
)
# The demo's disk has this name in the record, and warden names a disk after its application.
DISK = ApplicationSpec(name="disk", version="1.0", packages=("x",), command=("/x",), data_size=64 << 20)


@dataclass(frozen=True)
class Inputs:
    """A folder with what the step reads."""

    folder: Path

    def build(
        self,
        machine: KvmtoolMachine = MACHINE,
        realm: RealmSpec = REALM,
        *,
        version: str = "1.0.0",
        wanted: tuple[ApplicationSpec, ...] = (DISK,),
    ) -> dict[str, bytes]:
        """The products by name."""
        provision.build(
            *(self.folder / name for name in NAMES),
            golden=self.folder / "golden.json",
            provisioned=self.folder / "applications.json",
            lock=self.folder / "lock",
            machine=machine,
            realm=realm,
            version=version,
            identifier=str(IDENTIFIER),
            kernel="kernel-a.img",
            initrd="initrd-a.img",
            wanted=wanted,
        )
        return {name: (self.folder / name).read_bytes() for name in NAMES}


def golden(machine: str, algorithm: HashAlgorithm, rim: str) -> str:
    row = RegisterRow(
        register="RIM", algorithm=algorithm, value=bytes.fromhex(rim), established=Established.ORACLE
    )
    entry = GoldenMachine(
        name=machine,
        vmm="",
        identity="{}",
        launch="",
        registers=(row,),
        policies=(),
        omitted=(),
        traces=(Trace("RIM", ()),),
    )
    manifest = GoldenManifest(image="realm", version="1.0.0", artefacts=(), machines=(entry,), unmeasured=())
    return dump(manifest)


def application(name: str) -> dict[str, str]:
    return {
        "name": name,
        "tag": "1.0",
        "manifest": "",
        "config": "",
        "public_key": REM["vendor_pub_hex"],
        "public_key_signature": REM["vendor_pub_signature_hex"],
        "config_digest": hashlib.sha384(REM["config_utf8"].encode()).hexdigest(),
    }


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Inputs:
    key = SigningKey.from_scalar(int(DATA["private_key_scalar_hex"], 16), "key")
    write_key(tmp_path / "islet-metadata.pem", key.pem, 0o600)
    monkeypatch.setattr(keys, "METADATA", tmp_path / "islet-metadata.pem")
    (tmp_path / "golden.json").write_text(golden(MACHINE.name, HashAlgorithm.SHA256, MANIFEST["rim"]))
    (tmp_path / "applications.json").write_text(
        json.dumps({"schema": 1, "applications": [application("disk")]})
    )
    lock = locks.Lock(suite="trixie", architecture="arm64", epoch=1_700_000_000, packages=())
    (tmp_path / "lock").write_text(locks.dump(lock, image="realm"))
    return Inputs(tmp_path)


def test_metadata_is_what_realm_metadata_tool_would_write(inputs: Inputs) -> None:
    found = inputs.build()
    assert found["metadata.bin"].hex() == CASES["demo"]["metadata_bin_hex"]
    assert yaml.safe_load(found["metadata.yaml"]) == MANIFEST
    assert inputs.build() == found


def test_a_realm_of_sha512(inputs: Inputs) -> None:
    expected = CASES["sha512"]["manifest"]
    (inputs.folder / "golden.json").write_text(golden("big", HashAlgorithm.SHA512, expected["rim"]))
    realm = replace(REALM, id=expected["realm_id"], svn=expected["svn"], manager=ManagerSpec())
    with pytest.raises(ImageError, match=r"^big: warden starts realms with sha256 only"):
        inputs.build(
            replace(MACHINE, name="big", algorithm="sha512"), realm, version=expected["version"], wanted=()
        )


def test_reference_values(inputs: Inputs) -> None:
    """Shape: realm-verifier 567e908 tests/realm.json; `date -u -d @1700000000` gives the time."""
    realm = json.loads(inputs.build()["reference.json"])["realm"]
    assert realm == {
        "uuid": str(IDENTIFIER),
        "name": "com.company.realm",
        "version": "1.0.0",
        "release-timestamp": "2023-11-14T22:13:20Z",
        "attestation-protocol": "HTTPS/RA-TLSv1.0",
        "port": 8088,
        "reference-values": {
            "rim": MANIFEST["rim"],
            "rems": [[ZERO] * 4, [REM["rem0_sha256"], ZERO, ZERO, ZERO]],
            "hash-algo": "sha-256",
        },
    }


@pytest.mark.parametrize("extend", [Rem.REM1, Rem.REM3])
def test_the_recipe_says_which_register_is_extended(inputs: Inputs, extend: Rem) -> None:
    realm = replace(REALM, manager=ManagerSpec(config=AppManagerConfig(extend=extend)))
    values = json.loads(inputs.build(realm=realm)["reference.json"])["realm"]["reference-values"]
    expected = [ZERO] * 4
    expected[int(extend.value[-1])] = REM["rem0_sha256"]
    assert values["rems"] == [[ZERO] * 4, expected]


def test_a_manager_that_extends_nothing_leaves_zeros(inputs: Inputs) -> None:
    realm = replace(REALM, manager=ManagerSpec(config=AppManagerConfig(extend=None)))
    values = json.loads(inputs.build(realm=realm)["reference.json"])["realm"]["reference-values"]
    assert values["rems"] == [[ZERO] * 4]


def test_the_measured_line_is_the_recorded_one(inputs: Inputs) -> None:
    """What warden starts for the demo is what the measurer was given, but for the metadata and --islet."""
    found = inputs.build()
    measured = shlex.split(found["measure.txt"].decode())
    assert " --metadata metadata.bin " in shlex.join(measured)
    measured.remove("--metadata")
    measured.remove("metadata.bin")
    assert measured == ["lkvm", *DEMO.argv]
    launched = found["lkvm.txt"].decode()
    assert [*shlex.split(launched), "--islet"] == shlex.split(found["measure.txt"].decode())
    assert launched.endswith("\n")


def test_wardens_quotation_marks_are_part_of_the_line(inputs: Inputs) -> None:
    """Spec: realm-manager 79b74b6 lkvm.rs: `-p` and the options in quotation marks, behind the initramfs."""
    found = inputs.build(replace(MACHINE, parameters='"quiet loglevel=3"'))
    words = shlex.split(found["lkvm.txt"].decode())
    assert words[6:10] == ["-i", "initrd-a.img", "-p", '"quiet loglevel=3"']
    assert " -o 'quiet loglevel=3' " in found["warden.txt"].decode()


def test_lines_for_warden(inputs: Inputs) -> None:
    """Spec: realm-manager 79b74b6, client commands; sizes in MB, a disk for each application."""
    web = ApplicationSpec(name="web", version=f"sha256:{'a' * 64}", layout="web")
    text = inputs.build(replace(MACHINE, disks=2), wanted=(DISK, web))["warden.txt"].decode()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    files, network = "-k kernel-a.img -i initrd-a.img", "-t tap100 -a 52:55:00:d1:55:02"
    assert lines == [
        f"create-realm -n 1 -r 256 {files} -v 12344 -d metadata.bin -z {IDENTIFIER} {network}",
        f"create-application -r {IDENTIFIER} -n disk -v 1.0 -i 193.168.10.15:8888 -o 32 -d 64",
        f"create-application -r {IDENTIFIER} -n web -v sha256:{'a' * 64} -i 193.168.10.15:8888 -o 32 -d 32",
        f"start-realm -r {IDENTIFIER}",
    ]


@pytest.mark.parametrize(
    ("machine", "algorithm", "rim"),
    [("other", HashAlgorithm.SHA256, "11" * 32), (MACHINE.name, HashAlgorithm.SHA512, "11" * 64)],
)
def test_a_golden_manifest_without_the_rim(
    inputs: Inputs, machine: str, algorithm: HashAlgorithm, rim: str
) -> None:
    (inputs.folder / "golden.json").write_text(golden(machine, algorithm, rim))
    message = "golden.json: has no RIM for islet-1cpu-256m; run the same command again"
    with pytest.raises(ImageError) as caught:
        inputs.build()
    assert str(caught.value) == message


def test_a_key_that_others_can_read_signs_nothing(inputs: Inputs) -> None:
    (inputs.folder / "islet-metadata.pem").chmod(0o640)
    with pytest.raises(ImageError, match=r"keys/islet-metadata\.pem: others may use it \(mode 0640\)"):
        inputs.build()
    assert not (inputs.folder / "metadata.bin").exists()
