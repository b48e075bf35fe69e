"""Where Debian packages come from: the archives that this machine or the environment names."""

from __future__ import annotations

import os
import re
import subprocess
import urllib.parse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ..errors import SpecError, ToolError

MIRROR = "GOLDSMITH_MIRROR"
SECURITY_MIRROR = "GOLDSMITH_SECURITY_MIRROR"
SNAPSHOT = "GOLDSMITH_SNAPSHOT"
NO_ARCHIVE = "none"

# Spec: debian-archive-keyring(8); its files had the ending gpg until Debian 12, and pgp since.
KEYRINGS = tuple(Path(f"/usr/share/keyrings/debian-archive-keyring.{ending}") for ending in ("pgp", "gpg"))
# Suites that have neither -updates nor -security; Spec: Debian developer's reference 4.6.4.
_ROLLING = ("sid", "unstable", "experimental", "rc-buggy")

# Spec: apt's doc/acquire-additional-files.md, "More fields".
_FIELDS = ("REPO_URI", "RELEASE", "COMPONENT", "ORIGIN", "LABEL", "SOURCESENTRY")


@dataclass(frozen=True, kw_only=True)
class Archives:
    """The archives of one Debian release.

    Attributes:
        main: URI of the main archive; it has SUITE and SUITE-updates.
        security: URI of the archive that has SUITE-security, or empty for none.
        keyring: file with the keys that sign them; None leaves it to the keys that apt trusts on this
            machine.
        snapshot: URI below which ``debian/TIME`` and ``debian-security/TIME`` are the archives of the past,
            or empty for none.
        trusted: signatures are not checked; only for archives that a test made.
    """

    main: str
    security: str
    keyring: Path | None = None
    snapshot: str = ""
    trusted: bool = False

    def sources(self, suite: str, architecture: str) -> str:
        """The sources.list of today's archives.

        Spec: sources.list(5), one-line style.
        """
        return self._lines(self.main, self.security, suite, architecture)

    def past_sources(self, suite: str, architecture: str, epoch: int) -> str:
        """The sources.list of the snapshots that should have what was current at ``epoch``.

        A Release file is dated when it is made, and gets into a snapshot some hours later. So a snapshot of
        the next day is asked as well as one of that moment.
        """
        lines = []
        for moment in (0, 1):
            when = datetime.fromtimestamp(epoch, UTC) + timedelta(days=moment)
            stamp = when.strftime("%Y%m%dT%H%M%SZ")
            main = f"{self.snapshot}/debian/{stamp}"
            security = f"{self.snapshot}/debian-security/{stamp}" if self.security else ""
            # What is valid for a week only is expired in a snapshot by design.
            lines.append(self._lines(main, security, suite, architecture, "check-valid-until=no"))
        return "".join(lines)

    def _lines(self, main: str, security: str, suite: str, architecture: str, *more: str) -> str:
        options = [f"arch={architecture}", "target=Packages", *more]
        if self.trusted:
            options.append("trusted=yes")
        elif self.keyring is not None:
            options.append(f"signed-by={self.keyring}")
        places = [(main, suite)]
        if suite not in _ROLLING:
            places.append((main, f"{suite}-updates"))
            if security:
                places.append((security, f"{suite}-security"))
        return "".join(f"deb [{' '.join(options)}] {uri} {name} main\n" for uri, name in places)


@dataclass(frozen=True)
class _Entry:
    """One index that this machine's apt knows; origin and label only where it has been fetched."""

    uri: str
    release: str
    component: str
    origin: str
    label: str
    sources_entry: str

    @property
    def place(self) -> str:
        """The last part of the path, ``debian`` or ``debian-security`` on every Debian mirror."""
        return urllib.parse.urlsplit(self.uri).path.rstrip("/").rpartition("/")[2]

    @property
    def is_debian(self) -> bool:
        """Whether it is Debian's, by its own word or by where it is."""
        if self.origin:
            return self.origin == "Debian"
        return re.fullmatch(r"debian(-security)?(\..*)?", self.place) is not None

    @property
    def is_security(self) -> bool:
        """Whether it is the archive of security updates."""
        if self.label:
            return self.label == "Debian-Security"
        return self.place.startswith("debian-security") or self.release.endswith(("-security", "/updates"))


def discover(environment: Mapping[str, str] | None = None) -> Archives:
    """The archives to use: those that the environment names, else those of this machine's apt configuration.

    Args:
        environment: ``os.environ`` unless given.

    Raises:
        SpecError: there is no Debian archive, or no archive of security updates; says what to set.
        ToolError: apt-get is missing or fails.
    """
    variables = os.environ if environment is None else environment
    main, security = (_uri(variables, name) for name in (MIRROR, SECURITY_MIRROR))
    snapshot = _uri(variables, SNAPSHOT)
    entries = [] if main and security else _configured()
    if not (main and security) and len({entry.is_security for entry in entries}) < 2:
        entries += _unfetched()
    keyring = next((path for path in KEYRINGS if path.exists()), None)
    own = next((entry for entry in entries if not entry.is_security), None)
    if not main:
        if own is None:
            what = "this machine's apt knows no Debian archive"
            raise SpecError(
                f"{MIRROR}: {what}; set it to the URI of a mirror, the folder that has dists/ and pool/"
            )
        main, keyring = own.uri, _signed_by(own.sources_entry) or keyring
    if not security:
        security = next((entry.uri for entry in entries if entry.is_security), "")
    if not security:
        what = "this machine's apt knows no archive of Debian security updates"
        raise SpecError(
            f"{SECURITY_MIRROR}: {what}; set it to the URI of one, or to `{NO_ARCHIVE}` to go without"
        )
    return Archives(
        main=main, security="" if security == NO_ARCHIVE else security, keyring=keyring, snapshot=snapshot
    )


def apt_environment() -> dict[str, str]:
    """The environment of every apt-get: this one, with messages in English."""
    return {**os.environ, "LC_ALL": "C", "LANGUAGE": "C", "DEBIAN_FRONTEND": "noninteractive"}


def _uri(variables: Mapping[str, str], name: str) -> str:
    """The URI in a variable, without its last slash; empty where the variable is not set."""
    value = variables.get(name, "").strip().rstrip("/")
    if name == SECURITY_MIRROR and value == NO_ARCHIVE:
        return value
    if value and re.fullmatch(r"[a-z][a-z0-9+.-]*:[!-Z\\^-~]+", value) is None:
        raise SpecError(f"{name}: {value!r} is not a URI; write for example file:/srv/mirror/debian")
    return value


def _configured() -> list[_Entry]:
    """Debian's archives in this machine's sources, in the order of the sources."""
    separator = "\t"
    layout = separator.join(f"$({name})" for name in _FIELDS)
    argv = ["apt-get", "indextargets", "--format", layout, "Created-By: Packages"]
    try:
        result = subprocess.run(
            argv, env=apt_environment(), stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
    except FileNotFoundError:
        raise ToolError(
            argv, "not found", advice="Debian packages need apt-get; install the package apt"
        ) from None
    output = result.stdout.decode("utf-8", "replace")
    if result.returncode:
        raise ToolError(argv, result.returncode, output + result.stderr.decode("utf-8", "replace"))
    rows = (line.split(separator) for line in output.splitlines())
    entries = [_Entry(row[0].rstrip("/"), *row[1:]) for row in rows if len(row) == len(_FIELDS)]
    return _preferred(entry for entry in entries if entry.component == "main" and entry.is_debian)


def _unfetched() -> list[_Entry]:
    """Debian's archives in this machine's sources by what an update would fetch.

    indextargets knows nothing of a source before its first update, and a fresh machine has seen none. An
    update that only prints reads the sources alone; with no lists it prints the indices of every source.
    """
    argv = [
        "apt-get",
        "update",
        "--print-uris",
        "-o",
        "Dir::State::lists=/nonexistent/",
        "-o",
        "Debug::NoLocking=1",
    ]
    result = subprocess.run(
        argv, env=apt_environment(), stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    found = re.findall(
        r"^'(.+)/dists/([^']+)/([^/']+)/binary-[^/']+/Packages[^']*' ",
        result.stdout.decode("utf-8", "replace"),
        re.MULTILINE,
    )
    entries = (
        _Entry(uri, release, component, "", "", "") for uri, release, component in dict.fromkeys(found)
    )
    return _preferred(entry for entry in entries if entry.component == "main" and entry.is_debian)


def _preferred(entries: Iterable[_Entry]) -> list[_Entry]:
    """Entries of a release itself before those of its updates and backports, else in the given order."""
    return sorted(entries, key=lambda entry: "-" in entry.release and not entry.is_security)


def _signed_by(sources_entry: str) -> Path | None:
    """The key file that the sources name for an entry ``FILE:LINE``, where they name one.

    apt-get does not print it, so the entry is looked up: in the line itself, or in the paragraph around it.

    Spec: sources.list(5), options signed-by and Signed-By.
    """
    name, _, number = sources_entry.rpartition(":")
    if not number.isdecimal():
        return None
    try:
        text = Path(name).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    if name.endswith(".sources"):
        lines = text.split("\n")
        # Line numbers of paragraphs differ between versions of apt; the nearest paragraph is the one.
        before = "\n".join(lines[: int(number)]).rpartition("\n\n")[2]
        stanza = before + "\n" + "\n".join(lines[int(number) :]).partition("\n\n")[0]
        match = re.search(r"^Signed-By:[ \t]*(/[^\s,]+)[ \t]*$", stanza, re.IGNORECASE | re.MULTILINE)
    else:
        line = "\n".join(text.split("\n")[int(number) - 1 : int(number)])
        match = re.search(r"\[[^\]]*signed-by=(/[^\s,\]]+)", line, re.IGNORECASE)
    path = Path(match[1]) if match else None
    return path if path is not None and path.exists() else None
