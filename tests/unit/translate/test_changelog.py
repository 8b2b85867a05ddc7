"""What a package's changelog says, and which parts of the update it says it of."""

from __future__ import annotations

from rebootless.translate import changelog
from rebootless.translate.model import (
    Candidate,
    Cause,
    Confidence,
    Dropped,
    Entry,
    Outcome,
    Result,
    TranslationPlan,
    Update,
)
from rebootless.translate.tie import assign, target, tied
from rebootless.translate.totals import cve_fates, totals

TEXT = """\
linux (6.1.12-2) bookworm-security; urgency=high

  * ext4: fix NULL folio dereference in mballoc (Closes: #1)

 -- A Person <a@example.org>  Mon, 16 Nov 2026 11:17:40 +0100

linux (6.1.12-1) bookworm-security; urgency=high

  * New upstream stable update:
    https://www.kernel.org/pub/linux/kernel/v6.x/ChangeLog-6.1.11
    - io_uring/io-wq: don't lose the signal that ends work (CVE-2026-10001)
    - smb: client: fix OOB read/write from unvalidated DataOffset in
      coalesce_t2() (CVE-2026-10002)
    - staging: rtl8723bs: fix spacing around operators
    - staging: rtl8723bs: fix OOB read on restart (CVE-2026-10003)
    - [x86] nfsd: release path refs on failure (CVE-2026-10004)

  [ A Person ]
  * Bump ABI to 55

 -- A Person <a@example.org>  Mon, 09 Nov 2026 11:17:40 +0100

linux (6.1.11-1) bookworm-security; urgency=high

  * older: change (CVE-2025-1)
"""
ENTRIES = changelog.entries(TEXT, "6.1.11-1", "6.1.12-2")


def test_entries_are_those_since_the_old_version() -> None:
    assert [e.title for e in ENTRIES][:3] == [
        "ext4: fix NULL folio dereference in mballoc",
        "io_uring/io-wq: don't lose the signal that ends work",
        "smb: client: fix OOB read/write from unvalidated DataOffset in coalesce_t2()",
    ]
    assert ENTRIES[2].cves == ("CVE-2026-10002",)
    assert ENTRIES[0].version == "6.1.12-2"
    assert ENTRIES[-1].title == "nfsd: release path refs on failure"
    assert len(ENTRIES) == 6
    assert len(changelog.entries(TEXT, "6.1.12-1", "6.1.12-2")) == 1
    assert len(changelog.entries(TEXT, "6.1.11-1", "6.1.12-1")) == 5
    assert changelog.entries(TEXT, "6.1.12-2", "6.1.12-2") == ()


def test_a_name_in_the_title_is_certain_if_the_place_fits() -> None:
    here = target(("fs/smb/client/smb1ops.c",), ("coalesce_t2",), ("tgt", "DataOffset"))
    elsewhere = target(("drivers/net/foo.c",), ("coalesce_t2",), ())
    found = assign([here, elsewhere], ENTRIES)
    (one,) = found[0]
    assert one.confidence is Confidence.CERTAIN
    assert "coalesce_t2" in one.why
    assert 1 not in found


def test_most_of_a_title_is_likely_and_little_is_none() -> None:
    wq = target(("io_uring/io-wq.c",), ("io_wq_worker",), ("signal", "work", "lose", "ends"))
    nfsd = target(("fs/nfsd/vfs.c",), ("nfsd_lookup",), ("dentry",))
    other = target(("fs/nfsd/nfs4state.c",), ("nfsd4_open",), ("stateid",))
    found = assign([wq, nfsd, other], ENTRIES)
    assert [t.confidence for t in found[0]] == [Confidence.LIKELY]
    assert all(t.confidence is Confidence.UNKNOWN for n in (1, 2) for t in found.get(n, ()))


def test_all_of_a_single_change_is_certain() -> None:
    alone = Entry("ext4: fix NULL folio dereference in mballoc", ("CVE-2026-9",))
    found = assign([target(("fs/ext4/mballoc.c",), (), ())], [alone])
    assert found[0][0].confidence is Confidence.CERTAIN


def candidate(key: str, path: str, symbol: str) -> Candidate:
    return Candidate(key, path, (path,), (path,), "", (symbol,))


def test_fates_and_totals_of_cves() -> None:
    made = (candidate("a", "fs/smb/client/smb1ops.c", "coalesce_t2"),
            candidate("b", "fs/ext4/mballoc.c", "ext4_mb_load"))  # fmt: skip
    off = Dropped("drivers/staging/rtl8723bs/mlme.c", Outcome.NO_EFFECT, Cause.CONFIG_OFF, "", 2)
    said = {"b": frozenset({"folio", "NULL", "mballoc", "dereference"})}
    named, dropped = tied(made, (off,), ENTRIES, said)
    assert named[0].title.startswith("smb: client: fix OOB")
    assert named[0].cves == ("CVE-2026-10002",)
    # Nothing of rtl8723bs is compiled, so whichever change it was has no effect here.
    assert {c for t in dropped[0].tied for c in t.cves} == {"CVE-2026-10003"}
    plan = TranslationPlan(Update("r", "b", "1", "2"), 3, 9, named, dropped, ENTRIES)
    results = [
        Result("a", Outcome.REBOOT, Cause.LAYOUT),
        Result("b", Outcome.LIVE_PATCH, Cause.NONE),
    ]
    fates = {f.cve: f.outcome for f in cve_fates(plan, results)}
    assert fates == {
        "CVE-2026-10001": "", "CVE-2026-10002": "reboot", "CVE-2026-10003": "no-effect",
        "CVE-2026-10004": "",
    }  # fmt: skip
    found = totals(plan, results)
    assert (found.cves, found.cves_reboot, found.cves_unaffected, found.cves_unplaced) == (
        4,
        1,
        1,
        2,
    )
    assert (found.files, found.files_compiled, found.units) == (3, 2, 2)
    assert found.candidates_by_outcome == {
        "live-patch": 1,
        "no-effect": 0,
        "reboot": 1,
        "failed": 0,
    }


def test_the_worst_part_of_a_fix_counts() -> None:
    entry = Entry("smb: client: fix coalesce_t2()", ("CVE-2026-1",))
    parts = (candidate("a", "fs/smb/client/a.c", "coalesce_t2"),
             candidate("b", "fs/smb/client/b.c", "coalesce_t2"))  # fmt: skip
    named, _ = tied(parts, (), [entry], {})
    plan = TranslationPlan(Update("r", "b", "1", "2"), 2, 2, named, (), (entry,))
    for other in (Outcome.REBOOT, Outcome.FAILED):
        results = [Result("a", Outcome.LIVE_PATCH, Cause.NONE), Result("b", other, Cause.ERROR)]
        (fate,) = cve_fates(plan, results)
        assert fate.outcome == other.value
        assert fate.keys == ("a", "b")
