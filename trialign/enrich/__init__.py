"""Enrich: generate captions and interests once per item, and train the small CLIP that some of them need."""
