"""Functions that keep a transition from finishing, because some task is always inside of them.

Livepatch moves a sleeping task to the new code once none of the patched functions is on its stack
(linux, kernel/livepatch/transition.c). Tasks of user space can be made to leave: after about 15 s
livepatch interrupts their sleep. A kernel thread asleep in its main loop never leaves.

Found by structure: loops around a sleep, in functions that kthread_create() is given, or that
wait until something happens; and by two short tables of what every running system has on its
stacks.
"""

from __future__ import annotations

from collections.abc import Iterable

from iced_x86 import Mnemonic, OpKind, Register

from ..diff.delta import Finding
from ..diff.names import source_name
from .code import Body, CodeUnit, constant_before
from .verdict import Verdict

ALWAYS = "always-on-stack"
SLEEPS = "may-sleep-long"
ENGINE = "per-task"  # needs each task to be out of it only once, and can say who is not

# On the stack of every sleeping kernel thread, whatever the system does.
_EVERYWHERE = {
    **dict.fromkeys(
        ("schedule", "__schedule", "kthread", "kthreadd", "ret_from_fork", "worker_thread",
         "rescuer_thread", "smpboot_thread_fn", "schedule_timeout", "schedule_timeout_idle",
         "rcu_gp_kthread", "kthread_worker_fn"),
        "kernel threads sleep in it all the time",
    ),
}  # fmt: skip
# livepatch switches an idle task in do_idle() itself, without a look at its stack.
_IDLE = {
    "do_idle": "is the body of the idle loop: the idle task of a busy CPU sleeps in it, so the "
    "transition waits until every CPU has been idle once; patch a function that it calls",
    **dict.fromkeys(
        ("cpu_startup_entry", "start_secondary", "rest_init", "arch_call_rest_init"),
        "is entered once, when a CPU comes up, and never returns: CPUs that are up stay in the "
        "old code for ever; patch a function that it calls again and again, such as do_idle",
    ),
}
# Most systems have tasks that wait in these for input, children, time or locks.
_COMMON = frozenset(
    {
        "do_wait", "kernel_wait4", "do_nanosleep", "hrtimer_nanosleep", "common_nsleep",
        "ep_poll", "do_epoll_wait", "do_poll", "do_sys_poll", "do_select", "core_sys_select",
        "poll_schedule_timeout", "futex_wait", "futex_wait_queue", "__futex_wait", "do_futex",
        "pipe_read", "vfs_read", "ksys_read", "new_sync_read", "n_tty_read", "tty_read",
        "do_sigtimedwait", "sigsuspend", "unix_stream_read_generic", "inet_csk_accept",
        "sk_wait_data", "__skb_wait_for_more_packets", "schedule_hrtimeout_range", "wait_woken",
        "schedule_hrtimeout_range_clock",
        "do_syscall_64", "x64_sys_call", "__se_sys_pause", "hrtimer_nanosleep_restart",
    }
)  # fmt: skip
_THREAD_MAKERS = ("kthread_create_on_node", "kthread_create_on_cpu", "kthread_run_on_cpu",
                  "kernel_thread", "user_mode_thread")  # fmt: skip
_THREAD_CHECKS = frozenset({"kthread_should_stop", "kthread_should_park", "kthread_parkme",
                            "kthread_freezable_should_stop"})  # fmt: skip
_SCHEDULES = frozenset(
    {
        "schedule", "schedule_timeout", "schedule_timeout_interruptible", "schedule_timeout_idle",
        "schedule_timeout_killable", "schedule_timeout_uninterruptible", "schedule_hrtimeout",
        "schedule_hrtimeout_range", "schedule_hrtimeout_range_clock", "io_schedule",
        "io_schedule_timeout", "wait_woken", "do_wait_intr", "do_wait_intr_irq", "msleep",
        "msleep_interruptible", "kthread_parkme",
    }
)  # fmt: skip
# They end only when something else happens, or a signal comes: for these no loop is needed.
# (wait_for_completion() and its killable form are not here: what they wait for is near.)
_UNBOUNDED = frozenset(
    {
        "wait_for_completion_interruptible", "wait_woken", "sk_wait_data", "sk_stream_wait_memory",
        "__skb_wait_for_more_packets", "pipe_wait_readable", "pipe_wait_writable",
        "poll_schedule_timeout", "do_nanosleep", "hrtimer_nanosleep", "futex_wait_queue",
        "do_wait_intr", "do_wait_intr_irq",
    }
)  # fmt: skip
_PREPARES = frozenset({"prepare_to_wait_event", "prepare_to_wait", "prepare_to_wait_exclusive",
                       "prepare_to_swait_event", "prepare_to_swait_exclusive"})  # fmt: skip
_SLEEPS_MS = frozenset({"msleep", "msleep_interruptible"})
_SLEEPS_TICKS = frozenset(name for name in _SCHEDULES if name.startswith("schedule_timeout"))
_LONG = 5  # seconds; livepatch itself looks only once each second
_TASK_INTERRUPTIBLE = 1  # linux, include/linux/sched.h: in the ABI of /proc/PID/stat
_TASK_DEAD_OR_MORE = 0x8000


def forecast(code: CodeUnit, changed: Iterable[str], *, hz: int = 250) -> Verdict:
    """Warnings for those of the functions `changed` that tasks may not leave for long, or ever.

    `code` is the unit as it runs, `hz` the kernel's ticks per second (CONFIG_HZ).
    """
    threads = _threads(code)
    found = []
    for name in dict.fromkeys(changed):
        finding = _judge(code, name, threads, hz)
        if finding is not None:
            found.append(finding)
    return Verdict(warnings=tuple(found))


def _judge(code: CodeUnit, name: str, threads: dict[str, str], hz: int) -> Finding | None:
    body = code.body(name)
    if body is None:
        return None
    plain = source_name(name)
    if plain in _IDLE:
        return _finding(ALWAYS, plain, _IDLE[plain])
    why = _EVERYWHERE.get(plain) or _thread_loop(body, threads)
    if why:
        return _finding(
            ALWAYS,
            plain,
            f"never leaves the stack: {why}. With livepatch the transition will not finish, and "
            "signals do not help; patch a function that it calls",
        )
    why = _waits(body, hz) or _waits_in_callee(code, body, hz)
    if not why and plain in _COMMON:
        why = "is where some task waits on most systems"
    if why:
        return _finding(
            SLEEPS,
            plain,
            f"may be on a stack for long: it {why}. The transition waits for such tasks. After "
            "about 15 s the kernel wakes them by a signal (system calls as epoll_wait() then end "
            "with EINTR), so give `apply --wait` more than that, or patch a function that it calls",
        )
    return None


def _finding(code: str, name: str, text: str) -> Finding:
    return Finding(code, name, f"'{name}' {text}", engine=ENGINE if code == ALWAYS else "")


def _threads(code: CodeUnit) -> dict[str, str]:
    """The functions of the unit that become threads -> the function that starts them."""
    found: dict[str, str] = {}
    names = code.functions
    for name in code.users_of(_THREAD_MAKERS):
        body = code.body(name)
        for step in body.steps if body else ():
            target = step.target
            if target and not step.calls and target.name in names and target.offset == 0:
                found.setdefault(target.name, source_name(name))
    return found


def _thread_loop(body: Body, threads: dict[str, str]) -> str:
    """Why a function is a thread's main loop, or ""."""
    inside = _calls_in_loops(body)
    if not inside:
        return ""
    if body.name in threads and (inside & (_SCHEDULES | _UNBOUNDED | _THREAD_CHECKS)):
        return f"it is the main loop of a kernel thread that {threads[body.name]}() starts"
    if inside & _THREAD_CHECKS and inside & _SCHEDULES:
        return "it is the loop of a kernel thread (it sleeps until kthread_stop())"
    return ""


def _calls_in_loops(body: Body) -> set[str]:
    return {step.calls for n, step in enumerate(body.steps) if step.calls and n in body.looping}


def _waits(body: Body, hz: int) -> str:
    """Why a call of this function itself may take long, or ""."""
    for n, step in enumerate(body.steps):
        if step.calls in _UNBOUNDED:
            return f"calls {step.calls}()"
        if step.calls in _SLEEPS_MS or step.calls in _SLEEPS_TICKS:
            unit = 1000 if step.calls in _SLEEPS_MS else hz
            amount = constant_before(body, n, Register.RDI)
            if amount is not None and _LONG * unit <= amount < 1 << 31:
                return f"sleeps for {amount / unit:g} s in {step.calls}()"
    inside = _calls_in_loops(body)
    if inside & _SCHEDULES and _is_interruptible(body):
        return "sleeps in a loop until something happens, or a signal comes"
    return ""


def _waits_in_callee(code: CodeUnit, body: Body, hz: int) -> str:
    """The same for the functions of the unit that it calls.

    Not for those that they call in turn: the further away, the rarer is the case.
    """
    for name in dict.fromkeys(body.calls):
        callee = code.body(name) if name != body.name else None
        if callee is not None and (why := _waits(callee, hz)):
            return f"calls {source_name(name)}(), which {why}"
    return ""


def _is_interruptible(body: Body) -> bool:
    """Whether a loop of the function waits in a state that signals end."""
    for n, step in enumerate(body.steps):
        if n not in body.looping:
            continue
        if step.calls in _PREPARES:
            state = constant_before(body, n, Register.RDX)
        elif step.raw.mnemonic == Mnemonic.XCHG and step.raw.op0_kind == OpKind.MEMORY:
            state = constant_before(body, n, step.raw.op1_register)  # set_current_state()
        else:
            continue
        if state is not None and 0 < state < _TASK_DEAD_OR_MORE and state & _TASK_INTERRUPTIBLE:
            return True
    return False
