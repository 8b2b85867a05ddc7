"""How results reach the reader: one JSON document, tables on a terminal, plain columns in a pipe.

A verb describes its page once (`line`, `pairs`, `table`); which of the three it becomes is decided
here. rich is imported only when a terminal is at the other end.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from pathlib import PurePath
from typing import Any, Protocol

from ..base.events import Monitor, NullMonitor, default_monitor
from ..base.words import visible

SCHEMA = 1
Facts = Mapping[str, Any]
Render = Callable[["Page", Facts], None]


class Page(Protocol):
    """What a verb may put on standard output for people."""

    def line(self, text: str = "") -> None:
        """A line of text."""

    def pairs(self, rows: Sequence[tuple[str, object]]) -> None:
        """Names and values; rows with an empty value are left out."""

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """A table; nothing at all when it has no rows."""


class PlainPage:
    """Aligned columns, two spaces apart, and no colours."""

    def line(self, text: str = "") -> None:
        """Prints the text as it is."""
        print(visible(text))

    def pairs(self, rows: Sequence[tuple[str, object]]) -> None:
        """Prints `name:  value` lines with the values aligned."""
        shown = [(f"{name}:", cell(value)) for name, value in rows if cell(value)]
        width = max((len(name) for name, _ in shown), default=0)
        for name, value in shown:
            print(f"{name:<{width}}  {value}")

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Prints a heading and the rows."""
        body = [[cell(value) for value in row] for row in rows]
        if not body:
            return
        lines = [list(columns), *body]
        widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
        for line in lines:
            text = "  ".join(v.ljust(w) for v, w in zip(line, widths, strict=True))
            print(text.rstrip())


class RichPage:
    """Tables that fit the terminal."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(highlight=False)

    def line(self, text: str = "") -> None:
        """Prints the text, wrapped to the terminal."""
        self._console.print(visible(text), markup=False)

    def pairs(self, rows: Sequence[tuple[str, object]]) -> None:
        """Prints names dimmed, values beside them."""
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 2))
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")  # an id cut short cannot be copied
        for name, value in rows:
            if text := cell(value):
                grid.add_row(Text(name, style="dim"), styled(text))
        self._console.print(grid)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Prints a table with a rule under its heading."""
        from rich import box
        from rich.table import Table

        grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
        for number, column in enumerate(columns):
            # What a row is about stays in one piece, to be read and copied.
            grid.add_column(column, overflow="fold", no_wrap=number == 0)
        for row in rows:
            grid.add_row(*(styled(cell(value)) for value in row))
        if grid.row_count:
            self._console.print(grid)


STYLES = {
    **dict.fromkeys(["ok", "yes", "matched", "passed", "applied", "pass"], "green"),
    **dict.fromkeys(["warning", "in transition", "ambiguous", "not tested"], "yellow"),
    **dict.fromkeys(["no", "mismatched", "failed", "absent", "refused", "fail"], "red"),
}


def styled(text: str) -> Any:
    """A rich text, coloured if it is one of the words that every verb uses for its verdicts."""
    from rich.text import Text

    return Text(text, style=STYLES.get(text, ""))


@dataclasses.dataclass(frozen=True)
class Output:
    """Where one run's results and progress go."""

    as_json: bool
    monitor: Monitor
    page: Page

    @property
    def has_told(self) -> bool:
        """Whether what was told while the work went on is on the same screen as the result."""
        watched = not self.as_json and not isinstance(self.monitor, NullMonitor)
        return watched and sys.stdout.isatty() and sys.stderr.isatty()

    def joined(self, outer: Output) -> Output:
        """This one, with what was asked of the verb before its sub-verb (--json, --quiet)."""
        quiet = isinstance(outer.monitor, NullMonitor)
        return Output(
            self.as_json or outer.as_json,
            outer.monitor if quiet else self.monitor,
            outer.page if outer.as_json else self.page,
        )

    def show(self, result: object, render: Render) -> Facts:
        """Shows a result and returns it as JSON values, with the version of their schema."""
        facts = {"schema": SCHEMA, **facts_of(result)}
        if self.as_json:
            print(json.dumps(facts, indent=2, ensure_ascii=False))
        else:
            render(self.page, facts)
        return facts


def make_output(*, as_json: bool, quiet: bool) -> Output:
    """The output for the present standard streams."""
    page: Page = RichPage() if sys.stdout.isatty() and not as_json else PlainPage()
    return Output(as_json, default_monitor(quiet=quiet), page)


def facts_of(result: object) -> dict[str, Any]:
    """A result as a JSON object: its own `to_json()` or `as_json()`, else its fields."""
    value = _plain(result)
    if not isinstance(value, dict):
        raise TypeError(f"{type(result).__name__} is not a JSON object")
    return value


def _plain(value: object) -> Any:
    for name in ("to_json", "as_json"):
        if (convert := getattr(value, name, None)) is not None:
            return _plain(convert())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: _plain(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, str | int | float | None):
        return value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Set):
        return sorted(_plain(item) for item in value)
    if isinstance(value, Iterable):
        return [_plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} has no JSON form")


def cell(value: object) -> str:
    """A value as the text of a table cell."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.2f}"
        case list() | tuple():
            return ", ".join(cell(item) for item in value)
        case _:
            return visible(str(value))
