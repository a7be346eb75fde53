"""The YAML files that Hydra composes; a package so that a wheel carries them."""
