# What the rules of every stage share: the runs, and functions of a run's wildcards. Nothing here imports torch.
import os
import shutil
import sys
from functools import cache
from hashlib import sha256
from pathlib import Path
from shlex import quote

from snakemake.exceptions import WorkflowError
from snakemake.jobs import Job

from sciflow.catalogue import Catalogue
from sciflow.errors import KILLED, InputError
from sciflow.memory import fails, megabytes
from sciflow.runs import ARTEFACTS, INPUTS, MAKERS, STAGES
from sciflow.source import digest


wildcard_constraints:
    run="[^/]+",
    shard=r"\d+",
    shards=r"\d+",


RESULTS = workflow.pathvars.get("results")
TO_LOG = "2>&1 | (trap '' TERM; exec tee {log:q})"
RETRIES = 0 if workflow.remote_exec else 3  # Snakemake inside a job of a cluster would try again in what time is left

if shutil.which("sciflow") is None:  # snakemake was called by its path, from an environment that is not activated
    os.environ.update(PATH=os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)]))


def plainly(ask):
    """`ask`, with a wrong run file reported as Snakemake reports its own errors: the message, no traceback."""

    def answer(*args, **kwargs):
        try:
            return ask(*args, **kwargs)
        except InputError as error:
            raise WorkflowError(str(error)) from None

    return answer


catalogue = plainly(Catalogue)(
    workflow.current_basedir.get_path_or_uri(secret_free=True), config, check=workflow.is_main_process
)
run_of = plainly(catalogue.__getitem__)
children_of = plainly(catalogue.children)


def artefact(stage, suffix=None):
    """The file that `stage` hands on, of whichever run builds it: in a sweep, often the base run."""
    file = Path(ARTEFACTS[stage])
    return lambda wildcards: f"<results>/{run_of(wildcards.run).owner(stage)}/{file.with_suffix(suffix or file.suffix)}"


def files(stage):
    """The user's own files that the stage's section names; of a folder what is in it, whose times change with it."""

    def answer(wildcards):
        for name in run_of(wildcards.run).files(stage):
            path = Path(name)
            if path.is_dir() and path.suffix != ".zarr":
                yield from sorted(str(file) for file in path.rglob("*") if file.is_file())
            else:
                yield name

    return lambda wildcards: list(answer(wildcards))


def parts(stage, suffix=None):
    """One file per shard; none where one job does it all."""
    file = Path(ARTEFACTS[stage])
    file = file.with_suffix(suffix or file.suffix)

    def answer(wildcards):
        count = run_of(wildcards.run).resource(stage, "shards", 1)
        names = [f"<results>/{wildcards.run}/{file.stem}.part{k}of{count}{file.suffix}" for k in range(1, count + 1)]
        return names if count > 1 else []

    return answer


def joins(wildcards, stage):
    """Whether a job joins shards, which needs neither devices nor ranks, instead of doing the work of the stage."""
    return getattr(wildcards, "shard", None) is None and run_of(wildcards.run).resource(stage, "shards", 1) > 1


def tables(wildcards):
    """The metrics of every child of a sweep."""
    return [f"<results>/{child.name}/{ARTEFACTS['evaluate']}" for child in children_of(wildcards.run)]


def domain(wildcards):
    return run_of(wildcards.run).values.get("domain", "")


def resource(stage, key, default=0):
    """A number from the run's own `resources:`."""
    return lambda wildcards: run_of(wildcards.run).resource(stage, key, default)


def devices(stage):
    """How many cards a job asks for."""
    return lambda wildcards: 0 if joins(wildcards, stage) else run_of(wildcards.run).resource(stage, "gpu")


def memory(stage):
    """Megabytes: more in a retry if the attempt before was killed, as for want of memory, and not otherwise."""

    def answer(wildcards, attempt):
        asked = run_of(wildcards.run).resource(stage, "mem_mb", 2000)
        return megabytes(asked, kept(wildcards, stage), attempt)

    return answer


def kept(wildcards, stage):
    """The folder of a stage (and shard) in the state of its run."""
    shard = getattr(wildcards, "shard", None)
    name = stage if shard is None else f"{stage}.part{shard}of{wildcards.shards}"
    return Path(RESULTS, wildcards.run, ".state", name)


def spared(of_rule):
    """The retries of a job: those of its rule, but none where the attempt before it recorded that all must fail."""

    def restart_times(job):
        stage = job.rule.name.removesuffix("_part")
        is_recorded = stage in STAGES and fails(kept(job.wildcards, stage))
        return 0 if is_recorded else of_rule(job)

    return property(restart_times)


if isinstance(getattr(Job, "restart_times", None), property):  # Snakemake itself knows the retries of a rule alone
    Job.restart_times = spared(Job.restart_times.fget)


def ranks(wildcards, stage):
    """How many processes work on each node, and on how many nodes."""
    run = run_of(wildcards.run)
    if joins(wildcards, stage):
        return 1, 1
    return run.resource(stage, "ranks") or run.resource(stage, "gpu") or 1, run.resource(stage, "nodes", 1)


def spread(stage):
    """What a stage asks of SLURM: processes on one node start one another, on several nodes `srun` does."""

    def asked(value):
        return lambda wildcards: value(devices(stage)(wildcards), *ranks(wildcards, stage))

    def only_on_several(value):
        return asked(lambda gpu, per_node, n_nodes: value(gpu, per_node) if n_nodes > 1 else None)

    return {
        "gpu": asked(lambda gpu, per_node, n_nodes: 0 if n_nodes > 1 else gpu),
        # cards of one node, too: `--gpus=2` alone may be one on each of two
        "nodes": asked(lambda gpu, per_node, n_nodes: n_nodes if n_nodes > 1 or gpu > 1 else None),
        # a total of tasks could be spread unevenly; one a node cannot, and the plugin refuses `tasks_per_node: 1`
        "tasks": asked(lambda gpu, per_node, n_nodes: n_nodes if n_nodes > 1 and per_node == 1 else None),
        "tasks_per_node": only_on_several(lambda gpu, per_node: per_node if per_node > 1 else None),
        "mpi": only_on_several(lambda gpu, per_node: "srun"),
        "slurm_extra": only_on_several(lambda gpu, per_node: f"--gpus-per-node={gpu}" if gpu else None),
    }


def all_threads(stage):
    """Of the process that SLURM starts: one rank, or all ranks of its node."""

    def answer(wildcards):
        per_node, n_nodes = ranks(wildcards, stage)
        threads = 1 if joins(wildcards, stage) else run_of(wildcards.run).resource(stage, "threads", 1)
        return threads * (1 if n_nodes > 1 else per_node)

    return answer


def launch(stage):
    """What stands before the command where it runs on several nodes."""

    def answer(wildcards, output):
        per_node, n_nodes = ranks(wildcards, stage)
        threads = run_of(wildcards.run).resource(stage, "threads", 1)  # SLURM no longer takes them from the job
        tasks = f"--nodes={n_nodes} --ntasks-per-node={per_node} --cpus-per-task={threads}"
        # the job starts on its first node, whose name in SLURM may be known to SLURM alone
        return f"MASTER_ADDR=$(hostname) srun {tasks} --kill-on-bad-exit=1" if n_nodes > 1 else ""

    return answer


def heard(command):
    """A shell command whose words go to the log and the terminal, until its end.

    A scheduler sends SIGTERM to all processes of a job: the shell and `tee` let it pass, so that what the stage says
    when it has saved its state is kept, and its exit status is the one of the job.
    """
    return f"trap : TERM; {command} {TO_LOG}"


def counted(folder, command):
    """`heard`, and a line in the `holder` of this folder of the state for a command without memory that left no name.

    So ends a process before it stands there itself, as while it reads, and a rank that is not the first, on whichever
    node; `megabytes` must know of it. A job that stood there and was killed has left a new name. `srun` ends with the
    highest number of all its ranks, but says of each how it ended.
    """
    place = f"{{params.state:q}}/{folder}"
    name = f"$(cat {place}/holder 2>/dev/null || :)"
    is_lost = f"[ $status = {KILLED} ] || grep -qsE '^srun: error: .*: (Killed|Out Of Memory)' {{log:q}}"
    mark = f"mkdir -p {place} && printf '\\na process of this job' >> {place}/holder || :"
    return (
        f'trap : TERM; before="{name}"; {command} {TO_LOG} || (status=$?; after="{name}"; '
        f'if {is_lost}; then if [ -z "$after" ] || [ "$after" = "$before" ]; then {mark}; fi; fi; exit $status)'
    )


def section(stage):
    """What the stage depends on in the run file: a change reruns it."""
    return lambda wildcards: run_of(wildcards.run).identity(stage)


def source(stage):
    """Digest of the source that the stage uses: a change reruns it."""
    return lambda wildcards: plainly(catalogue.digest)(
        wildcards.run, stage, Path(RESULTS, wildcards.run, ARTEFACTS[stage])
    )


@cache
def made_of(name, stage):
    """Digest of all that a stage of this run depends on in the run file and in the source."""
    code = plainly(catalogue.digest)(name, stage, Path(RESULTS, name, ARTEFACTS[stage]))
    return sha256(f"{run_of(name).identity(stage)} {code}".encode()).hexdigest()[:16]


def before(stage):
    """What the stages before this one depend on.

    A change reruns them and what follows. Where one of them then fails, Snakemake deletes its artefact, and would not
    miss it in the next call: what follows is newer than what is left.
    """
    return lambda wildcards: [
        made_of(run_of(wildcards.run).owner(earlier), earlier) for earlier in STAGES[: STAGES.index(stage)]
    ]


def page_source(page):
    """Digest of what writes a page, whatever the run."""
    return lambda wildcards: digest(page, {}, catalogue.kinds)


# Snakemake records no param whose function takes `output`: these may change without a rerun.
def run_yaml(wildcards, output):
    return Path(output[0]).parent / "run.yaml"


def write_run(wildcards, output):
    """Shell command that writes run.yaml, the one configuration a command reads, whole or not at all.

    Every job writes it: as a file with a rule of its own it would be an ancient() input of the others, and Snakemake
    9.27 then skips a job whose params changed together with that file.
    """
    file, content = quote(str(run_yaml(wildcards, output))), plainly(catalogue.stored)(wildcards.run)
    return f"cp {content} {file}.$$ && mv {file}.$$ {file}"


def work_or_gather(*names):
    """What a command that may be cut into shards works on: these inputs, or its shards."""

    def answer(wildcards, input, output):
        if input.parts:
            return f"--gather {' '.join(map(quote, input.parts))}"
        return " ".join(f"--{name} {quote(getattr(input, name))}" for name in names)

    return answer


def state(wildcards, output):
    return Path(output[0]).parent / ".state"


def pages(names):
    """Every report of these runs, and the comparison page of each that has a sweep."""
    for name in names:
        children = children_of(name)
        yield from (f"<results>/{child.name}/{ARTEFACTS['report']}" for child in children)
        if children[0].assignments:
            yield f"<results>/{name}/comparison.html"


def asked_pages(wildcards):
    return list(pages(catalogue.asked))


def all_pages(wildcards):
    plainly(catalogue.check)(catalogue.files)
    return list(pages(catalogue.files))


plainly(catalogue.check)(catalogue.asked)  # a wrong run file stops here, before any job
if workflow.modifier.is_main_snakefile():  # whoever imports us may have a rule that makes the files
    plainly(catalogue.check_files)(catalogue.asked)  # Snakemake misses a missing one while an older artefact exists
