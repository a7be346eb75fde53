"""One script per claim: `python -m benchmarks.NAME --json FILE`; the pages next to them say on what it was measured."""
