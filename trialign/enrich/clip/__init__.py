"""The small CLIP: an open_clip model trained here, on few pairs of picture and text."""
