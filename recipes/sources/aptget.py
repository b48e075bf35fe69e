"""One apt-get of our own: it has its own lists, cache and sources, and leaves the machine's alone.

The machine's configuration of proxies, certificates and logins still applies.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from pathlib import Path

from ..errors import FormatError, SpecError, ToolError
from .mirror import MIRROR, apt_environment

Key = tuple[str, str, str]

# Read after the machine's own configuration (apt-get(8), option -c), so hooks and lists of it can be cleared.
# Spec: apt.conf(5); apt-get(8).
_CONFIGURATION = """\
#clear APT::Update;
#clear APT::Architectures;
#clear Acquire::Languages;
#clear APT::Default-Release;
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Update::Error-Mode "any";
APT::Get::List-Cleanup "true";
APT::Get::AllowUnauthenticated "false";
APT::Install-Recommends "false";
APT::Install-Suggests "false";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
Acquire::GzipIndexes "false";
Acquire::Languages "none";
Acquire::PDiffs "false";
Acquire::Retries "3";
Dir::State "{folder}/state";
Dir::State::lists "{folder}/state/lists";
Dir::State::status "/dev/null";
Dir::State::extended_states "{folder}/state/extended_states";
Dir::Cache "{folder}/cache";
Dir::Cache::archives "{folder}/cache/archives";
Dir::Cache::pkgcache "pkgcache.bin";
Dir::Cache::srcpkgcache "srcpkgcache.bin";
Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "{folder}/preferences";
Dir::Etc::preferencesparts "/dev/null";
"""
# As root, apt would download as the user _apt, who may not write where we are.
_AS_ROOT = 'APT::Sandbox::User "root";\n'

_INSTALL = re.compile(r"^Inst (\S+) (?:\[\S*\] )?\((\S+) .*\[([^\s\[\]]+)\]\)", re.MULTILINE)
_DOWNLOAD = re.compile(r"^'[^']*' ([^_\s]+)_([^_\s]+)_([^_\s]+)\.deb ", re.MULTILINE)
_UNSIGNED = re.compile(
    r"NO_PUBKEY|EXPKEYSIG|Missing key|is not signed|no longer signed|(couldn't|could not) be verified"
)


@dataclass(frozen=True)
class Result:
    """How a run ended; output and error messages together."""

    argv: list[str]
    status: int
    output: str
    messages: str

    def fail(self, advice: str = "") -> ToolError:
        """The error that says so."""
        return ToolError(self.argv, self.status, self.output + self.messages, advice)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keeps others out of apt's folder while the context lasts; waits while another has it.

    Steps of several images run side by side, and apt-get itself gives up at once where another one works.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class AptGet:
    """apt-get with everything it writes below one folder.

    Args:
        folder: made where it is missing; two must not use it at a time.
        architecture: Debian's name of it.
        sources: text of sources.list.
        preferences: text of apt's preferences; empty for none.
    """

    def __init__(self, folder: Path, architecture: str, sources: str, preferences: str = "") -> None:
        self.folder = folder.resolve()
        if re.search(r'["\\\x00-\x1f]', str(self.folder)):
            raise SpecError(f"{self.folder}: apt cannot work in a folder with such a name; use another")
        for name in ("state/lists/partial", "cache/archives/partial"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        text = _CONFIGURATION.format(architecture=architecture, folder=self.folder)
        self._write("apt.conf", text + (_AS_ROOT if os.geteuid() == 0 else ""))
        self._write("sources.list", sources)
        self._write("preferences", preferences)

    def _write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, encoding="utf-8")

    def run(
        self, *arguments: str, cwd: Path | None = None, waiting: Callable[[], None] = lambda: None
    ) -> Result:
        """How ``apt-get`` with these arguments ends.

        Args:
            waiting: called several times a second while it runs.

        Raises:
            ToolError: there is no apt-get.
        """
        argv = ["apt-get", "-c", str(self.folder / "apt.conf"), *arguments]
        try:
            process = subprocess.Popen(
                argv,
                cwd=cwd or self.folder,
                env=apt_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        except FileNotFoundError:
            advice = "Debian packages need apt-get; install the package apt"
            raise ToolError(argv, "not found", advice=advice) from None
        with process:
            try:
                while True:
                    try:
                        output, messages = process.communicate(timeout=0.2)
                        break
                    except subprocess.TimeoutExpired:
                        waiting()
            except BaseException:
                process.terminate()
                raise
        return Result(
            argv, process.returncode, output.decode("utf-8", "replace"), messages.decode("utf-8", "replace")
        )

    def update(self) -> None:
        """Fetches the indices of all sources.

        Raises:
            ToolError: one of them cannot be fetched, or its signature cannot be checked.
        """
        result = self.run("-qq", "update")
        if _UNSIGNED.search(result.messages):
            advice = (
                "the signature of an archive cannot be checked: install the package debian-archive-keyring, "
            )
            raise result.fail(
                advice + "from a newer Debian release where this one's does not know the key yet"
            )
        if result.status or re.search(r"^(E:|W: Failed to fetch)", result.messages, re.MULTILINE):
            raise result.fail(f"check the network and the proxy, or set {MIRROR} to another mirror")

    def simulate(self, packages: Sequence[str], *, advice: str = "") -> list[Key]:
        """Name, version and architecture of what installing ``packages`` on an empty system installs.

        Args:
            packages: ``NAME`` or ``NAME=VERSION``.

        Raises:
            ToolError: they cannot be installed together.
        """
        if not packages:
            return []
        # One -q less than elsewhere, for apt-get then says which dependency is not met.
        result = self.run("-q", "-s", "--no-install-recommends", "install", *packages)
        if result.status:
            raise result.fail(advice)
        return [(match[1], match[2], match[3]) for match in _INSTALL.finditer(result.output)]

    def candidates(self, packages: Sequence[str]) -> list[Key]:
        """Name, version and architecture of what each name stands for, without what it depends on.

        Raises:
            ToolError: one of them is not there.
        """
        if not packages:
            return []
        result = self.run("-qq", "--print-uris", "download", *packages)
        if result.status:
            raise result.fail()
        found = _DOWNLOAD.finditer(result.output)
        return [(match[1], urllib.parse.unquote(match[2]), match[3]) for match in found]

    def download(self, packages: Sequence[str], into: Path, waiting: Callable[[], None]) -> Result:
        """How the download of ``NAME=VERSION`` ends; files that are complete are in ``into`` either way."""
        return self.run("-qq", "download", *packages, cwd=into, waiting=waiting)

    def indices(self) -> list[Path]:
        """The fetched ``Packages`` files, in the order of the sources.

        Raises:
            ToolError: one is missing.
        """
        result = self.run("-qq", "indextargets", "--format", "$(FILENAME)", "Created-By: Packages")
        paths = [Path(line) for line in result.output.splitlines()]
        missing = [str(path) for path in paths if not path.is_file()]
        if result.status or missing or not paths:
            raise result.fail(
                f"no index at {', '.join(missing) or 'all'}; remove {self.folder} and try again"
            )
        return paths

    def newest_release(self) -> int:
        """The newest date of the Release files, in seconds since 1970.

        Raises:
            FormatError: one of them has no date.
        """
        dates: list[int] = []
        for path in sorted((self.folder / "state" / "lists").glob("*Release")):
            with path.open("rb") as file:
                head = file.read(65536)
            # Blanks around it come off afterwards; a pattern that tells them apart goes over them many times.
            match = re.search(rb"^Date:([ -~\t]*)\r?$", head, re.MULTILINE)
            moment = _moment(match[1].decode().strip(" \t")) if match else None
            if moment is None:
                raise FormatError(
                    path.name, "no date that can be read; fetch it again, or use another mirror"
                )
            dates.append(moment)
        return max(dates, default=0)


def _moment(date: str) -> int | None:
    """Seconds since 1970 of a date such as ``Sat, 12 Jul 2025 09:12:11 UTC``; Debian's are all in UTC.

    Spec: Debian repository format, "Date, Valid-Until"; RFC 5322, section 3.3.
    """
    try:
        moment = parsedate_to_datetime(date)
    except (ValueError, OverflowError):
        return None
    return int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp())
