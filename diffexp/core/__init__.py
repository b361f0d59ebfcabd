"""Leaf utilities shared by every room: errors, keyed random streams, atomic files, float64 numerics."""
