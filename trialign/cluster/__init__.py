"""Slurm: jobs rendered, queued, watched over and taken up again."""
