"""The generator: a language model that reads text and semantic IDs and writes what follows."""
