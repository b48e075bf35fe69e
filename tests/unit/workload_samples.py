"""Workloads for tests: a Compose file, and image archives as programs that save images write them."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

COMPOSE = """\
services:
  web:
    image: web:1.0
    network_mode: none
    volumes: ["./config/app.toml:/etc/app.toml:ro"]
"""
ARCHITECTURE = "amd64"


def tar(members: Mapping[str, bytes]) -> bytes:
    """A plain archive of files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


LAYER = tar({"bin/web": b"#!/bin/sh\n"})


def config(architecture: str = ARCHITECTURE, layers: tuple[bytes, ...] = (LAYER,)) -> bytes:
    """The configuration of an image."""
    digests = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
    document = {
        "architecture": architecture,
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": digests},
    }
    return json.dumps(document).encode()


def docker_members(*names: str, data: bytes | None = None, tags: object = None) -> dict[str, bytes]:
    """Members of an archive of ``docker save``: one image with these names."""
    data = config() if data is None else data
    path = f"{hashlib.sha256(data).hexdigest()}.json"
    entry = {"Config": path, "RepoTags": list(names) if tags is None else tags, "Layers": ["1/layer.tar"]}
    return {path: data, "1/layer.tar": LAYER, "manifest.json": json.dumps([entry]).encode()}


def oci_members(tag: str | None, *, data: bytes | None = None, count: int = 1) -> dict[str, bytes]:
    """Members of an OCI archive; its index has no media type of its own, as podman writes it."""
    data = config() if data is None else data
    members = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}

    def blob(content: bytes) -> dict[str, object]:
        digest = hashlib.sha256(content).hexdigest()
        members[f"blobs/sha256/{digest}"] = content
        return {"digest": f"sha256:{digest}", "size": len(content)}

    manifest = {"schemaVersion": 2, "config": blob(data), "layers": [blob(LAYER)]}
    reference: dict[str, object] = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        **blob(json.dumps(manifest).encode()),
    }
    if tag is not None:
        reference["annotations"] = {"org.opencontainers.image.ref.name": tag}
    members["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [reference] * count}).encode()
    return members


def write_folder(
    folder: Path,
    *,
    compose: str = COMPOSE,
    files: Mapping[str, bytes] | None = None,
    archives: Mapping[str, bytes] | None = None,
) -> Path:
    """A workload's folder; by default one service with a file, and its image."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "docker-compose.yml").write_text(compose)
    given = {"config/app.toml": b"port = 80\n"} if files is None else files
    saved = {"web.tar": tar(docker_members("web:1.0"))} if archives is None else archives
    for path, data in {**given, **saved}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder
