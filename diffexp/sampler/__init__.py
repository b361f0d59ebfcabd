"""Samplers: a grid of times, a stepper that plans its coefficients, and one loop."""
