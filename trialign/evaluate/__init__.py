"""How good a ranking is, against which baselines, and how sure one can be of it."""
