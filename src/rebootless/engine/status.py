"""What is live-patched on a machine: read from sysfs and procfs, as plain values.

Kernels differ in what they tell (patched: 6.1, replace: 6.11, stack_order: 6.14); what a kernel
does not tell is None.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field

from . import taint
from .machine import Machine, build_id, read_text, release

ROOT = "/sys/kernel/livepatch"
SCHEMA = 1
LEVELS = (f"{ROOT}/*", f"{ROOT}/*/*", f"{ROOT}/*/*/*")


@dataclass(frozen=True, order=True)
class PatchedFunction:
    """A function by its object ('vmlinux' or a module), name, and position among its namesakes.

    sysfs shows position 1 both for "the first of several" and for "the only one" (which patches
    call 0), so compare with `key`.
    """

    object: str
    name: str
    sympos: int = 0

    @property
    def key(self) -> tuple[str, str, int]:
        """The identity, with 0 and 1 folded."""
        return self.object, self.name, max(self.sympos, 1)

    def __str__(self) -> str:
        position = f",{self.sympos}" if self.sympos > 1 else ""
        where = "" if self.object == "vmlinux" else f"{self.object}:"
        return f"{where}{self.name}{position}"


@dataclass(frozen=True)
class PatchedObject:
    """What a live patch changes in the kernel proper or in one module.

    `patched` is None on kernels that do not tell, and False while the module is not loaded.
    """

    name: str
    patched: bool | None
    functions: tuple[PatchedFunction, ...]


@dataclass(frozen=True)
class LivePatch:
    """One live patch that the kernel knows."""

    name: str
    enabled: bool
    transition: bool
    replace: bool | None = None
    stack_order: int | None = None
    objects: tuple[PatchedObject, ...] = ()

    @property
    def state(self) -> str:
        """'applied', 'applying', 'undoing' or 'disabled'."""
        if self.transition:
            return "applying" if self.enabled else "undoing"
        return "applied" if self.enabled else "disabled"

    @property
    def functions(self) -> tuple[PatchedFunction, ...]:
        """Every function that it changes."""
        return tuple(function for obj in self.objects for function in obj.functions)


@dataclass(frozen=True)
class Blocker:
    """A task that still runs the other version of the code while a transition goes on.

    `stack` are the functions it sleeps in, innermost first, as far as the kernel tells; the
    patched function itself may be missing there, since it can be the very caller that a compiler
    left out or that the stack file cuts off.
    """

    pid: int
    tid: int
    comm: str
    wchan: str = ""
    stack: tuple[str, ...] = ()
    in_function: str = ""  # a patched function found on its stack

    def __str__(self) -> str:
        thread = f"/{self.tid}" if self.tid != self.pid else ""
        if self.in_function:
            where = f" in {self.in_function}"
        elif self.stack or self.wchan not in ("", "0"):
            where = f" sleeps in {self.stack[0] if self.stack else self.wchan}"
        else:
            where = " (running)"
        return f"{self.pid}{thread} {self.comm}{where}"


@dataclass(frozen=True)
class Status:
    """The whole state of a machine, for `rebootless status` and its JSON."""

    release: str
    build_id: str
    supported: bool  # the kernel has live patching
    livepatches: tuple[LivePatch, ...]
    blockers: tuple[Blocker, ...]
    taint: taint.Taint
    schema: int = field(default=SCHEMA)

    def find(self, name: str) -> LivePatch | None:
        """The live patch of that name."""
        return next((patch for patch in self.livepatches if patch.name == name), None)

    def as_json(self) -> dict[str, object]:
        """The state as JSON-able values, with each patch's `state` spelled out."""
        values = asdict(self)
        for patch, record in zip(self.livepatches, values["livepatches"], strict=True):
            record["state"] = patch.state
        return values


def status(machine: Machine) -> Status:
    """Reads the state of a machine. Raises ResourceError without the permission to read it."""
    patches = livepatches(machine)
    return Status(
        release=release(machine),
        build_id=build_id(machine),
        supported=machine.exists(ROOT),
        livepatches=patches,
        blockers=blockers(machine, patches),
        taint=taint.decode(int(read_text(machine, "/proc/sys/kernel/tainted") or 0)),
    )


def livepatches(machine: Machine) -> tuple[LivePatch, ...]:
    """The live patches that the kernel knows, by stack order where it is told, else by name."""
    paths = machine.glob(LEVELS)
    files = ("enabled", "transition", "replace", "stack_order", "*/patched")
    values = machine.read_many([f"{ROOT}/*/{name}" for name in files]) if paths else {}
    return parse_tree(paths, values)


def parse_tree(paths: Iterable[str], values: Mapping[str, str]) -> tuple[LivePatch, ...]:
    """Makes patches of sysfs paths and file contents; pure."""
    texts = {path: text.strip() for path, text in values.items()}
    tree: dict[str, dict[str, list[PatchedFunction]]] = {}
    for path in sorted(paths):
        match path.removeprefix(ROOT + "/").split("/"):
            case [patch]:
                tree.setdefault(patch, {})
            case [patch, obj, leaf]:
                functions = tree.setdefault(patch, {}).setdefault(obj, [])
                name, comma, position = leaf.rpartition(",")
                if comma and position.isdigit():
                    functions.append(PatchedFunction(obj, name, int(position)))
    found = []
    for patch, objects in tree.items():
        base = f"{ROOT}/{patch}"
        if f"{base}/enabled" not in texts:  # it went away while we looked
            continue
        found.append(
            LivePatch(
                name=patch,
                enabled=texts[f"{base}/enabled"] == "1",
                transition=texts.get(f"{base}/transition") == "1",
                replace=_flag(texts.get(f"{base}/replace")),
                stack_order=_number(texts.get(f"{base}/stack_order")),
                objects=tuple(
                    PatchedObject(name, _flag(texts.get(f"{base}/{name}/patched")), tuple(members))
                    for name, members in objects.items()
                    if members
                ),
            )
        )
    return tuple(sorted(found, key=lambda p: (p.stack_order or 0, p.name)))


def blockers(machine: Machine, patches: tuple[LivePatch, ...]) -> tuple[Blocker, ...]:
    """The tasks that hold up the transition that is going on, if one is.

    The kernel has at most one transition at a time. Idle tasks of CPUs are not in /proc and so
    never named.
    """
    moving = next((patch for patch in patches if patch.transition), None)
    if moving is None:
        return ()
    states = machine.read_many(["/proc/[0-9]*/task/[0-9]*/patch_state"])
    tasks = [path.rpartition("/")[0] for path in held(states, target=int(moving.enabled))]
    details: dict[str, str] = {}
    for start in range(0, len(tasks), 100):
        names = ("comm", "wchan", "stack")
        details |= machine.read_many(
            [f"{task}/{name}" for task in tasks[start : start + 100] for name in names]
        )
    patched = frozenset(function.name for function in moving.functions)
    return tuple(
        parse_blocker(task, details, patched) for task in tasks if f"{task}/comm" in details
    )


def held(states: Mapping[str, str], *, target: int) -> tuple[str, ...]:
    """The patch_state files whose task has not reached `target` (1 patched, 0 unpatched); pure.

    A task in no transition has state -1.
    """
    return tuple(p for p, text in states.items() if text.strip() not in ("-1", "", str(target)))


def parse_blocker(task: str, details: Mapping[str, str], patched: frozenset[str]) -> Blocker:
    """Makes a blocker of a /proc/PID/task/TID directory and its files' contents; pure."""
    parts = task.split("/")
    lines = details.get(f"{task}/stack", "").splitlines()
    stack = tuple(
        name for line in lines if (name := line.rpartition("] ")[2].partition("+")[0].strip())
    )
    return Blocker(
        pid=int(parts[2]),
        tid=int(parts[4]),
        comm=details.get(f"{task}/comm", "").strip(),
        wchan=details.get(f"{task}/wchan", "").strip(),
        stack=stack,
        in_function=next((name for name in stack if name in patched), ""),
    )


def _flag(text: str | None) -> bool | None:
    return None if text is None else text == "1"


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None
