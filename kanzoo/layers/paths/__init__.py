"""The ways to compute a KAN layer, which `kanzoo.layers.dispatch` chooses from."""
