"""Layer 10: the command line. One file per verb under `verbs`, none with any logic of its own.

A verb turns its options into one call of `pipeline` and shows what comes back. Facts go to
standard output (tables on a terminal, plain columns in a pipe, one JSON document with --json);
progress, warnings and errors go to standard error.
"""
