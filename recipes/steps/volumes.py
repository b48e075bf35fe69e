"""The encrypted volumes of an image, from the recipe to what the initramfs is told about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from ..errors import FormatError, SpecError
from ..record import dataclass, replace
from ..schema import ConvertedImage, DiskImage
from ..schema.volumes import (
    CcaField,
    CcaSpec,
    FormatPolicy,
    SnpField,
    SnpSpec,
    TeeReport,
    Tpm2Spec,
    TpmSealing,
    UnlockSpec,
    VolumeIntegrity,
)
from . import broker_keys, unlock_keys
from .digests import ROOT
from .keys import FOLDER
from .seeds import data_partition, root_partition
from .task import OUT

if TYPE_CHECKING:
    from ..formats.luks2_model import Kdf, TokenShape
    from ..sources.providers import Provider
    from ..sources.volumes import VolumeSpec

PROVIDERS = ROOT / "initrd" / "unlock.d"
# Keys that the build knows, a file for each volume: what a broker hands out.
KEYS = FOLDER / "volumes"
TPM2, KBS, KEYFILE, TYPED = "tpm2", "kbs", "keyfile", "passphrase"
# configfs-tsm and its one provider for SEV-SNP. Spec: Linux 6.12 drivers/virt/coco/sev-guest/Kconfig.
_TEE_MODULES = ("sev-guest",)


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A volume of an image.

    Attributes:
        key: of the recipe, where the volume is described.
        partition: PARTUUID, and UUID of a LUKS2 header.
    """

    name: str
    image: str
    key: tuple[str, ...]
    partition: str
    mountpoint: str
    unlock: UnlockSpec
    format: FormatPolicy
    integrity: VolumeIntegrity = VolumeIntegrity.NONE

    @property
    def is_built(self) -> bool:
        """Whether the volume comes with the image, because the guest may never make it."""
        return self.format is FormatPolicy.NEVER

    @property
    def built_path(self) -> Path:
        """The encrypted volume, where the build makes it."""
        return OUT / self.image / ("root.luks" if self.name == "root" else "data.img")

    @property
    def key_file(self) -> Path:
        """The key of a volume that the build makes, or that a development image has in its initramfs.

        A broker knows it by the name that the recipe gives it.
        """
        kbs = self.unlock.kbs
        return KEYS / (f"{self.image}-{self.name}" if kbs is None else kbs.volume)


def volumes(image: DiskImage) -> tuple[Volume, ...]:
    """What the initramfs of an image opens besides a verified root."""
    if isinstance(image, ConvertedImage):
        root = Volume(
            name="root",
            image=image.name,
            key=("root",),
            partition=str(root_partition(image)),
            mountpoint="/",
            unlock=image.recipe.root,
            format=FormatPolicy.NEVER,
        )
        return (root,)
    spec = image.recipe.data
    data = Volume(
        name="data",
        image=image.name,
        key=("data",),
        partition=str(data_partition(image)),
        mountpoint="/var",
        unlock=spec,
        format=spec.format,
        integrity=spec.integrity,
    )
    return (data,)


def sealing(spec: UnlockSpec) -> Tpm2Spec:
    """The options of provider tpm2, where the recipe says nothing too."""
    return spec.tpm2 or Tpm2Spec()


def is_signed(spec: UnlockSpec) -> bool:
    """Whether a volume opens for whatever our key has signed."""
    return TPM2 in spec.unlock and sealing(spec).policy is TpmSealing.SIGNED


def input_files(volume: Volume) -> tuple[Path, ...]:
    """What ``read_volume`` reads: the providers, the keys and certificates they want, and a built volume."""
    spec = volume.unlock
    found = [PROVIDERS / name for name in spec.unlock]
    if is_signed(spec):
        found.append(unlock_keys.PUBLIC)
    if spec.kbs is not None:
        found.append(ROOT / spec.kbs.ca)
    if spec.escrow is not None:
        found.append(ROOT / spec.escrow)
    if KEYFILE in spec.unlock:
        found.append(volume.key_file)
    if volume.is_built:
        found.append(volume.built_path)
    return tuple(found)


def read_volume(volume: Volume) -> VolumeSpec:
    """What the initramfs is told about a volume.

    Of a volume that the build makes the content is pinned: a release does not open that of an older one.

    Raises:
        SpecError: a provider's header is wrong, or a file that the recipe names is not there or not right.
        FormatError: a key does not parse, or the built volume is not one that the initramfs opens.
    """
    from ..formats.tpm2_nv import FORMAT_MARKER
    from ..sources.volumes import VolumeSpec, expected_header, pin_volume

    spec = volume.unlock
    providers = read_providers(spec)
    marked = TPM2 in spec.unlock and volume.format is FormatPolicy.IF_BLANK
    told = VolumeSpec(
        name=volume.name,
        partition_uuid=UUID(volume.partition),
        providers=providers,
        mountpoint=volume.mountpoint,
        format_policy=volume.format.value,
        header=header(spec, providers),
        integrity=volume.integrity.value,
        kdf=key_slot_costs(spec),
        token=_token(spec),
        marker=FORMAT_MARKER if marked else None,
        files=_files(volume),
        options=_options(spec),
        provider_timeout=spec.provider_timeout,
        total_timeout=spec.timeout,
    )
    if not volume.is_built:
        return told
    with volume.built_path.open("rb") as file:
        return pin_volume(told, file.read(expected_header(told).metadata_size))


def read_providers(spec: UnlockSpec) -> tuple[Provider, ...]:
    """The providers of a volume with what their headers say.

    Raises:
        SpecError: a header is wrong.
    """
    from ..sources.providers import read_provider

    found = (read_provider(name, (PROVIDERS / name).read_bytes()) for name in spec.unlock)
    if spec.kbs is None or spec.kbs.tee is TeeReport.NONE:
        return tuple(found)
    # What the guest gets its report from; only an image that wants one has it in its initramfs.
    return tuple(
        replace(each, modules=(*each.modules, *_TEE_MODULES)) if each.name == KBS else each for each in found
    )


def has_header(spec: UnlockSpec) -> bool:
    """Whether a LUKS2 header stands in front of the data."""
    from ..sources.volumes import LUKS2

    return header(spec, read_providers(spec)) == LUKS2


def header(spec: UnlockSpec, providers: Sequence[Provider]) -> str:
    """``luks2`` or ``none``: what the recipe says, or what every provider can give a key for.

    Nothing in front of the data is best: there is nothing that a host could write.
    """
    from ..sources.providers import VOLUME_KEY
    from ..sources.volumes import HEADERLESS, LUKS2

    if spec.header is not None:
        return spec.header.value
    return HEADERLESS if all(VOLUME_KEY in each.kinds for each in providers) else LUKS2


def key_slot_costs(spec: UnlockSpec) -> Kdf:
    """Costs of the key slot: what a person can remember can be guessed, so each guess has to be dear."""
    from ..formats.luks2_model import Argon2id, Pbkdf2

    return Argon2id() if TYPED in spec.unlock else Pbkdf2(1000)


def _token(spec: UnlockSpec) -> TokenShape | None:
    from ..formats.tpm2_token import literal_shape, signed_shape

    if TPM2 not in spec.unlock:
        return None
    if not is_signed(spec):
        return literal_shape(sealing(spec).registers)
    pem = unlock_keys.PUBLIC.read_bytes()
    digest = unlock_keys.signed_policy_digest(pem)
    return signed_shape(pem, digest, registers=sealing(spec).registers, counter=_counter(spec))


def _counter(spec: UnlockSpec) -> int | None:
    from ..formats.tpm2_nv import ROLLBACK_COUNTER

    return ROLLBACK_COUNTER if sealing(spec).release else None


def _files(volume: Volume) -> dict[str, bytes]:
    """The content of ``/etc/unlock/<volume>.d``."""
    from ..formats.escrow_key import check_escrow_key
    from ..formats.tls_certificates import check_certificate

    spec = volume.unlock
    files: dict[str, bytes] = {}
    if is_signed(spec):
        pem = unlock_keys.PUBLIC.read_bytes()
        files |= {"tpm2.pem": pem, "tpm2.pub": unlock_keys.tpm_public(pem)}
    if spec.kbs is not None:
        files["kbs-ca.pem"] = _brought(spec.kbs.ca, (*volume.key, "kbs", "ca"), check_certificate)
    if spec.escrow is not None:
        files["escrow.pem"] = _brought(spec.escrow, (*volume.key, "escrow"), check_escrow_key)
    if KEYFILE in spec.unlock:
        files["keyfile"] = volume.key_file.read_bytes()
    return files


def _brought(path: str, key: Sequence[str], check: Callable[[bytes, str], None]) -> bytes:
    """A public file that the recipe names.

    Raises:
        SpecError: it is not there, holds a private key, or is not what ``check`` wants.
    """
    where = f"{'.'.join(key)}: {path}"
    try:
        data = (ROOT / path).read_bytes()
    except OSError as error:
        raise SpecError(f"{where}: {str(error.strerror).lower()}; put the file there") from None
    if b"PRIVATE KEY-----" in data:
        raise SpecError(f"{where}: this is a private key; name the public part of it")
    try:
        check(data, where)
    except FormatError as error:
        raise SpecError(str(error)) from None
    return data


def _options(spec: UnlockSpec) -> dict[str, str]:
    """The providers' settings, by the names they have in the initramfs."""
    options: dict[str, str] = {}
    if TPM2 in spec.unlock:
        options |= _tpm2_options(spec)
    if spec.kbs is not None:
        options |= {
            "KBS_URL": spec.kbs.url,
            "KBS_VOLUME": spec.kbs.volume,
            "KBS_MACHINE": spec.kbs.machine or "",
            "KBS_ACTIVATE": "yes" if spec.kbs.activate else "no",
            "KBS_TEE": spec.kbs.tee.value,
        }
    if spec.exec is not None:
        options["EXEC_PROGRAM"] = f"/{spec.exec.program}"
    if "snp-derived-key" in spec.unlock:
        options |= _snp_options(spec.snp or SnpSpec())
    if "cca-sealing-key" in spec.unlock:
        cca = spec.cca or CcaSpec()
        options["DERIVE_FLAGS"] = _choices(cca.fields, svn=cca.svn) or "none"
    return options


def _snp_options(spec: SnpSpec) -> dict[str, str]:
    numbers = {"guest-svn": spec.guest_svn, "tcb-version": spec.tcb_version}
    return {
        "DERIVE_FIELDS": _choices(spec.fields, **numbers),
        "DERIVE_ROOT": spec.root.value,
        "DERIVE_VMPL": str(spec.vmpl),
    }


def _choices(fields: Sequence[SnpField | CcaField], **numbers: int | None) -> str:
    """What the helper ``derive-key`` takes: names, and names with a number."""
    words = [field.value for field in fields]
    return ",".join(words + [f"{name}={value}" for name, value in numbers.items() if value is not None])


def _tpm2_options(spec: UnlockSpec) -> dict[str, str]:
    from ..sources.volumes import handle

    tpm2, counter = sealing(spec), _counter(spec)
    options = {
        "TPM2_BANK": "sha256",
        "TPM2_POLICY": tpm2.policy.value,
        "TPM2_PCRS": " ".join(map(str, tpm2.registers)),
    }
    if is_signed(spec):
        pem = unlock_keys.PUBLIC.read_bytes()
        options["TPM2_DIGEST"] = unlock_keys.signed_policy_digest(pem).hex()
    options["TPM2_COUNTER"] = "none" if counter is None else handle(counter)
    if counter is not None:
        options["TPM2_RELEASE"] = str(tpm2.release)
    return options


def needed_keys(volume: Volume) -> tuple[str, ...]:
    """Tasks that make keys which the volume wants and which may be made here."""
    spec = volume.unlock
    tasks = []
    if is_signed(spec):
        tasks.append("keys:policy")
    if spec.kbs is not None and ROOT / spec.kbs.ca == broker_keys.CA:
        tasks.append("keys:broker")
    return tuple(tasks)
