# Several runs of a sweep in one process, where `resources.<stage>.together` of their run file asks for it: a rule for each
# such group, which goes before the rule of its stage.
from types import SimpleNamespace


def over(names, ask):
    """A list of what `ask` says of each run."""
    return lambda wildcards: [ask(SimpleNamespace(run=name)) for name in names]


def most(names, ask):
    """The memory of the run that asks for most: they work one after another."""
    return lambda wildcards, attempt: max(ask(SimpleNamespace(run=name), attempt) for name in names)


def in_all(names, ask):
    """The minutes of all runs."""
    return lambda wildcards: sum(over(names, ask)(wildcards))


def all_files(names, stage):
    return lambda wildcards: [file for name in names for file in files(stage)(SimpleNamespace(run=name))]


def write_runs(names):
    """Shell command that writes run.yaml of each, as `write_run`."""

    def answer(wildcards, output):
        pairs = zip(names, output.main, strict=True)
        return " && ".join(write_run(SimpleNamespace(run=name), [file]) for name, file in pairs)

    return answer


def run_yamls(wildcards, output):
    return [Path(file).parent / "run.yaml" for file in output.main]


def outputs(names, stage):
    """The artefact of each run, and what is written beside it."""
    file = Path(ARTEFACTS[stage])

    def of_each(suffix):
        return [ensure(f"<results>/{name}/{file.with_suffix(suffix)}", non_empty=True) for name in names]

    main = of_each(file.suffix)
    if stage == "report":
        main = [page(name, output) for name, output in zip(names, main, strict=True)]
    return {"main": main, **({"arrays": of_each(".nc")} if stage == "evaluate" else {})}


def page(name, output):
    """A report as the rule of that name marks it."""
    wildcards = SimpleNamespace(run=name)
    labels = {"run": name, "page": "report"}
    return report(output, caption="captions/report.rst", category=domain(wildcards), labels=labels)


for stage in STAGES:
    for number, names in enumerate(catalogue.batches(stage), 1):
        base, first = run_of(names[0]).base, SimpleNamespace(run=names[0])

        rule:
            name:
                f"{stage}_together_{number}"
            input:
                **{name: over(names, artefact(MAKERS[name])) for name in INPUTS[stage]},
                arrays=over(names if stage == "report" else [], artefact("evaluate", ".nc")),
                files=all_files(names, stage),
            output:
                **outputs(names, stage),
            log:
                f"<logs>/{base}/{stage}.together{number}.log",
            benchmark:
                f"<benchmarks>/{base}/{stage}.together{number}.tsv"
            retries: RETRIES if stage != "report" else 0
            conda:
                "envs/sciflow.yaml"
            threads: resource(stage, "threads", 1)(first)
            resources:
                gpu=resource(stage, "gpu")(first),
                local_gpu=resource(stage, "gpu")(first),
                mem_mb=most(names, memory(stage)),
                runtime=in_all(names, resource(stage, "runtime")),
            params:
                stage=stage,
                section=over(names, section(stage)),
                source=over(names, source(stage)),
                before=over(names, before(stage)),
                write=write_runs(names),
                runs=run_yamls,
                state=state,
            shell:
                counted(
                    "{params.stage}",  # Snakemake looks a name of Python up when the job runs, after the loop
                    "{params.write} && sciflow together {params.stage} {params.runs:q}"
                    " --time-limit {resources.runtime} --source '{params.source}'",
                )

        workflow.ruleorder(f"{stage}_together_{number}", stage)
