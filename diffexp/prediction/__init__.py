"""From a raw network output to data and noise: heads, the lazy prediction, conditions, the denoiser."""
