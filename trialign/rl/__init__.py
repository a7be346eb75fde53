"""Reinforcement learning of the generator by group-relative policy optimisation (GRPO), and its control."""
