"""What a recommendation is worth: a trained judge of mined interests, and the functions that score rollouts."""
