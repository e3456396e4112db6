"""Models: acoustic encoders, pooling, fusion, and one file per published system. `build` makes one by configuration.

This file imports nothing: commands that need only a model's configuration start without torch.
"""
