"""The doctor over recorded machines, and its gathering on this very one."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import pytest
from stock_facts import stock_facts

from rebootless.base.errors import ResourceError
from rebootless.engine import doctor, doctor_apply, doctor_engines, doctor_tools
from rebootless.engine.core import CoreState
from rebootless.engine.doctor_facts import Check, Facts, Status, gather
from rebootless.engine.local import LocalMachine
from rebootless.kernel.config import Config, parse

DATA = Path(__file__).parent / "data"
GCC = "gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0"
TOOLS = (
    "make", "flex", "bison", "bc", "patch", "ld", "objcopy", "tar", "xz", "pahole", "dpkg-deb",
    "apt-get", "gcc", "gcc-12", "qemu-system-x86_64", "mmdebstrap", "bwrap",
)  # fmt: skip


def recorded(name: str) -> Config:
    return parse((DATA / name).read_text())


DEBIAN = dataclasses.replace(
    stock_facts("6.1.0-55-cloud-amd64", recorded("config-6.1.0-55-cloud-amd64")),
    programs={name: f"/usr/bin/{name}" for name in TOOLS},
    compiler_version=GCC,
    roots_usable=True,
    busybox="static",
    cache="/root/.cache/rebootless",
    cache_free=50 << 30,
)
# A microVM whose kernel has neither modules nor live patching, and forces lockdown.
MICROVM = dataclasses.replace(
    DEBIAN,
    release="6.18.44",
    config=recorded("config-6.18-microvm"),
    config_path="/proc/config.gz",
    livepatch_folder=False,
    modules_disabled=None,
    sig_enforce=None,
    lockdown=None,
    kexec_loaded=None,
    kexec_load_disabled=None,
    programs={**DEBIAN.programs, "gcc": "/usr/bin/gcc"},
)


def but(**changes: object) -> Facts:
    return dataclasses.replace(DEBIAN, **changes)  # type: ignore[arg-type]


def without(program: str) -> Facts:
    return but(programs={**DEBIAN.programs, program: None})


def failing(facts: Facts) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for finding in doctor.judge(facts).checks:
        if finding.status != "ok":
            found.setdefault(finding.status, []).append(finding.name)
    return found


def test_a_stock_debian_can_do_everything() -> None:
    examination = doctor.judge(DEBIAN)
    assert failing(DEBIAN) == {}
    assert {area: v.text for area, v in examination.can.items()} == dict.fromkeys(
        doctor.AREAS, "yes"
    )


def test_a_microvm_can_only_build_and_test() -> None:
    examination = doctor.judge(MICROVM)
    assert failing(MICROVM) == {
        "no": ["symbols", "modules", "lockdown", "chosen engine", "kexec"],
        "warning": [
            "live patching",
            "engine livepatch",
            "engine per-task",
            "engine atomic",
            "compiler",
        ],
    }
    assert not examination.can["apply"].ok
    assert examination.can["build"].text == "yes (mind: compiler)"
    assert examination.can["test"].text == "yes"
    assert "CONFIG_LIVEPATCH (/proc/config.gz)" in examination.checks[1].why


@pytest.mark.parametrize(
    ("facts", "check", "status", "says"),
    [
        (but(architecture="aarch64"), doctor_apply.architecture, "no", "aarch64"),
        (but(livepatch_folder=False), doctor_apply.livepatch, "no", "mount sysfs"),
        (but(livepatch_folder=False, config=None), doctor_apply.livepatch, "warning", "per-task"),
        (but(ftrace_enabled="0"), doctor_apply.ftrace, "no", "sysctl kernel.ftrace_enabled=1"),
        (but(ftrace_enabled=None), doctor_apply.ftrace, "warning", "with a jump"),
        (but(config=parse("CONFIG_X=y")), doctor_apply.ftrace, "warning", "FUNCTION_TRACER"),
        (DEBIAN, doctor_engines.livepatch, "ok", "tries once each second"),
        (but(core=CoreState(True, "1")), doctor_engines.livepatch, "ok", "driven by the core"),
        (DEBIAN, doctor_engines.choice, "ok", "livepatch: the kernel has it"),
        (
            but(livepatch_folder=False),
            doctor_engines.choice,
            "ok",
            "per-task: not livepatch",
        ),
        (
            but(livepatch_folder=False, ftrace_enabled=None),
            doctor_engines.choice,
            "ok",
            "not per-task, since the kernel has no ftrace",
        ),
        (but(ftrace_enabled="0"), doctor_engines.choice, "no", "sysctl kernel.ftrace_enabled=1"),
        (but(ftrace_enabled="0"), doctor_engines.atomic, "warning", "switched off"),
        (but(config=parse("CONFIG_X=y")), doctor_apply.stacks, "warning", "not reliable"),
        (but(config=None), doctor_apply.stacks, "warning", "unknown"),
        (but(config=None), doctor_apply.symbols, "warning", "unknown"),
        (but(modules_disabled="1"), doctor_apply.modules, "no", "until the next boot"),
        (but(sig_enforce="Y"), doctor_apply.signatures, "no", "MOK"),
        (but(sig_enforce=None, config=None), doctor_apply.signatures, "warning", "unknown"),
        (but(lockdown="none [integrity] confidentiality"), doctor_apply.lockdown, "no", "integ"),
        (but(lockdown=None), doctor_apply.lockdown, "ok", "none"),
        (but(efi=True), doctor_apply.secure_boot, "warning", "not readable"),
        (but(efi=True, secure_boot=False), doctor_apply.secure_boot, "ok", "off"),
        (but(efi=True, secure_boot=True), doctor_apply.secure_boot, "ok", "not locked down"),
        (but(capabilities=0, uid=1000), doctor_apply.privileges, "warning", "sudo"),
        (but(capabilities=0), doctor_apply.privileges, "no", "container"),
        (but(tainted=1 << 12 | 1 << 13), doctor_apply.taint, "ok", "E: a module without"),
        (but(tainted=1 << 7 | 1 << 9), doctor_apply.taint, "warning", "D: the kernel has oopsed"),
        (but(tainted=None), doctor_apply.taint, "warning", "unknown"),
        (but(log=None), doctor_apply.log, "warning", "as root"),
        (
            but(log=("livepatch: failed to enable patch 'x'",)),
            doctor_apply.log,
            "warning",
            "enable patch",
        ),
        (but(log=("CPU: 1 Not tainted 6.1",)), doctor_apply.log, "ok", "no complaint"),
        (without("gcc-12"), doctor_tools.compiler, "warning", "apt-get install gcc-12"),
        (but(programs={}), doctor_tools.compiler, "no", "no C compiler"),
        (but(compiler_version="gcc-12 (other) 12.1"), doctor_tools.compiler, "warning", "other"),
        (but(programs={}, rooted_compilers=(GCC,)), doctor_tools.compiler, "ok", "in a toolchain"),
        (without("bwrap"), doctor_tools.toolchains, "warning", "apt-get install bubblewrap"),
        (but(roots_usable=False), doctor_tools.toolchains, "warning", "user namespaces"),
        (but(rooted_compilers=("x", "y")), doctor_tools.toolchains, "ok", "2 roots"),
        (without("flex"), doctor_tools.programs, "no", "apt-get install flex"),
        (without("ld"), doctor_tools.programs, "no", "apt-get install binutils"),
        (but(missing_headers=("gelf.h",)), doctor_tools.headers, "no", "libelf-dev"),
        (without("apt-get"), doctor_tools.packages, "warning", "--image"),
        (but(cache_free=1 << 30), doctor_tools.space, "no", "1.0 GB free"),
        (but(cache_free=5 << 30), doctor_tools.space, "warning", "one or two"),
        (but(cache_free=None), doctor_tools.space, "no", "REBOOTLESS_CACHE"),
        (without("qemu-system-x86_64"), doctor_tools.emulator, "no", "qemu-system-x86"),
        (but(busybox=None), doctor_tools.busybox, "no", "busybox-static"),
        (but(busybox="dynamic"), doctor_tools.busybox, "no", "busybox-static"),
    ],
)
def test_each_fault_is_named_and_mended(
    facts: Facts, check: object, status: str, says: str
) -> None:
    assert callable(check)
    found = check(facts)
    assert isinstance(found, Check)
    assert found.status == status
    assert says in f"{found.why} {found.mend}"


def test_forced_lockdown_without_securityfs_is_still_known() -> None:
    assert doctor_apply.lockdown_mode(MICROVM) == "integrity"


def test_secure_boot_with_lockdown_keeps_patches_out() -> None:
    facts = but(efi=True, secure_boot=True, lockdown="none [integrity] confidentiality")
    assert failing(facts) == {
        "no": ["lockdown"],
        "warning": ["secure boot", "kexec signature"],
    }
    assert doctor.judge(facts).can["apply"].text == "no (lockdown)"


def test_every_no_names_a_way_out_or_none_exists() -> None:
    hopeless = {"architecture"}
    for finding in (*doctor.judge(MICROVM).checks, *doctor.judge(but(programs={})).checks):
        if finding.status == Status.NO and finding.name not in hopeless:
            assert finding.mend


def test_what_is_gathered_here_is_true() -> None:
    facts = gather(LocalMachine())
    assert facts.release == os.uname().release
    assert facts.livepatch_folder == Path("/sys/kernel/livepatch").exists()
    assert facts.programs["make"] == shutil.which("make")
    assert facts.uid == os.geteuid()
    assert facts.tainted == int(Path("/proc/sys/kernel/tainted").read_text())
    assert doctor.examine(LocalMachine()).release == facts.release


class Forbidding(LocalMachine):
    """A machine that lets nobody read anything."""

    def read_bytes(self, path: str) -> bytes | None:
        if path == "/proc/sys/kernel/osrelease":
            return super().read_bytes(path)
        raise ResourceError(f"cannot read {path}: Permission denied")

    def kernel_log(self) -> str:
        return ""


def test_what_is_forbidden_is_unknown_and_no_failure() -> None:
    facts = gather(Forbidding())
    assert (facts.config, facts.tainted, facts.log, facts.capabilities) == (None, None, None, 0)
    assert doctor.judge(facts).checks


def test_a_corrupt_config_is_unknown() -> None:
    class Corrupt(LocalMachine):
        def read_bytes(self, path: str) -> bytes | None:
            if path == "/proc/config.gz":
                return b"\x1f\x8b not gzip"
            return None if "config" in path else super().read_bytes(path)

    assert gather(Corrupt()).config is None
