"""Feeds damaged input to every reader: any answer but a value or one of our errors is a find.

    python bench/fuzz.py [--cases 24000] [--seed N] [--only objects] [--keep FOLDER]

Objects compiled from C with the kernel's special sections, hand-made ones and objects of a real
kernel, damaged where it hurts (tests/golden/damage.py), go through reader, differ, emitter and
writer; modules, kernel images, bundles, manifests and patches through theirs. A find is an
exception that is not ours, an ElfError that names no offset, more than 5 s, or more than 1.5 GB.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))
sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
sys.path.append(str(Path(__file__).resolve().parent.parent / "tests/golden"))
sys.path.append(str(Path(__file__).resolve().parent.parent / "tests/unit/kernel"))

import kernel_files
from damage import Change, Damaged
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from survive import everything, linked_module, object_pair, small_objects, walk_types

from golden.conftest import KERNEL_FLAGS, PRELUDE
from golden.test_tables import MANY
from rebootless.base.errors import ElfError, RebootlessError
from rebootless.base.fs import cache_root
from rebootless.bundle import archive, manifest
from rebootless.compile import kbuild
from rebootless.elf import notes
from rebootless.elf.reader import parse
from rebootless.engine import modinfo
from rebootless.kernel import image, kallsyms, modules, symvers
from rebootless.patch import source
from rebootless.types.btf import parse as parse_btf

LIMIT_SECONDS = 5
LIMIT_BYTES = 1500 << 20
OFFSET = re.compile(r"offset (0x[0-9a-f]+|\d+)")

Reader = Callable[[bytes], object]


class TooSlow(BaseException):
    """Raised by the clock inside of a reader."""


@dataclass
class Finds:
    """What came out of a run, by kind; the first input of each kind is kept."""

    keep: Path
    cases: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    kinds: dict[str, int] = field(default_factory=dict)
    slowest: dict[str, float] = field(default_factory=dict)

    def run(self, target: str, reader: Reader, blob: bytes, *, offsets: bool = False) -> None:
        """One case."""
        self.cases[target] += 1
        start = time.perf_counter()
        try:
            with limited_time():
                reader(blob)
        except ElfError as exc:
            self.refused[target] += 1
            if offsets and not OFFSET.search(exc.message):
                self.note(target, f"no offset: {re.sub('[0-9]+', 'N', exc.message)}", blob)
        except RebootlessError:
            self.refused[target] += 1
        except (Exception, TooSlow) as exc:
            frames = [f for f in traceback.extract_tb(exc.__traceback__) if "/src/" in f.filename]
            place = (
                f"{frames[-1].filename.rpartition('/src/')[2]}:{frames[-1].lineno}"
                if frames
                else "?"
            )
            self.note(target, f"{type(exc).__name__} in {place}: {str(exc)[:90]}", blob)
        spent = time.perf_counter() - start
        self.slowest[target] = max(self.slowest.get(target, 0), spent)

    def note(self, target: str, kind: str, blob: bytes) -> None:
        kind = f"{target}: {kind}"
        if kind not in self.kinds:
            path = self.keep / f"find{len(self.kinds)}-{target}"
            path.write_bytes(blob)
            print(f"  {path.name}: {kind}", flush=True)
        self.kinds[kind] = self.kinds.get(kind, 0) + 1


@contextlib.contextmanager
def limited_time() -> Iterator[None]:
    """Raises TooSlow in a block that takes too long."""

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise TooSlow

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


WORD = st.integers(0, 2**16)
CHANGES = st.lists(st.tuples(WORD, WORD, WORD, WORD), min_size=1, max_size=5)
BYTE_CHANGES = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 2**24), st.integers(0, 255)), min_size=1, max_size=6
)


def explore(number: int, cases: int, strategy: st.SearchStrategy, body: Callable) -> None:
    """Draws `cases` examples. Nothing is shrunk: each find is kept as it is."""
    fixed = settings(
        max_examples=cases,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )

    @seed(number)
    @fixed
    @given(strategy)
    def case(drawn: object) -> None:
        body(drawn)

    case()


def flipped(blob: bytes, changes: list[tuple[int, int, int]]) -> bytes:
    """Damage without knowledge of the format."""
    out = bytearray(blob)
    for kind, place, value in changes:
        at = place % max(len(out), 1)
        if kind <= 2 and out:
            out[at] = (value, out[at] ^ 1 << value % 8, 0xFF * (value % 2))[kind]
        elif kind == 3:
            del out[at:]
        elif kind == 4:
            del out[at : at + 1 + value]
        else:
            out[at:at] = out[at // 2 : at // 2 + value]
    return bytes(out)


def compiled(folder: Path) -> list[tuple[bytes, bytes]]:
    """Our C with all special sections, before and after a change, with and without debug data."""
    made = []
    for extra in ([], ["-g"]):
        pair = []
        for name, text in zip("ab", object_pair(MANY), strict=True):
            path = folder / "unit.c"
            path.write_text(PRELUDE + text)
            out = folder / f"{name}.o"
            subprocess.run(["gcc", *KERNEL_FLAGS, *extra, "-o", out, path], check=True)
            pair.append(out.read_bytes())
        made.append((pair[0], pair[1]))
    return made


def objects_of_a_kernel(count: int) -> list[bytes]:
    """Small objects of units that builds on this machine have compiled."""
    found = sorted((cache_root() / "trees").glob("*/objects/sections/**/*.o"))
    small = [p for p in found if p.stat().st_size < 60_000]
    return [p.read_bytes() for p in small[:: max(1, len(small) // count)][:count]]


def fuzz_objects(finds: Finds, cases: int, number: int, folder: Path) -> None:
    """Each damaged object as the patched and as the original one of a pair."""
    pairs = compiled(folder)
    pairs += [(blob, blob) for blob in [*small_objects(), *objects_of_a_kernel(4)]]
    share = cases // (2 * len(pairs)) + 1
    for i, (before, after) in enumerate(pairs):
        damaged, whole = Damaged(after), parse(before, name="whole.o")

        def body(changes: list[Change], damaged: Damaged = damaged, whole: object = whole) -> None:
            blob = damaged.apply(changes)
            finds.run("objects", lambda b: everything(b, whole, first=False), blob, offsets=True)
            finds.run("objects", lambda b: everything(b, whole, first=True), blob, offsets=True)

        explore(number + i, share, CHANGES, body)


def fuzz_modules(finds: Finds, cases: int, number: int, folder: Path) -> None:
    """Modules as they are matched with, linked patch modules, and what insmod would look at."""
    damaged = Damaged(linked_module())
    path = folder / "m.ko"

    def load(blob: bytes) -> None:
        path.write_bytes(blob)
        module = modules.load_module(path)
        for name in module.elf.symbols.names:
            for index in module.namesakes(name):
                with contextlib.suppress(RebootlessError):
                    module.sympos(name, index)

    from survive import finish_module

    def body(changes: list[Change]) -> None:
        blob = damaged.apply(changes)
        finds.run("modules", load, blob, offsets=True)
        finds.run("modinfo", lambda b: modinfo.parse(b, name="m.ko"), blob, offsets=True)
        finds.run("link", finish_module, blob, offsets=True)

    explore(number, cases // 3 + 1, CHANGES, body)


def fuzz_images(finds: Finds, cases: int, number: int, folder: Path) -> None:
    """Kernel images in every compression and layout of kallsyms; the symbol table's cache file."""
    import bz2
    import gzip
    import lzma

    import lz4.block
    import zstandard
    from test_kernel_kallsyms import some_symbols

    seeds = []
    for n, layout in enumerate(kernel_files.LAYOUTS):
        rodata = kernel_files.encode(
            some_symbols(60, layout), layout, base=kernel_files.RODATA, prefix=b""
        )
        vmlinux = kernel_files.make_vmlinux(rodata)
        block = lz4.block.compress(vmlinux, store_size=False)
        packed = [vmlinux, gzip.compress(vmlinux), lzma.compress(vmlinux), bz2.compress(vmlinux),
                  zstandard.compress(vmlinux), lzma.compress(vmlinux, lzma.FORMAT_ALONE),
                  b"\x02\x21\x4c\x18" + len(block).to_bytes(4, "little") + block + b"\0\0\1\0",
                  ]  # fmt: skip
        kinds = packed if n == 0 else packed[:1]
        seeds += [(False, kernel_files.make_bzimage(p)) for p in kinds[1:]]
        seeds += [(True, vmlinux)]

    def read(blob: bytes) -> None:
        kernel = image.parse(blob, Path("vmlinuz"))
        kallsyms.decode(kernel)

    share = cases // len(seeds) + 1
    for i, (is_elf, blob) in enumerate(seeds):
        if is_elf:
            damaged = Damaged(blob)
            explore(number + i, share // 2, CHANGES, lambda changes, damaged=damaged: finds.run(
                "images", read, damaged.apply(changes)))  # fmt: skip
            share_left = share // 2
        else:
            share_left = share
        explore(number + i, share_left, BYTE_CHANGES, lambda changes, blob=blob: finds.run(
            "images", read, flipped(blob, changes)))  # fmt: skip
    path = folder / "kallsyms.npz"
    kernel = image.parse(kernel_files.make_vmlinux(rodata), Path("vmlinux"))
    kallsyms.load_or_decode(kernel, path)
    stored = path.read_bytes()

    def cached(blob: bytes) -> None:
        path.write_bytes(blob)
        kallsyms.load_or_decode(kernel, path)

    explore(number, cases // 8, BYTE_CHANGES, lambda changes: finds.run(
        "kallsyms cache", cached, flipped(stored, changes)))  # fmt: skip


PATCH = b"""Subject: [PATCH] A fix of CVE-2026-12345

--- a/fs/one.c
+++ b/fs/one.c
@@ -1,4 +1,5 @@ static int f(void)
 int a;
-int b;
+int b = 1;
+int bb;
 int c;
 int d;
@@ -10,2 +11,2 @@
-int e;
+int ee;
 int f;
diff --git a/fs/new.c b/fs/new.c
new file mode 100644
--- /dev/null
+++ b/fs/new.c
@@ -0,0 +1,2 @@
+int x;
+int y;
\\ No newline at end of file
"""
SYMVERS = b"""0xf9a482f9\tmsleep\tvmlinux\tEXPORT_SYMBOL\t
0x15ba50a6\tjiffies\tvmlinux\tEXPORT_SYMBOL_GPL\tNAMESPACE
"""
COMMAND = b"""savedcmd_fs/one.o := gcc-12 -Wp,-MMD,fs/.one.o.d -DX='"a b"' -o fs/one.o fs/one.c ; \\
./objtool --orc fs/one.o

source_fs/one.o := fs/one.c

deps_fs/one.o := \\
  include/a.h \\
    $(wildcard include/config/B) \\

fs/one.o: $(deps_fs/one.o)
"""


def fuzz_texts(finds: Finds, cases: int, number: int, folder: Path) -> None:
    """Patches, symbol tables, kbuild's records, ELF notes."""
    note = b"\4\0\0\0\x14\0\0\0\3\0\0\0GNU\0" + bytes(20)
    readers: dict[str, tuple[bytes, Reader]] = {
        "patches": (PATCH, lambda b: source.combine([source.parse(b, "p.patch")])),
        "symvers": (SYMVERS, lambda b: symvers.parse(b.decode(errors="replace"))),
        "commands": (COMMAND, lambda b: kbuild.parse_command(b.decode(errors="replace"), "f.c")),
        "notes": (note * 3, notes.build_id),
    }
    for i, (name, (blob, reader)) in enumerate(readers.items()):
        explore(number + i, cases // len(readers) + 1, BYTE_CHANGES, lambda changes, n=name, b=blob,
                r=reader: finds.run(n, r, flipped(b, changes)))  # fmt: skip


def fuzz_bundles(finds: Finds, cases: int, number: int, folder: Path) -> None:
    """Bundles byte by byte, and bundles whose parts are damaged and packed well."""
    from survive import sample_bundle

    good = sample_bundle()
    with zipfile.ZipFile(io.BytesIO(good)) as opened:
        members = {name: opened.read(name) for name in opened.namelist()}

    def repacked(changes: list[tuple[int, int, int]], which: int) -> bytes:
        out = io.BytesIO()
        names = sorted(members)
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as target:
            for name in names:
                damaged = name == names[which % len(names)]
                target.writestr(name, flipped(members[name], changes) if damaged else members[name])
        return out.getvalue()

    def decode(blob: bytes) -> None:
        archive.decode(blob, where="b.rlp")

    def body(changes: list[tuple[int, int, int]]) -> None:
        finds.run("bundles", decode, flipped(good, changes))
        finds.run("bundles", decode, repacked(changes, changes[0][1]))
        text = flipped(members["manifest.json"], changes)
        finds.run("manifests", lambda b: manifest.parse(b, where="b.rlp"), text)

    explore(number, cases // 3 + 1, BYTE_CHANGES, body)


TYPES = """
typedef unsigned int u32;
enum state { IDLE, BUSY = 7, GONE = -1 };
struct inner { u32 flags : 3, rest : 29; union { long l; void *p; }; };
struct node { struct node *next; struct inner inner[4]; enum state state;
	int (*run)(struct node *); };
struct missing;
volatile const struct node *global;
int work(struct node *n, struct missing *m, const char *s, ...) { return n->run(n) + n->state; }
static __attribute__((noinline)) long other(u32 a, enum state b) { return a * b; }
long entry(struct node *n) { return other(n->inner[1].flags, n->state); }
"""
BTF_CHANGES = st.lists(
    st.tuples(st.integers(0, 2**12), st.one_of(st.integers(0, 40), st.integers(0, 2**32 - 1))),
    min_size=1,
    max_size=5,
)


def fuzz_types(finds: Finds, cases: int, number: int, folder: Path) -> None:
    """The types of an object (BTF): any words of the section change, or any bytes."""
    path = folder / "types.c"
    path.write_text(TYPES)
    subprocess.run(["gcc", "-gbtf", "-O1", "-c", "-o", folder / "types.o", path], check=True)
    elf = parse((folder / "types.o").read_bytes(), name="types.o")
    sound = bytes(elf.section_by_name[".BTF"].data)
    whole = parse_btf(sound, name="types.o")

    def words(changes: list[tuple[int, int]]) -> None:
        out = bytearray(sound)
        for place, value in changes:
            at = place % (len(out) // 4) * 4
            out[at : at + 4] = value.to_bytes(4, "little")
        finds.run("types", lambda b: walk_types(b, whole), bytes(out), offsets=True)

    explore(number, cases // 2 + 1, BTF_CHANGES, words)

    def anything(changes: list[tuple[int, int, int]]) -> None:
        blob = flipped(sound, changes)
        finds.run("types", lambda b: walk_types(b, whole), blob, offsets=True)

    explore(number, cases // 2 + 1, BYTE_CHANGES, anything)


TARGETS = {
    "objects": (fuzz_objects, 55),
    "types": (fuzz_types, 8),
    "modules": (fuzz_modules, 12),
    "images": (fuzz_images, 9),
    "texts": (fuzz_texts, 8),
    "bundles": (fuzz_bundles, 8),
}  # and their shares of the cases, in percent


def main() -> int:
    """Explores, prints, and ends with 1 when there are finds."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=24_000)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--only", choices=TARGETS)
    parser.add_argument("--keep", type=Path, help="where the inputs of finds go")
    options = parser.parse_args()
    keep = options.keep or Path(tempfile.mkdtemp(prefix="rebootless-fuzz-"))
    keep.mkdir(parents=True, exist_ok=True)
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    print(f"seed {options.seed}; finds are kept in {keep}", flush=True)
    finds, start = Finds(keep), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for name, (fuzz, share) in TARGETS.items():
            if options.only in (None, name):
                cases = options.cases if options.only else options.cases * share // 100
                fuzz(finds, cases, options.seed, Path(folder))
    for target, count in finds.cases.items():
        print(f"{target:15} {count:6} cases, {finds.refused[target]:6} refused, "
              f"slowest {finds.slowest[target]:.2f} s")  # fmt: skip
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{sum(finds.cases.values())} cases, {len(finds.kinds)} kinds of finds, "
          f"{time.monotonic() - start:.0f} s, peak {peak:.0f} MiB")  # fmt: skip
    return 1 if finds.kinds else 0


if __name__ == "__main__":
    sys.exit(main())
