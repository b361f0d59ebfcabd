"""Training from a teacher, or in stages: what takes the place of the objective."""
