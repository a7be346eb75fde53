"""The generator: a language model that reads text and semantic IDs and writes what follows."""

# Here, because it must precede the first import of transformers' models, wherever in this package that stands.
import trialign.runtime.torchvision_fault  # noqa: F401
