"""From a catalog and a log of events to the dataset that every later stage reads."""
