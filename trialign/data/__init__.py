"""Prepare the dataset that every later stage reads, from a catalogue and a log of events."""
