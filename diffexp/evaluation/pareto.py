"""The Pareto front: of which arms no other is both faster and better."""

from __future__ import annotations

from collections.abc import Sequence

from diffexp.evaluation.chart import Axis, Chart, floors, log_ticks, make_series, notes, point, value_axis
from diffexp.evaluation.metric import meaning
from diffexp.evaluation.protocol import Protocol
from diffexp.evaluation.table import Summary


def front(arms: Sequence[Summary]) -> list[Summary]:
    """The arms that no other one beats or equals in time and mean both, the fastest first; untimed ones do not count.

    Of arms with equal time and mean the first is taken.
    """
    timed = [arm for arm in arms if arm.seconds]
    sign = -1.0 if timed and timed[0].meaning.higher else 1.0
    found: list[Summary] = []
    for arm in sorted(timed, key=lambda arm: (arm.seconds or 0.0, sign * arm.mean)):
        if not found or sign * arm.mean < sign * found[-1].mean:
            found.append(arm)
    return found


def pareto_chart(
    arms: Sequence[Summary], controls: Sequence[Summary], protocol: Protocol, title: str = ""
) -> Chart | None:
    """Distance against the time of an image, with the front; None unless two arms were timed."""
    timed = [arm for arm in arms if arm.seconds]
    if len(timed) < 2:
        return None
    times = [_milliseconds(arm) for arm in timed]
    low, high = min(times) / 1.25, max(times) * 1.25
    x = Axis("milliseconds per image, sampling alone", low, high, True, log_ticks(low, high))
    y = value_axis(timed, controls, protocol)
    what = "Distance" if meaning(protocol.metric).distance else protocol.metric
    said = ("Thick line: the Pareto front, arms that no other beats in both time and value.",)
    best = tuple(point(arm, _milliseconds(arm)) for arm in front(timed))
    lines = make_series(timed, _milliseconds)
    said += notes(timed, controls, protocol)
    return Chart(f"{what} against time", title, x, y, lines, floors(controls, protocol, y), said, best)


def _milliseconds(arm: Summary) -> float:
    return 1000 * (arm.seconds or 0.0)
