"""`adopt: [process, prediction, network]`: what a training takes from its teacher's configuration, not from its own.

So one recipe takes teachers of any kind. The task puts the teacher's nodes into the configuration (`tasks.adopt`); here
is refused what that would leave without effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diffexp.core.errors import ConfigError, nearest
from diffexp.launch.command import concerns
from diffexp.launch.fingerprint import MODEL


def source_of(config: Mapping[str, Any]) -> str | None:
    """The key that names where a configuration's adopted groups come from: ckpt, else teacher; None: nowhere.

    A checkpoint of such a training has them in its own configuration.
    """
    if not config.get("adopt"):
        return None
    return next((key for key in ("ckpt", "teacher") if config.get(key) is not None), None)


def check_adopted(overrides: Sequence[str], config: Mapping[str, Any]) -> None:
    """Refuse `adopt` that names no part of a model, and overrides of what is adopted.

    Args:
        overrides: those of one job.
        config: what they compose to.

    Raises:
        ConfigError: naming the first that is wrong.
    """
    groups = config.get("adopt", [])
    if not isinstance(groups, list):
        raise ConfigError(f"adopt={groups}: a list is needed, e.g. adopt=[{','.join(MODEL)}], or []")
    for group in groups:
        if group not in MODEL:
            raise ConfigError(f"adopt: '{group}' is no part of a model; {nearest(str(group), MODEL)}")
    key = source_of(config)
    idle = [] if key is None else [word for word in overrides if concerns(word, groups)]
    if idle:
        raise ConfigError(
            f"{idle[0]}: has no effect: {key}={config[key]} brings its own {', '.join(groups)}; leave it out, or "
            "say adopt=[]"
        )
