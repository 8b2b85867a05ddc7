"""The doctor's checks of what a build and a test in a virtual machine need."""

from __future__ import annotations

from ..base.words import counted
from ..provider.toolroots import HINT_ENTER
from .doctor_facts import UNKNOWN_COMPILER, Check, Facts, no, ok, warning

GIB = 1 << 30
NEEDED_SPACE = 3 * GIB  # a source archive, its tree and its twin, for the first kernel
COMFORTABLE_SPACE = 8 * GIB

PACKAGE_OF = {
    "bwrap": "bubblewrap",
    "mmdebstrap": "mmdebstrap",
    "make": "make",
    "flex": "flex",
    "bison": "bison",
    "bc": "bc",
    "patch": "patch",
    "ld": "binutils",
    "objcopy": "binutils",
    "pahole": "pahole",
    "tar": "tar",
    "xz": "xz-utils",
    "gelf.h": "libelf-dev",
    "openssl/opensslv.h": "libssl-dev",
    "stdio.h": "libc6-dev",
}
BUILD_PROGRAMS = (
    "make", "flex", "bison", "bc", "patch", "ld", "objcopy", "pahole", "tar", "xz",
)  # fmt: skip


def compiler(facts: Facts) -> Check:
    """A kernel's units must be compiled by the compiler that compiled the kernel."""
    name = "compiler"
    wanted = facts.config.get("CC_VERSION_TEXT") if facts.config else None
    program = wanted.split()[0] if wanted else UNKNOWN_COMPILER
    if wanted is not None and wanted in facts.rooted_compilers:
        return ok(name, f"{wanted}, in a toolchain root")
    if facts.programs.get("gcc") is None and facts.programs.get(program) is None:
        install = program if program.startswith("gcc-") else "gcc-12"
        return no(name, "there is no C compiler", f"apt-get install {install}")
    if wanted is None:
        return warning(name, "the running kernel does not tell what compiled it")
    if facts.programs.get(program) is None:
        mend = f"apt-get install {program}; kernels built by an installed compiler can be patched"
        if facts.roots_usable:
            mend = f"apt-get install {program}, or let build make a toolchain root with it"
        return warning(name, f"the running kernel was built by {program}, which is missing", mend)
    if facts.compiler_version != wanted:
        why = f"the running kernel was built by {wanted}; installed is {facts.compiler_version}"
        mend = "no build for the running kernel here; for kernels of the installed compiler, yes"
        return warning(name, why, mend)
    return ok(name, wanted)


def toolchains(facts: Facts) -> Check:
    """Kernels that another compiler built than the ones here are built in toolchain roots."""
    name = "toolchain roots"
    there = counted(len(facts.rooted_compilers), "root")
    missing = [p for p in ("mmdebstrap", "bwrap") if facts.programs.get(p) is None]
    mend = "only for kernels that no compiler of this machine built: "
    if missing:
        install = " ".join(PACKAGE_OF[program] for program in missing)
        return warning(name, f"missing: {', '.join(missing)}", f"{mend}apt-get install {install}")
    if not facts.roots_usable:
        return warning(name, "programs cannot be run in one here", mend + HINT_ENTER)
    return ok(name, f"{there} in the cache; build makes more")


def programs(facts: Facts) -> Check:
    """What the kernel's own makefiles call."""
    return _installed("build tools", [p for p in BUILD_PROGRAMS if facts.programs.get(p) is None])


def headers(facts: Facts) -> Check:
    """What the kernel's host programs are compiled against."""
    return _installed("headers", list(facts.missing_headers))


def _installed(name: str, missing: list[str]) -> Check:
    if not missing:
        return ok(name, "installed")
    needed = dict.fromkeys(PACKAGE_OF[thing] for thing in missing)
    return no(name, f"missing: {', '.join(missing)}", f"apt-get install {' '.join(needed)}")


def packages(facts: Facts) -> Check:
    """Kernels, headers and sources come out of the distribution's archive."""
    name = "package tools"
    missing = [p for p in ("apt-get", "dpkg-deb") if facts.programs.get(p) is None]
    if missing:
        why = f"no {', '.join(missing)}: kernels cannot be fetched"
        return warning(name, why, "give build your own kernel's files (--image, --source-dir...)")
    return ok(name, "apt-get, dpkg-deb")


def space(facts: Facts) -> Check:
    """The cache holds sources and prepared trees."""
    name = "cache space"
    if facts.cache_free is None:
        mend = "set REBOOTLESS_CACHE to a directory that can be written"
        return no(name, f"{facts.cache} cannot be written", mend)
    free = f"{facts.cache_free / GIB:.1f} GB free for {facts.cache}"
    mend = "free some space, or set REBOOTLESS_CACHE to another disk"
    if facts.cache_free < NEEDED_SPACE:
        return no(name, f"{free}; {NEEDED_SPACE // GIB} GB are needed for a first kernel", mend)
    if facts.cache_free < COMFORTABLE_SPACE:
        return warning(name, f"{free}: enough for one or two kernels", mend)
    return ok(name, free)


def emulator(facts: Facts) -> Check:
    """Bundles are tested in QEMU."""
    name = "QEMU"
    path = facts.programs.get("qemu-system-x86_64")
    if path is None:
        return no(name, "not installed", "apt-get install qemu-system-x86")
    return ok(name, path)


def busybox(facts: Facts) -> Check:
    """The test guest's user space is one static busybox."""
    name = "busybox"
    if facts.busybox is None:
        return no(name, "/bin/busybox is missing", "apt-get install busybox-static")
    if facts.busybox != "static":
        why = "/bin/busybox is linked dynamically and would not run in the test guest"
        return no(name, why, "apt-get install busybox-static")
    return ok(name, "static")
