"""apt's source entries, read from the machine's configuration as values.

apt has two formats, and machines mix them:

    deb [arch=amd64 signed-by=/usr/share/keyrings/x.gpg] http://host/debian bookworm main   (.list)

    Types: deb                                                                           (.sources)
    URIs: http://host/debian
    Suites: bookworm bookworm-updates
    Components: main
    Signed-By: /usr/share/keyrings/x.gpg

Either becomes one `Source` per address and suite, so that a failing one can be named and left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..base.errors import RebootlessError
from ..base.fs import read_text

# Options that decide what apt trusts and how it asks; the rest (languages, targets...) has no
# bearing on package lists. Left: the name in a one-line entry.
_OPTIONS = {
    "signed-by": "Signed-By",
    "trusted": "Trusted",
    "check-valid-until": "Check-Valid-Until",
    "valid-until-min": "Valid-Until-Min",
    "valid-until-max": "Valid-Until-Max",
    "check-date": "Check-Date",
    "date-max-future": "Date-Max-Future",
    "allow-insecure": "Allow-Insecure",
    "allow-weak": "Allow-Weak",
    "allow-downgrade-to-insecure": "Allow-Downgrade-To-Insecure",
    "by-hash": "By-Hash",
    "inrelease-path": "InRelease-Path",
    "snapshot": "Snapshot",
}
_ONE_LINE = re.compile(r"deb\s+(?:\[(?P<options>[^]]*)\]\s*)?(?P<uri>\S+)\s+(?P<rest>\S.*)")


@dataclass(frozen=True)
class Source:
    """One suite at one address. `options` are deb822 fields, e.g. ("Signed-By", "/a.gpg")."""

    uri: str
    suite: str
    components: tuple[str, ...]
    architectures: tuple[str, ...] = ()
    options: tuple[tuple[str, str], ...] = ()
    where: str = field(default="", compare=False)

    @property
    def key(self) -> tuple[str, str]:
        """What identifies it: address (without the last slash) and suite."""
        return self.uri.rstrip("/"), self.suite

    def __str__(self) -> str:
        return f"{self.uri} {self.suite}"


def parse_list(text: str, where: str = "") -> tuple[Source, ...]:
    """Reads a one-line style file. Commented-out, source-only and cdrom entries are left out."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        match = _ONE_LINE.fullmatch(line.split("#", 1)[0].strip())
        if match is None or match["uri"].startswith("cdrom:"):
            continue
        suite, *components = match["rest"].split()
        architectures: tuple[str, ...] = ()
        options = []
        for option in (match["options"] or "").split():
            name, _, value = option.partition("=")
            if name == "arch":
                architectures = tuple(value.split(","))
            elif name.lower() in _OPTIONS:
                options.append((_OPTIONS[name.lower()], value.replace(",", " ")))
        found.append(
            Source(
                match["uri"],
                suite,
                tuple(components),
                architectures,
                tuple(options),
                f"{where}:{number}",
            )
        )
    return tuple(found)


def parse_deb822(text: str, where: str = "") -> tuple[Source, ...]:
    """Reads a deb822 style file; `Enabled: no` and source-only stanzas are left out."""
    from debian.deb822 import Deb822  # late: slow to import, and not needed for what is cached

    lines = [line for line in text.splitlines() if not line.startswith("#")]
    found = []
    for stanza in Deb822.iter_paragraphs(lines, use_apt_pkg=False):
        if "deb" not in stanza.get("Types", "").split():
            continue
        if stanza.get("Enabled", "yes").strip().lower() in ("no", "false", "0", "off", "disable"):
            continue
        options = tuple((name, stanza[name]) for name in _OPTIONS.values() if name in stanza)
        for uri in stanza.get("URIs", "").split():
            if uri.startswith("cdrom:"):
                continue
            for suite in stanza.get("Suites", "").split():
                found.append(
                    Source(
                        uri,
                        suite,
                        tuple(stanza.get("Components", "").split()),
                        tuple(stanza.get("Architectures", "").split()),
                        options,
                        where,
                    )
                )
    return tuple(found)


def read_sources(list_file: Path, parts: Path) -> tuple[Source, ...]:
    """All enabled entries of a machine: its sources.list and its sources.list.d.

    Missing or unreadable files are passed over, as other entries may do.
    """
    files = [list_file] if list_file.is_file() else []
    if parts.is_dir():
        files += sorted(p for p in parts.iterdir() if p.suffix in (".list", ".sources"))
    found: list[Source] = []
    for file in files:
        try:
            text = read_text(file)
        except RebootlessError:
            continue
        parse = parse_deb822 if file.suffix == ".sources" else parse_list
        found += parse(text, str(file))
    return merge(found)


def merge(sources: Iterable[Source]) -> tuple[Source, ...]:
    """Joins entries for the same suite (apt refuses contradictory duplicates): first one wins."""
    merged: dict[tuple[str, str], Source] = {}
    for source in sources:
        if (first := merged.get(source.key)) is None:
            merged[source.key] = source
        else:
            more = tuple(c for c in source.components if c not in first.components)
            merged[source.key] = replace(first, components=first.components + more)
    return tuple(merged.values())


def for_architecture(sources: Iterable[Source], architecture: str) -> tuple[Source, ...]:
    """The entries that serve `architecture`, narrowed to it."""
    return tuple(
        replace(s, architectures=(architecture,))
        for s in sources
        if not s.architectures or architecture in s.architectures
    )


def render(sources: Iterable[Source], kind: str = "deb") -> str:
    """The entries as a deb822 file, one stanza each, for packages or ("deb-src") their sources."""
    stanzas = []
    for source in sources:
        fields = [("Types", kind), ("URIs", source.uri), ("Suites", source.suite)]
        if source.components:
            fields.append(("Components", " ".join(source.components)))
        if source.architectures:
            fields.append(("Architectures", " ".join(source.architectures)))
        stanzas.append("".join(f"{n}: {v}\n" for n, v in (*fields, *source.options)))
    return "\n".join(stanzas)


def other_suite(sources: Iterable[Source], suite: str) -> tuple[Source, ...]:
    """Where `suite` may be found: at each address in use, and as SUITE-security where one is.

    They are guesses; apt finds out which of them exist.
    """
    guesses: dict[tuple[str, str], Source] = {}
    for source in sources:
        names = [suite]
        if source.suite.endswith("-security") and not suite.endswith("-security"):
            names.append(f"{suite.split('-')[0]}-security")
        for name in names:
            guess = replace(source, suite=name, where="asked for")
            guesses.setdefault(guess.key, guess)
    return tuple(guesses.values())


def list_names(source: Source, architecture: str) -> tuple[str, ...]:
    """The names that apt gives to the package lists of `source`, without "_Packages...".

    apt names a list after its address: no scheme, slashes become underscores, and what would
    then be unclear is quoted as in addresses.
    """
    uri = re.sub(r"^[a-z0-9+]+:(//)?([^/@]*@)?", "", source.uri.rstrip("/"))
    if source.suite.endswith("/"):
        places = [source.suite.rstrip("/")]
    else:
        places = [
            f"dists/{source.suite}/{component}/binary-{arch}"
            for component in source.components
            for arch in (architecture, "all")
        ]
    return tuple(
        re.sub(
            r"[^!-~]|[\\\\|{}\[\]<>\"^~_=!@#$%&*]", lambda m: f"%{ord(m[0]):02x}", f"{uri}/{place}"
        ).replace("/", "_")
        for place in places
    )
