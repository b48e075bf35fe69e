"""``applications:REALM``: a signed OCI layout for each application, as Islet's image registry serves it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ...document import Fields, read_document
from ...record import dataclass
from ...schema import ApplicationSpec, RealmImage
from ..digests import ROOT
from ..packages import resolved_lock
from ..private_keys import own_keys
from ..task import OUT, Step, say, source_files, tree_fingerprint
from ..unpack import unpacked
from . import keys

if TYPE_CHECKING:
    from ...measure.islet import ProvisionedApplication
    from ...sources.oci import ImageLayout

FACTS_VERSION = 1
# Ours: more than a key, a signature or a digest has; what each must have is checked where it is measured.
LONGEST = 512
# What an application has no use for; licences stay.
EXCLUDED = ("usr/share/doc/*", "!usr/share/doc/*/copyright", "usr/share/man/*", "usr/share/lintian/*")


def registry(realm: RealmImage) -> Path:
    """Path of the folder that the image registry serves, a layout for each application."""
    return OUT / realm.folder / "registry"


def facts(realm: RealmImage) -> Path:
    """Path of ``applications.json``: what identifies each application, for REMs and for people."""
    return OUT / realm.folder / "applications.json"


def root_ca(realm: RealmImage) -> Path:
    """Path of the public key that vouches for vendors, as the realm has it."""
    return OUT / realm.folder / "root-ca.pub"


def step(realm: RealmImage) -> Step:
    """The step that makes or imports, checks and signs applications."""
    specs = realm.recipe.applications
    overlays = [ROOT / "rootfs" / item.overlay for item in specs if item.overlay]
    layouts = [ROOT / item.layout for item in specs if item.layout]
    imported = [path for path in layouts if path.is_file()]
    return Step(
        basename="applications",
        image=realm,
        products=(registry(realm), facts(realm), root_ca(realm)),
        folders=(registry(realm),),
        inputs=(
            *((resolved_lock(realm),) if any(item.packages for item in specs) else ()),
            *keys.SIGNING,
            *source_files(*overlays),
            *imported,
            *source_files(*(path for path in layouts if path.is_dir())),
        ),
        build=build,
        arguments={"specs": specs, "lock": resolved_lock(realm)},
        fingerprint=tree_fingerprint(*overlays),
        doc="import or make each application's OCI layout, check and sign it",
    )


def build(
    folder: Path, identities: Path, root_ca: Path, *, specs: tuple[ApplicationSpec, ...], lock: Path
) -> None:
    """Writes the registry's folder, what identifies the applications, and the root CA's public key."""
    from ...sources.oci_sign import sign_image, verify_image

    signing = keys.vendor_keys()
    authority = signing.root_ca.der
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    found = []
    for spec in specs:
        place = folder / spec.name
        layout = _layout(spec, place, lock, identities)
        signed = sign_image(
            place,
            layout.manifest,
            lambda data: signing.vendor.sign(data).der,
            signing.vendor.public.der,
            signing.signature,
        )
        image = verify_image(place, authority, str(signed))
        found.append(
            Identity(
                name=spec.name,
                tag=image.tag or "",
                manifest=str(signed),
                config=str(layout.config),
                public_key=image.vendor_spki,
                public_key_signature=image.vendor_signature,
                config_digest=image.config_digest_sha384,
            )
        )
    identities.write_text(dump_facts(found), encoding="utf-8")
    root_ca.write_bytes(authority)


def _layout(spec: ApplicationSpec, place: Path, lock: Path, beside: Path) -> ImageLayout:
    """The unsigned layout of one application in a new folder."""
    from ...sources.oci import import_image

    place.mkdir(mode=0o755)
    place.chmod(0o755)
    if not spec.layout:
        return _made(spec, place, lock, beside)
    layout = import_image(ROOT / spec.layout, place, wanted=_wanted(spec))
    for path in layout.left_out:
        say(f"  {spec.name}: {path} belongs to no image that is taken; left out")
    return layout


def _wanted(spec: ApplicationSpec) -> str | None:
    """The image that is asked for; ``latest`` is what an only image is taken for, whatever its tag."""
    return None if spec.version == "latest" else spec.version


def _made(spec: ApplicationSpec, place: Path, lock: Path, beside: Path) -> ImageLayout:
    from ...formats.tree import FileTree
    from ...sources import lock as locks
    from ...sources.oci_build import ImageSettings, build_image
    from ...sources.overlay import lay_over, read_overlay
    from ...sources.secrets import refuse_secrets

    overlays = [read_overlay(ROOT / "rootfs" / spec.overlay, spec.overlay)] if spec.overlay else []
    settings = ImageSettings(entrypoint=spec.command, tag=spec.version)

    def write(tree: FileTree, epoch: int) -> ImageLayout:
        merged = lay_over(tree, overlays)
        refuse_secrets(merged, f"application {spec.name}", own_keys())
        return build_image(merged, place, settings, epoch=epoch)

    if not spec.packages:
        return write(FileTree(), 0)
    with unpacked(lock, f"app-{spec.name}", beside, EXCLUDED) as (tree, _):
        return write(tree, locks.load(lock).epoch)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A signed application as ``applications.json`` has it.

    Attributes:
        tag: what the registry knows it by.
        manifest: digest of the signed manifest.
        config: digest of the configuration blob.
        public_key: the vendor's, DER.
        public_key_signature: the root CA's, over that, DER.
        config_digest: SHA-384 of the configuration blob; with the two above it is what the realm measures.
    """

    name: str
    tag: str
    manifest: str
    config: str
    public_key: bytes
    public_key_signature: bytes
    config_digest: bytes


def dump_facts(found: list[Identity]) -> str:
    """The text of ``applications.json``."""
    rows = [
        {
            "name": item.name,
            "tag": item.tag,
            "manifest": item.manifest,
            "config": item.config,
            "public_key": item.public_key.hex(),
            "public_key_signature": item.public_key_signature.hex(),
            "config_digest": item.config_digest.hex(),
        }
        for item in found
    ]
    return json.dumps({"schema": FACTS_VERSION, "applications": rows}, indent=1) + "\n"


def read_facts(path: Path) -> tuple[ProvisionedApplication, ...]:
    """The applications of ``applications.json`` as a realm measures them, in the recipe's order.

    Raises:
        FormatError: it is damaged.
    """
    from ...measure.islet import ProvisionedApplication

    document = read_document(path.read_text(encoding="utf-8", errors="replace"), path.name, FACTS_VERSION)

    def application(fields: Fields) -> ProvisionedApplication:
        return ProvisionedApplication(
            name=fields.text("name"),
            public_key=fields.octets("public_key", LONGEST),
            public_key_signature=fields.octets("public_key_signature", LONGEST),
            config_digest=fields.octets("config_digest", LONGEST),
        )

    return tuple(application(fields) for fields in document.objects("applications"))
