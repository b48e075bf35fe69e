"""Everything that a broker is started with."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from .. import reader
from ..errors import FormatError, SpecError
from ..golden import manifest_reader
from ..golden.manifest import GoldenManifest
from ..measure.trace import HashAlgorithm
from ..measure.userspace import PHASES
from ..units import MIB
from .limits import Rate
from .owned import read_owned
from .policy import VolumeRule
from .trust import KeyTrust

# Ours: a guest asks two or three times for a boot, and many guests may share the address of a gateway.
_RATE = Rate(200, 400)
_RATE_PER_CLIENT = Rate(10, 60)
# Spec: RFC 9293 section 3.1; 0 asks the kernel for any.
_PORTS = range(2**16)
# Ours: a manifest of many machines has a few MiB, rules for as many volumes less than one.
_MAX_GOLDEN, _MAX_RULES = 64 * MIB, MIB


@dataclass(frozen=True, kw_only=True)
class BrokerConfig:
    """A broker.

    Values here stay as they are until it is started anew; what they name is read anew only where that is
    said: each key of ``keys`` when it is released, and the folder of ``EnrolledKeys`` for every attestation.

    Attributes:
        golden: manifests whose machines may have keys.
        keys: folder of keys, a file for each volume; see ``keystore``.
        trust: whose attestation keys are believed.
        rules: one for each volume; without any, the only file in ``keys`` is for every golden machine.
        accept_omitted: whether machines will do whose manifest lacks PCR 0 or 2, whatever their rules say.
        certificate: PEM file with the server's certificate and those up to its CA; without it the broker
            speaks HTTP, which it does on a loopback address only.
        private_key: PEM file, not encrypted, mode 0600 or less; read at the start, as ``certificate`` is.
        port: 0 for any that is free.
        nonce_lifetime: seconds from a challenge to its quote. A TPM may take some seconds for one.
        timeout: seconds for a request to arrive and its answer to be taken.
        connections: at once, in all and from one client.
        audit: file to append the log to; the error output without one.
    """

    golden: tuple[GoldenManifest, ...]
    keys: Path
    trust: KeyTrust
    rules: tuple[VolumeRule, ...] = ()
    accept_omitted: bool = False
    bank: HashAlgorithm = HashAlgorithm.SHA256
    phase: str = PHASES[0]
    certificate: Path | None = None
    private_key: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8443
    nonce_lifetime: float = 60.0
    sessions: int = 1024
    sessions_per_client: int = 64
    rate: Rate = _RATE
    rate_per_client: Rate = _RATE_PER_CLIENT
    timeout: float = 10.0
    connections: int = 256
    connections_per_client: int = 64
    audit: Path | None = None

    def check(self) -> None:
        """Returns if the parts fit together.

        Raises:
            SpecError: naming what does not.
        """
        if (self.certificate is None) != (self.private_key is None):
            raise SpecError("broker: a certificate and its private key go together; give both")
        try:
            loopback = ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            raise SpecError(f"broker: host {self.host!r} is no IP address; write one such as ::1") from None
        if self.port not in _PORTS:
            raise SpecError(f"broker: port {self.port} is not within 0 to {_PORTS[-1]}; 8443 is usual")
        if self.certificate is None and not loopback:
            what = f"{self.host} is no loopback address, and there is no certificate"
            raise SpecError(f"broker: {what}; over plain HTTP anybody can answer in the broker's place")
        positive = (
            *(self.timeout, self.sessions, self.sessions_per_client, self.connections),
            *(self.connections_per_client, self.rate.per_second, self.rate_per_client.per_second),
            *(self.rate.burst, self.rate_per_client.burst),
        )
        if self.nonce_lifetime < 1:
            raise SpecError(f"broker: nonces of {self.nonce_lifetime:g} s are too short for a TPM; use 60")
        if not all(value > 0 for value in positive):
            raise SpecError("broker: a limit is not above zero; leave it out for the usual one")


@dataclass(frozen=True)
class _Rules:
    volumes: tuple[VolumeRule, ...]


def read_golden(path: Path) -> GoldenManifest:
    """The manifest in a file, which may be written by the group of a user who is alone in it.

    Raises:
        ImageError: others may write it.
        FormatError: it is no manifest.
        OSError: it cannot be read.
    """
    data = read_owned(path, _MAX_GOLDEN + 1, own_group=True)
    if len(data) > _MAX_GOLDEN:
        raise FormatError(str(path), f"more than {_MAX_GOLDEN} bytes; name a golden.json")
    return manifest_reader.load(data.decode("utf-8", "replace"), str(path))


def read_rules(path: Path) -> tuple[VolumeRule, ...]:
    """The rules in a file; see ``load_rules``.

    Raises:
        ImageError: others may write it.
        SpecError: it is no UTF-8, too long, or has mistakes.
        OSError: it cannot be read.
    """
    data = read_owned(path, _MAX_RULES + 1)
    if len(data) > _MAX_RULES:
        raise SpecError(f"{path}: more than {_MAX_RULES} bytes; write a rule for each volume, and no more")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: byte {error.start} is no UTF-8; save the rules as UTF-8") from None
    return load_rules(text, str(path))


def load_rules(text: str, path: str) -> tuple[VolumeRule, ...]:
    """The rules in a YAML file: a list ``volumes`` of ``VolumeRule``.

    Raises:
        SpecError: every mistake with line and column.
    """
    found, _ = reader.load(text, path, _Rules)
    return found.volumes
