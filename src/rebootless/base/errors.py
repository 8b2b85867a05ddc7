"""Every error that rebootless raises on purpose, in one tree.

    RebootlessError                      1   a failure with no class of its own
    ├── RefusedError                     2   the patch cannot be live-patched safely
    ├── NoChangeError                    3   nothing to patch: the objects do the same
    ├── PatchInputError                  4   the patch file is bad, or does not apply
    │   └── ElfError                     4   not the object file it should be
    ├── CompileError                     5   the compiler or kbuild failed
    ├── NotFoundError                    6   no such kernel, package, file or program
    ├── MismatchError                    7   what was built is not what the kernel ships
    ├── BundleError                      8   truncated, tampered or unknown bundle
    ├── WrongKernelError                 9   the bundle is for another kernel
    ├── StateError                      10   already applied, not applied, or in conflict
    ├── KernelRefusedError              11   the kernel rejected the module
    ├── StalledError                    12   the transition did not finish in time
    ├── TestFailedError                 13   the test in QEMU failed
    ├── ResourceError                   14   disk full, no permission, time-out, locked
    └── CommandError                     1   a program that was run failed

The number is the exit code of the command line; `docs/exit-codes.md` explains each.
Libraries raise; only `__main__` exits.
"""

from __future__ import annotations

from collections.abc import Sequence


class RebootlessError(Exception):
    """A failure to tell the user about: what happened, and what mends it.

    `message` names the file, symbol or task; `hint` is one sentence, or None.
    """

    exit_code = 1
    code = "error"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class RefusedError(RebootlessError):
    """The patch is understood, and applying it live would be unsafe or impossible.

    `refusals` are the single reasons, each with a code, a symbol and a message.
    """

    exit_code = 2
    code = "refused"

    def __init__(
        self, message: str, *, hint: str | None = None, refusals: Sequence[object] = ()
    ) -> None:
        super().__init__(message, hint=hint)
        self.refusals = tuple(refusals)


class NoChangeError(RebootlessError):
    """The patched code does the same as the original: there is nothing to patch."""

    exit_code = 3
    code = "no-change"


class PatchInputError(RebootlessError):
    """The patch cannot be read or does not apply."""

    exit_code = 4
    code = "bad-input"


class ElfError(PatchInputError):
    """A file is not the ELF object it should be; the message names file and offset."""

    code = "bad-elf"


class CompileError(RebootlessError):
    """The compiler, kbuild or objtool failed, or is the wrong one."""

    exit_code = 5
    code = "compile"


class NotFoundError(RebootlessError):
    """A kernel, package, file or program does not exist where it was looked for."""

    exit_code = 6
    code = "not-found"


class MismatchError(RebootlessError):
    """What was built from source is not what the shipped kernel contains."""

    exit_code = 7
    code = "mismatch"


class BundleError(RebootlessError):
    """A bundle is truncated, tampered with, or of an unknown format."""

    exit_code = 8
    code = "bad-bundle"


class WrongKernelError(RebootlessError):
    """The bundle was built for another kernel than the one it should go to."""

    exit_code = 9
    code = "wrong-kernel"


class StateError(RebootlessError):
    """The patch is already applied, is not applied, or conflicts with another."""

    exit_code = 10
    code = "state"


class KernelRefusedError(RebootlessError):
    """The kernel did not take the module (signature, lockdown, modules_disabled...)."""

    exit_code = 11
    code = "kernel-refused"


class StalledError(RebootlessError):
    """Some task kept the transition from finishing in the time allowed."""

    exit_code = 12
    code = "stalled"


class TestFailedError(RebootlessError):
    """The bundle did not pass its test in QEMU."""

    __test__ = False  # not a test class for pytest
    exit_code = 13
    code = "test-failed"


class ResourceError(RebootlessError):
    """The machine lacks space, permission or time for what was asked."""

    exit_code = 14
    code = "resource"


class CommandError(RebootlessError):
    """A program failed; the message shows its command line and the end of its output."""

    code = "command"

    def __init__(
        self,
        message: str,
        *,
        returncode: int,
        output: str = "",
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.returncode = returncode
        self.output = output
