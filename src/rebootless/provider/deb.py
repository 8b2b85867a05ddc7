"""Files out of .deb packages, by streaming: the package is never unpacked as a whole."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ..base import proc
from ..base.errors import CommandError, ResourceError
from ..base.fs import is_full


def extract(
    deb: Path,
    directory: Path,
    *,
    only: Sequence[str] = (),
    exclude: Sequence[str] = (),
    cancelled: Callable[[], bool] = lambda: False,
) -> None:
    """Unpacks the members of `deb` that match a pattern of `only` (all, if empty) into `directory`.

    Patterns are tar wildcards over "./usr/...". Raises CommandError for a damaged package,
    ResourceError for a full disk or when `cancelled` says so.
    """
    unpack: list[str | Path] = ["dpkg-deb", "--fsys-tarfile", deb]
    tar: list[str | Path] = ["tar", "-x", "-C", directory, "--no-same-owner"]
    tar += ["--no-same-permissions", "--wildcards", *(f"--exclude={e}" for e in exclude), *only]
    with tempfile.TemporaryFile() as errors:
        producer = proc.spawn(unpack, stdout=subprocess.PIPE, stderr=errors)
        try:
            consumer = proc.spawn(tar, stdin=producer.stdout, stderr=errors)
        except BaseException:
            proc.kill_group(producer)
            raise
        assert producer.stdout is not None
        producer.stdout.close()  # so that the producer is told when tar dies
        try:
            while consumer.poll() is None or producer.poll() is None:
                if cancelled():
                    raise ResourceError(f"unpacking {deb.name} was given up")
                time.sleep(0.01)
        finally:
            proc.kill_group(consumer)
            proc.kill_group(producer)
        errors.seek(0)
        output = errors.read().decode(errors="replace")
    if consumer.returncode == 0 and producer.returncode == 0:
        return
    if "No space left" in output or is_full(directory):
        raise ResourceError(
            f"no space left in {directory} while unpacking {deb.name}", hint="free some space"
        )
    raise CommandError(
        f"cannot unpack {deb}:\n{output.strip()}",
        returncode=producer.returncode or consumer.returncode,
        output=output,
        hint="fetch the kernel again",
    )
