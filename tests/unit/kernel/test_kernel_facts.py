"""Configuration, release strings, exports, modules."""

from __future__ import annotations

import gzip
import lzma
import shutil
import subprocess
from pathlib import Path

import pytest
import zstandard

from rebootless.base.errors import ElfError, NotFoundError, PatchInputError, RefusedError
from rebootless.kernel import config, modules, release, symvers


def test_config() -> None:
    parsed = config.parse(
        'CONFIG_CC_VERSION_TEXT="gcc-12 (Debian 12.2.0-14) 12.2.0"\n# CONFIG_OFF is not set\n'
        'CONFIG_LIVEPATCH=y\nCONFIG_EXT4_FS=m\nCONFIG_HZ=250\nCONFIG_QUOTED="a \\"b\\""\n'
        'CONFIG_EMPTY=""\n'
    )
    assert parsed.get("CC_VERSION_TEXT") == "gcc-12 (Debian 12.2.0-14) 12.2.0"
    assert parsed.get("QUOTED") == 'a "b"'
    assert parsed.get("EMPTY") == ""
    assert parsed.get("OFF") is None
    assert parsed.get("HZ") == "250"
    assert [parsed.enabled(n) for n in ("LIVEPATCH", "EXT4_FS", "OFF", "HZ")] == [
        True, True, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "version", "abi", "flavour"),
    [
        ("6.1.0-55-cloud-amd64", (6, 1, 0), "55", "cloud-amd64"),
        ("6.12.117+deb12-cloud-amd64", (6, 12, 117), "deb12", "cloud-amd64"),
        ("6.12.90+deb12.1-amd64", (6, 12, 90), "deb12.1", "amd64"),
        ("6.1.0-0.deb11.48-amd64", (6, 1, 0), "0.deb11.48", "amd64"),
        ("5.10.0-46-rt-amd64", (5, 10, 0), "46", "rt-amd64"),
        ("6.8.0-45-generic", (6, 8, 0), "45", "generic"),
        ("5.14.0-427.13.1.el9_4.x86_64", (5, 14, 0), "427.13.1.el9_4.x86_64", ""),
        ("7.2", (7, 2, 0), "", ""),
        ("6.1.192-custom", (6, 1, 192), "", "custom"),
    ],
)
def test_release(text: str, version: tuple[int, int, int], abi: str, flavour: str) -> None:
    parsed = release.parse_release(text)
    assert (parsed.version, parsed.abi, parsed.flavour) == (version, abi, flavour)
    assert parsed.series == f"{version[0]}.{version[1]}"


def test_not_a_release() -> None:
    with pytest.raises(PatchInputError, match="not a kernel release"):
        release.parse_release("generic")


def test_banner_and_vermagic() -> None:
    text = (
        "Linux version 6.1.0-55-cloud-amd64 (debian-kernel@lists.debian.org) "
        "(gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0, GNU ld (GNU Binutils) 2.40) "
        "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-1 (2026-10-28)"
    )
    banner = release.parse_banner(text + "\n")
    assert banner.text == text
    assert banner.release == "6.1.0-55-cloud-amd64"
    assert banner.compiler.startswith("gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0, GNU ld")
    assert banner.build == "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-1 (2026-10-28)"
    with pytest.raises(PatchInputError):
        release.parse_banner("Linux version %s (%s)")
    magic = release.parse_vermagic("6.1.0-55-amd64 SMP preempt mod_unload modversions ")
    assert magic == release.Vermagic(
        "6.1.0-55-amd64", ("SMP", "preempt", "mod_unload", "modversions")
    )


def test_symvers() -> None:
    exports = symvers.parse(
        "0xf9a482f9\tmsleep\tvmlinux\tEXPORT_SYMBOL\t\n"
        "0x15ba50a6\tjbd2_log\tfs/jbd2/jbd2\tEXPORT_SYMBOL_GPL\tNS_X\n"
    )
    assert exports["msleep"] == symvers.Export("msleep", 0xF9A482F9, "vmlinux", False, "")
    log = symvers.Export("jbd2_log", 0x15BA50A6, "fs/jbd2/jbd2", True, "NS_X")
    assert exports["jbd2_log"] == log
    assert len(exports) == 2
    for bad in ("0xf9a482f9\tmsleep", "msleep\tvmlinux\tEXPORT_SYMBOL\t"):
        with pytest.raises(PatchInputError, match="line 1 is not an export"):
            symvers.parse(bad)


MODULE = """
static int twice(int x) { return 2 * x; }
int use(int x) { return twice(x); }
__attribute__((section(".modinfo"), used)) static const char info[] =
    "license=GPL\\0name=my_test\\0depends=a-b,c\\0alias=one\\0alias=two\\0"
    "vermagic=6.1.0-55-test SMP mod_unload ";
__attribute__((section(".init.text"), noinline, used)) static int start(void) { return 1; }
"""
OTHER = """
__attribute__((noinline, used)) static int start(void) { return 2; }
__attribute__((noinline, used)) static int twice(int x) { return 3 * x; }
__attribute__((noinline, used)) static int late(void) { return 5; }
"""
THIRD = """
__attribute__((section(".init.text"), noinline, used)) static int late(void) { return 4; }
"""


@pytest.fixture(scope="module")
def module_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("module")
    objects = []
    for name, code in (("a", MODULE), ("b", OTHER), ("c", THIRD)):
        source = folder / f"{name}.c"
        source.write_text(code)
        objects.append(folder / f"{name}.o")
        subprocess.run(["gcc", "-O1", "-fno-inline", "-c", "-o", objects[-1], source], check=True)
    path = folder / "kernel" / "fs" / "my-test.ko"
    path.parent.mkdir(parents=True)
    subprocess.run(["ld", "-r", "--build-id", "-o", path, *objects], check=True)
    return path


def test_module(module_file: Path) -> None:
    module = modules.load_module(module_file)
    assert module.name == "my_test"
    assert module.depends == ("a_b", "c")
    assert module.modinfo["alias"] == ("one", "two")
    assert module.vermagic == "6.1.0-55-test SMP mod_unload "
    assert len(module.build_id) == 40


def test_module_sympos(module_file: Path) -> None:
    module = modules.load_module(module_file)
    first, second = module.namesakes("twice")
    assert [module.sympos("twice", i) for i in (first, second)] == [1, 2]
    assert module.sympos("use", module.namesakes("use")[0]) == 0
    # `start` is an init function before the lasting one: the position changes when it goes.
    gone, lasting = module.namesakes("start")
    assert module.sympos("start", gone) == 1
    with pytest.raises(RefusedError, match="init-time symbol"):
        module.sympos("start", lasting)
    # `late` is an init function behind it: the position stays.
    assert module.sympos("late", module.namesakes("late")[0]) == 1
    with pytest.raises(NotFoundError):
        module.sympos("use", first)


@pytest.mark.parametrize(
    ("suffix", "method"),
    [(".xz", lzma.compress), (".gz", gzip.compress), (".zst", zstandard.ZstdCompressor().compress)],
)
def test_compressed_module(module_file: Path, tmp_path: Path, suffix: str, method: object) -> None:
    assert callable(method)
    path = tmp_path / f"my-test.ko{suffix}"
    path.write_bytes(method(module_file.read_bytes()))
    assert modules.load_module(path).name == "my_test"
    assert modules.module_name(path) == "my_test"


def test_modules_of_other_origin(module_file: Path, tmp_path: Path) -> None:
    root = tmp_path / "other"
    for place in ("kernel/net", "updates/dkms", "extra"):
        (root / place).mkdir(parents=True)
        shutil.copy(module_file, root / place / f"{place[0]}.ko")
    found = {str(path.relative_to(root)) for path in modules.foreign_modules(root)}
    assert found == {"updates/dkms/u.ko", "extra/e.ko"}
    assert not list(modules.foreign_modules(root / "none"))


def test_find_module(module_file: Path, tmp_path: Path) -> None:
    root = module_file.parent.parent.parent
    assert modules.find_module(root, "my_test") == module_file
    assert modules.find_module(root, "my-test") == module_file
    assert modules.find_module(root, "test") is None
    update = root / "updates" / "my_test.ko.xz"
    update.parent.mkdir()
    update.write_bytes(b"")
    assert modules.find_module(root, "my_test") == update
    update.unlink()
    with pytest.raises(NotFoundError):
        modules.find_module(tmp_path / "absent", "x")


def test_not_a_module(tmp_path: Path) -> None:
    path = tmp_path / "x.ko"
    path.write_bytes(b"nothing")
    with pytest.raises(ElfError, match="unknown compression"):
        modules.load_module(path)
