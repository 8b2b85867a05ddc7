"""The test of a live patch on its very kernel: one fixed sequence over given pieces.

    boot → the flaw shows → apply under load → redirected → the flaw is gone → (modules loaded
    late) → undo → code as before → (all code as shipped) → the flaw shows again → kernel log clean,
    never rebooted

A check is a shell text that ends with status 0 exactly if the fix is in force.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from ..base.errors import RebootlessError, TestFailedError
from ..base.events import Monitor, NullMonitor, stage
from ..base.words import counted
from ..engine import core, modinfo, patching, text
from ..engine.checks import Wanted
from ..engine.machine import build_id, read_text, release
from ..engine.status import PatchedFunction, livepatches
from .guest import Guest
from .image import ModuleStore, module_path
from .machine import LOAD_TIMEOUT, GuestMachine
from .plan import CHECK, DISK_MODULES, Scenario, config_of, image_of, make_disk, patch_path
from .report import FAILED, OK, SKIPPED, Finding, Step, TestReport, findings
from .vm import Vm

NO_CHECK = "no check was given"
HALTED_AFTER = 60.0  # seconds without a round: far more than the busiest host's guest takes for one


def run(scenario: Scenario, log: Path, monitor: Monitor | None = None) -> TestReport:
    """Runs the scenario; the guest's console goes to `log`, which is kept.

    A failure is a report with the verdict 'failed', never an exception; only Ctrl-C and bugs get
    out. QEMU has ended when this returns.
    """
    test = _Test(scenario, log, monitor or NullMonitor())
    reason = ""
    try:
        test.sequence()
    except RebootlessError as exc:
        reason = exc.message
    finally:
        test.stop()
    return test.report(reason)


class _Test:
    """One run: collects what is seen on the way."""

    def __init__(self, scenario: Scenario, log: Path, monitor: Monitor) -> None:
        self.scenario = scenario
        self.monitor = monitor
        self.infos = [modinfo.parse(blob, name="the patch") for blob in scenario.patches]
        self.names = [info.name for info in self.infos]
        self.disk = make_disk(scenario, log)
        self.vm = Vm(config_of(scenario, self.disk), image_of(scenario, self.names, self.disk), log)
        self.guest = Guest(self.vm)
        stored = (*self.names, core.MODULE) if scenario.core else self.names
        paths = {name: patch_path(name) for name in stored}
        self.machine = GuestMachine(self.guest, paths, self.disk)
        self.steps: list[Step] = []
        self.states: list[str] = []
        self.findings: tuple[Finding, ...] = ()
        self.transition_ms: list[tuple[str, float]] = []
        self.release = self.build_id = self.boot_id = ""
        self.uptime = 0.0
        self.log_before: list[str] = []
        self.places: tuple[text.Place, ...] = ()
        self.entries: dict[PatchedFunction, bytes] = {}
        self.redirected: tuple[str, ...] = ()
        self.restored = False
        self.inserted: list[str] = []
        self.patched: frozenset[PatchedFunction] = frozenset()

    def sequence(self) -> None:
        """The steps, in order; the first that fails ends the test."""
        plan = self.scenario
        early = not plan.load_late
        self.step("boot", self.boot)
        self.step("load modules", lambda: self.insert(plan.load_before), bool(plan.load_before))
        self.step("remember the code", self.remember)
        self.step(
            "check before",
            lambda: self.check(expect=not plan.fails_before),
            bool(plan.check) and early,
            skipped=NO_CHECK if early else "its module is loaded later",
        )
        self.step("start workload", self.start_workload, plan.workload)
        for index, name in enumerate(self.names):
            self.step(f"apply {name}", lambda i=index: self.apply(i))  # type: ignore[misc]
        self.step("load modules late", lambda: self.insert(plan.load_late), bool(plan.load_late))
        self.step("code redirected", self.verify_redirected)
        self.step(
            "check applied", lambda: self.check(expect=True), bool(plan.check), skipped=NO_CHECK
        )
        self.step("workload goes on", self.verify_workload, plan.workload)
        if plan.undo:
            self.undo_steps()
        self.step("kernel log clean", self.verify_log)
        self.step("never rebooted", self.verify_uptime)

    def undo_steps(self) -> None:
        """Takes the patches off, last one first, and looks at what is left."""
        plan = self.scenario
        for name in reversed(self.names):
            self.step(f"undo {name}", lambda n=name: self.undo(n))  # type: ignore[misc]
        self.step("code as before", self.verify_restored)
        self.step(
            "all code as shipped",
            self.compare,
            self.disk is not None,
            skipped=f"the kernel has no {DISK_MODULES[-1]}, and memory is read by that"
            if plan.compare
            else "",
        )
        self.step(
            "check after",
            lambda: self.check(expect=not plan.fails_after),
            bool(plan.check),
            skipped=NO_CHECK,
        )

    def step(
        self, name: str, action: Callable[[], str], wanted: bool = True, *, skipped: str = ""
    ) -> None:
        """Runs one step and notes its outcome, time and detail."""
        if not wanted:
            if skipped:
                self.steps.append(Step(name, SKIPPED, 0.0, skipped))
            return
        started = time.monotonic()
        try:
            with stage(self.monitor, f"lab-{name}", f"QEMU: {name}") as shown:
                detail = action()
                shown.result = detail
        except RebootlessError as exc:
            seconds = time.monotonic() - started
            self.steps.append(Step(name, FAILED, seconds, exc.message.splitlines()[0]))
            raise
        self.steps.append(Step(name, OK, time.monotonic() - started, detail))

    def boot(self) -> str:
        self.vm.start()
        self.release = release(self.machine)
        self.build_id = build_id(self.machine)
        self.boot_id = read_text(self.machine, "/proc/sys/kernel/random/boot_id") or ""
        self.uptime = self.read_uptime()
        self.log_before = self.machine.kernel_log().splitlines()
        self.note_state()
        return f"{self.release} in {self.vm.boot_seconds:.1f} s"

    def insert(self, names: tuple[str, ...]) -> str:
        assert self.scenario.modules_dir is not None  # the image could not have been made
        store = ModuleStore(self.scenario.modules_dir, self.scenario.more_modules)
        closure = store.closure(names)
        order = [name for name in closure if name not in self.inserted]
        self.inserted += order
        otherwise = "exit" if self.scenario.must_load else "echo {}"
        lines = [f"insmod {module_path(n)} || {otherwise.format(n)}" for n in order]
        said = self.guest.check("\n".join(lines), timeout=LOAD_TIMEOUT).splitlines()
        out = [name for name in order if name in said]
        left_out = f"; not here: {', '.join(out)}" if out else ""
        return ", ".join(name for name in order if name not in out) + left_out

    def remember(self) -> str:
        """Keeps the first bytes of the functions that will be patched, if they are known."""
        wanted = self.scenario.wanted.functions
        self.places = text.locate(self.machine, wanted)
        self.entries = text.entries(self.machine, self.places)
        return (
            f"{len(self.entries)} of {counted(len(wanted), 'function')}"
            if wanted
            else "none are named"
        )

    def check(self, *, expect: bool) -> str:
        answer = self.guest.run(f"sh {CHECK}", timeout=self.scenario.check_timeout)
        if answer.status in (126, 127):  # the shell's own: a command cannot be run or found
            raise TestFailedError(
                f"the check cannot be run in the guest: {answer.output.strip()[-500:]}",
                hint="the guest has busybox's commands only",
            )
        if (answer.status == 0) != expect:
            what = f"fails, and had to pass (status {answer.status})"
            if not expect:
                what = "passes, and had to fail without the patch"
            end = answer.output.strip()[-500:]
            raise TestFailedError(f"the check {what}" + (f"; its output: {end}" if end else ""))
        return f"status {answer.status}, as it has to be"

    def start_workload(self) -> str:
        self.guest.start_workload()
        deadline = time.monotonic() + 20
        while self.guest.workload_rounds() == 0:
            if time.monotonic() > deadline:
                raise TestFailedError("the workload in the guest does not get going")
            time.sleep(0.2)
        return ""

    def apply(self, index: int) -> str:
        plan = self.scenario
        wanted = plan.wanted if index == 0 else Wanted(build_id=plan.wanted.build_id)
        applied = patching.apply(
            self.machine,
            plan.patches[index],
            engine=plan.engine,
            core_module=plan.core,
            wanted=wanted,
            policy=plan.policy,
        )
        self.note_state()
        time_taken = self.note_time("apply", applied.name, applied.transition.kernel_ms)
        return f"engine {applied.engine}" + (f", {time_taken}" if time_taken else "")

    def undo(self, name: str) -> str:
        if name not in {patch.name for patch in livepatches(self.machine)}:
            return "replaced by a later one"
        undone = patching.undo(self.machine, name, policy=self.scenario.policy)
        self.note_state()
        if undone.remains:
            raise TestFailedError(f"undone, but something remains: {'; '.join(undone.remains)}")
        moved = undone.transition
        return self.note_time("undo", name, moved.kernel_ms if moved else None)

    def verify_redirected(self) -> str:
        self.patched = patched = frozenset(
            function
            for patch in livepatches(self.machine)
            for obj in patch.objects
            if obj.patched or (obj.patched is None and self.is_loaded(obj.name))
            for function in obj.functions
        )
        hooked = text.hooked(self.machine)
        changed = text.changed(self.entries, text.entries(self.machine, self.places))
        if hooked is not None:  # a jump does without ftrace, and shows in the code alone
            jumps = {f.key for f in changed}
            missing = sorted(str(f) for f in patched if f.name not in hooked and f.key not in jumps)
            if missing:
                raise TestFailedError(f"not redirected: {', '.join(missing)}")
        same = sorted(str(f) for f in self.entries if f not in changed)
        if same:
            raise TestFailedError(f"the code is unchanged at {', '.join(same)}")
        self.redirected = tuple(sorted(str(function) for function in patched))
        return f"{counted(len(patched), 'function')}, {len(changed)} seen in memory"

    def is_loaded(self, name: str) -> bool:
        """Whether an object's code is in the kernel (for kernels before 6.1, which do not say)."""
        return name == "vmlinux" or self.machine.exists(f"/sys/module/{name}")

    def verify_restored(self) -> str:
        left = livepatches(self.machine)
        if left:
            raise TestFailedError(f"still there: {', '.join(patch.name for patch in left)}")
        now = text.entries(self.machine, self.places)
        changed = text.changed(self.entries, now)
        if changed:
            raise TestFailedError(f"the code stays changed at {', '.join(map(str, changed))}")
        hooked = text.hooked(self.machine)
        names = {function.name for function in self.patched}
        if hooked and hooked & names:
            raise TestFailedError(f"still redirected: {', '.join(sorted(hooked & names))}")
        self.restored = True
        return f"{counted(len(now), 'function')} compared byte by byte"

    def compare(self) -> str:
        assert self.scenario.compare is not None  # there is a disk for it
        self.guest.stop_workload()  # it has shown what it can, and would only make this slow
        found = self.scenario.compare(self.machine)
        if found.clean is False:
            raise TestFailedError(f"the kernel's code: {found.text}")
        return found.text

    def verify_workload(self) -> str:
        first = self.guest.workload_rounds()
        deadline = time.monotonic() + HALTED_AFTER
        time.sleep(self.scenario.workload_seconds)
        while (more := self.guest.workload_rounds() - first) <= 0:
            if time.monotonic() > deadline:
                raise TestFailedError("the workload in the guest has come to a halt")
            time.sleep(1)
        return f"{more} rounds"

    def verify_log(self) -> str:
        found = findings(
            self.machine.kernel_log(), before=self.log_before, allowed=self.scenario.allowed
        )
        self.findings = found
        if found:
            raise TestFailedError(f"the kernel log shows: {found[0].line}")
        return ""

    def verify_uptime(self) -> str:
        boot_id = read_text(self.machine, "/proc/sys/kernel/random/boot_id") or ""
        uptime = self.read_uptime()
        if boot_id != self.boot_id or uptime < self.uptime:
            raise TestFailedError("the guest has been rebooted during the test")
        self.uptime = uptime
        return f"up {uptime:.0f} s, same boot"

    def read_uptime(self) -> float:
        return float((read_text(self.machine, "/proc/uptime") or "0").split()[0])

    def note_state(self) -> None:
        patches = livepatches(self.machine)
        self.states.append(", ".join(f"{p.name} {p.state}" for p in patches) or "none")

    def note_time(self, what: str, name: str, milliseconds: float | None) -> str:
        if milliseconds is None:
            return ""
        self.transition_ms.append((f"{what} {name}", round(milliseconds, 3)))
        return f"transition {milliseconds:.0f} ms"

    def stop(self) -> None:
        """Ends the guest; what its log shows by then still counts."""
        if not self.findings:
            console = self.vm.console()
            self.findings = findings(console, before=self.log_before, allowed=self.scenario.allowed)
        self.vm.stop()
        if self.disk is not None:
            self.disk.unlink(missing_ok=True)

    def report(self, reason: str) -> TestReport:
        return TestReport(
            verdict="failed" if reason else "passed",
            reason=reason,
            release=self.release,
            build_id=self.build_id,
            steps=tuple(self.steps),
            states=tuple(self.states),
            findings=self.findings,
            transition_ms=tuple(self.transition_ms),
            boot_seconds=round(self.vm.boot_seconds, 3),
            uptime_seconds=self.uptime,
            redirected=self.redirected,
            restored=self.restored,
            console_log=str(self.vm.log),
        )
