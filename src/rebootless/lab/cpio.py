"""A writer for the "newc" cpio archive that the kernel unpacks as its initramfs.

Every member is a 110-byte header of hexadecimal fields, the name and the content, each padded to
four bytes; the member TRAILER!!! ends the archive (kernel: Documentation/driver-api/early-userspace
/buffer-format.rst). Nothing of the host leaks in: owners and times are 0, so equal input gives
equal bytes, and no root is needed to make device nodes.
"""

from __future__ import annotations

import posixpath

S_IFDIR, S_IFREG, S_IFLNK, S_IFCHR = 0o040000, 0o100000, 0o120000, 0o020000
TRAILER = "TRAILER!!!"


class CpioWriter:
    """Collects members and makes the archive; parent directories come by themselves."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._seen: set[str] = set()
        self._inode = 0

    def directory(self, path: str, mode: int = 0o755) -> None:
        """Adds a directory and its parents (once)."""
        name = path.strip("/")
        if not name or name in self._seen:
            return
        self._parents(name)
        self._member(name, S_IFDIR | mode, b"")

    def file(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Adds a regular file; a path added before keeps its first content."""
        self._add(path, S_IFREG | mode, content)

    def symlink(self, path: str, target: str) -> None:
        """Adds a symbolic link."""
        self._add(path, S_IFLNK | 0o777, target.encode())

    def character_device(self, path: str, major: int, minor: int, mode: int = 0o600) -> None:
        """Adds a character device node."""
        self._add(path, S_IFCHR | mode, b"", (major, minor))

    def finish(self) -> bytes:
        """The whole archive."""
        return b"".join([*self._parts, _encode(0, TRAILER, 0, b"", (0, 0))])

    def _add(self, path: str, mode: int, content: bytes, device: tuple[int, int] = (0, 0)) -> None:
        name = path.strip("/")
        if name in self._seen:
            return
        self._parents(name)
        self._member(name, mode, content, device)

    def _parents(self, name: str) -> None:
        if parent := posixpath.dirname(name):
            self.directory(parent)

    def _member(
        self, name: str, mode: int, content: bytes, device: tuple[int, int] = (0, 0)
    ) -> None:
        self._seen.add(name)
        self._inode += 1
        self._parts.append(_encode(self._inode, name, mode, content, device))


def _encode(inode: int, name: str, mode: int, content: bytes, device: tuple[int, int]) -> bytes:
    raw_name = name.encode() + b"\0"
    links = 2 if mode & S_IFDIR == S_IFDIR else 1
    fields = (inode, mode, 0, 0, links, 0, len(content), 0, 0, *device, len(raw_name), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + raw_name) + _padded(content)


def _padded(blob: bytes) -> bytes:
    return blob + b"\0" * (-len(blob) % 4)
