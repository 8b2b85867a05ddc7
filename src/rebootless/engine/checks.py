"""What is checked before the kernel is touched: pure comparisons, each with its own refusal."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

from ..base.errors import StateError, WrongKernelError
from .modinfo import ModInfo
from .status import LivePatch, PatchedFunction


@dataclass(frozen=True)
class Wanted:
    """What a live patch was made for; empty fields are not checked.

    `functions` are those it changes; with `replace` it takes the place of all other patches.
    `modules` are (name, build-id) of the modules that it changes; `untraceable` those of the
    functions that the shipped kernel does not list for ftrace. `core_abi` is the interface to
    the core module that it was built with.
    """

    build_id: str = ""
    functions: tuple[PatchedFunction, ...] = ()
    replace: bool = False
    modules: tuple[tuple[str, str], ...] = ()
    core_abi: int | None = None
    untraceable: tuple[PatchedFunction, ...] = ()


def check_kernel(info: ModInfo, wanted: Wanted, *, running: str, running_id: str) -> None:
    """Compares release and build-id; pure. Raises WrongKernelError."""
    if info.release and info.release != running:
        raise WrongKernelError(
            f"{info.name} was built for {info.release}, and the running kernel is {running}",
            hint=f"build it for {running}",
        )
    if wanted.build_id and wanted.build_id.lower() != running_id.lower():
        raise WrongKernelError(
            f"{info.name} was built for the {running} kernel with build-id {wanted.build_id}; the "
            f"running one has {running_id or 'none'}",
            hint="the release is the same but the kernel is another build: build for that one",
        )


def check_needed(info: ModInfo, present: Set[str]) -> None:
    """Whether the modules that a patch refers to plainly are there; pure. Raises StateError."""
    missing = [name for name in info.depends if name not in present]
    if missing:
        raise StateError(
            f"{info.name} needs the module {missing[0]}, which is not loaded: it follows a static "
            "key of it",
            hint=f"load it first: modprobe {missing[0]}",
        )


def check_module(patch: str, module: str, wanted_id: str, *, loaded_id: str) -> None:
    """Compares the build-id of a loaded module (one that is not loaded has none); pure.

    A module of the same name may come from elsewhere (DKMS). Raises WrongKernelError.
    """
    if wanted_id and loaded_id and wanted_id.lower() != loaded_id.lower():
        raise WrongKernelError(
            f"{patch} was built for the module {module} with build-id {wanted_id}; the loaded one "
            f"has {loaded_id}",
            hint=f"the loaded {module} is not the one that the kernel's package ships",
        )


def check_state(
    name: str, present: Sequence[LivePatch], wanted: Wanted, *, root: str, module_loaded: bool
) -> None:
    """Looks for what is in the way of patch `name`, which goes into `root`; pure.

    The kernel's livepatch and our core know nothing of each other: each has one transition at a
    time, and neither replaces a patch of the other. Raises StateError.
    """
    for patch in present:
        if patch.name == name:
            raise StateError(f"{name} is already {patch.state}", hint=f"undo {name} first")
        if patch.transition and patch.root == root:
            raise StateError(
                f"the kernel is busy {patch.state} {patch.name}",
                hint="wait for its end; `rebootless status` names the tasks that hold it",
            )
    if module_loaded:
        raise StateError(
            f"a module named {name} is loaded, and is not in force as a live patch",
            hint=f"undo {name} removes it (after a forced transition only a reboot does)",
        )
    _check_functions(present, wanted, root)


def _check_functions(present: Sequence[LivePatch], wanted: Wanted, root: str) -> None:
    """Refuses functions that another patch has, unless that one is replaced."""
    kept = [p for p in present if p.enabled and not (wanted.replace and p.root == root)]
    taken = {function.key: patch for patch in kept for function in patch.functions}
    clashes = [f for f in wanted.functions if f.key in taken]
    if not clashes:
        return
    other = taken[clashes[0].key]
    by = f" (by the engine {other.engine})" if other.root != root else ""
    raise StateError(
        f"{other.name} already patches {', '.join(map(str, clashes))}{by}",
        hint=f"undo {other.name} first"
        + (
            ", or build one patch of both with replace"
            if other.root == root
            else f", or apply this one with --engine {other.engine}"
        ),
    )


def check_undo(patch: LivePatch, present: Sequence[LivePatch]) -> None:
    """Looks for what keeps a patch from being undone; pure. Raises StateError.

    A later patch of the same function has it on top: it must go first.
    """
    neighbours = [p for p in present if p.root == patch.root and p.name != patch.name]
    busy = next((p for p in neighbours if p.transition), None)
    if busy is not None:
        raise StateError(
            f"the kernel is busy {busy.state} {busy.name}",
            hint="wait for its end, or undo that one",
        )
    mine = {function.key for function in patch.functions}
    for upper in neighbours:
        on_top = (upper.stack_order or 0) > (patch.stack_order or 0)
        shared = [f for f in upper.functions if f.key in mine]
        if upper.enabled and on_top and shared:
            raise StateError(
                f"{upper.name} was applied on top of {patch.name} and changes "
                f"{', '.join(map(str, shared))} as well",
                hint=f"undo {upper.name} first",
            )
