"""From events and a catalogue to the dataset that every later stage reads, and to the rows a generator learns from."""
