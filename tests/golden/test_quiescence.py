"""Functions that tasks do not leave are named before a transition stalls on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rebootless.diff.delta import Finding
from rebootless.elf.reader import read
from rebootless.safety.code import CodeUnit
from rebootless.safety.quiescence import forecast

Forecast = Callable[..., tuple[Finding, ...]]
KERNEL = """
extern void schedule(void), msleep(unsigned), init_wait_entry(void *, int), finish_wait(void *);
extern long prepare_to_wait_event(void *, void *, int), schedule_timeout_uninterruptible(long);
extern void *kthread_create_on_node(int (*)(void *), void *, int, const char *, ...);
extern int kthread_should_stop(void), ready, wait_for_completion_interruptible(void *);
extern void wait_for_completion(void *);
"""
THREAD = """
int f(void *data) { for (;;) { sink(data); {0} } return 0; }
void *start(void) { return kthread_create_on_node({1}, 0, -1, "t"); }
"""
WAIT = """
int f(void *q) {
    char entry[40]; long r = 0;
    init_wait_entry(entry, 0);
    for (;;) {
        r = prepare_to_wait_event(q, entry, %s);
        if (ready || r) break;
        schedule();
    }
    finish_wait(entry);
    return r;
}
"""


@pytest.fixture
def predict(compile_c: Callable[..., Path]) -> Forecast:
    def run(source: str, *names: str) -> tuple[Finding, ...]:
        obj = read(compile_c(KERNEL + source, "orig"))
        return forecast(CodeUnit(obj), names or ("f",), hz=250).warnings

    return run


def one(found: tuple[Finding, ...]) -> tuple[str, str]:
    (finding,) = found
    return finding.code, finding.engine


def test_the_main_loop_of_a_thread_is_always_on_a_stack(predict: Forecast) -> None:
    text = THREAD.replace("{0}", "schedule();").replace("{1}", "f")
    found = predict(text)
    assert one(found) == ("always-on-stack", "per-task")
    assert "start() starts" in found[0].message
    assert not predict(text, "start")


def test_a_thread_that_ends_and_a_loop_that_does_not_sleep_are_left(predict: Forecast) -> None:
    once = THREAD.replace("for (;;)", "").replace("{0}", "schedule();").replace("{1}", "f")
    assert not predict(once)
    assert not predict(THREAD.replace("{0}", "if (ready) break;").replace("{1}", "f"))
    assert not predict("void f(int n) { while (n--) sink(&n); }")


def test_a_thread_started_elsewhere_is_known_by_its_questions(predict: Forecast) -> None:
    text = "int f(void *d) { while (!kthread_should_stop()) { sink(d); schedule(); } return 0; }"
    assert one(predict(text)) == ("always-on-stack", "per-task")
    asked = "int f(void *d) { while (!kthread_should_stop()) sink(d); return 0; }"
    assert not predict(asked)


def test_waiting_for_an_event_may_take_long(predict: Forecast) -> None:
    assert one(predict(WAIT % "1")) == ("may-sleep-long", "")
    assert not predict(WAIT % "2"), "an uninterruptible wait is for what is near"
    callers = (
        WAIT.replace("int f(", "noinline int f(") % "1"
        + "noinline int g(void *q) { return f(q) + 1; }\n"
    )
    (found,) = predict(callers, "g")
    assert "calls f(), which sleeps" in found.message


def test_long_and_short_sleeps(predict: Forecast) -> None:
    (found,) = predict("void f(void) { msleep(30000); sink(0); }")
    assert found.code == "may-sleep-long" and "30 s" in found.message
    assert not predict("void f(void) { msleep(20); sink(0); }")
    ticks = "long f(void) { return 1 + schedule_timeout_uninterruptible(%d); }"
    assert "8 s" in predict(ticks % 2000)[0].message
    assert not predict(ticks % 25)


def test_completions(predict: Forecast) -> None:
    text = "int f(void *c) { wait_for_completion%s(c); return 3; }"
    assert predict(text % "_interruptible")
    assert not predict(text % "")


def test_what_every_system_has_on_its_stacks(predict: Forecast) -> None:
    source = "".join(
        f"int {name}(void) {{ return get() + {n}; }}\n"
        for n, name in enumerate(("worker_thread", "do_idle", "ksys_read", "version_proc_show"))
    )
    found = predict(source, "worker_thread", "do_idle", "ksys_read", "version_proc_show")
    assert [(f.symbol, f.code) for f in found] == [
        ("worker_thread", "always-on-stack"),
        ("do_idle", "always-on-stack"),
        ("ksys_read", "may-sleep-long"),
    ]
