"""The words of an ``lkvm run`` command line as options with their values, by kvmtool's own grammar.

Values may be glued to a letter (``-m256``), stand behind ``=`` or in the next word; long names may be cut
short while they stay unique; ``--no-NAME`` takes an option back.

Spec: kvmtool util/parse-options.c; builtin-run.c kvm_cmd_run_init().
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import MeasureError, suggestion
from ..machine.kvmtool_profiles import DEFAULT_PROFILE, PROFILES, find_profile
from .kvmtool_options import OPTIONS, Kind, Option, options_of

REL0_PROFILE = "kvmtool-rel0-islet"
"""Taken for a command line that only the newer dialect has."""

_SHOWN = 80


@dataclass(frozen=True)
class Given:
    """One option of a command line.

    Attributes:
        option: its row, or None for the word that stands alone, a kernel.
        value: None where the option has none.
        negated: it was written as ``--no-NAME``.
    """

    option: Option | None
    value: str | None = None
    negated: bool = False

    @property
    def where(self) -> str:
        """The option and its value, for messages."""
        if self.option is None:
            return shown(self.value or "")
        name = f"--no-{self.option.name}" if self.negated else self.option.label
        return name if self.value is None else f"{name} {shown(self.value)}"


class UnknownOptionError(MeasureError):
    """A word that no option of the dialect fits; ``position`` is its place in the command line."""

    position = 0


def shown(text: str) -> str:
    """``text`` as messages show it: plain if it is short and printable, else quoted and cut."""
    if text.isascii() and text.isprintable() and 0 < len(text) <= _SHOWN:
        return text
    return ascii(text[:_SHOWN]) + ("..." if len(text) > _SHOWN else "")


def split(words: Sequence[str], profile: str | None) -> tuple[str, tuple[Given, ...]]:
    """The profile's name and the options in order.

    Args:
        words: what follows ``run``.
        profile: its name, or None to take the one that the options belong to.

    Raises:
        MeasureError: the profile or an option is unknown, ambiguous, or has a value too many or none.
    """
    for word in words:
        _check_word(word)
    if profile is not None:
        return profile, _split(words, find_profile(profile).options, profile)
    try:
        return DEFAULT_PROFILE, _split(words, find_profile(DEFAULT_PROFILE).options, DEFAULT_PROFILE)
    except UnknownOptionError as error:
        first = error
    try:
        return REL0_PROFILE, _split(words, find_profile(REL0_PROFILE).options, REL0_PROFILE)
    except UnknownOptionError as second:
        # The dialect that understood more of the line is the better one to complain in.
        raise (second if second.position > first.position else first) from None


def _check_word(word: str) -> None:
    try:
        data = word.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        data = b"\0"
    if b"\0" in data:
        raise MeasureError(f"{shown(word)}: no program can be given this word; leave it out")


def _split(words: Sequence[str], dialect: str, profile: str) -> tuple[Given, ...]:
    table = options_of(dialect)
    given: list[Given] = []
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if not word.startswith("-") or word == "-":
            given.append(Given(None, word))
            continue
        if word == "--":
            raise MeasureError("--: a command for a sandbox is not modelled; leave it out")
        try:
            option, value, negated = _find(word, table, profile)
        except UnknownOptionError as error:
            error.position = position
            raise
        if value is None and option.kind.takes_value and not negated:
            following = words[position] if position < len(words) else None
            if option.kind is Kind.CALLBACK_DEFAULT and (following is None or following.startswith("-")):
                following = None
            elif following is None:
                raise MeasureError(f"{option.label}: its value is missing; it is the last word")
            else:
                position += 1
            value = following
        given.append(Given(option, value, negated))
    return tuple(given)


def _find(word: str, table: Sequence[Option], profile: str) -> tuple[Option, str | None, bool]:
    """The option that a word names, with a value that stands in the same word."""
    if word.startswith("-h") or word in ("--help", "--help-all"):
        raise MeasureError(f"{shown(word)}: asks for help and starts nothing; leave it out")
    if not word.startswith("--"):
        for option in table:
            if option.short == word[1]:
                return option, word[2:] or None, False
        hint = f" -{shown(word[1])}{_similar(word[1:], table)}" if len(word) > 2 else ""
        raise UnknownOptionError(f"{shown(word)}: unknown option{hint}")
    found = _find_long(word[2:], table)
    if found is None:
        raise UnknownOptionError(_unknown(word, table, profile))
    option, value, negated = found
    if value is not None and (negated or not option.kind.takes_value):
        raise MeasureError(f"{shown(word)}: takes no value; write {shown(word.partition('=')[0])}")
    return found


def _find_long(word: str, table: Sequence[Option]) -> tuple[Option, str | None, bool] | None:
    """The option of a word without its dashes; an exact name goes before a cut one."""
    name, equals, text = word.partition("=")
    value = text if equals else None
    cut: list[tuple[Option, bool]] = []
    for option in table:
        if name == option.name:
            return option, value, False
        if word.startswith(option.name):
            continue
        if option.name.startswith(name):
            cut.append((option, False))
        elif "no-".startswith(word):
            cut.append((option, True))
        elif word.startswith("no-"):
            if name[3:] == option.name:
                return option, value, True
            if option.name.startswith(word[3:]):
                cut.append((option, True))
    if len(cut) > 1:
        names = [f"--no-{option.name}" if negated else f"--{option.name}" for option, negated in cut[:4]]
        more = ", ..." if len(cut) > len(names) else ""
        raise MeasureError(f"--{shown(name)}: short for {', '.join(names)}{more}; write the name in full")
    if not cut:
        return None
    option, negated = cut[0]
    return option, None if negated else value, negated


def _unknown(word: str, table: Sequence[Option], profile: str) -> str:
    others = [option for option in OPTIONS if option not in table]
    name = word[2:].partition("=")[0]
    for option in others:
        if name.removeprefix("no-") == option.name:
            owners = [item.name for item in PROFILES if item.options in option.dialects]
            what = f"profile {profile} has no such option; {' and '.join(owners)} have it"
            return f"--{option.name}: {what}"
    return f"{shown(word)}: unknown option{_similar(name, table)}"


def _similar(name: str, table: Sequence[Option]) -> str:
    return suggestion(name, [option.name for option in table]).replace("mean '", "mean '--")
