"""The quickest real reboot: the running kernel starts the fixed one, without the firmware.

    target       which kernel, its files and its command line
    stops        what the reboot ends, and what it loses
    plan         may it be done, and how: pure, over facts
    calls        the system calls
    perform      does what a plan says, and takes back what was not finished

How it is used, and what each way promises: docs/kexec.md.
"""
