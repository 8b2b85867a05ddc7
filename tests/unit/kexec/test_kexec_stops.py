"""What a reboot stops, out of what procfs and systemd tell."""

from __future__ import annotations

import struct

from rebootless.engine.kexec import stops

DOCKER = "f" * 64
CGROUPS = {
    1: ("systemd", "0::/init.scope"),
    2: ("kthreadd", "0::/"),
    10: ("sshd", "0::/system.slice/ssh.service"),
    11: ("agetty", "0::/system.slice/system-getty.slice/getty@tty1.service"),
    12: ("odd) 1 (name", "0::/system.slice/my\\x2dunit.service/inner"),
    13: ("bash", "0::/user.slice/user-0.slice/session-3.scope"),
    14: ("emacs", "0::/user.slice/user-0.slice/user@0.service/app.slice/emacs.service"),
    15: ("nginx", f"0::/system.slice/docker-{DOCKER}.scope"),
    16: ("postgres", "12:pids:/lxc/db\n1:name=systemd:/lxc/db"),
    17: ("qemu-system-x86", "0::/machine.slice/machine-qemu\\x2d1\\x2dweb.scope/libvirt"),
}
MOUNTINFO = r"""
21 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro
22 21 0:20 / /proc rw - proc proc rw
23 21 254:2 / /mnt/with\040blank rw - xfs /dev/vda2 rw
24 21 254:1 /srv /srv rw shared:1 - ext4 /dev/vda1 rw
25 21 0:44 / /home rw - nfs4 host:/home rw,vers=4.2
26 21 254:3 / /usr ro - erofs /dev/vda3 ro
1 1 0:2 / / rw - rootfs rootfs rw
"""
FILESYSTEMS = "nodev\tproc\nnodev\tnfs4\n\text4\n\txfs\n\terofs\n"


def texts() -> dict[str, str]:
    found = {}
    for pid, (name, group) in CGROUPS.items():
        flags = stops.PF_KTHREAD if pid == 2 else 0
        found[f"/proc/{pid}/stat"] = f"{pid} ({name}) S 1 {pid} {pid} 0 -1 {flags} 0 0\n"
        found[f"/proc/{pid}/cgroup"] = f"{group}\n"
    return found


def test_processes_and_what_they_belong_to() -> None:
    found = stops.processes(texts())
    assert [p.name for p in found] == [name for name, _ in CGROUPS.values()]
    assert [p.pid for p in found if p.is_kernel] == [2]
    assert stops.services(found) == ("getty@tty1.service", "my-unit.service", "ssh.service")
    assert stops.containers(found) == ("docker ffffffffffff", "lxc db", "machine-qemu-1-web.scope")


def test_a_process_that_nobody_reaped_is_dead() -> None:
    (found,) = stops.processes({"/proc/7/stat": "7 (x) Z 1 7 7 0 -1 0 0 0\n"})
    assert found.is_dead


def test_users_of_logind_and_of_utmp() -> None:
    sessions = {
        "/run/systemd/sessions/1": "USER=root\nTTY=pts/0\nREMOTE_HOST=10.0.0.1\nCLASS=user\n",
        "/run/systemd/sessions/2": "USER=anna\nTTY=tty2\nCLASS=user\n",
        "/run/systemd/sessions/3": "USER=gdm\nCLASS=greeter\n",
    }
    assert stops.users(sessions, b"") == ("anna (tty2)", "root (10.0.0.1)")
    record = struct.pack("<hxxi32s4s32s256s52x", 7, 99, b"pts/1", b"ts/1", b"bob", b"host")
    boot = struct.pack("<hxxi32s4s32s256s52x", 2, 0, b"~", b"~~", b"reboot", b"6.1")
    assert stops.users({}, boot + record + b"cut") == ("bob (host)",)


def test_who_keeps_the_machine_from_shutting_down() -> None:
    apt = "WHAT=shutdown:sleep\nMODE=block\nWHO=apt\nWHY=package\\x20upgrade\n"
    delay = "WHAT=shutdown\nMODE=delay\nWHO=NetworkManager\nWHY=x\n"
    lid = "WHAT=handle-lid-switch\nMODE=block\nWHO=x\nWHY=y\n"
    assert stops.inhibitors([apt, delay, lid]) == ("apt: package upgrade",)


def test_each_file_system_with_a_disk_or_a_server_once() -> None:
    found = stops.mounts(MOUNTINFO, FILESYSTEMS)
    assert [(m.path, m.writable, m.has_disk) for m in found] == [
        ("/", True, True),
        ("/mnt/with blank", True, True),
        ("/home", True, False),
        ("/usr", False, True),
    ]
