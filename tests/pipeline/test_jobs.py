"""What a job asks of a machine or a cluster: cores, devices and nodes, shards and groups, and what a retry asks for."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.pipeline.conftest import ROOT, Project
from tests.pipeline.test_dag import DATASET, RUN

RETRIED = {"dataset": "data.nc", "evaluate": "metrics.csv", "sample --gather": "samples.nc"}


@pytest.mark.parametrize("stage", RETRIED)
def test_a_job_that_was_killed_is_tried_again_with_twice_the_memory(stage: str, project: Project) -> None:
    name = stage.partition(" ")[0]
    project.edit(RUN, "{shards: 2}", f"{{shards: 2}}, {name}: {{mem_mb: 300}}" if name != "sample" else "{mem_mb: 300}")
    project.write(f"results/toy/.state/{name}/holder", "process 1 on a node that killed it")
    result = project.snakemake(f"results/toy/{RETRIED[stage]}", FAKE_FAILS_ONCE=stage)
    assert result.status == 0, result.text
    called = [command for command, options in project.calls() if ("--gather" in options) == (stage != name)]
    assert called.count(name) == 2, result.text
    assert result.text.count("mem_mb=600,") == 1, result.text


@pytest.mark.parametrize("stage", [*RETRIED, "train", "sample"])
@pytest.mark.parametrize(
    ("status", "said"),
    [("137", ""), ("143", "srun: error: n2: task 1: Killed"), ("253", "srun: error: n[2-3]: tasks 1-2: Out Of Memory")],
)
def test_a_job_without_memory_before_it_was_there_is_tried_again_with_twice(
    stage: str, status: str, said: str, project: Project
) -> None:
    """While it read, as one of many ranks, or where it was refused memory: it left no name, its exit status tells."""
    name = stage.partition(" ")[0]
    if name == "sample":
        project.edit(RUN, "{shards: 2}", f"{{mem_mb: 300, shards: {2 if '--gather' in stage else 1}}}")
    else:
        project.edit(RUN, "{shards: 2}", f"{{shards: 2}}, {name}: {{mem_mb: 300}}")
    target = {**RETRIED, "train": "model.pt", "sample": "samples.nc"}[stage]
    result = project.snakemake(f"results/toy/{target}", FAKE_FAILS_ONCE=stage, FAKE_STATUS=status, FAKE_SAYS=said)
    assert result.status == 0, result.text
    assert result.text.count("mem_mb=600,") == 1, result.text
    holder = project.folder / f"results/toy/.state/{name}/holder"
    assert holder.read_text() == "\na process of this job", "which the real command counts, and removes"


def test_every_attempt_without_memory_asks_for_more(project: Project) -> None:
    """Also where none of them comes as far as to leave its name."""
    project.edit(RUN, "{shards: 2}", "{shards: 2}, train: {mem_mb: 300}")
    project.edit("bin/sciflow", '    open("failed-once", "w").close()\n', "")
    result = project.snakemake("results/toy/model.pt", FAKE_FAILS_ONCE="train", FAKE_STATUS="137")
    assert result.status == 1
    asked = re.findall(r"mem_mb=(\d+),", result.text.partition("rule train:")[2])
    assert [*dict.fromkeys(asked)] == ["300", "600", "1200", "2400"], result.text


@pytest.mark.parametrize("status", [1, 2, 75, 143])
def test_no_other_end_asks_for_more_memory(status: int, project: Project) -> None:
    project.edit(RUN, "{shards: 2}", "{shards: 2}, train: {mem_mb: 300}")
    result = project.snakemake("results/toy/model.pt", FAKE_FAILS_ONCE="train", FAKE_STATUS=str(status))
    assert result.status == 0, result.text
    assert result.text.count("mem_mb=300,") == 2 and not (project.folder / "results/toy/.state/train").exists()


def test_who_left_a_name_is_counted_once(project: Project) -> None:
    """A process that stood in the state when it was killed."""
    holder = project.folder / "results/toy/.state/train/holder"
    project.edit("bin/sciflow", "    sys.exit(int", f"    os.makedirs({str(holder.parent)!r})\n"
                 f"    open({str(holder)!r}, 'w').write('process 1')\n    sys.exit(int")  # fmt: skip
    result = project.snakemake("results/toy/model.pt", FAKE_FAILS_ONCE="train", FAKE_STATUS="137")
    assert result.status == 0, result.text
    assert holder.read_text() == "process 1"


@pytest.mark.parametrize("stage", ["dataset", "train", "sample", "evaluate"])
def test_what_failed_for_good_uses_up_no_retries(stage: str, project: Project) -> None:
    """A new call tries it once: it does not know whether what it depends on has changed."""
    project.edit(RUN, "{shards: 2}", "{shards: 1}")
    record = project.folder / f"results/toy/.state/{stage}/0123456789abcdef/failed.json"
    project.edit("bin/sciflow", "    sys.exit(int", f"    os.makedirs({str(record.parent)!r})\n"
                 f"    open({str(record)!r}, 'w').close()\n    sys.exit(int")  # fmt: skip
    result = project.snakemake(FAKE_FAILS_ONCE=stage)
    assert result.status == 1 and "Trying to restart" not in result.text, result.text
    assert [name for name, _ in project.calls()].count(stage) == 1
    assert project.snakemake().status == 0


def test_a_recorded_failure_is_tried_all_the_same_where_that_is_asked(project: Project) -> None:
    record = project.folder / "results/toy/.state/train/0123456789abcdef/failed.json"
    record.parent.mkdir(parents=True)
    record.touch()
    for variables, is_tried in ({}, False), ({"SCIFLOW_RETRY_FAILED": "1"}, True):
        (project.folder / "failed-once").unlink(missing_ok=True)
        result = project.snakemake("results/toy/model.pt", FAKE_FAILS_ONCE="train", **variables)
        assert (result.status == 0) == is_tried == ("Trying to restart" in result.text), result.text


def _jobs(shown: str, rule: str) -> list[str]:
    """What Snakemake says of each job of a rule, in one line."""
    return [" ".join(part.split()) for part in shown.split("rule ") if part.startswith(f"{rule}:")]


def test_one_shard_is_sampled_at_once_and_many_are_joined(project: Project, changed: Callable[[], Project]) -> None:
    """What joins shards asks for neither the threads nor the devices of the work."""
    project.edit(RUN, "{shards: 2}", "{shards: 1, threads: 2, gpu: 1}")
    shown = project.snakemake("--dry-run", "-p", "--resources", "local_gpu=1")
    assert shown.jobs == dict.fromkeys(DATASET - {"sample_part"}, 1), shown.text
    (job,) = _jobs(shown.text, "sample")
    assert "threads: 2" in job and "gpu=1, local_gpu=1" in job, job
    assert "--data results/toy/data.nc --model results/toy/model.pt --out results/toy/samples.nc --state" in job, job
    project.edit(RUN, "{shards: 1,", "{shards: 3,")
    shown = project.snakemake("--dry-run", "-p", "--resources", "local_gpu=1")
    assert shown.jobs == {**dict.fromkeys(DATASET, 1), "sample_part": 3}, shown.text
    (job,) = _jobs(shown.text, "sample")
    assert "threads:" not in job and "gpu=0, local_gpu=0" in job and "--gather results/toy/samples.part1of3.nc" in job
    again = changed()
    again.edit(RUN, "{shards: 2}", "{shards: 1}")
    assert again.snakemake("--dry-run").jobs == {}, "the number of shards changes no result"


GROUPS = {
    "shards of a run": (
        "groups: {sample_part: shards}\ngroup-components: {shards: 2}\n",
        "resources: {sample: {shards: 4}}",
        2 * [["sample_part"] * 2],
    ),
    "children of a sweep": (
        "groups: {sample: child, evaluate: child, report: child}\ngroup-components: {child: 3}\n",
        "resources: {}\nsweep: {sample.solver.order: [1, 2, 3, 4, 5, 6]}",
        2 * [["evaluate"] * 3 + ["report"] * 3 + ["sample"] * 3],
    ),
}


@pytest.mark.parametrize("name", GROUPS)
def test_several_shards_or_children_are_one_job_of_a_cluster(name: str, project: Project) -> None:
    """Snakemake's own groups, written as docs/cluster.md has them."""
    groups, resources, expected = GROUPS[name]
    project.edit(RUN, "resources: {sample: {shards: 2}}", resources)
    project.write("profiles/grouped/profile.v9+.yaml", f"executor: stand-in\njobs: 9\n{groups}")
    stand_in = (ROOT / "tests/pipeline/stand_in.py").read_text()
    project.write("snakemake_executor_plugin_stand_in/__init__.py", stand_in)
    shown = project.snakemake("--dry-run", "--profile", "profiles/grouped").text
    together = [re.split(r"^\S", part, maxsplit=1, flags=re.M)[0] for part in re.split(r"Group job .*\n", shown)[1:]]
    assert [sorted(re.findall(r"^    rule (\w+):", group, flags=re.M)) for group in together] == expected, shown
    assert groups in (ROOT / "docs/cluster.md").read_text(encoding="utf-8"), "as the page says it"


SPREAD = {
    "gpu: 1": ("gpu=1, local_gpu=1", "&& sciflow train"),
    "gpu: 2": ("gpu=2, nodes=1, local_gpu=2", "&& sciflow train"),
    "ranks: 3, threads: 2": ("gpu=0, local_gpu=0", "&& sciflow train"),
    "gpu: 2, nodes: 3, threads: 4": (
        "gpu=0, nodes=3, tasks_per_node=2, mpi=srun, slurm_extra=--gpus-per-node=2, local_gpu=2",
        "&& MASTER_ADDR=$(hostname) srun --nodes=3 --ntasks-per-node=2 --cpus-per-task=4 --kill-on-bad-exit=1 "
        "sciflow train",
    ),
    "gpu: 1, nodes: 3": (  # the plugin takes no `tasks_per_node: 1`
        "gpu=0, nodes=3, tasks=3, mpi=srun, slurm_extra=--gpus-per-node=1, local_gpu=1",
        "srun --nodes=3 --ntasks-per-node=1 --cpus-per-task=1 --kill-on-bad-exit=1 sciflow train",
    ),
}


def test_training_on_several_devices_asks_for_them(project: Project) -> None:
    """On one node the command starts its ranks, on several nodes SLURM does."""
    run = (project.folder / RUN).read_text()
    for number, asked in enumerate(SPREAD):
        asking = run.replace("{shards: 2}}", "{shards: 2}, train: {" + asked + "}}")
        project.write(f"workflows/runs/spread{number}.yaml", asking)
    models = [f"results/spread{number}/model.pt" for number in range(len(SPREAD))]
    shown = project.snakemake("--dry-run", "-p", *models, "--cores", "6", "--resources", "local_gpu=6").text
    for number, (asked, (resources, command)) in enumerate(SPREAD.items()):
        (job,) = [part for part in shown.split("rule ") if part.startswith("train") and models[number] in part]
        assert resources in job and command in " ".join(job.split()), shown
        assert ("threads: 6" in job) == asked.startswith("ranks"), shown


def test_ranks_of_sample_are_asked_for_like_those_of_train(project: Project) -> None:
    run = (project.folder / RUN).read_text()
    project.write("workflows/runs/ranked.yaml", run.replace("{shards: 2}}", "{ranks: 2, nodes: 3, shards: 1}}"))
    shown = project.snakemake("--dry-run", "-p", "results/ranked/samples.nc", "--cores", "6").text
    project.edit("workflows/runs/ranked.yaml", "shards: 1}", "shards: 4}")
    cut = project.snakemake("--dry-run", "-p", "results/ranked/samples.nc", "--cores", "6").text
    whole = _jobs(shown, "sample")
    parts, (joining,) = _jobs(cut, "sample_part"), _jobs(cut, "sample")
    assert len(parts) == 4 and not _jobs(shown, "sample_part"), shown
    assert "srun --" not in joining and "nodes=" not in joining and "--gather" in joining, cut
    assert len(whole) == 1
    for job in (*whole, *parts):
        assert "nodes=3, tasks_per_node=2, mpi=srun" in job, shown
        tasks = "--nodes=3 --ntasks-per-node=2 --cpus-per-task=1"
        assert f"srun {tasks} --kill-on-bad-exit=1 sciflow sample" in job, shown
