"""Where the code of one unit lies: together, and in the order in which gcc wrote it."""

from __future__ import annotations

from dataclasses import dataclass, field

from .blocks import Block

PADDING = 48  # more than lies between two functions: alignment, and the call padding
SLACK = 4096  # bytes of code without a symbol (assembler in C files) to allow for within a unit

Key = tuple[int, int]


def family(section: str) -> str:
    """The group of input sections that the linker script keeps together.

    `.text.foo` (from -ffunction-sections) belongs to `.text`, `.text.unlikely.foo` to
    `.text.unlikely`, and sections with names of their own to themselves.
    """
    for prefix in (".text.unlikely", ".text.hot", ".text.startup", ".text.exit", ".text.unknown"):
        if section == prefix or section.startswith(prefix + "."):
            return prefix
    return ".text" if section.startswith(".text.") and section[6:7] != "." else section


@dataclass
class Layout:
    """The functions of a unit by family, as gcc wrote them, and where they were found so far."""

    rows: dict[str, list[Block]] = field(default_factory=dict)
    placed: dict[Key, int] = field(default_factory=dict)
    _at: dict[Key, int] = field(default_factory=dict)  # position in its row

    def add(self, block: Block) -> None:
        """Adds the next function of the object."""
        row = self.rows.setdefault(family(block.section.name), [])
        self._at[_key(block)] = len(row)
        row.append(block)

    def note(self, block: Block, place: int) -> None:
        """Notes where a function was found."""
        self.placed[_key(block)] = place

    def belongs(self, block: Block, place: int) -> bool:
        """Whether `place` is right next to the function's neighbour, or between the nearest
        functions before and behind it that were found."""
        row, at = self.rows[family(block.section.name)], self._at[_key(block)]
        before = [(b, p) for b in row[:at] if (p := self.placed.get(_key(b))) is not None][-1:]
        behind = [(b, p) for b in row[at + 1 :] if (p := self.placed.get(_key(b))) is not None][:1]
        if before and behind and before[0][1] < place < behind[0][1]:
            return True
        if before and before[0][0] is row[at - 1]:
            return 0 <= place - (before[0][1] + before[0][0].size) < PADDING
        if behind and behind[0][0] is row[at + 1]:
            return 0 <= behind[0][1] - (place + block.size) < PADDING
        return False

    def strays(self) -> list[tuple[Block, int]]:
        """The functions that were found away from the others of their family, with a place of
        those: code of another unit that looks the same."""
        found: list[tuple[Block, int]] = []
        for row in self.rows.values():
            groups = self._groups(row)
            home = max(groups, key=len, default=[])
            for group in groups:
                if group is not home:
                    found += [(block, self.placed[_key(home[0])]) for block in group]
        return found

    def _groups(self, row: list[Block]) -> list[list[Block]]:
        groups: list[list[Block]] = []
        last, room = 0, 0
        for block in row:
            place = self.placed.get(_key(block))
            room += 2 * (block.size + PADDING) + block.section.align
            if place is None:
                continue
            if not groups or not last < place < last + room + SLACK:
                groups.append([])
            groups[-1].append(block)
            last, room = place, 2 * (block.size + PADDING)
        return groups


def _key(block: Block) -> Key:
    return block.section.index, block.start
