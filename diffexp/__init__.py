"""diffexp: experiments in fast diffusion sampling. Rooms are imported one by one; nothing heavy loads here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffexp.tasks.load import Model

__version__ = "0.1.0"


def load(spec: Any, **options: Any) -> Model:
    """A trained model, ready to sample, from a checkpoint, a run folder or ``latest:<recipe>``.

    See `diffexp.tasks.load.load` for the options (`runs`, `ema`, `device`, `plugins`) and errors.
    """
    from diffexp.tasks.load import load as load_model

    return load_model(spec, **options)
