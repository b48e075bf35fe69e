"""What an image with the attestation service has in its root file system."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SpecError
from ..record import dataclass, replace
from ..schema import Image, RootfsSpec
from .digests import ROOT

if TYPE_CHECKING:
    from ..formats.tree import FileTree

OVERLAY = "attest"
# What of it starts at boot, and the network that it is reached by.
UNITS = ("attest.socket", "systemd-networkd.service")
OPERATORS = "usr/lib/goldsmith/attest-operators.pem"
_PORT = "usr/lib/systemd/system/attest.socket.d/port.conf"


@dataclass(frozen=True, kw_only=True)
class Attested:
    """The service's settings; ``operators`` is the path of a certificate."""

    port: int
    operators: Path | None


def attested(image: Image) -> Attested | None:
    """The settings of an image that has the service."""
    spec = image.recipe.attest
    if spec is None:
        return None
    return Attested(port=spec.port, operators=ROOT / spec.operators if spec.operators else None)


def with_attest(image: Image, spec: RootfsSpec) -> RootfsSpec:
    """The root file system with the service's overlay and units, where the recipe asks for it."""
    if image.recipe.attest is None:
        return spec
    return replace(
        spec,
        overlays=(*spec.overlays, *(() if OVERLAY in spec.overlays else (OVERLAY,))),
        enable=(*spec.enable, *(name for name in UNITS if name not in spec.enable)),
    )


def inputs(image: Image) -> tuple[Path, ...]:
    """Files of the project that the settings name."""
    found = attested(image)
    return () if found is None or found.operators is None else (found.operators,)


def add_settings(tree: FileTree, settings: Attested) -> None:
    """Writes the settings into a root file system.

    Raises:
        SpecError: the operators' certificate is not there, or is none.
    """
    port = f"[Socket]\nListenStream={settings.port}\n"
    tree.add_file(_PORT, port.encode("ascii"), source="the recipe")
    if settings.operators is not None:
        tree.add_file(OPERATORS, _certificate(settings.operators), source="the recipe")


def _certificate(path: Path) -> bytes:
    from ..errors import FormatError
    from ..formats.tls_certificates import check_certificate

    where = f"attest.operators: {path.relative_to(ROOT).as_posix()}"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SpecError(f"{where}: {str(error.strerror).lower()}; put the file there") from None
    if b"PRIVATE KEY-----" in data:
        raise SpecError(f"{where}: this is a private key; name the certificate")
    try:
        check_certificate(data, where, whom="operators")
    except FormatError as error:
        raise SpecError(str(error)) from None
    return data
