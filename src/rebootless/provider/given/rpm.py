"""Facts and files out of .rpm packages, by rpm's own programs.

rpm's are the reference of the format and follow each new compression and digest; `rpm2archive`
gives the files as a tar stream, so that they are unpacked as those of a .deb are.
"""

from __future__ import annotations

from pathlib import Path

from ...base import proc
from ...base.errors import PatchInputError
from ..naming.base import Facts

MAGIC = b"\xed\xab\xee\xdb"
STREAM = ("rpm2archive", "-n", "-")  # reads the package from its standard input
HINT = "apt install rpm (on other systems rpm is there, or in the package of that name)"
_FORM = "%{NAME}\\t%{VERSION}-%{RELEASE}\\t%{ARCH}\\t%{SOURCERPM}\\t%{VENDOR}"


def facts(path: Path) -> Facts:
    """What the package says of itself. Raises PatchInputError for a damaged one, NotFoundError."""
    proc.which("rpm", hint=HINT)
    query = ["rpm", "-qp", "--nosignature", "--nodigest", "--qf", _FORM, str(path.absolute())]
    result = proc.run(query, check=False)
    fields = result.stdout.split("\t")
    if result.returncode or len(fields) != 5:
        raise damaged(path, result.stderr)
    name, version, architecture, source, vendor = fields
    is_source = source == "(none)"
    return Facts(
        path.name,
        "srpm" if is_source else "rpm",
        name,
        version,
        "noarch" if is_source else architecture,  # a source rpm names the machine that made it
        "" if is_source else source,
        vendor,
    )


def check(path: Path) -> None:
    """Compares the digests of header and payload. Raises PatchInputError.

    Whose signature it has is not asked: the package is one that the user has chosen.
    """
    result = proc.run(["rpm", "-K", "--nosignature", path.absolute()], check=False)
    if result.returncode:
        raise damaged(path, result.stdout + result.stderr)


def patches(path: Path) -> tuple[str, ...]:
    """The names of the patches that a source rpm carries; in no certain order."""
    form = "[%{PATCH}\\n]"
    query = ["rpm", "-qp", "--nosignature", "--qf", form, str(path.absolute())]
    return tuple(proc.run(query).stdout.split())


def damaged(path: Path, output: str) -> PatchInputError:
    """The error for a package that cannot be read."""
    lines = [line for line in output.strip().splitlines() if line.strip()]
    detail = f": {lines[-1].strip()}" if lines else ""
    return PatchInputError(
        f"{path} is damaged, or is no package{detail}", hint="download the package again"
    )
