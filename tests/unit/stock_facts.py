"""What the doctor finds on a machine with a stock kernel of Debian: nothing stands in the way."""

from __future__ import annotations

from rebootless.engine.doctor_facts import Facts
from rebootless.kernel.config import Config


def stock_facts(release: str, config: Config) -> Facts:
    """The running kernel; root, not locked down, with live patching and kexec."""
    return Facts(
        release=release,
        architecture="x86_64",
        uid=0,
        capabilities=0x1FFFFFFFFFF,
        config=config,
        config_path=f"/boot/config-{release}",
        livepatch_folder=True,
        ftrace_enabled="1",
        modules_disabled="0",
        sig_enforce="N",
        lockdown="[none] integrity confidentiality",
        efi=False,
        secure_boot=None,
        tainted=0,
        log=(),
        kexec_loaded="0",
        kexec_load_disabled="0",
    )
