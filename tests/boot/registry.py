"""An OCI registry on the loopback address, and signed images for it, both made without the code under test.

A guest without any other network reaches it through QEMU's user network: each of its connections starts this
file as a program, which carries the bytes to the registry and back.

Spec: OCI image-spec 1.1 and distribution-spec 1.1; the annotations are those of Islet's ir-sign.
"""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import json
import os
import shlex
import socket
import sys
import tarfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
SIGNATURE = "com.samsung.islet.image.signature"
VENDOR = "com.samsung.islet.image.vendorpub"
VENDOR_SIGNATURE = "com.samsung.islet.image.vendorpub.signature"
# Where the guest finds it: QEMU gives this address of its own network to nobody.
GUEST = ("10.0.2.100", 5000)

Json = dict[str, Any]


@dataclass(frozen=True)
class Layer:
    """A layer: its archive, and the blob that stands for it."""

    archive: bytes
    blob: bytes
    media_type: str


def layer(files: Mapping[str, bytes | str | None], *, compressed: bool = False) -> Layer:
    """A layer with files (bytes), links (the target) and folders (None); below ``bin/`` are programs."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.mode = 0o755 if content is None or "bin/" in name else 0o644
            if content is None:
                entry.type = tarfile.DIRTYPE
            elif isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
            else:
                entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content) if isinstance(content, bytes) else None)
    data = out.getvalue()
    if compressed:
        return Layer(data, gzip.compress(data, mtime=0), f"{LAYER}+gzip")
    return Layer(data, data, LAYER)


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Signer:
    """A key on P-384; signs as openssl does, DER over SHA-384."""

    def __init__(self) -> None:
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP384R1())
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        self.public = key.public_key().public_bytes(serialization.Encoding.DER, form)
        self.sign: Callable[[bytes], bytes] = lambda data: key.sign(data, ec.ECDSA(hashes.SHA384()))


@dataclass
class Image:
    """An image that a test may spoil: what is served is made from the fields as they are then.

    Attributes:
        config: what stands in the config, as it is signed.
        vendor_signature: of the root CA over the vendor's key.
        blobs: what is served under a digest instead of what has it.
        reference: by what it is asked for.
    """

    name: str
    layers: Sequence[Layer]
    config: bytes
    vendor: bytes
    vendor_signature: bytes
    signature: bytes
    blobs: dict[str, bytes] = field(default_factory=dict)
    reference: str = "latest"

    @property
    def manifest(self) -> bytes:
        value = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": digest(self.config), "size": len(self.config)},
            "layers": [
                {"mediaType": item.media_type, "digest": digest(item.blob), "size": len(item.blob)}
                for item in self.layers
            ],
            "annotations": {
                SIGNATURE: self.signature.hex(),
                VENDOR: self.vendor.hex(),
                VENDOR_SIGNATURE: self.vendor_signature.hex(),
            },
        }
        return json.dumps(value, indent=2).encode()

    def paths(self) -> dict[str, bytes]:
        """What the registry has of it, by path."""
        blobs = {digest(data): data for data in (self.config, *(item.blob for item in self.layers))}
        found = {f"/v2/{self.name}/blobs/{name}": data for name, data in (blobs | self.blobs).items()}
        return found | {f"/v2/{self.name}/manifests/{self.reference}": self.manifest}


def image(name: str, layers: Sequence[Layer], config: Json, vendor: Signer, root_ca: Signer) -> Image:
    """A signed image."""
    value = {
        "architecture": "arm64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [digest(item.archive) for item in layers]},
        "config": config,
    }
    data = json.dumps(value).encode()
    return Image(name, layers, data, vendor.public, root_ca.sign(vendor.public), vendor.sign(data))


def layout_paths(folder: Path) -> dict[str, bytes]:
    """What a registry has of OCI layouts, one in each subfolder, by path."""
    found = {}
    for layout in folder.iterdir():
        index = json.loads((layout / "index.json").read_text())
        for blob in (layout / "blobs" / "sha256").iterdir():
            found[f"/v2/{layout.name}/blobs/sha256:{blob.name}"] = blob.read_bytes()
        for item in index["manifests"]:
            data = (layout / "blobs" / "sha256" / item["digest"].removeprefix("sha256:")).read_bytes()
            for reference in (item["digest"], item["annotations"]["org.opencontainers.image.ref.name"]):
                found[f"/v2/{layout.name}/manifests/{reference}"] = data
    return found


def image_paths(images: Iterable[Image]) -> dict[str, bytes]:
    """What a registry has of some images, by path."""
    return {path: data for item in images for path, data in item.paths().items()}


class Registry:
    """Serves content by path until the context ends.

    Attributes:
        guest: host and port where the guest finds it; no other address answers there.
        asked: the path of every request.
    """

    def __init__(self, served: Mapping[str, bytes], guest: tuple[str, int] = GUEST) -> None:
        self.guest = guest
        self.asked: list[str] = []
        asked = self.asked

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                data = served.get(self.path)
                self.send_response(404 if data is None else 200)
                self.send_header("Content-Length", str(len(data or b"")))
                self.end_headers()
                self.wfile.write(data or b"")

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class' name
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Registry:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def forward(self) -> str:
        """QEMU's ``guestfwd`` value: what connects to the guest's address talks to this registry, and to
        nothing else."""
        port = self._server.server_address[1]
        words = [sys.executable, "-S", "-E", str(Path(__file__).resolve()), str(port)]
        return f"tcp:{self.guest[0]}:{self.guest[1]}-cmd:{shlex.join(words)}"


def carry(port: int) -> None:
    """Carries bytes between standard input and output and the registry until one side ends."""
    with socket.create_connection(("127.0.0.1", port)) as there:

        def send() -> None:
            while data := os.read(0, 65536):
                there.sendall(data)
            there.shutdown(socket.SHUT_WR)

        threading.Thread(target=send, daemon=True).start()
        while data := there.recv(65536):
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    carry(int(sys.argv[1]))
