"""Networks that read from a noisy sample how much of the noise the next step of a schedule should have."""
