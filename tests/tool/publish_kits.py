"""Kits for the stand-ins of clouds: a small disk, rendered scripts, and runs of them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recipes.schema.publish import AwsSpec, AzureSpec, CloudSpec, GcpSpec, parameters
from recipes.steps import publish, publish_golden, publish_kit
from recipes.steps.publish_names import disk_name
from tests.tool.cloud_standins import aws, azure, gcp
from tests.tool.cloud_standins.program import Cloud, Server

CLOUDS = {"azure": azure.cloud, "gcp": gcp.cloud, "aws": aws.cloud}
SPECS: dict[str, CloudSpec] = {"azure": AzureSpec(), "gcp": GcpSpec(), "aws": AwsSpec()}
SUFFIXES = {"azure": ".vhd", "gcp": ".tar.gz", "aws": ".vmdk"}
DISK = b"disk" * 1024
SECURITY_PROFILE = {
    "uefiSettings": {
        "signatureTemplateNames": ["NoSignatureTemplate"],
        "additionalSignatures": {
            "pk": {"type": "x509", "value": ["MIIB"]},
            "kek": [{"type": "x509", "value": ["MIIC"]}],
            "db": [{"type": "x509", "value": ["MIID"]}],
        },
    }
}
KEY_FILES = {
    "azure": {"security-profile.json": json.dumps(SECURITY_PROFILE, indent=2).encode() + b"\n"},
    "gcp": {f"{role}.der": b"\x30\x82" + role.encode() for role in ("PK", "KEK", "db")},
    "aws": {"uefi-data.txt": b"QU1aTlVFRkk="},
}


@dataclass(frozen=True)
class Outcome:
    """How a run of a script ended."""

    status: int
    out: str
    error: str


@dataclass
class Place:
    """A kit, a cloud, and the stand-in of the program that reaches it."""

    folder: Path
    kit: publish_kit.Kit
    server: Server
    environment: dict[str, str]

    @property
    def cloud(self) -> Cloud:
        """What the script works on."""
        return self.server.cloud

    @property
    def script(self) -> Path:
        """The kit's script, in a folder that needs quoting."""
        return self.folder / "a kit, with 'signs'" / "deploy.sh"

    def run(self, *arguments: str, **environment: str) -> Outcome:
        """Runs the script from another folder; calls are counted from its start."""
        self.cloud.calls.clear()
        self.cloud.after.clear()
        result = subprocess.run(
            ["sh", str(self.script), *arguments],
            cwd=self.folder,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        return Outcome(result.returncode, result.stdout, result.stderr)

    def changes(self) -> list[str]:
        """The commands of calls that changed something."""
        return [call.command for call in self.cloud.calls if call.changes]

    def resources(self) -> dict[str, Any]:
        """What there is, without counts of looks."""
        kinds = {kind: items for kind, items in self.cloud.state.kinds.items() if kind != "counter"}
        return {kind: _plain(items) for kind, items in kinds.items() if items}


def _plain(items: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {key: value for key, value in item.items() if key != "looks"} for name, item in items.items()
    }


def make_kit(cloud: str, spec: CloudSpec | None = None, image: str = "debian-cvm") -> publish_kit.Kit:
    """A kit without its files."""
    spec = spec or SPECS[cloud]
    sha256 = hashlib.sha256(DISK).hexdigest()
    name = disk_name(image, "1.0", sha256)
    files = [
        publish_kit.KitFile(
            file=f"secure-boot/{file}", size=len(data), sha256=hashlib.sha256(data).hexdigest()
        )
        for file, data in KEY_FILES[cloud].items()
    ]
    return publish_kit.Kit(
        cloud=cloud,
        image=image,
        version="1.0",
        architecture="x86_64",
        disk=publish_kit.KitDisk(
            file=f"{name}{SUFFIXES[cloud]}",
            format="any",
            size=len(DISK),
            sha256=sha256,
            virtual_size=1 << 30,
        ),
        disk_name=name,
        parameters=parameters(spec),
        effective=parameters(spec),
        sizes=tuple(dict(getattr(spec, "BY_TEE", {})).items()),
        size_key="size" if cloud == "azure" else "machine_type",
        image_version="1.0.0",
        root_hash="00" * 32,
        owner="11111111-2222-3333-4444-555555555555",
        keys=spec.secure_boot,
        certificates=(),
        golden=publish_golden.CloudGolden(machine="q35", text="", rows=(), assumptions=()),
        files=tuple(files) if spec.secure_boot else (),
    )


@contextmanager
def place(folder: Path, cloud: str, kit: publish_kit.Kit | None = None) -> Iterator[Place]:
    """A kit in a folder, and the program that it calls."""
    kit = kit or make_kit(cloud)
    programs, temporary = folder / "bin", folder / "tmp"
    for path in (programs, temporary):
        path.mkdir()
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "TMPDIR": str(temporary),
        "GOLDSMITH_POLL": "0",
        "HOME": str(folder),
    }
    server = Server(CLOUDS[cloud](), programs)
    made = Place(folder, kit, server, environment)
    target = made.script.parent
    target.mkdir()
    (target / kit.disk.file).write_bytes(DISK)
    for name, data in KEY_FILES[cloud].items():
        publish_kit.add_file(target, f"secure-boot/{name}", data)
    publish_kit.write_texts(target, kit, publish.script(cloud), publish.COMMON, publish.METADATA)
    try:
        yield made
    finally:
        server.close()


def with_parameters(kit: publish_kit.Kit, **values: str) -> publish_kit.Kit:
    """The kit of a recipe that says other values."""
    changed = tuple(replace(item, value=values.get(item.name, item.value)) for item in kit.parameters)
    return replace(kit, parameters=changed)
