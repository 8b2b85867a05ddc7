"""Bad input on the command line, with a real kernel: exit code, message, hint, nothing left.

docs/exit-codes.md is the promise; each case here is one that users run into.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from command_line import ALTERED, Command, OwnKernel, finish, local_options, start

from rebootless import pipeline
from rebootless.bundle import archive
from rebootless.compile import twin
from rebootless.compile.tree import Tree
from rebootless.pipeline.kernel import ShippedKernel
from rebootless.provider.base import KernelFiles

Edits = Mapping[str, tuple[str, str]]
WritePatch = Callable[[Path, Edits, Path], Path]
END = "\t\tutsname()->version);\n"
BLOCK = "{\n"
CHANGED: Edits = {ALTERED: (END, f'{END}\tseq_puts(m, "changed\\n");\n')}


@pytest.fixture
def build(
    command: Command,
    stock_tree: Tree,
    stock_release: str,
    edit_patch: WritePatch,
    tmp_path: Path,
) -> Callable[..., object]:
    """Runs `rebootless build` on a patch of the stock kernel; checks that nothing was written."""

    def run(patch: Edits | str | bytes, code: int, *fragments: str) -> object:
        path = tmp_path / "bad.patch"
        if isinstance(patch, Mapping):
            edit_patch(stock_tree.orig, patch, path)
        else:
            path.write_bytes(patch if isinstance(patch, bytes) else patch.encode())
        output = tmp_path / "out/bad.rlp"
        output.parent.mkdir(exist_ok=True)
        words = ("--kernel", stock_release, "--name", "rl_bad", "--workdir", tmp_path / "work")
        ended = command("build", path, *words, "--output", output).refused(code, *fragments)
        assert list(output.parent.iterdir()) == []
        with stock_tree.locked():  # others may build in it
            assert not (stock_tree.root / twin.JOURNAL).exists(), "the twin tree was put back"
        return ended

    return run


Build = Callable[..., object]


@pytest.mark.parametrize(
    ("edits", "code", "fragments"),
    [
        pytest.param(
            {ALTERED: (END, f"{END}\t/* only\n\t   a comment */\n")},
            3, ("changes no code",), id="comment",
        ),
        pytest.param(
            {"drivers/net/wireless/ath/ath9k/main.c": (BLOCK, "{\n\tbarrier();\n")},
            3, ("ath9k/main.c is not compiled", "CONFIG_WLAN is off", "drivers/net/Makefile"),
            id="not-compiled",
        ),
        pytest.param(
            {"fs/binfmt_misc.c": ("static int enabled = 1;", "static int enabled = 0;")},
            2, ("static data 'enabled' changed", "+0x0"), id="static-data",
        ),
        pytest.param(
            {ALTERED: ('proc_create_single("version", 0,', 'proc_create_single("version", 0400,')},
            2, ("'proc_version_init'", ".init.text"), id="init-function",
        ),
        pytest.param(
            {"kernel/extable.c": (
                "notrace core_kernel_text(unsigned long addr)\n{\n",
                "notrace core_kernel_text(unsigned long addr)\n{\n"
                "\tif (addr == 4242)\n\t\treturn 0;\n",
            )},
            2, ("'core_kernel_text'", "notrace", "__fentry__"), id="notrace-function",
        ),
        pytest.param(
            {"kernel/irq_work.c": (
                "void irq_work_sync(struct irq_work *work)\n{\n",
                "void irq_work_sync(struct irq_work *work)\n{\n\tif (!work)\n\t\treturn;\n",
            )},
            2, ("'irq_work_sync'", "without -pg"), id="unit-without-pg",
        ),
        pytest.param(
            {"arch/x86/entry/entry_64.S": ("SYM_CODE_START(", "\nSYM_CODE_START(")},
            2, ("arch/x86/entry/entry_64.S", "assembly"), id="assembly",
        ),
        pytest.param(
            {"arch/x86/entry/vdso/vclock_gettime.c": (BLOCK, "{\n\tif (!tv)\n\t\treturn 0;\n")},
            2, ("arch/x86/entry/vdso/vclock_gettime.c", "vDSO", "as it was at boot"), id="vdso",
        ),
        pytest.param(
            {"lib/string.c": (BLOCK, "{\n\tbarrier();\n")},
            2, ("lib/string.c", "lib-y in lib/Makefile"), id="library",
        ),
        pytest.param(
            {"arch/x86/lib/delay.c": (BLOCK, "{\n\tbarrier();\n")},
            2, ("arch/x86/lib/delay.c", "lib-y in arch/x86/lib/Makefile"), id="x86-library",
        ),
        pytest.param(
            {ALTERED: (END, f"{END}\trl_undeclared(m);\n")},
            5,
            ("fs/proc/version.c does not compile with the patch (it does without)",
             "fs/proc/version.c:16:9: error: implicit declaration of function 'rl_undeclared'"),
            id="does-not-compile",
        ),
    ],
)  # fmt: skip
def test_patches_that_cannot_be(
    build: Build, edits: Edits, code: int, fragments: tuple[str, ...]
) -> None:
    build(edits, code, *fragments)


def test_refusals_are_data_too(
    command: Command, stock_tree: Tree, stock_release: str, edit_patch: WritePatch, tmp_path: Path
) -> None:
    """Two files, two reasons, each with its code and symbol in the JSON document."""
    edits = {
        "lib/string.c": (BLOCK, "{\n\tbarrier();\n"),
        "lib/ctype.c": ("\n", "\n\n"),
    }
    patch = edit_patch(stock_tree.orig, edits, tmp_path / "two.patch")
    words = ("--workdir", tmp_path / "work", "-o", tmp_path / "x.rlp")
    ended = command("build", patch, "--kernel", stock_release, *words, "--json")
    error = json.loads(ended.refused(2).out)["error"]
    assert error["code"] == "refused" and error["hint"]
    found = {(refusal["code"], refusal["symbol"]) for refusal in error["refusals"]}
    assert found == {("lib-a", "lib/string.c"), ("lib-a", "lib/ctype.c")}


@pytest.fixture
def good(stock_tree: Tree, edit_patch: WritePatch, tmp_path: Path) -> Path:
    return edit_patch(stock_tree.orig, CHANGED, tmp_path / "good.patch")


def test_hunks_that_do_not_apply(build: Build, good: Path) -> None:
    text = good.read_text()
    build(
        text.replace(" \treturn 0;", " \treturn 99;"),
        4, "hunk 1 of fs/proc/version.c (@@ -13,6 +13,7 @@)", "| \treturn 99;", "| \treturn 0;",
    )  # fmt: skip
    build(text.replace("version.c", "vision.c"), 4, "fs/proc/vision.c", "does not have")
    reverse = text.replace("\n+\tseq_puts", "\n-\tseq_puts").replace("-13,6 +13,7", "-13,7 +13,6")
    build(reverse, 4, "bad.patch is already in this kernel's source")


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        pytest.param("", "is empty", id="empty"),
        pytest.param(" \n\n", "is empty", id="blank"),
        pytest.param("Please find the fix attached.\n", "it is not a diff", id="prose"),
        pytest.param(b"\x7fELF\2\1\1\0" + bytes(range(256)), "is a binary file", id="elf"),
        pytest.param(bytes(range(1, 256)) * 9, "it is not a diff", id="bytes"),
        pytest.param(
            "diff --git a/l.bin b/l.bin\nnew file mode 100644\nGIT binary patch\nliteral 3\nabc\n",
            "changes a binary file", id="git-binary",
        ),
        pytest.param("--- a/l.c\n+++ b/l.c\n1d\n", "it is not a diff", id="ed-script"),
        pytest.param(
            "diff --git a/fs/l b/fs/l\nnew file mode 120000\n--- /dev/null\n+++ b/fs/l\n"
            "@@ -0,0 +1 @@\n+/etc\n\\ No newline at end of file\n",
            "symbolic link", id="link",
        ),
    ],
)  # fmt: skip
def test_what_is_no_patch(build: Build, text: str | bytes, fragment: str) -> None:
    build(text, 4, "bad.patch", fragment)


@pytest.mark.parametrize("path", ["a/../../escaped", "/escaped", "a/fs/../../escaped", "//escaped"])
def test_paths_out_of_the_source(build: Build, good: Path, path: str) -> None:
    text = good.read_text().replace("a/fs/proc/version.c", path)
    build(text.replace("b/fs/proc/version.c", path), 4, "outside of the source", "escaped")
    renamed = f"diff --git a/fs/stat.c b/{path}\nrename from fs/stat.c\nrename to {path}\n"
    build(good.read_text() + renamed, 4, "escaped")


def test_a_truncated_patch(build: Build, good: Path) -> None:
    build("\n".join(good.read_text().splitlines()[:-3]), 4, "not a well-formed diff")


def test_files_that_are_not_there(command: Command, good: Path, tmp_path: Path) -> None:
    command("build", tmp_path / "none.patch").refused(6, "none.patch")
    command("apply", tmp_path / "none.rlp").refused(6, "none.rlp")


def test_kernels_that_are_not_there(command: Command, good: Path, tmp_path: Path) -> None:
    release = "6.1.0-4242-cloud-amd64"
    output = tmp_path / "x.rlp"
    command("build", good, "--kernel", release, "-o", output).refused(6, release)
    command("kernels", "fetch", release).refused(6, release)
    assert not output.exists()


def test_a_folder_to_work_in_that_is_none(command: Command, good: Path, tmp_path: Path) -> None:
    """It is said before a kernel is looked for, let alone fetched."""
    taken = tmp_path / "taken"
    taken.write_text("a file")
    words = ("build", good, "--kernel", "6.1.0-4242-cloud-amd64", "--workdir")
    command(*words, taken / "inside").refused(6, f"{taken}/inside", "Not a directory")
    command(*words, tmp_path / "a b").refused(4, "a b", "a space")


def test_the_kernels_verb(command: Command, stock_kernel: KernelFiles) -> None:
    release = stock_kernel.release
    listed = json.loads(command("kernels", "--json").out)["kernels"]
    (entry,) = [kernel for kernel in listed if kernel["release"] == release]
    assert "cached" in entry["states"] and entry["buildable"]
    for words in (("kernels", "fetch", release, "--json"), ("kernels", "--json", "fetch", release)):
        ended = command(*words)
        assert ended.code == 0 and json.loads(ended.out)["image"] == str(stock_kernel.image)
    assert str(stock_kernel.symvers) in command("kernels", "fetch", release, "-q").out
    command("kernels", "nonsense").refused(64, "nonsense")
    command("kernels", "fetch").refused(64, "RELEASE")


def config_of(files: KernelFiles, compiler: str, folder: Path) -> Path:
    text = files.config.read_text()
    assert files.compiler_text in text
    path = folder / "config"
    path.write_text(text.replace(files.compiler_text, compiler))
    return path


@pytest.mark.parametrize(
    ("compiler", "fragment"),
    [
        ("gcc-4.9 (Debian 4.9.2-10) 4.9.2", "there is no gcc-4.9 here"),
        ("gcc-12 (Debian 12.1.0-5) 12.1.0", "gcc-12 is 'gcc-12 (Debian 12."),
    ],
)
def test_the_wrong_compiler(
    command: Command, stock_kernel: KernelFiles, good: Path, tmp_path: Path,
    compiler: str, fragment: str,
) -> None:  # fmt: skip
    config = config_of(stock_kernel, compiler, tmp_path)
    ended = command("build", good, *local_options(stock_kernel, config=config))
    ended.refused(5, f"built by '{compiler}'", fragment)
    assert f"apt install {compiler.split()[0]}" in ended.err


@pytest.mark.parametrize(
    ("option", "code", "fragment"),
    [
        ("image", 4, "neither a bzImage"),
        ("source_dir", 6, "is not a kernel source tree"),
        ("config", 4, "is not a kernel configuration"),
        ("symvers", 4, "is not a Module.symvers"),
        ("modules", 6, "holds no kernel modules"),
    ],
)
def test_own_files_that_are_something_else(
    command: Command, stock_kernel: KernelFiles, built: Built, good: Path, tmp_path: Path,
    option: str, code: int, fragment: str,
) -> None:  # fmt: skip
    """The same options on every verb that takes a kernel of one's own."""
    wrong = tmp_path if option in ("source_dir", "modules") else good
    options = local_options(stock_kernel, **{option: wrong})
    for verb in (("build", good), ("match", built.object), ("test", built.bundle)):
        command(*verb, *options).refused(code, str(wrong), fragment)


def test_own_files_that_do_not_go_together(
    command: Command, stock_kernel: KernelFiles, built: Built, good: Path
) -> None:
    options = local_options(stock_kernel)
    for verb in (("build", good), ("match", built.object), ("test", built.bundle)):
        command(*verb, *options[:2]).refused(64, "--source-dir, --config, --symvers")
    other = "6.1.0-4242-cloud-amd64"
    command("build", good, *options, "--kernel", other).refused(4, stock_kernel.release, other)


class Built:
    """A bundle of the stock kernel, and the unpatched object of its unit."""

    def __init__(self, folder: Path) -> None:
        self.bundle = folder / "rl_built.rlp"
        self.object = folder / "work/1-orig/fs/proc/version.o"


@pytest.fixture(scope="module")
def built(
    stock_tree: Tree,
    stock_release: str,
    edit_patch: WritePatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> Built:
    folder = tmp_path_factory.mktemp("built")
    patch = edit_patch(stock_tree.orig, CHANGED, folder / "good.patch")
    found = Built(folder)
    pipeline.build(
        [patch], kernel=stock_release, name="rl_built", output=found.bundle,
        workdir=folder / "work",
    )  # fmt: skip
    return found


def test_an_image_that_is_not_the_object_s(
    command: Command, stock_kernel: KernelFiles, built: Built, tmp_path: Path
) -> None:
    """A byte of the image is another one: the differing function, its offset, both bytes."""
    own = local_options(stock_kernel)
    assert command("match", built.object, *own).code == 0
    shipped = ShippedKernel(stock_kernel)
    (address,) = shipped.symbols.addresses("version_proc_show")
    place = address + 5  # behind the call of __fentry__
    section = shipped.image.section_at(place)
    data = bytearray(shipped.image.elf.data)
    headers = int.from_bytes(data[0x28:0x30], "little")
    field = headers + 64 * section.index + 24  # sh_offset
    start_of = int.from_bytes(data[field : field + 8], "little")
    data[start_of + place - section.addr] ^= 0xFF
    (tmp_path / "vmlinux").write_bytes(data)
    options = local_options(stock_kernel, image=tmp_path / "vmlinux")
    ended = command("match", built.object, *options, "--json")
    assert ended.code == 7
    (found,) = [f for f in json.loads(ended.out)["functions"] if f["name"] == "version_proc_show"]
    assert (found["status"], found["first_difference"]) == ("mismatched", 5)
    assert int(found["found"][:2], 16) ^ int(found["expected"][:2], 16) == 0xFF
    assert "version_proc_show" in command("match", built.object, *options).out


def test_source_that_is_not_the_image_s(own_kernel: OwnKernel, good: Path, tmp_path: Path) -> None:
    """One function of the source was altered: the message names it and the first byte."""
    output = tmp_path / "x.rlp"
    words = ["build", good, *own_kernel.options, "--name", "rl_own", "-o", output]
    ended = finish(start(words, environment=own_kernel.environment))
    ended.refused(7, "'version_proc_show'", "vmlinux ships", "version_proc_show+0x", "shipped")
    assert not output.exists()


@pytest.mark.parametrize("verb", ["apply", "test", "inspect", "install"])
def test_damaged_bundles(command: Command, built: Built, tmp_path: Path, verb: str) -> None:
    blob = built.bundle.read_bytes()
    module = archive.read(built.bundle).members["modules/rl_built.ko"]
    middle = len(blob) // 2
    damaged = {
        "cut": blob[:-200],
        "half": blob[:middle],
        "grown": blob + b"more",
        "flipped": blob[:middle] + bytes([blob[middle] ^ 1]) + blob[middle + 1 :],
        "empty": b"",
        "text": b"This is not a bundle.\n",
    }
    root = ("--root", tmp_path / "root") if verb == "install" else ()
    for name, content in damaged.items():
        path = tmp_path / f"{name}.rlp"
        path.write_bytes(content)
        command(verb, path, *root).refused(8, f"{name}.rlp")
        assert path.read_bytes() == content
    exchanged = tmp_path / "exchanged.rlp"
    with zipfile.ZipFile(built.bundle) as old, zipfile.ZipFile(exchanged, "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            new.writestr(entry, content[:-1] + b"!" if content == module else content)
    command(verb, exchanged, *root).refused(8, "exchanged.rlp")
    assert not (tmp_path / "root").exists()


def test_this_machine_runs_another_kernel(
    command: Command, built: Built, stock_release: str
) -> None:
    running = os.uname().release
    if running == stock_release:
        pytest.skip("this machine runs the stock kernel: NOTHING is refused")
    command("apply", built.bundle).refused(9, stock_release, running)


def test_undo_of_what_is_not_there(command: Command) -> None:
    command("undo", "rl_never").refused(10, "rl_never")
    command("uninstall", "rl_never").refused(10, "rl_never")
