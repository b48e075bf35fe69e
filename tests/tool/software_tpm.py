"""A software TPM that tpm2-tools talk to: started new, ended with its context."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from recipes.vmm.launch import Program
from tests.support import require_tool


class SoftwareTpm(Program):
    """A swtpm on a socket of its own; ``run`` starts a program that finds it there."""

    def __init__(self) -> None:
        super().__init__([require_tool("swtpm")])
        self.server = self.socket_path("tpm")
        self.tcti = f"swtpm:path={self.server}"
        self.argv += ["socket", "--tpm2", "--tpmstate", f"dir={self.folder}"]
        self.argv += ["--server", f"type=unixio,path={self.server}"]
        self.argv += ["--ctrl", f"type=unixio,path={self.server}.ctrl"]
        self.argv += ["--flags", "not-need-init,startup-clear"]

    def _start(self) -> None:
        super()._start()
        limit = time.monotonic() + self.timeout
        while not Path(self.server).exists():
            self.check_running()
            if time.monotonic() > limit:
                raise self.error(f"no socket after {self.timeout:g} s")
            time.sleep(0.01)

    def attempt(self, name: str, *arguments: object) -> subprocess.CompletedProcess[bytes]:
        """What a program did, whatever its status; objects that it left in the TPM are gone."""
        argv = [require_tool(name), *map(str, arguments)]
        environment = {**os.environ, "TPM2TOOLS_TCTI": self.tcti, "TSS2_LOG": "all+none"}
        done = subprocess.run(
            argv, cwd=self.folder, env=environment, capture_output=True, timeout=60, check=False
        )
        if name.startswith("tpm2_"):
            flush = [require_tool("tpm2_flushcontext"), "--transient-object"]
            subprocess.run(flush, env=environment, capture_output=True, timeout=60, check=True)
        return done

    def run(self, name: str, *arguments: object) -> bytes:
        """What a program printed; its status is 0."""
        done = self.attempt(name, *arguments)
        assert done.returncode == 0, (name, arguments, done.stdout, done.stderr)
        return done.stdout

    def read(self, name: str) -> bytes:
        """A file that a program wrote."""
        return (self.folder / name).read_bytes()

    def write(self, name: str, data: bytes) -> Path:
        """A file for a program to read."""
        path = self.folder / name
        path.write_bytes(data)
        return path
