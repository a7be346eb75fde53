"""Quantize: encode the vectors of each item as L residual codes, with RQ-VAE or residual k-means."""
