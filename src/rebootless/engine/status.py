"""What is live-patched on a machine: read from sysfs and procfs, as plain values.

The kernel's own livepatch and our core module each show a tree of the same layout; one parser reads
both. Kernels differ in what they tell (patched: 6.1, replace: 6.11, stack_order: 6.14); what a
kernel does not tell is None.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace

from . import taint
from .machine import Machine, build_id, read_text, release

ROOT = "/sys/kernel/livepatch"
CORE = "/sys/kernel/rebootless"
CORE_ROOT = f"{CORE}/patches"
ROOTS = (ROOT, CORE_ROOT)
MAINLINE = "livepatch"
SCHEMA = 1
LEVELS = tuple(f"{root}{level}" for root in ROOTS for level in ("/*", "/*/*", "/*/*/*"))
ENGINE_PARAMETER = "/sys/module/{}/parameters/engine"
FILES = ("enabled", "transition", "replace", "stack_order", "engine", "left", "*/patched")


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
    """One live patch that the kernel or our core module knows.

    `root` is the folder of sysfs that it is in; `left` the number of tasks that a transition of
    the core still waits for.
    """

    name: str
    enabled: bool
    transition: bool
    replace: bool | None = None
    stack_order: int | None = None
    objects: tuple[PatchedObject, ...] = ()
    engine: str = MAINLINE
    root: str = ROOT
    left: int | None = None

    @property
    def path(self) -> str:
        """Its folder in sysfs."""
        return f"{self.root}/{self.name}"

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
    patch: str = ""  # the patch whose transition it holds up

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
    supported: bool  # the kernel has livepatch of its own
    livepatches: tuple[LivePatch, ...]
    blockers: tuple[Blocker, ...]
    taint: taint.Taint
    leftovers: tuple[str, ...] = ()  # patch modules that are loaded and not in force
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
        leftovers=leftovers(machine, patches),
    )


def leftovers(machine: Machine, patches: tuple[LivePatch, ...]) -> tuple[str, ...]:
    """Patch modules that are loaded and not in force: an undo did not get to their removal."""
    taints = machine.read_many(["/sys/module/*/taint"])
    names = {path.split("/")[3] for path, text in taints.items() if "K" in text}
    names |= {path.split("/")[3] for path in machine.glob([ENGINE_PARAMETER.format("*")])}
    return tuple(sorted(names - {patch.name for patch in patches}))


def is_patch_module(machine: Machine, name: str) -> bool:
    """Whether a loaded module is a live patch, in force or not.

    Kernels with CONFIG_LIVEPATCH mark it (taint K); elsewhere its parameter tells.
    """
    mark = machine.read_bytes(f"/sys/module/{name}/taint")
    return (mark is not None and b"K" in mark) or machine.exists(ENGINE_PARAMETER.format(name))


def livepatches(machine: Machine) -> tuple[LivePatch, ...]:
    """The live patches that the kernel knows, by stack order where it is told, else by name."""
    paths = machine.glob(LEVELS)
    wanted = [f"{root}/*/{name}" for root in ROOTS for name in FILES]
    return parse_tree(paths, machine.read_many(wanted) if paths else {})


def parse_tree(paths: Iterable[str], values: Mapping[str, str]) -> tuple[LivePatch, ...]:
    """Makes patches of the paths of sysfs (both roots) and of files' contents; pure."""
    texts = {path: text.strip() for path, text in values.items()}
    listed = sorted(paths)
    found = [
        patch
        for root in ROOTS
        for name, objects in _levels(listed, root).items()
        if (patch := _patch(root, name, objects, texts)) is not None
    ]
    return tuple(sorted(found, key=lambda p: (p.stack_order or 0, p.name)))


def _levels(paths: Iterable[str], root: str) -> dict[str, dict[str, list[PatchedFunction]]]:
    """The functions by object by patch below one root."""
    tree: dict[str, dict[str, list[PatchedFunction]]] = {}
    for path in paths:
        if not path.startswith(f"{root}/"):
            continue
        match path.removeprefix(f"{root}/").split("/"):
            case [patch]:
                tree.setdefault(patch, {})
            case [patch, obj, leaf]:
                functions = tree.setdefault(patch, {}).setdefault(obj, [])
                name, comma, position = leaf.rpartition(",")
                if comma and position.isdigit():
                    functions.append(PatchedFunction(obj, name, int(position)))
    return tree


def _patch(
    root: str,
    name: str,
    objects: Mapping[str, list[PatchedFunction]],
    texts: Mapping[str, str],
) -> LivePatch | None:
    """One patch; None when it went away while we looked."""
    base = f"{root}/{name}"
    if f"{base}/enabled" not in texts:
        return None
    return LivePatch(
        name=name,
        enabled=texts[f"{base}/enabled"] == "1",
        transition=texts.get(f"{base}/transition") == "1",
        replace=_flag(texts.get(f"{base}/replace")),
        stack_order=_number(texts.get(f"{base}/stack_order")),
        objects=tuple(
            PatchedObject(obj, _flag(texts.get(f"{base}/{obj}/patched")), tuple(members))
            for obj, members in objects.items()
            if members
        ),
        engine=texts.get(f"{base}/engine") or MAINLINE,
        root=root,
        left=_number(texts.get(f"{base}/left")),
    )


def blockers(machine: Machine, patches: tuple[LivePatch, ...]) -> tuple[Blocker, ...]:
    """The tasks that hold up the transitions that are going on.

    The kernel has at most one, and the core another one. Idle tasks of CPUs are not in /proc and
    so never named by the kernel's own.
    """
    found: list[Blocker] = []
    for patch in patches:
        if patch.transition:
            found += _of_core(machine, patch) if patch.root == CORE_ROOT else _of(machine, patch)
    return tuple(found)


def _of(machine: Machine, moving: LivePatch) -> list[Blocker]:
    """Who holds up a transition of the kernel's own livepatch."""
    states = machine.read_many(["/proc/[0-9]*/task/[0-9]*/patch_state"])
    tasks = [path.rpartition("/")[0] for path in held(states, target=int(moving.enabled))]
    details: dict[str, str] = {}
    for start in range(0, len(tasks), 100):
        names = ("comm", "wchan", "stack")
        details |= machine.read_many(
            [f"{task}/{name}" for task in tasks[start : start + 100] for name in names]
        )
    patched = frozenset(function.name for function in moving.functions)
    found = (parse_blocker(t, details, patched) for t in tasks if f"{t}/comm" in details)
    return [replace(blocker, patch=moving.name) for blocker in found]


def _of_core(machine: Machine, moving: LivePatch) -> list[Blocker]:
    """Who holds up a transition of the core, which tells it itself."""
    return parse_held(read_text(machine, f"{moving.path}/held") or "", moving.name)


def parse_held(text: str, patch: str) -> list[Blocker]:
    """Makes blockers of the core's lines 'PID<tab>TID<tab>FUNCTION<tab>COMM'; pure.

    FUNCTION is '' or '-' where the core does not know it. A comm may hold any character but a
    line's end.
    """
    found = []
    for line in text.splitlines():
        fields = line.split("\t", 3)
        if len(fields) == 4 and fields[0].isdigit() and fields[1].isdigit():
            function = fields[2].strip().strip("-")
            found.append(
                Blocker(
                    int(fields[0]), int(fields[1]), fields[3], in_function=function, patch=patch
                )
            )
    return found


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
