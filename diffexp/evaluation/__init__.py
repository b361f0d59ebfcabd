"""Evaluation: generate images, extract features, measure distances with their protocol, and report them."""
