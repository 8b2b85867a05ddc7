"""What a patch has beside functions, in the C of its module: callbacks and system states."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..diff.delta import CallbackKind, Finding, SystemState

# Defined by the module's main file, for units to refer to (kmod/rebootless.h).
GLUE_SYMBOLS = frozenset({"rebootless_patch", "rebootless_get_prev_state"})
# The same, where the kernel has no livepatch.
STAND_INS = GLUE_SYMBOLS | {
    *(f"klp_shadow_{verb}" for verb in ("get", "alloc", "get_or_alloc", "free", "free_all")),
    "klp_get_state",
}

UnitCallbacks = Mapping[CallbackKind, str]  # the symbols of one unit's callbacks


def glue_symbols(livepatch: bool) -> frozenset[str]:
    """What units can refer to in the module's main file; `livepatch`: CONFIG_LIVEPATCH is set."""
    return GLUE_SYMBOLS if livepatch else STAND_INS


def merge_states(units: Iterable[Sequence[SystemState]]) -> tuple[SystemState, ...]:
    """The states of all units, each once, by id."""
    return tuple(sorted({state for states in units for state in states}))


def state_findings(states: Sequence[SystemState]) -> list[Finding]:
    """Refusals for ids with more than one version."""
    versions: dict[int, list[int]] = {}
    for state in states:
        versions.setdefault(state.id, []).append(state.version)
    return [
        Finding(
            "state-twice",
            str(number),
            f"the system state {number} has the versions {' and '.join(map(str, found))} in one "
            "patch: a patch brings a state to one version",
        )
        for number, found in versions.items()
        if len(found) > 1
    ]


def features_header(
    callbacks: Sequence[Sequence[UnitCallbacks]], states: Sequence[SystemState]
) -> str:
    """rebootless_features.h: `callbacks` has a list of units for each object."""
    lines = ["/* Written anew for each patch; see livepatch.c. */"]
    for number, units in enumerate(callbacks):
        for unit in units:
            for kind, symbol in unit.items():
                result = "int" if kind is CallbackKind.PRE_PATCH else "void"
                lines.append(f"extern {result} {symbol}(struct klp_object *object);")
        if units:
            lines.append(f"static const struct klp_callbacks {callbacks_variable(number)}[] = {{")
            for unit in units:
                fields = ", ".join(f".{kind.value} = {symbol}" for kind, symbol in unit.items())
                lines.append(f"\t{{ {fields} }},")
            lines.append("};")
    if states:
        lines += ["#define REBOOTLESS_STATES", "static struct klp_state states[] = {"]
        lines += [f"\t{{ .id = {s.id}UL, .version = {s.version}U }}," for s in states]
        lines += ["\t{ }", "};"]
    return "\n".join(lines) + "\n"


def callbacks_variable(number: int) -> str:
    """The C array with the callbacks of the n-th object."""
    return f"callbacks_{number}"
