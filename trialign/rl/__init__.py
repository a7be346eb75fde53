"""RL: train the generator with group-relative policy optimization (GRPO), and the supervised control."""
