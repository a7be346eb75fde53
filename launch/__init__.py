"""One script per verb: compose, check, build, run, record."""
