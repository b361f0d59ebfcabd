"""Denoisers in closed form: the exact answer for data whose law is known."""
