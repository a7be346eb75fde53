"""Embed: encode what is known of every item as one vector per modality."""
