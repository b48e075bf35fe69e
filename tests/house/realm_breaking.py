"""How a rule of a realm's measurement is broken, and the checks that notice it.

Most rules are one expression inside a function, so the function's source is edited and compiled again. An
edit that no longer finds its text is an error of its own: the rule has moved, and its entry with it.
"""

from __future__ import annotations
import __future__

import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest

from recipes.errors import ImageError
from recipes.machine import KvmtoolMachine
from recipes.measure import (
    kvmtool,
)
from recipes.measure.kvmtool import RealmPrediction
from recipes.measure.realm_launch import Replayer
from recipes.measure.trace import HashAlgorithm
from tests.unit import (
    test_measure_kvmtool,
    test_measure_kvmtool_fdt,
    test_measure_kvmtool_layout,
)
from tests.unit.test_measure_kvmtool import Fold
from tests.vectors import test_islet, test_rmm
from tests.vectors.test_kvmtool_rim import MEASURER, TF_RMM, VECTORS, files, launch

Check = Callable[[], None]
Breaking = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class RealmMutation:
    """One broken rule.

    Attributes:
        rule: what is broken, in words.
        apply: breaks it until the test is over.
        killed_by: raises AssertionError while the rule is broken, and only then.
    """

    rule: str
    apply: Breaking
    killed_by: Check


def predict(name: str, profile: str = MEASURER, replayer: Replayer | None = None) -> RealmPrediction:
    """A prediction with nothing remembered from before the rule was broken."""
    found = launch(VECTORS[name], profile)
    fresh = Replayer(HashAlgorithm(found.machine.algorithm)) if replayer is None else replayer
    return kvmtool.replay(found.machine, *files(found), replayer=fresh)


def check_rim(name: str) -> None:
    assert predict(name).rim == VECTORS[name].rim


def check_runnable_rim(name: str) -> None:
    assert predict(name, TF_RMM).rim == VECTORS[name].rim_runnable_recs_only


def check_shared(*names: str) -> None:
    """Launches that one replayer measures one after the other."""
    replayer = Replayer(HashAlgorithm.SHA256)
    for name in names:
        assert predict(name, replayer=replayer).rim == VECTORS[name].rim


def check_parameters(machine: KvmtoolMachine, expected: Fold) -> None:
    test_measure_kvmtool.test_parameters(machine, expected)


def noticed(check: Check) -> None:
    """A test that fails by another exception than the assertion's: a refusal, none, or a node not there."""
    try:
        check()
    except (ImageError, KeyError, pytest.fail.Exception) as error:
        raise AssertionError(str(error)) from None


def rim(name: str) -> Check:
    return partial(check_rim, name)


def unit(check: Callable[..., None], *arguments: Any) -> Check:
    """A unit test with the arguments of one of its cases."""
    return partial(check, *arguments)


calls, launches = partial(unit, test_rmm.check_calls), partial(unit, test_rmm.check_replay)
parameters = partial(unit, check_parameters)
placed = partial(unit, test_measure_kvmtool_layout.test_device_tree_address)
kernel_at = partial(unit, test_measure_kvmtool_layout.test_kernel)
command_line = partial(unit, test_measure_kvmtool_fdt.test_command_line)
signing = partial(unit, test_islet.test_signing_gives_the_same_file)


def edited(function: Any, *edits: tuple[str, str]) -> Breaking:
    """The function with each text, which its source has once, replaced, whoever has imported it."""
    function = getattr(function, "__func__", function)
    if not isinstance(function, FunctionType):
        raise TypeError(f"{function} has no source to edit")
    source = textwrap.dedent(inspect.getsource(function))
    for old, new in edits:
        if source.count(old) != 1:
            raise LookupError(f"{function.__qualname__}: {old!r} is there {source.count(old)} times")
        source = source.replace(old, new)
    module = compile(
        source, f"<broken {function.__qualname__}>", "exec", __future__.annotations.compiler_flag
    )
    code = next(item for item in module.co_consts if isinstance(item, CodeType))

    def apply(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(function, "__code__", code)

    return apply


def replaced(where: ModuleType, name: str, value: Any) -> Breaking:
    """Another value of a module's global; other modules keep the one that they imported."""
    if not hasattr(where, name):
        raise LookupError(f"{where.__name__} has no {name}")
    return lambda monkeypatch: monkeypatch.setattr(where, name, value)


def broken(function: Any, *entries: tuple[str, str, str, Check]) -> Iterator[RealmMutation]:
    """Edits of one function: what is broken, old text, new text, and the check."""
    for rule, old, new, killed_by in entries:
        yield RealmMutation(rule, edited(function, (old, new)), killed_by)


def other(where: ModuleType, name: str, value: Any, rule: str, killed_by: Check) -> RealmMutation:
    """Another value of a constant."""
    return RealmMutation(rule, replaced(where, name, value), killed_by)
