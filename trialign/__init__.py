"""trialign: from a catalogue and interaction logs to a generative recommender over semantic IDs."""

__version__ = "0.1.0"
