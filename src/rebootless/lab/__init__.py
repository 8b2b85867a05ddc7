"""Layer 8: boots a kernel image in QEMU and tests a live patch on it, without root and KVM."""
