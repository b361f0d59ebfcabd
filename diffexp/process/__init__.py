"""Forward processes and the operator algebra: mathematics in float64, no torch modules."""
