"""One script per claim: `python -m benchmarks.NAME --json FILE`; the pages beside them say on what it was measured."""
