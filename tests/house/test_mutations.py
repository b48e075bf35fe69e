"""Breaking any rule of the PCR replay makes a vector test fail."""

from __future__ import annotations

import pytest

from tests.house.mutations import MUTATIONS, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.rule.replace(" ", "-"))
def test_broken_rule_is_noticed(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    original = getattr(mutation.module, mutation.attribute)
    monkeypatch.setattr(mutation.module, mutation.attribute, mutation.change(original))
    with pytest.raises(AssertionError):
        mutation.killed_by()


def test_rules_are_named_once() -> None:
    assert len({mutation.rule for mutation in MUTATIONS}) == len(MUTATIONS)
