"""Training: a thin LightningModule around an objective, own EMA, callbacks, optimisers."""
