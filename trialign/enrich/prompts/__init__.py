"""Prompt templates, one text file each; a changed file is a new prompt, so no cached reply is reused for it."""
