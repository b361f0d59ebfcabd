"""Training objectives: the time law, the weighting, the metric and its reduction."""
