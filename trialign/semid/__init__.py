"""Semantic IDs: a unique tuple of codes for every item, its tokens, and quality metrics."""
