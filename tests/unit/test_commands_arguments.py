"""Wrong use that is the same for every command: nothing that was written is overlooked."""

from __future__ import annotations

import argparse
from types import ModuleType

import pytest

from recipes.__main__ import main
from recipes.commands import diff, explain, measure, metadata, stability, verify

# Every option that has one value, by its command.
SINGLE = {
    "measure": ["--profile", "--dtb"],
    "explain": ["--machine", "--disk", "--profile", "--dtb"],
    "diff": ["--machine", "--with", "--disk", "--with-disk"],
    "verify": ["--machine", "--disk", "--report", "--event-log"],
    "stability": ["--profile", "--vcpus", "--memory", "--ram-base", "--algorithms"],
    "metadata verify": ["--public-key", "--rim"],
}
FILES = {"diff": ["a", "b"], "verify": ["a"], "metadata verify": ["a"], "metadata show": ["a"]}


def wrong(capsys: pytest.CaptureFixture[str], command: str, *words: str) -> str:
    """The last line that a command says of wrong use."""
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), *FILES.get(command, []), *words])
    assert ended.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    return output.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("command", "option"), [(name, option) for name, options in SINGLE.items() for option in options]
)
def test_an_option_with_one_value_is_given_once(
    command: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = wrong(capsys, command, option, "1", f"{option}=2")
    assert said == f"goldsmith {command}: error: argument {option}: given twice; write it once"


@pytest.mark.parametrize(
    ("command", "option"), [(name, option) for name, options in SINGLE.items() for option in options]
)
def test_options_are_written_out(command: str, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = wrong(capsys, command, f"{option[:-1]}=1", *(["--report", "x"] if command == "verify" else []))
    assert said == f"goldsmith: error: unrecognized arguments: {option[:-1]}=1"


@pytest.mark.parametrize("command", ["diff", "verify", "metadata verify", "metadata show"])
def test_a_command_line_where_none_belongs(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--report", "x"] if command == "verify" else []
    assert main([*command.split(), *FILES[command], *more, "--", "lkvm", "run"]) == 2
    what = f"{command}: -- lkvm: takes no command line; leave out what is behind --"
    assert capsys.readouterr().err == f"goldsmith: {what}\n"


@pytest.mark.parametrize("command", [diff, explain, measure, metadata, stability, verify])
def test_no_parser_guesses(command: ModuleType) -> None:
    """Also a command that comes later, or an action of one."""
    commands = argparse.ArgumentParser().add_subparsers()
    command.add(commands)
    waiting = list(commands.choices.values())
    for parser in waiting:
        assert not parser.allow_abbrev
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                waiting += action.choices.values()
