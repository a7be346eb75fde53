"""Reward: a reward model of interests, and the reward functions that score rollouts."""
