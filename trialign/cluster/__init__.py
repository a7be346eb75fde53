"""Slurm: render, queue, supervise and requeue jobs."""
