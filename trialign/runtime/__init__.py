"""Runtime: where and how fast a stage runs, never what it computes."""
