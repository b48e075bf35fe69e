"""The host's side of a boot that asks brokers: the broker itself, who stands in front of it, the operator.

The guest reaches this host's loopback at an address of its network. Its PCRs are those of a machine that was
started with a kernel and no image, so there is no golden manifest: the operator makes one from what this very
machine shows before it asks for any key, as somebody does who enrols a machine that is there already.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from http.client import HTTPSConnection
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from recipes.broker.audit import AuditLog
from recipes.broker.config import BrokerConfig
from recipes.broker.policy import VolumeRule
from recipes.broker.server import running
from recipes.broker.trust import EnrolledKeys
from recipes.formats import eventlog
from recipes.formats.eventlog import EventType
from recipes.formats.tpm2_public import read_sized_public
from recipes.golden.manifest import GoldenMachine, GoldenManifest, Policy, RegisterPolicy, RegisterRow
from recipes.measure.quote import Evidence, Expectation, verify_quote
from recipes.measure.tpm_policy import PcrValue
from recipes.measure.trace import Established, HashAlgorithm
from tests.tool.kbs_lab import Authority, Body, Server, Talk, answering, http
from tests.tool.software_tpm import SoftwareTpm
from tests.unit.test_broker_guest import write_keys

# Spec: QEMU 7.2 qemu-options.hx, -netdev user: the host in the guest's network.
GATEWAY = "10.0.2.2"
LOOPBACK = "127.0.0.1"
SHA256 = HashAlgorithm.SHA256
# What a broker wants to be enforced, and the registers of the platform.
REGISTERS = (0, 1, 2, 4, 7, 9, 11, 12)
SELECTION = f"sha256:{','.join(map(str, REGISTERS))}"
PHASE = "enter-initrd"
# What the guest's first quote is for.
FIRST_NONCE = hashlib.sha256(b"the operator enrols a machine").digest()


class OtherTpm(SoftwareTpm):
    """The host's own TPM, in whose registers it puts what is in the guest's."""

    def follow(self, log: bytes) -> None:
        """Extends what a firmware log says, then the phase of the boot; makes a key."""
        events = eventlog.parse(log, "event log").events
        measured = [each for each in events if each.type != EventType.EV_NO_ACTION and each.pcr in REGISTERS]
        phase = hashlib.sha256(PHASE.encode()).hexdigest()
        extends = [f"{each.pcr}:sha256={dict(each.digests)['sha256'].hex()}" for each in measured]
        self.run("tpm2_pcrextend", *extends, f"11:sha256={phase}")
        attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|sign"
        kind = ("-C", "e", "-G", "ecc256:ecdsa-sha256:null", "-a", attributes)
        self.run("tpm2_createprimary", *kind, "-c", "ak.ctx")
        self.run("tpm2_readpublic", "-c", "ak.ctx", "-o", "ak.pub")

    def values(self) -> bytes:
        """The registers, one behind the other."""
        self.run("tpm2_pcrread", SELECTION, "-o", "values")
        return self.read("values")

    def quote(self, nonce: bytes, ephemeral: bytes, volume: str) -> Mapping[str, bytes]:
        """The fields of an attest request that a TPM makes."""
        bound = hashlib.sha256(nonce + ephemeral + volume.encode()).hexdigest()
        self.run(
            *("tpm2_quote", "-c", "ak.ctx", "-l", SELECTION, "-q", bound),
            *("-m", "message", "-s", "signature", "-g", "sha256", "--scheme", "ecdsa"),
        )
        files = {"quote": "message", "signature": "signature", "ak_public": "ak.pub"}
        return {name: self.read(file) for name, file in files.items()}


class Reserved:
    """A port that nobody else gets, and nobody listens at until somebody is started there."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        # Who listens says the same (Linux net/ipv4/inet_connection_sock.c, inet_csk_bind_conflict).
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((LOOPBACK, 0))
        self.port: int = self._socket.getsockname()[1]

    def close(self) -> None:
        self._socket.close()


class Station(Protocol):
    """What a volume's URL leads to."""

    @property
    def port(self) -> int: ...

    def attack(self) -> None:
        """From now on one thing is not as it should be."""
        ...

    def restore(self) -> None:
        """From now on everything is."""
        ...


@dataclass
class Lab:
    """Certificates, keys, enrolled machines, and the log of all brokers.

    Attributes:
        keys: by volume.
        broker: where the broker listens that the others ask.
        other: a TPM of the host's own.
    """

    folder: Path
    keys: Mapping[str, bytes]
    broker: int
    other: OtherTpm
    audit: list[Body] = field(default_factory=list)
    machine: bytes = b""
    full: Path = Path("/dev/full")

    def __post_init__(self) -> None:
        self.authority = Authority(self.folder / "authority")
        self.stranger = Authority(self.folder / "stranger")
        self._certificate = self.authority.server(GATEWAY, LOOPBACK)
        self._keys = write_keys(self.folder / "keys", **self.keys)
        for path in (self._enrolled, self._strangers):
            path.mkdir(mode=0o700)

    @property
    def certificate(self) -> tuple[Path, Path]:
        """Of the broker, and of whoever has stolen it."""
        return self._certificate

    @property
    def _enrolled(self) -> Path:
        return self.folder / "enrolled"

    @property
    def _strangers(self) -> Path:
        return self.folder / "strangers"

    @property
    def strangers(self) -> EnrolledKeys:
        """The host's key in the place of the guest's."""
        return EnrolledKeys.read(self._strangers)

    def config(self, port: int, *volumes: str) -> BrokerConfig:
        """A broker as it should be."""
        return BrokerConfig(
            golden=(self._golden,),
            keys=self._keys,
            trust=EnrolledKeys.read(self._enrolled),
            rules=tuple(VolumeRule(volume=name) for name in volumes),
            certificate=self._certificate[0],
            private_key=self._certificate[1],
            port=port,
        )

    def log(self) -> AuditLog:
        """Where a broker writes its lines."""
        return AuditLog(lambda line: self.audit.append(json.loads(line)))

    def enrol(self, shown: Body) -> None:
        """Takes a machine for the one whose keys these are: its attestation key, and its registers."""
        found = {name: base64.b64decode(shown[name]) for name in ("quote", "signature", "ak_public", "log")}
        values = [bytes.fromhex(value) for value in shown["registers"].split()]
        self._golden = _manifest(values)
        # The registers are what the TPM signs, not what somebody says.
        quoted = tuple(PcrValue(SHA256, *each) for each in zip(REGISTERS, values, strict=True))
        evidence = Evidence(found["quote"], found["signature"])
        key = read_sized_public(found["ak_public"], "attestation key")
        verify_quote(evidence, key, FIRST_NONCE, [Expectation("guest", quoted)])
        self.machine = found["ak_public"]
        (self._enrolled / "machine.pub").write_bytes(self.machine)
        self.other.follow(found["log"])
        assert self.other.values() == b"".join(values)
        (self._strangers / "machine.pub").write_bytes(self.other.read("ak.pub"))

    def enrol_other(self) -> None:
        """Enrols the key of the host's own TPM, too."""
        (self._enrolled / "other.pub").write_bytes(self.other.read("ak.pub"))

    @cached_property
    def context(self) -> ssl.SSLContext:
        """For connections to the broker."""
        found = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        found.load_verify_locations(self.authority.file)
        return found


def _manifest(values: list[bytes]) -> GoldenManifest:
    """Every register has to be what it is now, in this phase of the boot."""
    names = [f"PCR{index}" for index in REGISTERS]
    rows = [
        RegisterRow(
            register=f"{name}:{PHASE}" if name == "PCR11" else name,
            algorithm=SHA256,
            value=value,
            established=Established.LEARNT,
        )
        for name, value in zip(names, values, strict=True)
    ]
    policies = [RegisterPolicy(register=name, policy=Policy.ENFORCE, covers="something") for name in names]
    machine = GoldenMachine(
        name="guest",
        vmm="qemu",
        identity="{}",
        launch="",
        registers=tuple(rows),
        policies=tuple(policies),
        omitted=(),
        traces=(),
    )
    return GoldenManifest(image="direct-boot", version="1", artefacts=(), machines=(machine,), unmeasured=())


class RealBroker:
    """The broker's own code at a port; an attack is another configuration."""

    def __init__(
        self,
        lab: Lab,
        name: str,
        spoil: Callable[[Lab, str, BrokerConfig], BrokerConfig | None],
        reserved: Reserved,
    ) -> None:
        self._lab, self._name, self._spoil, self._reserved = lab, name, spoil, reserved
        self._stack = contextlib.ExitStack()

    @property
    def port(self) -> int:
        return self._reserved.port

    def attack(self) -> None:
        self._run(self._spoil(self._lab, self._name, self._config()))

    def restore(self) -> None:
        self._run(self._config())

    def _config(self) -> BrokerConfig:
        return self._lab.config(self.port, self._name)

    def _run(self, config: BrokerConfig | None) -> None:
        self._stack.close()
        if config is not None:
            log = None if config.audit else self._lab.log()
            self._stack.enter_context(running(config, audit=log))

    def close(self) -> None:
        self._stack.close()
        self._reserved.close()


class Front:
    """A server with the broker's certificate that passes everything on, unless it attacks.

    Attributes:
        name: of the one volume that is asked for here.
        seen: paths, requests and what the broker answered.
    """

    def __init__(self, lab: Lab, name: str, attack: Callable[[Front, Talk], None]) -> None:
        self.lab, self.name = lab, name
        self.seen: list[tuple[str, Body, bytes]] = []
        self._attack, self._attacks = attack, False
        self.server = Server(self._serve, lab.certificate)

    @property
    def port(self) -> int:
        return int(self.server.port)

    def attack(self) -> None:
        self._attacks = True

    def restore(self) -> None:
        self._attacks = False

    def _serve(self, talk: Talk) -> None:
        if self._attacks:
            self._attack(self, talk)
        else:
            talk.shake_hands()
            talk.send(self.reply(*talk.read()))

    def post(self, path: str, body: Body) -> tuple[int, bytes]:
        """What the broker answers."""
        with contextlib.closing(
            HTTPSConnection(LOOPBACK, self.lab.broker, timeout=20, context=self.lab.context)
        ) as connection:
            connection.request("POST", path, json.dumps(body))
            response = connection.getresponse()
            return response.status, response.read()

    def reply(self, path: str, body: Body) -> bytes:
        """An answer that is passed on as it came."""
        status, reply = self.post(path, body)
        self.noted(path, body, reply)
        return http(status, reply)

    def noted(self, path: str, body: Body, reply: bytes) -> None:
        self.seen.append((path, body, reply))


class Host:
    """Everything that listens, and the operator whom the guest tells what is to be tried next.

    Args:
        attacks: by volume: what a front does, or what is wrong with the broker.
        good: the volume whose broker all fronts ask.
    """

    def __init__(
        self,
        folder: Path,
        keys: Mapping[str, bytes],
        good: str,
        fronts: Mapping[str, Callable[[Front, Talk], None]],
        brokers: Mapping[str, Callable[[Lab, str, BrokerConfig], BrokerConfig | None]],
    ) -> None:
        self._stack = contextlib.ExitStack()
        self._good, self._reserved = good, Reserved()
        self.lab = Lab(folder, keys, self._reserved.port, OtherTpm())
        self.fronts = {name: Front(self.lab, name, attack) for name, attack in fronts.items()}
        self.brokers = {
            name: RealBroker(self.lab, name, spoil, Reserved()) for name, spoil in brokers.items()
        }
        self.stations: dict[str, Station] = {**self.fronts, **self.brokers}
        self._operator = Server(answering(self._told), None)

    def __enter__(self) -> Self:
        self._stack.callback(self._reserved.close)
        self._stack.enter_context(self.lab.other)
        for broker in self.brokers.values():
            self._stack.callback(broker.close)
        for front in self.fronts.values():
            self._stack.enter_context(front.server)
        self._stack.enter_context(self._operator)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def operator(self) -> str:
        """Where the guest finds the operator."""
        return f"http://{GATEWAY}:{self._operator.port}"

    def url(self, name: str) -> str:
        """Where a volume's key is to be had."""
        port = self.lab.broker if name == self._good else self.stations[name].port
        return f"https://{GATEWAY}:{port}"

    @property
    def heard(self) -> str:
        """All that was said where the host can hear it: in front of the broker, and to its log."""
        said = [
            [path, body, reply.decode()] for front in self.fronts.values() for path, body, reply in front.seen
        ]
        return json.dumps([said, self.lab.audit])

    def _told(self, path: str, body: Body) -> bytes:
        """Does as the guest says: ``/enrol``, ``/enrol-other``, ``/VOLUME/attack``, ``/VOLUME/restore``.

        ``/VOLUME/asked`` is found once somebody asked for its key.
        """
        match path.strip("/").split("/"):
            case ["enrol"]:
                self.lab.enrol(body)
                config = self.lab.config(self.lab.broker, *self.lab.keys)
                self._stack.enter_context(running(config, audit=self.lab.log()))
            case ["enrol-other"]:
                self.lab.enrol_other()
            case [name, "attack"]:
                self.stations[name].attack()
            case [name, "restore"]:
                self.stations[name].restore()
            case [name, "asked"] if self.fronts[name].server.count:
                pass
            case _:
                return http(404, {})
        return http(200, {})
