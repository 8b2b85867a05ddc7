"""Makes toolchain roots with mmdebstrap, out of the archives that this machine's apt knows.

The packages are only unpacked (mmdebstrap's variant "extract"): no maintainer script runs, so no
privilege is needed, and nothing that could be configured wrongly is.
"""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from ..base import proc
from ..base.errors import CommandError, CompileError, NotFoundError, ResourceError
from ..base.events import Monitor, Note, stage
from ..base.fs import atomic_write, cache_root, filling_directory, locked, os_failure, remove_tree
from . import sources as apt_sources
from . import toolroots
from .apt import AptArchive, native_architecture, need_space
from .compilers import Offer, nearest, offers
from .naming import DEBIAN, naming_of
from .packages import Package
from .toolchain import CompilerText, Toolchain, find_compiler, parse_text, same_package

# Names under which every Debian archive has its suites, the likeliest first.
SUITES = ("stable", "oldstable", "testing", "oldoldstable", "unstable")
SPACE = 1 << 30  # bytes: packages and what is in them
TIMEOUT = 1800.0  # seconds
# What kernels' makefiles call, and what their host programs are compiled against. Nothing is
# there on its own: of essential packages too, only those that are named (or depended upon) are.
PACKAGES = (
    "bash", "bc", "binutils", "bison", "coreutils", "cpio", "dash", "debianutils", "diffutils",
    "findutils", "flex", "gcc", "grep", "gzip", "hostname", "kmod", "libc6-dev", "libdw-dev",
    "libelf-dev", "libssl-dev", "make", "mawk", "patch", "perl", "python3-minimal", "sed", "tar",
    "xz-utils", "zstd",
)  # fmt: skip
# Links that maintainer scripts would have made.
LINKS = {"bin/sh": "dash", "usr/bin/awk": "mawk"}
UNUSED = (
    "boot", "dev", "home", "proc", "root", "run", "sys", "tmp", "var", "usr/share/doc",
    "usr/share/info", "usr/share/locale", "usr/share/man",
)  # fmt: skip
_DEB = re.compile(r"(?P<name>[^_]+)_(?P<version>[^_]+)_[^_]+\.deb")
# How this machine's apt reaches its archives, and what it thinks of their dates.
_APT_OPTION = re.compile(r"^Acquire::(?:https?::|Check-|Max-FutureTime|Retries).*;$", re.MULTILINE)


def obtain(wanted: str, monitor: Monitor, *, program: str | None = None) -> Toolchain:
    """The compiler of a kernel (CONFIG_CC_VERSION_TEXT): of this machine, of a root, of a new root.

    The very package comes before another one of the same version. `program` is what it is called
    here, if not what `wanted` begins with. Roots are made of Debian's compilers only. Raises
    CompileError when no suite has such a compiler, NotFoundError (a program is missing),
    ResourceError (network, disk, no user namespaces).
    """
    native, problem = None, ""
    try:
        native = find_compiler(wanted, program=program)
    except CompileError as exc:
        if naming_of((), wanted).title != DEBIAN:
            raise
        problem = exc.message
    if native is not None and native.exact:
        return native
    if (exact := toolroots.find_root(wanted, monitor, exact=True)) is not None:
        return exact
    if native is not None:
        return find_compiler(wanted, monitor, program=program)  # once more, for its warning
    if (near := toolroots.find_root(wanted, monitor, exact=False)) is not None:
        return near
    try:
        return new_root(wanted, monitor).toolchain(wanted)
    except (NotFoundError, ResourceError) as exc:
        raise type(exc)(f"{problem}; {exc.message}", hint=exc.hint) from exc


def new_root(wanted: str, monitor: Monitor, *, suite: str = "") -> toolroots.Root:
    """Makes a root with the compiler `wanted`, from `suite` or from the one that has it (30 s).

    Takes what is there already. Raises as `obtain` does.
    """
    text = parse_text(wanted)
    if text is None:
        raise CompileError(
            f"the kernel was built by '{wanted}', which is no gcc",
            hint="toolchain roots are made for gcc; install the compiler on this machine",
        )
    for root in toolroots.roots():
        if same_package(wanted, root.compiler) and suite in ("", root.suite):
            return root
    proc.which("mmdebstrap", hint="apt install mmdebstrap bubblewrap")
    toolroots.check_enter()
    archive, offer = _find(text, monitor, suite)
    name = f"{archive.codename(offer.suite)}-{offer.package}-{offer.version}".replace(":", "_")
    directory = toolroots.folder() / name
    note = Note(f"waiting for another one that makes the toolchain root {name}")
    with locked(toolroots.lock_of(name), timeout=TIMEOUT, waiting=lambda: monitor.emit(note)):
        for root in toolroots.roots():
            if root.directory == directory:
                return root
        need_space(toolroots.folder(), SPACE)
        with (
            stage(monitor, "toolchain", f"Making a toolchain root with {offer.package}") as report,
            filling_directory(directory) as aside,
        ):
            root = _fill(aside, directory, archive, offer, wanted)
            report.result = f"{name}, {root.size >> 20} MiB"
    return root


def _find(text: CompilerText, monitor: Monitor, suite: str) -> tuple[AptArchive, Offer]:
    """The best offer, and the archive that it is in.

    The suites in which kernels are looked for come first. Others are added one after the other,
    to lists of their own, until the very package is found.
    """
    found: list[Offer] = []
    homes: dict[str, AptArchive] = {}
    seen: list[Package] = []
    for archive, packages in _archives(monitor, suite):
        seen += packages
        for offer in offers(packages, text):
            if suite and archive.codename(offer.suite) != archive.codename(suite):
                continue
            homes.setdefault(offer.suite, archive)
            found.append(offer)
        if any(offer.exact for offer in found):
            break
    best = nearest(found, text)
    if best is None:
        wanted = f"{text.program} ({text.package}) {text.version}"
        same = sorted({f"{p.version} in {p.suite}" for p in offers_of_program(seen, text)})
        raise CompileError(
            f"the kernel was built by '{wanted}', and no suite has that version",
            hint=("there is " + ", ".join(same) + "; " if same else "")
            + "name another suite: rebootless toolchain make --suite SUITE",
        )
    return homes[best.suite], best


def offers_of_program(packages: list[Package], text: CompilerText) -> list[Package]:
    """The packages of the same program, whatever their version."""
    return [p for p in packages if p.name == toolroots.program_of(f"{text.program} () 0")]


def _archives(monitor: Monitor, suite: str) -> Iterator[tuple[AptArchive, tuple[Package, ...]]]:
    """Archives with ever more suites, and the compilers in them."""
    first = AptArchive()
    if not suite:
        yield first, first.compilers(monitor)
    wide = AptArchive(cache_root() / "toolchains" / ".apt")
    for name in (suite,) if suite else SUITES:
        try:
            wide.add_suite(name, monitor)
        except NotFoundError:
            if suite:
                raise
            continue
        yield wide, wide.compilers(monitor)


def _fill(
    aside: Path, directory: Path, archive: AptArchive, offer: Offer, wanted: str
) -> toolroots.Root:
    """Fills the directory beside the root's place, and tries the compiler."""
    root = aside / "root"
    try:
        sources = aside / "suite.sources"
        atomic_write(sources, apt_sources.render(archive.sources_of(offer.suite)))
        _unpack(root, sources, offer)
        versions = _versions(root)
        sources.unlink()
        _tidy(root)
        size = sum(p.lstat().st_blocks * 512 for p in root.rglob("*"))
    except OSError as exc:
        raise os_failure("make the toolchain root", directory, exc) from exc
    program = wanted.split()[0]
    enter = aside / toolroots.ENTER
    atomic_write(enter, toolroots.script(toolroots.system_entries(root)), mode=0o755)
    said = proc.run([enter, program, "--version"]).stdout
    text = said.splitlines()[0].strip() if said else ""
    made = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    done = toolroots.Root(
        directory.name,
        directory,
        toolroots.program_of(wanted),
        text,
        archive.codename(offer.suite),
        made,
        size,
        versions,
    )
    atomic_write(aside / toolroots.RECORD, toolroots.record(done))
    return done


def _unpack(root: Path, sources: Path, offer: Offer) -> None:
    """Runs mmdebstrap. Raises ResourceError with what it says."""
    mode = "root" if os.geteuid() == 0 else "chrootless"
    options = [f"--aptopt={o.rstrip(';')}" for o in _APT_OPTION.findall(_apt_configuration())]
    try:
        proc.run(
            [
                "mmdebstrap",
                f"--mode={mode}",
                "--variant=extract",
                "--format=directory",
                "--skip=output/dev,cleanup/apt/cache",
                f"--architectures={native_architecture()}",
                f"--include={','.join([offer.package, *PACKAGES])}",
                *options,
                offer.suite,
                root,
                sources,
            ],
            timeout=TIMEOUT,
        )
    except CommandError as exc:
        lines = [x for x in exc.output.splitlines() if x.startswith(("E: ", "W: "))]
        raise ResourceError(
            f"the toolchain root of {offer.suite} could not be made: " + "; ".join(lines[-4:]),
            hint="check the network and the proxy (http_proxy); mmdebstrap takes the entries of "
            "this machine's apt",
        ) from exc


def _apt_configuration() -> str:
    return proc.run(["apt-config", "dump"]).stdout


def _versions(root: Path) -> dict[str, str]:
    """The packages that were unpacked, from the files that were downloaded."""
    files = (root / "var/cache/apt/archives").glob("*.deb")
    found = [m for f in files if (m := _DEB.fullmatch(f.name))]
    return {m["name"]: unquote(m["version"]) for m in sorted(found, key=lambda m: m["name"])}


def _tidy(root: Path) -> None:
    """Leaves only what compiling needs, and adds the links that are wanting."""
    for name in UNUSED:
        remove_tree(root / name)
    for place in toolroots.OF_THE_USER:
        (root / place[1:]).mkdir(parents=True, exist_ok=True)
    for name, target in LINKS.items():
        path = root / name
        if not os.path.lexists(path) and (path.parent / target).exists():
            path.symlink_to(target)
