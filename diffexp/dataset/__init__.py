"""Data sets: uint8 images with fixed train and test splits, and the endless, step-indexed order of training."""
