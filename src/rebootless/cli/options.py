"""Options that several verbs share, as decorators."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .output import make_output

if TYPE_CHECKING:
    from ..provider.base import GivenKernel
    from ..provider.given.provider import PackagesProvider
    from ..provider.local import LocalProvider

F = TypeVar("F", bound=Callable[..., object])
FILE = click.Path(path_type=Path, dir_okay=False)
DIRECTORY = click.Path(path_type=Path, file_okay=False)
ANY_PATH = click.Path(path_type=Path)


class Seconds(click.FloatRange):
    """A length of time, not negative. 'inf' waits for ever; 'nan' would compare with nothing."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """As the base class does. Raises BadParameter."""
        seconds: float = super().convert(value, param, ctx)
        if seconds != seconds:
            self.fail(f"'{value}' is no number of seconds", param, ctx)
        return seconds


SECONDS = Seconds(min=0)
ENGINES = ("auto", "livepatch", "atomic", "per-task")


def signal_policy(_ctx: click.Context, _option: click.Parameter, given: str) -> float | None:
    """`never`, or after how many seconds tasks are woken, as '5' or 'after 5'."""
    if given == "never":
        return None
    try:
        seconds = float(given.removeprefix("after").strip(" =:"))
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise click.BadParameter(f"'{given}' is neither 'never' nor a number of seconds")
    return seconds


def verb(function: Callable[..., Any]) -> click.Command:
    """Makes a verb: its first argument is the Output that --json and --quiet ask for."""
    return click.command()(_with_output(function))


def group(function: Callable[..., Any]) -> click.Group:
    """Makes a verb with sub-verbs: `function` also runs when none of them is given."""
    return click.group(invoke_without_command=True)(_with_output(function))


def _with_output(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def run(*, as_json: bool, quiet: bool, debug: bool, **options: Any) -> Any:
        return function(make_output(as_json=as_json, quiet=quiet), **options)

    added: list[Callable[[Callable[..., Any]], Callable[..., Any]]] = [
        click.option("--debug", is_flag=True, help="Show a traceback of any failure."),
        click.option("-q", "--quiet", is_flag=True, help="No progress on standard error."),
        click.option("--json", "as_json", is_flag=True, help="Facts as JSON on standard output."),
    ]
    decorated: Callable[..., Any] = run
    for option in added:
        decorated = option(decorated)
    parameters = getattr(decorated, "__click_params__", [])
    parameters[:] = parameters[-len(added) :] + parameters[: -len(added)]
    return decorated


def kernel_options(function: F) -> F:
    """--kernel, or a kernel of one's own: passed as `kernel` and `local`."""
    kernel = click.option("--kernel", metavar="RELEASE", help="Default: the running kernel.")
    return kernel(local_options(function))


def local_options(function: F) -> F:
    """A kernel of one's own, by its files or its packages: passed as `local`."""

    @functools.wraps(function)
    def run(
        *args: Any,
        packages: Path | None,
        image: Path | None,
        source: Path | None,
        config: Path | None,
        symvers: Path | None,
        modules: Path | None,
        **options: Any,
    ) -> Any:
        local: GivenKernel | None = local_kernel(image, source, config, symvers, modules)
        if packages is not None and local is not None:
            raise click.UsageError("--from-packages has all of the kernel: leave --image out")
        return function(*args, local=local or packaged_kernels(packages), **options)

    for option in reversed(
        (
            click.option("--image", type=FILE, help="Your own kernel: its vmlinuz or vmlinux."),
            click.option(
                "--source-dir",
                "source",
                type=ANY_PATH,
                help="Its source: the top of the tree, or a tarball.",
            ),
            click.option("--config", type=FILE, help="Its .config."),
            click.option("--symvers", type=FILE, help="Its Module.symvers."),
            click.option("--modules", type=DIRECTORY, help="Its lib/modules/RELEASE."),
            packages_option,
        )
    ):
        run = option(run)
    return run  # type: ignore[return-value]


def packages_option(function: F) -> F:
    """--from-packages, passed as `packages`."""
    return click.option(
        "--from-packages",
        "packages",
        type=DIRECTORY,
        metavar="DIR",
        help="A kernel of its deb or rpm packages in DIR (docs/from-packages.md).",
    )(function)


def packaged_kernels(directory: Path | None) -> PackagesProvider | None:
    """The kernels in the folder that --from-packages names; None when it is not given."""
    if directory is None:
        return None
    from ..provider.given.provider import PackagesProvider

    return PackagesProvider(directory)


def local_kernel(
    image: Path | None,
    source: Path | None,
    config: Path | None,
    symvers: Path | None,
    modules: Path | None,
) -> LocalProvider | None:
    """The kernel that --image and its companions describe; None when none of them is given."""
    if image is None and source is None and config is None and symvers is None and modules is None:
        return None
    missing = [
        name
        for name, value in (
            ("--image", image),
            ("--source-dir", source),
            ("--config", config),
            ("--symvers", symvers),
        )
        if value is None
    ]
    if image is None or source is None or config is None or symvers is None:
        raise click.UsageError(f"a kernel of your own also needs {', '.join(missing)}")
    from ..provider.local import LocalProvider

    return LocalProvider(
        image=image, source=source, config=config, symvers=symvers, modules=modules
    )


def transition_options(function: F) -> F:
    """What to do about tasks that hold a transition up."""
    for option in reversed(
        (
            click.option(
                "--wait",
                type=SECONDS,
                default=60.0,
                show_default=True,
                metavar="SECONDS",
                help="How long the transition may take.",
            ),
            click.option(
                "--signal",
                "signal_after",
                callback=signal_policy,
                default="5",
                show_default=True,
                metavar="never|SECONDS",
                help="When to wake the tasks that hold it up (epoll_wait ends with EINTR).",
            ),
            click.option(
                "--on-timeout",
                type=click.Choice(["reverse", "leave", "force"]),
                default="reverse",
                show_default=True,
                help="Take it back, leave it under way, or force it (unsafe).",
            ),
        )
    ):
        function = option(function)
    return function


def engine_option(function: F) -> F:
    """--engine, passed as `engine`."""
    return click.option(
        "--engine",
        type=click.Choice(ENGINES),
        default="auto",
        show_default=True,
        help="How it gets into the kernel (docs/engines.md).",
    )(function)
