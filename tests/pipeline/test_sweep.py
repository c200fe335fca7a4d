"""A sweep: children with readable names, shared stages built once, one comparison page."""

from __future__ import annotations

from tests.pipeline.conftest import STAGES, Project

RUN = "workflows/runs/toy.yaml"


def test_a_sweep_over_the_sampling_trains_once(project: Project) -> None:
    project.edit(RUN, "seed: 0", "seed: 0\nsweep: {sample.solver.order: [1, 2, 3]}")
    result = project.snakemake()
    assert result.status == 0, result.text
    called = [stage for stage, _ in project.calls()]
    assert (called.count("dataset"), called.count("train"), called.count("report")) == (1, 1, 3)
    children = [f"toy~sample.solver.order={order}" for order in (1, 2, 3)]
    results = project.folder / "results"
    assert {folder.name for folder in results.iterdir() if folder.is_dir()} == {"toy", *children}
    assert {file.name for file in (results / "toy").iterdir()} == {"run.yaml", "data.nc", "model.pt", "comparison.html"}
    assert "swept: {sample.solver.order: 2}" in (results / children[1] / "run.yaml").read_text()
    (compared,) = [options for stage, options in project.calls() if stage == "compare"]
    assert compared[""] == [f"results/{child}" for child in children]
    models = {options["--model"][0] for stage, options in project.calls() if stage == "report"}
    assert models == {"results/toy/model.pt"}
    assert project.snakemake("--dry-run").jobs == {}


def test_a_longer_sweep_builds_only_what_is_new(project: Project) -> None:
    project.edit(RUN, "seed: 0", "seed: 0\nsweep: {seed: [0, 1], sample.solver.kind: [heun, euler]}")
    assert project.snakemake().status == 0
    project.edit(RUN, "seed: [0, 1]", "seed: [0, 1, 2]")
    jobs = project.snakemake("--dry-run").jobs
    assert jobs == {
        "dataset": 1,
        "train": 1,
        "sample_part": 4,
        "sample": 2,
        "evaluate": 2,
        "report": 2,
        "compare": 1,
        "index": 1,
        "all": 1,
    }


def test_a_sweep_over_seeds_scatters_every_stage(project: Project) -> None:
    """`sample` besides into its shards, of which there are two."""
    project.edit(RUN, "seed: 0", "seed: 0\nsweep: {seed: [0, 1, 2]}")
    jobs = project.snakemake("--dry-run").jobs
    stages = dict.fromkeys(("dataset", "train", "sample", "evaluate", "report"), 3)
    assert jobs == {**stages, "sample_part": 6, "compare": 1, "index": 1, "all": 1}


def test_one_process_does_a_stage_of_several_children(project: Project) -> None:
    """Seven children, three at once: the seventh is on its own, and cut into the shards that the run asks for."""
    project.edit(RUN, "{shards: 2}", "{shards: 2, together: 3}, evaluate: {together: 10}, report: {together: 4}")
    project.edit(RUN, "seed: 0", "seed: 0\nsweep: {sample.solver.order: [0, 1, 2, 3, 4, 5, 6]}")
    result = project.snakemake()
    assert result.status == 0, result.text
    children = [f"results/toy~sample.solver.order={k}/run.yaml" for k in range(7)]
    asked = [options for stage, options in project.calls() if stage == "together"]
    groups = {stage: sorted(runs for name, *runs in (each[""] for each in asked) if name == stage) for stage in STAGES}
    assert groups["sample"] == [children[:3], children[3:6]]
    assert groups["evaluate"] == [children]
    assert groups["report"] == [children[:4], children[4:]]
    assert sorted(each["--time-limit"] for each in asked) == [["180"], ["180"], ["210"], ["45"], ["60"]]
    assert all(len(each["--source"][0].split()) == len(each[""]) - 1 for each in asked), "a digest of each"
    alone = [stage for stage, _ in project.calls() if stage not in ("together", "compare", "index")]
    assert sorted(alone) == ["dataset", "sample", "sample", "sample", "train"]
    assert project.snakemake("--dry-run").jobs == {}
    project.edit(RUN, "4, 5, 6]", "4, 5, 60]")
    jobs = project.snakemake("--dry-run").jobs  # what is together is made again together, and what follows
    assert {name for name in jobs if "_" in name} == {
        "sample_part", "evaluate_together_1", "report_together_1", "report_together_2",
    }  # fmt: skip


def test_one_child_and_one_smoke_run_can_be_asked_for(project: Project) -> None:
    project.edit(RUN, "seed: 0", "seed: 0\nsweep: {seed: [0, 1]}")
    wanted = ["results/toy~seed=1/metrics.csv", "results/toy-smoke~seed=0/model.pt"]
    result = project.snakemake(*wanted)
    assert result.status == 0, result.text
    for file in wanted:
        assert (project.folder / file).is_file()
    assert "n_steps: 1" in (project.folder / "results/toy-smoke~seed=0/run.yaml").read_text()
