"""Batch scripts for Slurm; a package so that a wheel carries them."""
