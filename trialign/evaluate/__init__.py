"""Evaluate: ranking metrics of a generator and of baselines, with bootstrap intervals of their differences."""
