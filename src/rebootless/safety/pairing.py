"""What a function takes and gives back: locks, and references to objects that are counted.

Counted are the places in the code, by kind. Most are calls; where the kernel's macros leave none,
the instruction tells: a counter of preemption, `cli` and `sti` (or the alternative that stands for
a call through pv_ops), a refcount_t.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from iced_x86 import Mnemonic

from ..diff.names import fold
from .code import Body, CodeUnit, added_before, constant_before

REFCOUNT = "refcount_t"
_SATURATED = "refcount_warn_saturate"
_PREEMPT = ("__preempt_count", "pcpu_hot")
_DEEPEST = 3  # calls that are followed


class Side(Enum):
    """Which half of a pair."""

    TAKE = "taken"
    GIVE = "released"


@dataclass(frozen=True)
class Kind:
    """One kind of pair: what it is called, and the functions of both sides."""

    name: str
    take: re.Pattern[str]
    give: re.Pattern[str]
    ordered: bool = False


def _kind(name: str, take: str, give: str, *, ordered: bool = False) -> Kind:
    return Kind(name, re.compile(rf"(?:{take})\Z"), re.compile(rf"(?:{give})\Z"), ordered)


_WAYS = r"(?:_nested|_nest_lock|_interruptible|_killable|_io|_trylock|_slow)*"
LOCKS = (
    _kind("mutex", rf"(?:ww_|rt_)?mutex_(?:lock|trylock){_WAYS}",
          r"(?:ww_|rt_)?mutex_unlock", ordered=True),
    _kind("spin lock", r"_raw_spin_(?:try)?lock\w*|__lock_task_sighand|\w*_rq_lock\w*",
          r"_raw_spin_unlock\w*|\w*_rq_unlock\w*", ordered=True),
    _kind("rwlock", r"_raw_(?:read|write)_(?:try)?lock\w*",
          r"_raw_(?:read|write)_unlock\w*", ordered=True),
    _kind("rw_semaphore", rf"down_(?:read|write){_WAYS}", r"up_(?:read|write)\w*", ordered=True),
    _kind("semaphore", r"down(?:_interruptible|_killable|_trylock|_timeout)?", r"up",
          ordered=True),
    _kind("percpu_rw_semaphore", r"(?:__)?percpu_down_(?:read|write)\w*",
          r"percpu_up_(?:read|write)"),
    _kind("socket lock", r"lock_sock_nested|__lock_sock_fast", r"release_sock", ordered=True),
    _kind("folio lock", r"__folio_lock\w*|__lock_page\w*", r"folio_unlock|unlock_page"),
    _kind("buffer lock", r"__lock_buffer", r"unlock_buffer"),
    _kind("rename lock", r"lock_rename\w*", r"unlock_rename"),
    _kind("console", r"console_(?:try)?lock", r"console_unlock", ordered=True),
    _kind("RTNL", r"rtnl_(?:lock|trylock)\w*", r"(?:__)?rtnl_unlock", ordered=True),
    _kind("CPU hotplug lock", r"cpus_read_(?:try)?lock", r"cpus_read_unlock", ordered=True),
    _kind("write access to a mount", r"(?:__)?mnt_want_write\w*", r"(?:__)?mnt_drop_write\w*"),
    _kind("RCU", r"__rcu_read_lock", r"__rcu_read_unlock"),
    _kind("SRCU", r"__srcu_read_lock\w*", r"__srcu_read_unlock\w*"),
    _kind("bottom halves off", r"__local_bh_disable_ip", r"_?_local_bh_enable\w*"),
    _kind("preemption off", r"preempt_count_add", r"preempt_count_sub"),
    _kind("interrupts off", r"(?!)", r"(?!)"),
)  # fmt: skip
REFERENCES = (
    _kind("file", r"fget\w*|__fget_\w+|__fdget\w*|get_task_exe_file", r"_*fput\w*"),
    _kind("dentry", r"lockref_get\w*|dget_parent|d_find_alias\w*", r"dput\w*"),
    _kind("inode", r"igrab|ihold|iget\w*|ilookup\w*|find_inode_nowait", r"iput\w*"),
    _kind("path", r"path_get|(?:user|kern)_path\w*|vfs_path_lookup", r"path_put\w*"),
    _kind("mount", r"mntget", r"mntput\w*"),
    _kind("task", r"find_get_task\w*|get_pid_task", r"__put_task_struct\w*|put_task_struct\w*"),
    _kind("mm_struct", r"get_task_mm|mm_access", r"mmput\w*"),
    _kind("pid", r"get_task_pid|find_get_pid|find_ge_pid", r"put_pid\w*"),
    _kind("module", r"try_module_get|__module_get", r"module_put"),
    _kind("page", r"try_grab_\w+|get_user_pages\w*|pin_user_pages\w*|__folio_get\w*",
          r"__folio_put|__put_page|unpin_user_pages?\w*|release_pages"),
    _kind("key", r"lookup_user_key|key_lookup\w*|request_key\w*|__key_get", r"key_put"),
    _kind("cred", r"get_task_cred|prepare_creds", r"__put_cred|abort_creds"),
    _kind("net device", r"dev_get_by_\w+|netdev_get_by_\w+", r"dev_put|netdev_put"),
    _kind(REFCOUNT, r"(?!)", r"(?!)"),
)  # fmt: skip
_VERBS = {"get": Side.TAKE, "grab": Side.TAKE, "hold": Side.TAKE, "put": Side.GIVE}
_NO_VERBS = re.compile(  # where "put" means to write
    r"(?:^|_)(?:user|seq|nla|skb|cmdline|cmsg|unaligned|random|"
    r"input|xdr|snd|bits|char|str|buf|console|iov|iter|u8|u16|u32|u64|be16|be32|le16|le32)(?:_|$)"
)

Tally = Counter[tuple[str, Side]]


def lock_calls(body: Body) -> Tally:
    """The places of a function itself that take and release locks by a call."""
    return _by_calls(body, LOCKS)


def lock_counts(code: CodeUnit, body: Body) -> Tally:
    """How many places of a function take and release each kind of lock."""
    found = lock_calls(body)
    for step in body.steps:
        if side := _preemption(step.target.name if step.target else "", step.raw.mnemonic):
            found["preemption off", side] += 1
        if side := _INTERRUPTS.get(step.raw.mnemonic):
            found["interrupts off", side] += 1
    for replacement in code.replacements(body.name):
        if side := _REPLACED.get(replacement[:1]):
            found["interrupts off", side] += 1
    return found


_INTERRUPTS: dict[int, Side] = {Mnemonic.CLI: Side.TAKE, Mnemonic.STI: Side.GIVE}
_REPLACED = {b"\xfa": Side.TAKE, b"\xfb": Side.GIVE}  # cli, sti


_COUNTED: dict[int, Side] = {Mnemonic.INC: Side.TAKE, Mnemonic.DEC: Side.GIVE}


def _preemption(name: str, mnemonic: int) -> Side | None:
    if name not in _PREEMPT:
        return None
    return _COUNTED.get(mnemonic)


def reference_counts(code: CodeUnit, body: Body, stems: frozenset[str]) -> Tally:
    """How many places take and drop references; `stems` as `put_stems` tells."""
    found = _by_calls(body, REFERENCES)
    known = {name for kind in REFERENCES for name in body.calls if side_of(kind, name)}
    for name in body.calls:
        stem = _stem(name)
        if stem is not None and name not in known and stem[0] in stems:
            found[stem] += 1
    if _SATURATED in body.calls:
        for n, step in enumerate(body.steps):
            if step.raw.mnemonic == Mnemonic.XADD:
                amount = constant_before(body, n, step.raw.op1_register)
            elif step.raw.mnemonic == Mnemonic.CMPXCHG:  # refcount_inc_not_zero()
                amount = added_before(body, n, step.raw.op1_register)
            else:
                continue
            if amount in (1, 0xFFFFFFFF):
                found[REFCOUNT, Side.TAKE if amount == 1 else Side.GIVE] += 1
    return found


def side_of(kind: Kind, name: str) -> Side | None:
    """Which side of `kind` the function `name` is."""
    if kind.take.match(name):
        return Side.TAKE
    return Side.GIVE if kind.give.match(name) else None


def _by_calls(body: Body, kinds: Iterable[Kind]) -> Tally:
    found: Tally = Counter()
    for name in body.calls:
        for kind in kinds:
            if side := side_of(kind, name):
                found[kind.name, side] += 1
                break
    return found


def _stem(name: str) -> tuple[str, Side] | None:
    """A name without its verb: 'btrfs_put_root' -> 'btrfs_root', released."""
    if _NO_VERBS.search(name):
        return None
    words = name.split("_")
    verbs = [n for n, word in enumerate(words) if word in _VERBS]
    if len(verbs) != 1:
        return None
    rest = words[: verbs[0]] + words[verbs[0] + 1 :]
    stem = "_".join(rest).strip("_")
    return (stem, _VERBS[words[verbs[0]]]) if stem else None


def put_stems(*units: CodeUnit) -> frozenset[str]:
    """The objects that the units put, by the names of their functions; what gets such counts too.

    A name that only gets is no evidence: most of these just answer a question.
    """
    names = (name for code in units for name in code.unit.elf.symbols.names)
    stems = filter(None, map(_stem, names))
    return frozenset(stem for stem, side in stems if side is Side.GIVE)


Count = Callable[[CodeUnit, Body], Tally]


def tallies(
    old: CodeUnit, new: CodeUnit, one: Body, other: Body, count: Count
) -> tuple[Tally, Tally]:
    """What `count` says of a function before (`one`) and after (`other`).

    The compiler may inline a function on one side only, and an edit may move code into a function
    of its own. So a function of the unit that only one side calls counts with that side if the
    other object has none of it, or if the two are then more alike.
    """
    before, after = count(old, one), count(new, other)
    for extra, has_counterpart in _extras(old, new, one, other, count):
        if not has_counterpart or _distance(before + extra, after) < _distance(before, after):
            before = before + extra
    for extra, has_counterpart in _extras(new, old, other, one, count):
        if not has_counterpart or _distance(before, after + extra) < _distance(before, after):
            after = after + extra
    return before, after


def _extras(
    code: CodeUnit, other_code: CodeUnit, body: Body, other: Body, count: Count
) -> Iterator[tuple[Tally, bool]]:
    """The tallies of functions that `body` calls more often than `other`."""
    more = Counter(map(fold, body.calls)) - Counter(map(fold, other.calls))
    for name, times in more.items():
        callee = code.callee(name)
        if callee is None or callee.name == body.name or _is_half(name):
            continue
        found = _deep(code, callee, count, frozenset({body.name}))
        yield Counter({key: times * n for key, n in found.items()}), name in other_code.folded


def _is_half(name: str) -> bool:
    """Whether a function is itself one half of a pair, and counts as that."""
    kinds = (*LOCKS, *REFERENCES)
    return _stem(name) is not None or any(side_of(kind, name) for kind in kinds)


def _deep(code: CodeUnit, body: Body, count: Count, above: frozenset[str]) -> Tally:
    """A function's tally with those of the functions of the unit that it calls."""
    found = count(code, body)
    above |= {body.name}
    for name in body.calls if len(above) <= _DEEPEST else ():
        callee = code.callee(fold(name))
        if callee is not None and callee.name not in above and not _is_half(fold(name)):
            found = found + _deep(code, callee, count, above)
    return found


def _distance(one: Tally, other: Tally) -> int:
    return sum(abs(one[key] - other[key]) for key in one | other)
