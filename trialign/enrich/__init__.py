"""Enrich: evidence that the catalogue does not hold as such, made once per item, and the models that make it."""
