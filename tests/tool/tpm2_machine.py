"""A machine with a software TPM, as the helper ``tpm2`` sees it, and signed boots for it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography.hazmat.primitives.asymmetric import rsa

from recipes.formats import pcrsig
from recipes.formats.tpm2 import sized
from recipes.formats.tpm2_public import external_public
from recipes.golden.unlock import Rollback
from recipes.measure.tpm_policy import PolicySession
from tests.tool.boot_policies import unlock_digest
from tests.tool.built_helpers import SANITIZER_OPTIONS, helper
from tests.tool.software_tpm import SoftwareTpm
from tests.tool.test_tpm_policy import boot_trace
from tests.tool.tpm_bridge import Respond, TpmBridge, through

# Opens descriptor 3 as the driver does: a file. The program replaces the shell.
WITH_KEY = 'key=$1; shift; exec "$@" 3>"$key"'


@dataclass(frozen=True)
class Outcome:
    """How a program ended, and what it wrote where."""

    code: int
    key: bytes
    out: bytes
    words: str

    def good(self) -> Self:
        """The same, if it ended well and said nothing."""
        assert (self.code, self.words) == (0, ""), self
        return self


def run_with_key(
    argv: list[str | Path], key: Path, environment: Mapping[str, str], timeout: float = 60
) -> Outcome:
    """One run of a program that writes a key to descriptor 3."""
    key.write_bytes(b"")
    whole = ["sh", "-c", WITH_KEY, "sh", str(key), *map(str, argv)]
    env = {"PATH": os.environ["PATH"], **SANITIZER_OPTIONS, **environment}
    done = subprocess.run(whole, stdin=subprocess.DEVNULL, capture_output=True, env=env, timeout=timeout)
    return Outcome(done.returncode, key.read_bytes(), done.stdout, done.stderr.decode("utf-8", "replace"))


class Device:
    """A path that is a TPM to the helper, whatever answers behind it."""

    def __init__(self, respond: Respond, folder: Path, *, sanitized: bool = False) -> None:
        self.bridge = TpmBridge(respond)
        self.folder = folder
        self.program = helper("tpm2", sanitized=sanitized)

    def __enter__(self) -> Self:
        self.bridge.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bridge.__exit__(kind, error, trace)

    def run(self, *arguments: object) -> Outcome:
        """One run of the helper."""
        self.bridge.forget()
        environment = {"GOLDSMITH_TPM": self.bridge.path}
        return run_with_key([self.program, *map(str, arguments)], self.folder / "key", environment)


class TpmMachine(Device):
    """A new software TPM; ``tools`` is for foreign programs on it."""

    def __init__(self) -> None:
        self.tools = SoftwareTpm()
        super().__init__(through(self.tools.server), self.tools.folder, sanitized=True)

    def __enter__(self) -> Self:
        self.tools.__enter__()
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self.tools.__exit__(kind, error, trace)

    def is_clean(self) -> bool:
        """Whether no object and no session is left in the TPM."""
        return not any(
            self.tools.run("tpm2_getcap", f"handles-{kind}") for kind in ("transient", "loaded-session")
        )


class Signer:
    """A key that approves policies, as files for the helper, and what it has signed for a boot."""

    def __init__(self, folder: Path) -> None:
        self.key = rsa.generate_private_key(65537, 2048)
        self.public = folder / "tpm2.pub"
        self.signature = folder / "signature"
        public = external_public(self.key.public_key())
        self.public.write_bytes(sized(public.pack()))
        self.authorized = PolicySession().policy_authorize(public.name)

    def entry(self, *, counter: int | None = None, release: int = 0) -> pcrsig.PcrSignature:
        """The policy of the synthetic boot in ``enter-initrd``, signed."""
        rollback = None if counter is None else Rollback(counter, release)
        return pcrsig.sign(self.key, "sha256", [11], unlock_digest(boot_trace(), rollback=rollback))
