"""Engines: where the cells of a study run. `base` is the contract, `cell` what a worker does."""
