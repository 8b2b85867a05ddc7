"""Callbacks and states of a whole patch: merged, judged, written as C."""

from __future__ import annotations

from rebootless.diff.delta import CallbackKind, SystemState
from rebootless.module.features import features_header, merge_states, state_findings


def test_states_of_several_units() -> None:
    units = [(SystemState(7, 1),), (), (SystemState(2, 3), SystemState(7, 1))]
    assert merge_states(units) == (SystemState(2, 3), SystemState(7, 1))
    assert not state_findings(merge_states(units))


def test_one_state_in_two_versions() -> None:
    states = merge_states([(SystemState(7, 1),), (SystemState(7, 2),)])
    (found,) = state_findings(states)
    assert (found.code, found.symbol) == ("state-twice", "7") and "1 and 2" in found.message


def test_nothing_to_say() -> None:
    text = features_header([(), ()], ())
    assert "klp" not in text and "REBOOTLESS_STATES" not in text


def test_objects_keep_their_numbers() -> None:
    """The second object alone has callbacks: its array is named after its place."""
    unit = {CallbackKind.PRE_PATCH: "a", CallbackKind.POST_UNPATCH: "b"}
    text = features_header([(), (unit,)], (SystemState(9, 2),))
    assert "callbacks_0" not in text
    assert "klp_callbacks callbacks_1[] = {\n\t{ .pre_patch = a, .post_unpatch = b },\n}" in text
    assert "extern int a(struct klp_object *" in text
    assert "extern void b(struct klp_object *" in text
    assert ".id = 9UL, .version = 2U" in text
