"""OCI layouts made by hand, with Python's own json, hashlib, gzip and tarfile, for the tests of readers."""

from __future__ import annotations

import gzip
import hashlib
import json
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard

from tests.packages import Entry, directory, entry, symlink, tar

OCI = "application/vnd.oci.image."
INDEX, MANIFEST, CONFIG = (f"{OCI}{name}.v1+json" for name in ("index", "manifest", "config"))
LAYER = f"{OCI}layer.v1.tar"
REF_NAME = "org.opencontainers.image.ref.name"
ROOT = (directory("usr/"), entry("usr/run", b"#!run\n" * 100, mode=0o755), symlink("bin", "usr"))


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def packed(data: bytes, kind: str) -> bytes:
    """A layer blob; ``kind`` is the ending of its media type."""
    if kind == "+gzip":
        return gzip.compress(data, mtime=0)
    return zstandard.compress(data) if kind == "+zstd" else data


def dumps(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


@dataclass
class Sample:
    """Blobs by digest, and an ``index.json`` that is still a document."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    index: dict[str, Any] = field(
        default_factory=lambda: {"schemaVersion": 2, "mediaType": INDEX, "manifests": []}
    )
    marker: bytes = b'{"imageLayoutVersion":"1.0.0"}'

    def blob(self, data: bytes, media_type: str, algorithm: str = "sha256") -> dict[str, Any]:
        digest = digest_of(data, algorithm)
        self.blobs[digest] = data
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def image(
        self,
        *layers: tuple[bytes, str],
        tag: str | None = "1.0",
        architecture: str = "arm64",
        algorithm: str = "sha256",
        manifest: dict[str, Any] | None = None,
        config: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Adds an image of uncompressed layers, each with a kind; its reference, not in any index yet."""
        layers = layers or ((tar(*ROOT), "+gzip"),)
        about = {
            "architecture": architecture,
            "os": "linux",
            "config": {"Entrypoint": ["/usr/run"], "Env": ["PATH=/usr"], "User": "1:2"},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(data) for data, _ in layers]},
        } | (config or {})
        references = [self.blob(packed(data, kind), LAYER + kind, algorithm) for data, kind in layers]
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.blob(dumps(about), CONFIG, algorithm),
            "layers": references,
        } | (manifest or {})
        reference = self.blob(dumps(document), MANIFEST, algorithm)
        return reference | ({"annotations": {REF_NAME: tag}} if tag else {})

    def nested(self, *references: dict[str, Any], tag: str | None = None) -> dict[str, Any]:
        """Adds an index; its reference."""
        document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": list(references)}
        reference = self.blob(dumps(document), INDEX)
        return reference | ({"annotations": {REF_NAME: tag}} if tag else {})

    def top(self, *references: dict[str, Any]) -> Sample:
        self.index["manifests"] = list(references)
        return self

    def files(self) -> dict[str, bytes]:
        blobs = {"blobs/" + digest.replace(":", "/"): data for digest, data in self.blobs.items()}
        return {"oci-layout": self.marker, "index.json": dumps(self.index), **blobs}

    def folder(self, folder: Path) -> Path:
        return write(folder, self.files())

    def archive(self, path: Path) -> Path:
        path.write_bytes(tar(*members(self.files())))
        return path


def members(files: dict[str, bytes]) -> list[Entry]:
    return [entry(name, data) for name, data in files.items()]


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def one_image(*layers: tuple[bytes, str], **options: Any) -> Sample:
    """A layout with one image, tagged 1.0."""
    sample = Sample()
    return sample.top(sample.image(*layers, **options))


def changed(document: dict[str, Any], path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """A copy with another value at ``path``; ``...`` takes the key away."""
    copy: Any = deepcopy(document)
    place = copy
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return dict(copy)
