"""What a bundle carries: modules that import torch, transformers, safetensors, numpy and the standard library alone.

`trialign export` copies them into the bundle; trialign runs its own copy, never the one in a bundle's folder.
"""
