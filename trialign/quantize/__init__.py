"""Quantize: the vectors of an item to L residual codes, by a residual-quantized autoencoder or by residual k-means."""
