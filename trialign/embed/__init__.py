"""Embed: the evidence of every item as one vector per modality."""
