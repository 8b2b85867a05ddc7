"""Facts of a made-up patch, of the form of `explain`: friendly, or with hostile texts in it."""

from __future__ import annotations

import copy
from typing import Any

EVIL = "</style></script><script>alert('x')</script><img src=x onerror=alert(1)>\" onload='a' &amp;"
LONG = "a_very_long_name_of_a_function_" * 8

PATCH = """From: Someone
Subject: [PATCH] net: check the length

The length was not checked.
---
diff --git a/net/core/thing.c b/net/core/thing.c
--- a/net/core/thing.c
+++ b/net/core/thing.c
@@ -9,4 +9,5 @@ static int check(int x)
 \tint a = get(x);
-\tif (a > 10)
+\tif (a > 10 ||
+\t    a < 0)
 \t\treturn -EINVAL;
 \treturn a;
"""
CHAIN = [["check", "net/core/thing.c", 10], ["entry", "net/core/thing.c", 40]]
SAME = [["entry", "net/core/thing.c", 40]]


def _function(name: str, kind: str = "changed") -> dict[str, Any]:
    wide = "movq $0x1234, some_rather_long_symbol_name+0x1234(%rax,%rdx,8)"
    rows: list[list[Any]] = [
        *(["=", n, n, f"mov 0x{n:x}(%rdi), %rax", 1] for n in range(0, 80, 4)),
        ["~", 80, "cmp $0xa, %eax", 0, 80, "cmp $0xb, %eax", 0],
        ["-", 83, "ja +0x90", 0],
        ["+", 83, wide, 0],
        ["=", 85, 91, "je +0x99", 1, "je +0x90"],
        *(["=", n, n + 6, "nop", -1] for n in range(90, 130, 4)),
        [".", 4000],
        ["=", 9000, 9006, "ret", -1],
    ]
    new_rows = [["+", n, f"mov 0x{n:x}(%rdi), %rax", 0] for n in range(0, 20, 4)]
    is_new = kind == "new"
    first = {
        "part": name,
        "offset_old": 80,
        "offset_new": 80,
        "old": "cmp $0xa, %eax",
        "new": "cmp $0xb, %eax",
        "chain": CHAIN,
    }
    return {
        "name": name,
        "kind": kind,
        "reason": "new function" if is_new else "size 9007 -> 9013",
        "size_old": 0 if is_new else 9007,
        "size_new": 9013,
        "first": None if is_new else first,
        "relocations_old": {} if is_new else {"PC32": 1},
        "relocations_new": {"PC32": 2, "PLT32": 3},
        "references": [
            _reference("kfree", "exported"),
            _reference("hidden_thing", "private", is_new=True),
            _reference('"a string"', "patch", is_called=False),
            _reference("helper_added", "patch"),
            _reference("__SCT__might_resched", "private"),
            *(_reference(f"with_callee_{n}", "private") for n in range(14)),
        ],
        "gone": [] if is_new else ["old_helper"],
        "callers": [
            *(
                {"name": f"caller_{n}", "how": "call", "unit": "" if n % 2 else "vmlinux"}
                for n in range(12)
            ),
            {"name": "thing_operations", "how": "pointer", "unit": ""},
        ],
        "special": {"__bug_table": 2, ".orc_unwind_ip": 30},
        "listings": [{"name": name, "rows": new_rows if is_new else rows}],
        "chains": [CHAIN, SAME],
        "causes": [],
    }


def _reference(
    name: str, how: str, *, is_called: bool = True, is_new: bool = False
) -> dict[str, Any]:
    return {
        "name": name,
        "kind": "function",
        "how": how,
        "count": 2,
        "is_called": is_called,
        "in_unit": how == "patch",
        "is_new": is_new,
    }


def _match(name: str, status: str, address: int | None) -> dict[str, Any]:
    explained = ["weak symbol that another unit overrides"] if status == "matched" else []
    return {
        "name": name,
        "status": status,
        "address": address,
        "size": 90,
        "reason": "" if status == "matched" else "bytes differ at +0x10",
        "explained": explained,
    }


def facts() -> dict[str, Any]:
    """A bundle with two changed functions and a new one, warnings, evidence and a test log."""
    return {
        "schema": 1,
        "kind": "bundle",
        "id": "cd" * 32,
        "title": "net: check the length",
        "manifest": {
            "name": "rebootless_check",
            "version": "1",
            "kernel": {
                "release": "6.1.0-99-amd64",
                "build_id": "ab" * 20,
                "source_version": "6.1.999-1",
            },
            "objects": [{"name": "vmlinux", "functions": []}],
            "replace": True,
            "cves": ["CVE-2026-0001", "CVE-2026-0002"],
            "toolchain": "gcc-12 (Debian 12.2.0-14) 12.2.0",
            "tool_version": "0.1.0",
        },
        "files": [{"path": "net/core/thing.c", "added": 2, "removed": 1}],
        "units": [
            {
                "source": "net/core/thing.c",
                "object": "vmlinux",
                "functions": [
                    _function("entry"),
                    _function(LONG),
                    _function("helper_added", "new"),
                ],
                "new_data": ["table_added"],
                "removed": ["old_helper"],
                "special": {"__bug_table": 4},
                "has_lines": True,
            }
        ],
        "warnings": [
            {
                "code": "layout-changed",
                "symbol": "struct thing",
                "message": "struct thing:\n  old: int a; at 0\n  new: long a; at 0\n" + "x" * 300,
            },
            *(
                {"code": "address-in-data", "symbol": f"function_{n}", "message": "stored"}
                for n in range(5)
            ),
            {"code": "known", "symbol": "entry", "message": "well known", "accepted": True},
        ],
        "refused": [],
        "match": [
            {
                "source": "net/core/thing.c",
                "object": "vmlinux",
                "proven_symbols": 3,
                "functions": [
                    _match("entry", "matched", 0xFFFFFFFF81000000),
                    _match(LONG, "mismatched", None),
                ],
            }
        ],
        "patch": PATCH,
        "verdict": "passed",
        "test_log": "kernel 6.1.0-99-amd64 (build-id abab)\n"
        "ok         3.21 s  boot\nok         0.51 s  apply  all tasks moved\n"
        "skipped    0.00 s  check  none was given\nverdict: passed\n",
        "console": "[    0.000000] Linux version 6.1.0\n" * 20,
    }


def hostile() -> dict[str, Any]:
    """The same with markup in every text that a patch or a bundle could bring along."""
    words = ("kind", "how", "status", "verdict")  # that the tool itself chooses
    marks = ("=", "~", "-", "+", ".")

    def poisoned(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: poisoned(inner, name) for name, inner in value.items()}
        if isinstance(value, list):
            return [poisoned(inner, key) for inner in value]
        if isinstance(value, str) and key not in words and value not in marks:
            return value + EVIL
        return value

    result: dict[str, Any] = poisoned(copy.deepcopy(facts()))
    return result
