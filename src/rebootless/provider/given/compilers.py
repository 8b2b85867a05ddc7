"""Which program on this machine is the compiler that another distribution built a kernel with.

Everywhere but on Debian a kernel's configuration says just "gcc", so the version line decides:

    gcc (GCC) 14.2.1 20240912 (Red Hat 14.2.1-3)                  Fedora
    gcc (SUSE Linux) 13.3.0                                        openSUSE
    x86_64-linux-gnu-gcc-13 (Ubuntu 13.2.0-23ubuntu4) 13.2.0       Ubuntu
"""

from __future__ import annotations

import shutil

from ...base import proc
from ...base.errors import RefusedError
from ..toolchain import parse_text


def program_for(text: str) -> str:
    """The program to call for a kernel whose CONFIG_CC_VERSION_TEXT is `text`.

    The one with that very line is taken, else one of the same version, else the name that `text`
    begins with, of which the build will say that it is missing or another one. Raises RefusedError
    for a compiler that is not gcc.
    """
    wanted = parse_text(text)
    if wanted is None or "clang" in text:
        raise RefusedError(
            f"the kernel was built by '{text}', and only kernels built by gcc can be patched",
            hint="clang's link-time optimization and CFI change functions after their unit is made",
        )
    major = wanted.version.partition(".")[0]
    names = (wanted.program, f"gcc-{major}", f"x86_64-linux-gnu-gcc-{major}", "gcc")
    lines = {name: _version_line(name) for name in dict.fromkeys(names) if shutil.which(name)}
    for name, line in lines.items():
        if line == text:
            return name
    for name, line in lines.items():
        have = parse_text(line)
        if have is not None and have.version == wanted.version:
            return name
    return wanted.program


def _version_line(program: str) -> str:
    output = proc.run([program, "--version"], check=False).stdout
    return output.splitlines()[0].strip() if output else ""
