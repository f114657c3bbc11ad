from benchmarks.pinned import read_pss_mb

SMAPS_ROLLUP = """55d0c8a00000-7ffd3a5f1000 ---p 00000000 00:00 0                          [rollup]
Rss:              432100 kB
Pss:              400000 kB
Pss_Dirty:        150000 kB
Pss_Anon:         149000 kB
"""


def test_pss_is_read_in_megabytes() -> None:
    assert read_pss_mb(SMAPS_ROLLUP) == 409.6
