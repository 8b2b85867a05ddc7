"""What a reboot ends: services, sessions, containers, virtual machines; what it has to put away.

All of it is read from procfs and from what systemd leaves in /run; the control group of a process
tells the unit, session or container that it belongs to. Where systemd does not run, the names of
the processes are told instead.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..machine import Machine

PF_KTHREAD = 0x00200000  # in the flags of /proc/PID/stat (linux/sched.h)
UTMP_RECORD = struct.Struct("<hxxi32s4s32s256s52x")  # struct utmp of x86-64: 384 bytes
USER_PROCESS = 7
_CONTAINER = re.compile(
    r"(?:^|/)(docker|libpod|crio|cri-containerd|lxc\.payload|lxc|buildkit)[-./]([\w.-]+?)"
    r"(?:\.scope)?(?=/|$)"
)
_MACHINE = re.compile(r"/machine\.slice/([^/]+)")
_HYPERVISORS = ("qemu", "kvm", "firecracker", "cloud-hyperviso", "VBoxHeadless", "vmware-vmx")
_ESCAPED = re.compile(r"\\x([0-9a-f]{2})")
_OCTAL = re.compile(r"\\([0-7]{3})")
SHORT_ID = 12


@dataclass(frozen=True)
class Process:
    """A process; `is_kernel` for the kernel's own threads, `is_dead` while nobody reaped it."""

    pid: int
    parent: int
    name: str
    is_kernel: bool
    is_dead: bool = False
    cgroup: str = ""


@dataclass(frozen=True)
class Mount:
    """A mounted file system. `has_disk` is False for those that live in memory or elsewhere."""

    path: str
    kind: str
    source: str
    writable: bool
    has_disk: bool


@dataclass(frozen=True)
class Stops:
    """What ends with the reboot. `processes` counts all of user space."""

    services: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    containers: tuple[str, ...] = ()
    machines: tuple[str, ...] = ()
    mounts: tuple[Mount, ...] = ()
    inhibitors: tuple[str, ...] = ()
    processes: int = 0
    names: tuple[str, ...] = field(default=())  # of processes, where no services are known


def look(machine: Machine) -> Stops:
    """Reads what runs and what is mounted. What cannot be read is left out."""
    found = processes(machine.read_many(["/proc/[0-9]*/stat", "/proc/[0-9]*/cgroup"]))
    own = [p for p in found if not p.is_kernel and p.pid != 1]
    units = services(own)
    disks = machine.read_bytes("/proc/filesystems") or b""
    mounted = machine.read_bytes("/proc/self/mountinfo") or b""
    return Stops(
        services=units,
        users=users(
            machine.read_many(["/run/systemd/sessions/*"]), machine.read_bytes("/run/utmp") or b""
        ),
        containers=containers(own),
        machines=tuple(f"{p.name} (pid {p.pid})" for p in own if p.name.startswith(_HYPERVISORS)),
        mounts=mounts(mounted.decode(errors="replace"), disks.decode(errors="replace")),
        inhibitors=inhibitors(machine.read_many(["/run/systemd/inhibit/*"]).values()),
        processes=len(own),
        names=() if units else tuple(sorted({p.name for p in own})),
    )


def processes(texts: Mapping[str, str]) -> tuple[Process, ...]:
    """Processes out of the texts of their stat and cgroup files, by path; pure."""
    found = []
    for path, text in texts.items():
        if not path.endswith("/stat"):
            continue
        # the name stands in parentheses and may hold any character
        before, _, rest = text.rpartition(")")
        number, _, name = before.partition(" (")
        fields = rest.split()
        if not number.isdigit() or len(fields) < 7:
            continue
        group = texts.get(f"{path.removesuffix('stat')}cgroup", "")
        is_kernel = bool(int(fields[6]) & PF_KTHREAD)
        is_dead = fields[0] in ("Z", "X")
        parent = int(fields[1])
        found.append(Process(int(number), parent, name, is_kernel, is_dead, _group(group)))
    return tuple(sorted(found, key=lambda p: p.pid))


def _group(text: str) -> str:
    """The path in systemd's hierarchy, or in the only one."""
    paths = [line.split(":", 2) for line in text.splitlines() if line.count(":") >= 2]
    for number, controllers, path in paths:
        if controllers == "name=systemd" or (number == "0" and path != "/"):
            return path
    return next((path for _, _, path in paths if path != "/"), "")


def services(running: Iterable[Process]) -> tuple[str, ...]:
    """The system's services with processes; those of users belong to their sessions."""
    found = set()
    for process in running:
        path = process.cgroup
        if "/user.slice/" not in path and (match := re.search(r"/([^/]+\.service)(?=/|$)", path)):
            found.add(_unescaped(match[1]))
    return tuple(sorted(found))


def containers(running: Iterable[Process]) -> tuple[str, ...]:
    """Containers and other machines that systemd keeps, by kind and short id or name."""
    found = set()
    for process in running:
        if match := _CONTAINER.search(process.cgroup):
            long = re.fullmatch(r"[0-9a-f]{32,}", match[2])
            found.add(f"{match[1]} {match[2][:SHORT_ID] if long else match[2]}")
        elif match := _MACHINE.search(process.cgroup):
            found.add(_unescaped(match[1]))
    return tuple(sorted(found))


def _unescaped(unit: str) -> str:
    r"""A unit's name with what systemd wrote as \x2d as it is."""
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), unit)


def users(sessions: Mapping[str, str], utmp: bytes) -> tuple[str, ...]:
    """Who is logged in, and where from: from logind's sessions, else from utmp; pure."""
    found = []
    for text in sessions.values():
        facts = _assignments(text)
        if facts.get("CLASS", "user") == "user" and facts.get("USER"):
            place = facts.get("REMOTE_HOST") or facts.get("TTY") or facts.get("SERVICE") or ""
            found.append(f"{facts['USER']} ({place})" if place else facts["USER"])
    if found or not utmp:
        return tuple(sorted(found))
    whole = len(utmp) - len(utmp) % UTMP_RECORD.size
    for kind, _pid, line, _id, user, host in UTMP_RECORD.iter_unpack(utmp[:whole]):
        if kind == USER_PROCESS:
            name, place = _text(user), _text(host) or _text(line)
            found.append(f"{name} ({place})" if place else name)
    return tuple(sorted(found))


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode(errors="replace")


def _assignments(text: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {name: value for name, _, value in pairs}


def inhibitors(texts: Iterable[str]) -> tuple[str, ...]:
    """Who asked systemd not to shut down now, and why; pure."""
    found = []
    for text in texts:
        facts = _assignments(text)
        if facts.get("MODE") == "block" and "shutdown" in facts.get("WHAT", "").split(":"):
            found.append(_unescaped(f"{facts.get('WHO', '?')}: {facts.get('WHY', '')}"))
    return tuple(sorted(found))


def mounts(mountinfo: str, filesystems: str) -> tuple[Mount, ...]:
    """Each mounted file system once, in the order of mounting (proc_pid_mountinfo(5)); pure.

    Those of kinds that need no device ("nodev" in /proc/filesystems, or not there as rootfs) are
    kept only if they are of a network: what is in memory has nothing to lose.
    """
    with_device = {line.strip() for line in filesystems.splitlines() if line[:1].isspace()}
    found: dict[str, Mount] = {}
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        left, right = fields.split(), rest.split()
        if len(left) < 6 or len(right) < 3:
            continue
        kind, source, options = right[:3]
        has_disk = kind in with_device
        if not has_disk and not kind.startswith(("nfs", "cifs", "smb", "ceph", "9p", "glusterfs")):
            continue
        path = _OCTAL.sub(lambda octal: chr(int(octal[1], 8)), left[4])
        writable = "ro" not in options.split(",")
        found.setdefault(left[2], Mount(path, kind, source, writable, has_disk))
    return tuple(found.values())
