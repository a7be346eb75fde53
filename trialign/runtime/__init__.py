"""Runtime: devices, ranks, checkpoints and logging; nothing here changes what a stage computes, up to rounding."""
