"""Config: typed schemas, composition, and what of it a stage is made from. The only home of Hydra next to launch/."""
