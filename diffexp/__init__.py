"""diffexp: experiments in fast diffusion sampling. Rooms are imported one by one; nothing heavy loads here."""

__version__ = "0.1.0"
