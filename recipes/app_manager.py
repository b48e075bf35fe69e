"""Settings of Islet's application manager: what stands in its ``config.yml``, every key of it.

Spec: islet-project/realm-manager 79b74b6, realm/app-manager/src: config.rs, dm/crypt.rs, app.rs.
"""

from __future__ import annotations

import re
from enum import Enum

from .errors import SpecError
from .record import dataclass, field

_PATH = re.compile(r"(/(?!\.{1,2}(/|\Z))[A-Za-z0-9._-]+)+")


class Cipher(Enum):
    """Cipher of the application's partitions."""

    AES = "Aes"
    TWOFISH = "Twofish"
    SERPENT = "Serpent"


class BlockMode(Enum):
    """Its mode."""

    CBC = "Cbc"
    XTS = "Xts"


class IvMode(Enum):
    """How a sector's initialisation vector is made; ESSIV is that with SHA-256."""

    PLAIN = "Plain"
    PLAIN64 = "Plain64"
    ESSIV = "Essiv"


class LauncherKind(Enum):
    """Where applications come from: nowhere, or a registry over one of three transports."""

    DUMMY = "Dummy"
    NO_TLS = "NoTLS"
    RUS_TLS = "RusTLS"
    RA_TLS = "RaTLS"


class SealingKind(Enum):
    """What keys are derived from."""

    DUMMY = "Dummy"
    STUBBED_HEX = "StubbedHex"
    RSI_SEALING_KEY = "RsiSealingKey"


class SealingFlag(Enum):
    """What the realm's sealing key is bound to."""

    KEY = "Key"
    RIM = "Rim"
    REALM_ID = "RealmId"


class Rem(Enum):
    """The REM that provisioned applications are extended into."""

    REM0 = "rem0"
    REM1 = "rem1"
    REM2 = "rem2"
    REM3 = "rem3"


class Filesystem(Enum):
    """File system of the application's partitions."""

    EXT2 = "Ext2"
    EXT3 = "Ext3"
    EXT4 = "Ext4"


@dataclass(frozen=True, kw_only=True)
class CryptoConfig:
    """dm-crypt settings; the defaults are those of Islet's own realm.

    Spec: realm-manager, app-manager/src/dm/crypt.rs.
    """

    cipher: Cipher = Cipher.AES
    iv_mode: IvMode = IvMode.PLAIN
    block_mode: BlockMode = BlockMode.CBC
    iv_offset: int = 0
    additional_options: tuple[str, ...] = ()

    @property
    def specification(self) -> str:
        """The cipher as dm-crypt writes it, ``aes-cbc-essiv:sha256``."""
        iv = "essiv:sha256" if self.iv_mode is IvMode.ESSIV else self.iv_mode.value.lower()
        return f"{self.cipher.value}-{self.block_mode.value}-{iv}".lower()

    @property
    def key_bits(self) -> int:
        """Length of a key; Islet's are 32 bytes, whatever the cipher (app-manager/src/app.rs)."""
        return 256

    @property
    def modules(self) -> tuple[str, ...]:
        """Kernel modules, as far as they are none of dm-crypt's own."""
        cipher = () if self.cipher is Cipher.AES else (f"{self.cipher.value.lower()}_generic",)
        essiv = ("essiv",) if self.iv_mode is IvMode.ESSIV else ()
        return (*cipher, self.block_mode.value.lower(), *essiv)


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """Transport of applications.

    Attributes:
        root_ca: path in the realm of the registry's CA certificate; for RusTLS and RaTLS.
        token_file: path in the realm of an attestation token; without it RaTLS asks RSI for one.
    """

    kind: LauncherKind = LauncherKind.NO_TLS
    root_ca: str = ""
    token_file: str = ""


@dataclass(frozen=True, kw_only=True)
class KeySealing:
    """Source of the keys.

    Attributes:
        stubbed_hex: key material for StubbedHex.
        flags, svn: for RsiSealingKey.
    """

    kind: SealingKind = SealingKind.DUMMY
    stubbed_hex: str = ""
    flags: tuple[SealingFlag, ...] = ()
    svn: int | None = None


@dataclass(frozen=True, kw_only=True)
class AppManagerConfig:
    """``/etc/app-manager/config.yml``, every key of it.

    Attributes:
        ca_pub: path in the realm of the root CA's key, which vouches for vendors.
        ensure_same_app_vendor, fs_type: keys of newer managers; older ones pass them over.

    Spec: realm-manager, app-manager/src/config.rs.
    """

    workdir: str = "/apps"
    vsock_port: int = 1337
    crypto: CryptoConfig = field(default_factory=CryptoConfig)
    launcher: Launcher = field(default_factory=Launcher)
    keysealing: KeySealing = field(default_factory=KeySealing)
    autostartall: bool = True
    ca_pub: str = "/usr/share/app-manager/ca/root-ca.pub"
    extend: Rem | None = None
    ensure_same_app_vendor: bool = False
    fs_type: Filesystem = Filesystem.EXT2

    @property
    def requires_rsi(self) -> bool:
        """Whether the manager loads the kernel module for RSI. Spec: config.rs, ``requires_rsi``."""
        token = self.launcher.kind is LauncherKind.RA_TLS and not self.launcher.token_file
        sealing = self.keysealing.kind is SealingKind.RSI_SEALING_KEY
        return sealing or token or self.extend is not None


def check_config(config: AppManagerConfig) -> None:
    """Checks what the types leave open.

    Raises:
        SpecError: a path that is not plain and absolute, a number out of range, key material that is no hex.
    """
    where, launcher, sealing = "app-manager config", config.launcher, config.keysealing
    paths = {"workdir": config.workdir, "ca_pub": config.ca_pub}
    if launcher.kind in (LauncherKind.RUS_TLS, LauncherKind.RA_TLS):
        paths["launcher.root_ca"] = launcher.root_ca
    if launcher.token_file:
        paths["launcher.token_file"] = launcher.token_file
    for key, path in paths.items():
        if not _PATH.fullmatch(path):
            raise SpecError(f"{where}: {key}: {path!r} is no plain absolute path; write one such as /apps")
    for key, value, low, limit in (
        ("vsock_port", config.vsock_port, 1, 1 << 32),
        ("crypto.iv_offset", config.crypto.iv_offset, 0, 1 << 63),
        ("keysealing.svn", 0 if sealing.svn is None else sealing.svn, 0, 1 << 64),
    ):
        if not low <= value < limit:
            raise SpecError(f"{where}: {key}: {value} is out of range; write {low} to {limit - 1}")
    if sealing.kind is SealingKind.STUBBED_HEX and not re.fullmatch(
        r"([0-9A-Fa-f]{2})+", sealing.stubbed_hex
    ):
        what = f"{sealing.stubbed_hex!r} is not an even number of hex digits"
        raise SpecError(f"{where}: keysealing.stubbed_hex: {what}; correct it")
