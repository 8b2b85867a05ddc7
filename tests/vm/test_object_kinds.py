"""One patch with object changes of many kinds, in one boot: what the differ takes also runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rebootless import pipeline
from rebootless.bundle import archive
from rebootless.compile.tree import Tree
from rebootless.elf.reader import parse
from rebootless.lab.scenario import run
from rebootless.pipeline.testing import scenario_of
from rebootless.provider.base import KernelFiles

pytestmark = pytest.mark.vm

VERSION = "static int version_proc_show(struct seq_file *m, void *v)\n{\n"
UPTIME = "static int uptime_proc_show(struct seq_file *m, void *v)\n{\n"
INODES = "\tinodes_stat.nr_inodes = get_nr_inodes();\n"
START = "static void *c_start(struct seq_file *m, loff_t *pos)\n{\n"
SCANS = '\treturn sysfs_emit(buf, "%lu\\n", ksm_scan.seqnr);\n'
UNAME = "\tmemcpy(&tmp, utsname(), sizeof(tmp));\n\tup_read(&uts_sem);\n\tif (copy_to_user(name,"
EDITS = {
    # new data of every kind, per-CPU as well, and pointers to a patched function and a new one
    "fs/proc/version.c": (
        VERSION,
        """
#include <linux/percpu.h>
int cmdline_proc_show(struct seq_file *m, void *v);
DEFINE_PER_CPU(unsigned long, rl_reads) = 5;
static DEFINE_PER_CPU_SHARED_ALIGNED(unsigned long, rl_private);
static int rl_bss[3];
int rl_inited[2] __read_mostly = { 7, 8 };
int rl_ro __ro_after_init = 4;
static const char *const rl_names[] = { "alpha", "beta" };
int *const rl_pointers[] = { &rl_inited[1], &rl_bss[2] };
extern int rl_absent(void) __attribute__((weak));
static noinline int rl_twice(int x) { return 2 * x; }
int (*rl_call)(int) = rl_twice;

"""
        + VERSION
        + """
	static DEFINE_PER_CPU(unsigned long, rl_local);

	this_cpu_inc(rl_reads);
	this_cpu_add(rl_private, 2);
	this_cpu_add(rl_local, 3);
	rl_bss[2]++;
	seq_printf(m, "rl_percpu %lu %lu %lu %lu\\n", per_cpu(rl_reads, 0), per_cpu(rl_reads, 1),
			per_cpu(rl_private, 1), per_cpu(rl_local, 1));
	seq_printf(m, "rl_data %d %d %s %s %d %s\\n", *rl_pointers[0],
			*rl_pointers[1] == rl_bss[2], rl_names[rl_bss[2] < 0], rl_names[rl_bss[2] > 0],
			rl_call(rl_ro), rl_absent ? "present" : "absent");
	seq_printf(m, "rl_self %pS\\nrl_new %pS\\n", version_proc_show, rl_twice);
	cmdline_proc_show(m, v);
""",
    ),
    # the new per-CPU variable of another unit
    "fs/proc/uptime.c": (
        UPTIME,
        f"DECLARE_PER_CPU(unsigned long, rl_reads);\n\n{UPTIME}\tper_cpu(rl_reads, 1) += 1000;\n",
    ),
    # a static function that the patch makes global, and does nothing else there
    "fs/proc/cmdline.c": (
        "static int cmdline_proc_show(",
        "int cmdline_proc_show(struct seq_file *m, void *v);\nint cmdline_proc_show(",
    ),
    # a weak function of the unit that another unit overrides
    "fs/proc/meminfo.c": (
        "\tarch_report_meminfo(m);\n",
        '\tseq_puts(m, "rl_meminfo\\n");\n\tarch_report_meminfo(m);\n',
    ),
    # a system call
    "kernel/sys.c": (
        UNAME,
        UNAME.replace("\tif", '\tstrscpy(tmp.nodename, "rl-node", sizeof(tmp.nodename));\n\tif'),
    ),
    # static per-CPU variables of the kernel
    "fs/inode.c": (
        INODES,
        "\tint cpu;\n\n\tinodes_stat.nr_inodes = 1000000;\n\tfor_each_possible_cpu(cpu)\n"
        "\t\tinodes_stat.nr_inodes += per_cpu(nr_inodes, cpu);\n",
    ),
    # a static function of which there are three, and an export with a namespace
    "crypto/proc.c": (
        START,
        "int crypto_cipher_setkey(struct crypto_cipher *, const u8 *, unsigned int);\n\n"
        f'{START}\tif (!*pos)\n\t\tseq_printf(m, "rl_ns %pS\\n", crypto_cipher_setkey);\n',
    ),
    # a static variable of which there are two
    "mm/ksm.c": (
        SCANS,
        '\treturn sysfs_emit(buf, "%lu %u %zu\\n", ksm_scan.seqnr, '
        "kmem_cache_size(mm_slot_cache), sizeof(struct ksm_mm_slot));\n",
    ),
}
CHECK = r"""
fail() { echo "FAILED: $*"; cat /proc/version; exit 1; }
counts() { taskset "$1" sed -n 's/^rl_percpu //p' /proc/version; }
set -- $(counts 1); zero=$1 one=$2 private=$3 mine=$4
[ -n "$mine" ] && [ "$zero" -ge 6 ] && [ "$one" -ge 5 ] || fail "start: $*"
set -- $(counts 2)
[ "$1" -eq "$zero" ] && [ "$2" -eq $((one + 1)) ] || fail "the other CPU: $*"
[ "$3" -eq $((private + 2)) ] && [ "$4" -eq $((mine + 3)) ] || fail "statics: $*"
cat /proc/uptime >/dev/null
set -- $(counts 1)
[ "$1" -eq $((zero + 1)) ] && [ "$2" -eq $((one + 1001)) ] || fail "the other unit: $*"
grep -q '^rl_data 8 1 alpha beta 8 absent$' /proc/version || fail "data"
grep -q '^rl_self version_proc_show+0x0/0x[0-9a-f]*$' /proc/version || fail "pointer to old"
grep -q '^rl_new rl_twice+0x0/.*\[' /proc/version || fail "pointer to new"
grep -qF "$(cat /proc/cmdline)" /proc/version || fail "static made global"
grep -A1 '^rl_meminfo$' /proc/meminfo | grep -q DirectMap4k || fail "weak: $(cat /proc/meminfo)"
[ "$(uname -n)" = rl-node ] || fail "system call: $(uname -a)"
inodes=$(cut -f1 /proc/sys/fs/inode-nr)
[ "$inodes" -gt 1000100 ] && [ "$inodes" -lt 1100000 ] || fail "inodes: $inodes"
grep -q '^rl_ns crypto_cipher_setkey+0x0/' /proc/crypto || fail "namespace"
set -- $(cat /sys/kernel/mm/ksm/full_scans)
[ -n "$3" ] && [ "$2" -eq "$3" ] || fail "namesakes: $*"
"""


def test_many_kinds_at_once(
    stock_tree: Tree,
    stock_kernel: KernelFiles,
    edit_patch: Callable[[Path, object, Path], Path],
    tmp_path: Path,
) -> None:
    patch = edit_patch(stock_tree.orig, EDITS, tmp_path / "rl_kinds.patch")
    result = pipeline.build(
        [patch],
        kernel=stock_kernel.release,
        name="rl_kinds",
        output=tmp_path / "rl_kinds.rlp",
        workdir=tmp_path / "work",
    )
    bundle = archive.read(result.bundle_path)
    module = parse(bundle.modules["rl_kinds"], name="rl_kinds")
    livepatch = {
        n.split(".", 4)[4] for n in module.symbols.names if n.startswith(".klp.sym.vmlinux")
    }
    assert "nr_inodes,0" in livepatch and "arch_report_meminfo,0" in livepatch
    assert {n for n in livepatch if n.startswith("mm_slot_cache,")} <= {
        "mm_slot_cache,1", "mm_slot_cache,2",
    }  # fmt: skip
    assert b"import_ns=CRYPTO_INTERNAL\0" in bytes(module.section_by_name[".modinfo"].data)
    assert [s.name for s in module.sections if "percpu" in s.name] == [".data..percpu"]
    scenario = scenario_of(bundle, stock_kernel, check=CHECK, workload=False)
    report = run(scenario, tmp_path / "console.log").require()
    assert report.restored and report.states == ("none", "rl_kinds applied", "none")
    assert {name.partition(",")[0] for name in report.redirected} >= {
        "version_proc_show", "uptime_proc_show", "meminfo_proc_show", "__x64_sys_newuname",
        "proc_nr_inodes", "c_start", "full_scans_show",
    }, report.redirected  # fmt: skip
