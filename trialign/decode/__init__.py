"""Constrained decoding over the prefix index of all semantic IDs: index, one step, beam search."""
