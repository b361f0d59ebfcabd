"""What tells the runs of a report apart: all that was varied where it is little, else as little as does."""

from diffexp.evaluation.collect import telling

TEACHER = {"recipe": "ddbm_e2h", "lr": "0.004", "prediction": "ddbm", "keep": "2"}
CBT = {
    "recipe": "cdbm_e2h", "lr": "0.001", "prediction": "consistency", "keep": "4", "distillation.weight": "inv_gap",
    "distillation._target_": "diffexp.distillation.consistency.CBT",
}  # fmt: skip
CBD = {**CBT, "distillation.weight": "one", "distillation._target_": "diffexp.distillation.consistency.CBD"}
KEYS = list(CBT)


def test_few_keys_are_all_shown():
    assert telling([{"a": "1", "b": "1", "c": "1"}, {"a": "2", "b": "2", "c": "2"}], ["a", "b", "c"]) == ["a", "b", "c"]


def test_of_many_keys_the_recipe_comes_first_and_then_a_class():
    assert telling([TEACHER, CBT], KEYS) == ["recipe"]
    assert telling([TEACHER, CBT, CBD], KEYS) == ["distillation._target_"], "the teacher has none"
    assert telling([TEACHER, CBT, CBD, {**TEACHER, "recipe": "regression_e2h"}], KEYS) == ["recipe", KEYS[-1]]


def test_what_nothing_smaller_tells_apart_keeps_all():
    assert telling([TEACHER, TEACHER], KEYS) == KEYS
