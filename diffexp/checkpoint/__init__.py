"""Checkpoints are data: written whole or not at all, checked and loaded strictly, never executed."""
