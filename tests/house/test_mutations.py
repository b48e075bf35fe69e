"""Breaking any rule of the PCR replay, or of a realm's measurement, makes a named test fail."""

from __future__ import annotations

import pytest

from tests.house.mutations import MUTATIONS, Mutation
from tests.house.realm_breaking import RealmMutation
from tests.house.realm_mutations import REALM_MUTATIONS


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.rule.replace(" ", "-"))
def test_broken_rule_is_noticed(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    original = getattr(mutation.module, mutation.attribute)
    monkeypatch.setattr(mutation.module, mutation.attribute, mutation.change(original))
    with pytest.raises(AssertionError):
        mutation.killed_by()


@pytest.mark.parametrize("mutation", REALM_MUTATIONS, ids=lambda mutation: mutation.rule.replace(" ", "-"))
def test_broken_rule_of_a_realm_is_noticed(mutation: RealmMutation, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check passes as long as the rule stands, so it is the broken rule that it notices."""
    mutation.killed_by()
    mutation.apply(monkeypatch)
    with pytest.raises(AssertionError):
        mutation.killed_by()


def test_rules_are_named_once() -> None:
    rules = [item.rule for item in MUTATIONS] + [item.rule for item in REALM_MUTATIONS]
    assert sorted(set(rules)) == sorted(rules)
