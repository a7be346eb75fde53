"""Runtime: where and how fast a stage runs; what it computes, up to rounding, is not decided here."""
