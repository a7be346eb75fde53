"""Config: typed schemas, their composition by Hydra, and the settings of each stage. Only launch/ uses Hydra too."""
