"""Networks: one U-Net whose blocks compose into the networks of the papers (see `spec.UNetSpec`)."""
