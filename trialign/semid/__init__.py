"""Semantic IDs: a unique tuple of codes for every item, its tokens, and what can be said of its quality."""
