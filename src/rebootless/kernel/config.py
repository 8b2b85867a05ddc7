"""The configuration of a kernel (`/boot/config-REL`): one `CONFIG_NAME=value` a line."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from types import MappingProxyType

_SETTING = re.compile(r"^CONFIG_(\w+)=(.*)$", re.MULTILINE)
_ESCAPE = re.compile(r"\\(.)")


@dataclass(frozen=True)
class Config:
    """The options that are set. Names are given without `CONFIG_`."""

    values: MappingProxyType[str, str] = field(repr=False)

    def get(self, name: str) -> str | None:
        """The value: "y", "m", a number or an unquoted string; None when the option is not set."""
        return self.values.get(name)

    def enabled(self, name: str) -> bool:
        """Whether a yes/no/module option is on (built in or as a module)."""
        return self.values.get(name) in ("y", "m")


def parse(text: str) -> Config:
    """Reads a `.config`. Lines that set nothing (`# CONFIG_X is not set`) are left out."""
    return Config(MappingProxyType({n: _unquote(v) for n, v in _SETTING.findall(text)}))


def _unquote(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] == '"':
        return _ESCAPE.sub(r"\1", value[1:-1])
    return value
