"""The common PAM files, as pam-auth-update puts them together from templates and profiles.

Spec: pam-auth-update(8) and its script in libpam-runtime 1.7.0: profiles with ``Default: yes`` by falling
priority; ``end`` in a control field is the number of lines of the block from there on, the jump over the
rest.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import SpecError
from ...formats.tree import FileTree
from .paths import names_in, read_text

PROFILES, TEMPLATES = "usr/share/pam-configs", "usr/share/pam"
TYPES = ("account", "auth", "password", "session", "session-noninteractive")
_PRIMARY = '# here are the per-package modules (the "Primary" block)'
_FALLBACK = "# here's the fallback if no module succeeds"
_ADDITIONAL = '# and here are more per-package modules (the "Additional" block)'
_END = "# end of pam-auth-update config"


@dataclass(frozen=True)
class Profile:
    """One file of pam-configs: its fields; the lines of a block are the value of ``Auth`` and the like."""

    name: str
    fields: tuple[tuple[str, str], ...]

    def get(self, name: str, default: str = "") -> str:
        """The value of a field."""
        return dict(self.fields).get(name, default)

    @property
    def priority(self) -> int:
        """Higher comes first."""
        text = self.get("Priority", "0")
        return int(text) if text.isdigit() else 0


def parse_profile(name: str, text: str) -> Profile:
    """A profile from its file; a line that names no field belongs to the field above it.

    Raises:
        SpecError: the file starts with a line that belongs to no field.
    """
    fields: dict[str, str] = {}
    current = ""
    for number, line in enumerate(text.splitlines(), start=1):
        match = re.fullmatch(r"(\S+):\s+(.*)", line) or re.fullmatch(r"(\S+):()\s*", line)
        if match:
            current = match[1].removesuffix("-Final")
            fields[current] = match[2].strip()
        elif line.strip():
            if not current:
                raise SpecError(f"{PROFILES}/{name}:{number}: {line.strip()!r} belongs to no field")
            fields[current] = f"{fields[current]}\n{line.strip()}".strip()
    if fields.get("Session-Interactive-Only") != "yes":
        for suffix in ("", "-Type", "-Initial"):
            if f"Session{suffix}" in fields:
                fields[f"Session-noninteractive{suffix}"] = fields[f"Session{suffix}"]
    return Profile(name, tuple(fields.items()))


def enabled_profiles(tree: FileTree) -> tuple[Profile, ...]:
    """The profiles a fresh installation enables, the order of their lines."""
    found = []
    for name in names_in(tree, PROFILES):
        text = read_text(tree, f"{PROFILES}/{name}")
        if text is not None:
            profile = parse_profile(name, text)
            if profile.get("Default") == "yes":
                found.append(profile)
    return tuple(sorted(found, key=lambda profile: (-profile.priority, profile.name)))


def _block(kind: str, block: str, profiles: Sequence[Profile]) -> list[str]:
    """The lines of a block, without the type in front; jumps are numbers."""
    field = kind[0].upper() + kind[1:]
    lines: list[str] = []
    for profile in profiles:
        if profile.get(f"{field}-Type") != block:
            continue
        initial = profile.get(f"{field}-Initial") if not lines else ""
        lines.extend(line for line in (initial or profile.get(field)).split("\n") if line)
    if block == "Primary" and not lines:
        return ["[default=1]\t\t\tpam_permit.so"]
    jump = len(lines) - (block == "Additional")  # so that nothing jumps off the end of the stack
    result = []
    for position, line in enumerate(lines):
        match = re.match(r"((?:\[[^]]+\]|\w+)\s+\S+)\s*(.*)", line)
        if match is None:
            raise SpecError(f"{PROFILES}: {line!r} is not `control module options`")
        options = " ".join(match[2].split())
        result.append(f"{match[1].replace('end', str(jump - position))} {options}")
    return result


def render(template: str, kind: str, profiles: Sequence[Profile], where: str) -> str:
    """A common file: the template with its two blocks filled in.

    Raises:
        SpecError: the template lacks one of the lines that mark the blocks.
    """
    word = kind.removesuffix("-noninteractive")
    result: list[str] = []
    lines = iter(template.splitlines())
    for mark, block, until in (
        (_PRIMARY, "Primary", _FALLBACK),
        (_ADDITIONAL, "Additional", _END),
    ):
        for line in lines:
            result.append(line)
            if line.startswith(mark):
                break
        else:
            raise SpecError(f"{where}: the line {mark!r} is missing; this is no template of pam-auth-update")
        result.extend(f"{word}\t{line}" for line in _block(kind, block, profiles))
        for line in lines:
            if line.startswith(until):
                result.append(line)
                break
        else:
            raise SpecError(f"{where}: the line {until!r} is missing; this is no template of pam-auth-update")
    result.extend(lines)
    return "".join(f"{line}\n" for line in result)


def write_pam(tree: FileTree) -> None:
    """Writes the common files of a tree that has the templates, but keeps any that an overlay has put there.

    Raises:
        SpecError: a template or a profile is malformed.
    """
    profiles = enabled_profiles(tree)
    for kind in TYPES:
        where = f"{TEMPLATES}/common-{kind}"
        template = read_text(tree, where)
        if template is not None and f"etc/pam.d/common-{kind}" not in tree:
            text = render(template, kind, profiles, where)
            tree.add_file(f"etc/pam.d/common-{kind}", text.encode("utf-8"))
