"""Reinforcement learning of the generator by group-relative policy optimization (GRPO), and its control."""
