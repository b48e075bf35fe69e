"""Golden manifests read back, strictly: a verifier decides by what stands in one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, TypeVar

from ..errors import FormatError
from ..measure.trace import Established, HashAlgorithm, Step, Trace
from .manifest import (
    SCHEMA_VERSION,
    Artefact,
    GoldenMachine,
    GoldenManifest,
    Omitted,
    Policy,
    RegisterPolicy,
    RegisterRow,
)

MAX_TEXT = 64 << 20
E = TypeVar("E", bound=Enum)


def load(text: str, source: str) -> GoldenManifest:
    """The manifest in ``text``.

    Raises:
        FormatError: not JSON, another schema version, a key missing, unknown or of the wrong type.
    """
    if len(text) > MAX_TEXT:
        raise FormatError(source, f"{len(text)} characters are too many for a golden manifest")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(source, f"not JSON: {error}") from None
    return _Reader(source).manifest(value)


class _Reader:
    """Strict JSON to dataclasses; every complaint names the path of the value."""

    def __init__(self, source: str) -> None:
        self.source = source

    def manifest(self, value: object) -> GoldenManifest:
        keys = ("schema", "image", "version", "artefacts", "unmeasured", "machines")
        top = self.keys(value, "golden", keys)
        if top["schema"] != SCHEMA_VERSION:
            raise self.error(
                "schema", f"{top['schema']!r} is not the schema this program knows ({SCHEMA_VERSION})"
            )
        return GoldenManifest(
            image=self.text(top["image"], "image"),
            version=self.text(top["version"], "version"),
            artefacts=tuple(
                self.artefact(item, f"artefacts[{index}]")
                for index, item in enumerate(self.items(top["artefacts"], "artefacts"))
            ),
            unmeasured=tuple(
                self.text(item, "unmeasured") for item in self.items(top["unmeasured"], "unmeasured")
            ),
            machines=tuple(
                self.machine(item, f"machines[{index}]")
                for index, item in enumerate(self.items(top["machines"], "machines"))
            ),
        )

    def artefact(self, value: object, where: str) -> Artefact:
        item = self.keys(value, where, ("name", "size", "sha256"))
        digest = self.hex(item["sha256"], f"{where}.sha256", 32).hex()
        size = self.number(item["size"], f"{where}.size")
        return Artefact(name=self.text(item["name"], f"{where}.name"), size=size, sha256=digest)

    def machine(self, value: object, where: str) -> GoldenMachine:
        keys = ("name", "vmm", "identity", "launch", "registers", "policies", "omitted", "traces")
        item = self.keys(value, where, keys)
        if not isinstance(item["identity"], dict):
            raise self.error(f"{where}.identity", "expected an object")
        rows = enumerate(self.items(item["registers"], f"{where}.registers"))
        traces = enumerate(self.items(item["traces"], f"{where}.traces"))
        return GoldenMachine(
            name=self.text(item["name"], f"{where}.name"),
            vmm=self.text(item["vmm"], f"{where}.vmm"),
            identity=json.dumps(item["identity"], sort_keys=True, separators=(",", ":")),
            launch=self.text(item["launch"], f"{where}.launch"),
            registers=tuple(self.row(row, f"{where}.registers[{index}]") for index, row in rows),
            policies=tuple(
                self.policy(entry, f"{where}.policies") for entry in self.items(item["policies"], where)
            ),
            omitted=tuple(
                self.omitted(entry, f"{where}.omitted") for entry in self.items(item["omitted"], where)
            ),
            traces=tuple(self.trace(trace, f"{where}.traces[{index}]") for index, trace in traces),
        )

    def row(self, value: object, where: str) -> RegisterRow:
        item = self.keys(value, where, ("register", "algorithm", "value", "established"))
        algorithm = self.choice(item["algorithm"], HashAlgorithm, f"{where}.algorithm")
        return RegisterRow(
            register=self.text(item["register"], f"{where}.register"),
            algorithm=algorithm,
            value=self.hex(item["value"], f"{where}.value", algorithm.size),
            established=self.choice(item["established"], Established, f"{where}.established"),
        )

    def policy(self, value: object, where: str) -> RegisterPolicy:
        item = self.keys(value, where, ("register", "policy", "covers"))
        return RegisterPolicy(
            register=self.text(item["register"], where),
            policy=self.choice(item["policy"], Policy, where),
            covers=self.text(item["covers"], where),
        )

    def omitted(self, value: object, where: str) -> Omitted:
        item = self.keys(value, where, ("register", "reason"))
        return Omitted(register=self.text(item["register"], where), reason=self.text(item["reason"], where))

    def trace(self, value: object, where: str) -> Trace:
        item = self.keys(value, where, ("register", "steps"))
        register = self.text(item["register"], f"{where}.register")
        steps = enumerate(self.items(item["steps"], f"{where}.steps"))
        return Trace(
            register, tuple(self.step(step, register, f"{where}.steps[{index}]") for index, step in steps)
        )

    def step(self, value: object, register: str, where: str) -> Step:
        keys = ("operation", "description", "source", "size", "digests", "spec")
        item = self.keys(value, where, keys, optional=("address", "count"))
        digests = item["digests"]
        if not isinstance(digests, Mapping):
            raise self.error(f"{where}.digests", "expected an object")
        parsed = {}
        for name, digest in digests.items():
            algorithm = self.choice(name, HashAlgorithm, f"{where}.digests")
            parsed[algorithm] = self.hex(digest, f"{where}.digests.{name}", algorithm.size)
        return Step(
            register=register,
            operation=self.text(item["operation"], f"{where}.operation"),
            description=self.text(item["description"], f"{where}.description"),
            source=self.text(item["source"], f"{where}.source"),
            size=self.number(item["size"], f"{where}.size"),
            digests=parsed,
            spec=self.text(item["spec"], f"{where}.spec"),
            address=self.number(item["address"], f"{where}.address") if "address" in item else None,
            count=self.number(item.get("count", 1), f"{where}.count"),
        )

    def keys(
        self, value: object, where: str, keys: Sequence[str], optional: Sequence[str] = ()
    ) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.error(where, "expected an object")
        for key in value:
            if key not in keys and key not in optional:
                raise self.error(where, f"unknown key {key!r}")
        for key in keys:
            if key not in value:
                raise self.error(where, f"key {key!r} is missing")
        return value

    def items(self, value: object, where: str) -> Iterable[Any]:
        if not isinstance(value, list):
            raise self.error(where, "expected a list")
        return value

    def text(self, value: object, where: str) -> str:
        if not isinstance(value, str):
            raise self.error(where, "expected text")
        return value

    def number(self, value: object, where: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.error(where, "expected a whole number")
        return value

    def hex(self, value: object, where: str, size: int) -> bytes:
        try:
            data = bytes.fromhex(self.text(value, where))
        except ValueError:
            raise self.error(where, "expected hexadecimal digits") from None
        if len(data) != size:
            raise self.error(where, f"expected {size} bytes, found {len(data)}")
        return data

    def choice(self, value: object, kind: type[E], where: str) -> E:
        try:
            return kind(value)
        except ValueError:
            known = ", ".join(str(item.value) for item in kind)
            raise self.error(where, f"{value!r} is not one of {known}") from None

    def error(self, where: str, what: str) -> FormatError:
        return FormatError(self.source, f"{where}: {what}")
