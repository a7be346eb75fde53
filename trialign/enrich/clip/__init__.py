"""The small CLIP: an open_clip model that `enrich` trains on few pairs of picture and text."""
