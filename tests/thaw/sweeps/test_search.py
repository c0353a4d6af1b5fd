"""What a sweep tries: all of a grid, or what Optuna proposes; the same questions for the same answers."""

import math
from collections.abc import Callable

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from thaw.errors import UserError
from thaw.sweeps.search import Job, Settings, Space, at_most, hold_back, search

GRID = Settings(sampler="grid", trials=20, seeds=1, at_once=1, prune=True)


def space(*overrides: str) -> Space:
    return Space.of(OverridesParser.create().parse_overrides(list(overrides)))


def settings(**values: int | str | bool) -> Settings:
    return Settings(**{"sampler": "tpe", "trials": 8, "seeds": 1, "at_once": 1, "prune": False, **values})


def converse(
    overrides: Job, chosen: Settings, answer: Callable[[dict[str, str]], float | None], rank: str = "model"
) -> list[dict[str, str]]:
    """Answer all questions of a search; return them."""
    asked = []
    found = search(space(*overrides), chosen, 7, rank)
    batch = next(found)
    while batch:
        jobs = [dict(one.split("=") for one in job) for job in batch]
        asked += jobs
        batch = found.send([answer(job) for job in jobs])
    return asked


def middle(job: dict[str, str]) -> float:
    """Best at a rate of 0.01."""
    return 1 / (1 + abs(math.log10(float(job["rate"])) + 2))


def test_a_grid_is_every_combination_and_what_does_not_vary_is_in_all_of_them() -> None:
    (batch, end) = search(space("a=1,2", "b=x", "c=choice(u,v)", "a=3,4"), GRID, 0, "model")
    assert batch == [["b=x", f"a={a}", f"c={c}"] for a in (3, 4) for c in "uv"], "the last a counts"
    assert end == []


def test_fixed_keys_of_a_section_whose_option_varies_are_for_its_jobs_alone() -> None:
    """The default option, of which Hydra makes a configuration first, may not have them."""
    ours = ["finetune.epochs=2", "+finetune.x={a:1}", "finetune.warmup=null", "finetune.u=[]", "finetune.name='a, b'"]
    others = ["-m", "finetune=a,b", "finetune.rate=1,2", "backbone.fit=crop", "~finetune.y", "seed=[0", "finetunes.x=1"]
    assert hold_back([*others, *ours]) == (others, ours)
    assert hold_back(["finetune=a", "finetune.epochs=2"]) == (["finetune=a", "finetune.epochs=2"], [])
    by_experiment = ["-m", "experiment=depth", "hydra.sweeper.seeds=3"]
    assert hold_back([*by_experiment, "finetune.epochs=2"]) == (by_experiment, ["finetune.epochs=2"])


def test_several_seeds_follow_the_configuration_s_own() -> None:
    jobs = converse(["a=1,2"], Settings("grid", 20, 2, 1, True), lambda _: 0.5)
    assert jobs == [{"a": a, "seed": seed} for a in "12" for seed in "78"]


def test_the_same_answers_make_the_same_questions() -> None:
    overrides = ["rate=tag(log,interval(0.0001,1.0))", "size=16,32"]
    asked = converse(overrides, settings(trials=15), middle)
    assert asked == converse(overrides, settings(trials=15), middle)
    assert asked != converse(overrides, settings(trials=15), lambda job: 1 - middle(job))
    assert asked != converse(overrides, settings(trials=15, sampler="random"), middle)


def test_tpe_comes_nearer_to_the_best_than_chance_does() -> None:
    overrides = ["rate=tag(log,interval(0.000001,1.0))"]
    late = {
        sampler: [middle(job) for job in converse(overrides, settings(sampler=sampler, trials=40), middle)][20:]
        for sampler in ("tpe", "random")
    }
    assert sum(late["tpe"]) > 1.2 * sum(late["random"])


@pytest.mark.parametrize(
    ("given", "kind", "low", "high"),
    [
        ("interval(0.1,0.5)", float, 0.1, 0.5),
        ("tag(log,interval(0.001,1.0))", float, 0.001, 1.0),
        ("interval(1,4)", float, 1, 4),
        ("int(interval(1.0,4.0))", int, 1, 4),
        ("range(1,5)", int, 1, 4),
        ("3,1", int, 1, 3),
    ],
)
def test_proposals_are_of_the_kind_and_within_the_bounds_that_were_asked_for(
    given: str, kind: type[float], low: float, high: float
) -> None:
    values = [kind(job["x"]) for job in converse([f"x={given}"], settings(sampler="random", trials=30), lambda _: 0.5)]
    assert low <= min(values) <= max(values) <= high
    assert len({*values}) > 1


def test_numbers_are_written_so_that_they_can_be_read() -> None:
    asked = converse(["x=interval(0.0,1.0)"], settings(trials=9), lambda _: 0.5)
    assert max(len(job["x"]) for job in asked) <= len("9.999e-05")


def test_trials_are_asked_for_at_once_and_the_last_ones_are_fewer() -> None:
    found = search(space("x=interval(0.0,1.0)"), settings(trials=5, at_once=2), 0, "model")
    sizes = [len(next(found))]
    while sizes[-1]:
        sizes.append(len(found.send([0.5] * sizes[-1])))
    assert sizes == [2, 2, 1, 0]


def test_a_head_below_the_median_is_given_up_before_it_is_fine_tuned() -> None:
    asked = converse(
        ["x=interval(0.0,1.0)"], settings(trials=12, prune=True, sampler="random"), lambda job: float(job["x"])
    )
    heads = [job["x"] for job in asked if job.get("rank") == "head"]
    whole = [job["x"] for job in asked if "rank" not in job]
    assert len(heads) == 12
    assert heads[:5] == whole[:5], "the first ones are all finished"
    given_up = {*heads} - {*whole}
    assert given_up
    assert max(map(float, given_up)) < max(map(float, heads[:5]))


def test_a_trial_below_the_median_gets_no_further_seeds() -> None:
    asked = converse(
        ["x=interval(0.0,1.0)"],
        settings(trials=12, seeds=3, prune=True, sampler="random"),
        lambda job: float(job["x"]),
        rank="head",
    )
    counts = [sum(job["x"] == x for job in asked) for x in {job["x"] for job in asked}]
    assert {*counts} == {1, 3}
    assert {job["seed"] for job in asked} == {"7", "8", "9"}


def test_without_pruning_everything_is_finished() -> None:
    asked = converse(["x=interval(0.0,1.0)"], settings(trials=12, seeds=2), lambda job: float(job["x"]))
    assert len(asked) == 24
    assert not any("rank" in job for job in asked)


def test_a_failure_ends_its_trial_and_nothing_else() -> None:
    asked = converse(
        ["x=interval(0.0,1.0)"], settings(trials=6, seeds=2), lambda job: None if float(job["x"]) > 0.5 else 0.5
    )
    for job in asked:
        assert sum(job["x"] == other["x"] for other in asked) == (1 if float(job["x"]) > 0.5 else 2)
    assert len({job["x"] for job in asked}) == 6


@pytest.mark.parametrize(
    ("overrides", "chosen", "rank", "jobs"),
    [
        (["a=1,2", "b=1,2,3"], GRID, "model", 6),
        (["a=1,2"], Settings("grid", 20, 3, 1, True), "model", 6),
        (["a=1,2"], settings(trials=8), "model", 8),
        (["a=1,2"], settings(trials=8, seeds=2, prune=True), "model", 24),
        (["a=1,2"], settings(trials=8, seeds=2, prune=True), "head", 16),
    ],
)
def test_how_many_jobs_there_are_at_most(overrides: Job, chosen: Settings, rank: str, jobs: int) -> None:
    assert at_most(space(*overrides), chosen, rank) == jobs
    assert len(converse(overrides, chosen, lambda _: 0.5, rank)) == jobs


@pytest.mark.parametrize(
    ("overrides", "chosen", "rank", "said"),
    [
        (
            ["a=interval(0.0,1.0)"],
            GRID,
            "model",
            "a: expected values to choose among, found an interval; list some, or",
        ),
        (["seed=1,2"], settings(), "model", "seed: expected no values to choose among.*hydra.sweeper.seeds=3"),
        (["seed=1,2"], Settings("grid", 20, 2, 1, True), "model", "seed: expected no values"),
        (["a=1"], settings(), "model", "hydra.sweeper.sampler=tpe: expected keys to vary, found none"),
        (["a=tag(log,interval(0.0,1.0))"], settings(), "model", "both above 0, found 0 to 1"),
        (["a=interval(2.0,1.0)"], settings(), "model", "from a lower to a higher value, found 2 to 1"),
        (["a=1,2"], GRID, "heads", "rank: expected model, head, backbone, found 'heads'"),
        (["rank=head,model"], GRID, "model", "rank: expected one value for the whole sweep"),
    ],
)
def test_what_cannot_be_searched_is_said(overrides: Job, chosen: Settings, rank: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        converse(overrides, chosen, lambda _: 0.5, rank)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [("sampler", "optuna", "grid, random, tpe, found 'optuna'"), ("trials", 0, "at least 1, found 0")],
)
def test_settings_that_are_none_are_said(key: str, value: int | str, said: str) -> None:
    with pytest.raises(UserError, match=f"hydra.sweeper.{key}: expected .*{said}"):
        settings(**{key: value})
