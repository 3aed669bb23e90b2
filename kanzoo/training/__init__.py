"""Training: the LightningModule, objectives, optimisers, callbacks and loggers."""
