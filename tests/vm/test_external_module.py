"""A module that is not of the kernel's tree: built, installed, patched by its own source."""

from __future__ import annotations

import difflib
import shutil
from pathlib import Path

import pytest

from rebootless import pipeline
from rebootless.base.errors import CompileError, MismatchError, NotFoundError, WrongKernelError
from rebootless.base.proc import run
from rebootless.bundle import archive
from rebootless.compile.tree import Tree, make_command
from rebootless.pipeline import ExternalModule
from rebootless.provider.base import KernelFiles

pytestmark = pytest.mark.vm

SOURCE = Path(__file__).parent / "external"
# A constant of a header that both units include, a call, and a string of an existing function.
EDITS = {
    "ledger.h": ("amount > -100 && amount < 100", "amount > -100 && amount < 1000"),
    "ledger.c": ('"sum %d\\n", book_sum()', '"the sum is %d\\n", book_sum() + 0 * (int)reads'),
    "book.c": ("no room for %s", "not any room for %s"),
}
PATCHED = {"rl_ledger:check", "rl_ledger:book_add", "rl_ledger:ledger_show"}
CHECK = """
echo 500 > /proc/rl_ledger || exit 1
echo 5000 > /proc/rl_ledger 2> /dev/null && exit 2
for n in 1 2 3 4 5 6 7 8 9; do echo $n > /proc/rl_ledger; done 2> /dev/null
grep 'the sum is [0-9]' /proc/rl_ledger
"""


def edited(source: Path, edits: dict[str, tuple[str, str]], target: Path) -> Path:
    """A patch of the module's source, with paths relative to it."""
    lines: list[str] = []
    for path, (old, new) in edits.items():
        before = (source / path).read_text()
        assert old in before
        after = before.replace(old, new, 1).splitlines(True)
        lines += difflib.unified_diff(before.splitlines(True), after, f"a/{path}", f"b/{path}")
    target.write_text("".join(lines))
    return target


def install(tree: Tree, folder: Path) -> Path:
    """The module as its maker builds it: elsewhere, and without our flags."""
    with tree.locked():
        argv = [f"M={folder}", "modules"]
        run(make_command(tree.orig, tree.release, tree.compiler, *argv, flags=()), timeout=300)
    return folder / "rl_ledger.ko"


@pytest.fixture(scope="module")
def installed(stock_tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that the kernel loads."""
    folder = tmp_path_factory.mktemp("dkms") / "ledger-1.0"
    shutil.copytree(SOURCE, folder)
    return install(stock_tree, folder)


@pytest.fixture(scope="module")
def bundle(
    stock_tree: Tree,
    stock_release: str,
    installed: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A live patch of all three files."""
    folder = tmp_path_factory.mktemp("external")
    result = pipeline.build(
        [edited(SOURCE, EDITS, folder / "ledger.patch")],
        kernel=stock_release,
        external=ExternalModule(SOURCE, (str(installed),)),
        name="rl_external",
        output=folder / "external.rlp",
        workdir=folder / "work",
    )
    return result.bundle_path


def test_what_is_proven(bundle: Path) -> None:
    content = archive.read(bundle)
    (target,) = content.manifest.objects
    assert target.name == "rl_ledger" and target.build_id
    assert [f.name for f in target.functions] == ["check", "book_add", "ledger_show"]
    functions = [f for unit in content.match["units"] for f in unit["functions"]]
    # Also what has the name of its file in it, though it was built in another directory.
    assert len(functions) >= 8 and {f["status"] for f in functions} == {"matched"}
    relocations = pipeline.inspect(bundle)["modules"][0]["livepatch_symbols"]
    assert {"rl_ledger.entries,0", "rl_ledger.book_sum,0"} <= set(relocations)


def test_it_works(bundle: Path, installed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "b.rlp"
    shutil.copy(bundle, copy)
    check = tmp_path / "check"
    check.write_text(CHECK)
    report = pipeline.test(
        copy, check=check, workload=False, verify=False, modules=[installed]
    ).require()
    assert set(report.redirected) == PATCHED and report.restored


def test_it_works_when_the_module_comes_later(
    bundle: Path, installed: Path, stock_kernel: KernelFiles, tmp_path: Path
) -> None:
    from rebootless.lab.scenario import run as run_scenario
    from rebootless.pipeline.testing import scenario_of

    scenario = scenario_of(
        archive.read(bundle),
        stock_kernel,
        check=CHECK,
        late=True,
        workload=False,
        more_modules=(installed,),
    )
    report = run_scenario(scenario, tmp_path / "console.log").require()
    assert set(report.redirected) == PATCHED


def test_another_build_of_the_module(
    bundle: Path, stock_tree: Tree, stock_release: str, tmp_path: Path
) -> None:
    """Its source is not ours: the function that differs is named."""
    other = tmp_path / "other"
    shutil.copytree(SOURCE, other)
    text = (other / "book.c").read_text()
    (other / "book.c").write_text(text.replace("return -ERANGE;", "return -EDOM;"))
    module = install(stock_tree, other)
    with pytest.raises(MismatchError, match="check"):
        pipeline.build(
            [edited(SOURCE, EDITS, tmp_path / "ledger.patch")],
            kernel=stock_release,
            external=ExternalModule(SOURCE, (str(module),)),
            output=tmp_path / "x.rlp",
            workdir=bundle.parent / "work",  # what is compiled is the same
        )
    assert not (tmp_path / "x.rlp").exists()
    with pytest.raises(WrongKernelError, match="not the build of the module"):
        pipeline.test(bundle, modules=[module])
    with pytest.raises(NotFoundError, match="rl_ledger"):
        pipeline.test(bundle)


def test_the_patch_does_not_compile(
    bundle: Path, installed: Path, stock_release: str, tmp_path: Path
) -> None:
    """The compiler's numbers are those of the patched file, and its name is the patch's."""
    edits = {"book.c": ("\treturn 0;\n", "\n\treturn nothing;\n")}
    with pytest.raises(CompileError, match=r"(?m)^  book\.c:19:\d+: error: .nothing. undeclared"):
        pipeline.build(
            [edited(SOURCE, edits, tmp_path / "bad.patch")],
            kernel=stock_release,
            external=ExternalModule(SOURCE, (str(installed),)),
            output=tmp_path / "x.rlp",
            workdir=bundle.parent / "work",
        )
