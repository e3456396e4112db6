"""Models: acoustic encoders, pooling, fusion, and one file per published system. `build` makes one by configuration.

This file imports nothing: what only needs a model's configuration, such as every command, starts without torch.
"""
