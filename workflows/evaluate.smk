# `evaluate` scatters over the shards that the run asks for and gathers them; with one it is done at once. The metrics do
# not depend on their number.
rule evaluate_part:
    input:
        data=artefact("dataset"),
        samples=artefact("sample"),
        files=files("evaluate"),
    output:
        table=temp(ensure("<results>/{run}/metrics.part{shard}of{shards}.csv", non_empty=True)),
        arrays=temp(ensure("<results>/{run}/metrics.part{shard}of{shards}.nc", non_empty=True)),
    log:
        "<logs>/{run}/evaluate.part{shard}of{shards}.log",
    benchmark:
        "<benchmarks>/{run}/evaluate.part{shard}of{shards}.tsv"
    retries: RETRIES
    conda:
        "envs/sciflow.yaml"
    threads: resource("evaluate", "threads", 1)
    resources:
        gpu=devices("evaluate"),
        local_gpu=devices("evaluate"),
        mem_mb=memory("evaluate"),
        runtime=resource("evaluate", "runtime"),
    params:
        section=section("evaluate"),
        source=source("evaluate"),
        before=before("evaluate"),
        write=write_run,
        yaml=run_yaml,
        state=state,
    shell:
        counted(
            "evaluate.part{wildcards.shard}of{wildcards.shards}",
            "{params.write} && sciflow evaluate {params.yaml:q} --data {input.data:q} --samples {input.samples:q}"
            " --out {output.table:q} --shard {wildcards.shard}/{wildcards.shards} --state {params.state:q}"
            " --time-limit {resources.runtime} --source {params.source}",
        )


rule evaluate:
    input:
        data=artefact("dataset"),
        samples=artefact("sample"),
        files=files("evaluate"),
        parts=parts("evaluate"),
        part_arrays=parts("evaluate", ".nc"),
    output:
        table=ensure("<results>/{run}/metrics.csv", non_empty=True),
        arrays=ensure("<results>/{run}/metrics.nc", non_empty=True),
    log:
        "<logs>/{run}/evaluate.log",
    benchmark:
        "<benchmarks>/{run}/evaluate.tsv"
    retries: RETRIES
    conda:
        "envs/sciflow.yaml"
    threads: resource("evaluate", "threads", 1)
    resources:
        gpu=devices("evaluate"),
        local_gpu=devices("evaluate"),
        mem_mb=memory("evaluate"),
        runtime=resource("evaluate", "runtime"),
    params:
        section=section("evaluate"),
        source=source("evaluate"),
        before=before("evaluate"),
        write=write_run,
        yaml=run_yaml,
        state=state,
        work=work_or_gather("data", "samples"),
    shell:
        counted(
            "evaluate",
            "{params.write} && sciflow evaluate {params.yaml:q} {params.work}"
            " --out {output.table:q} --state {params.state:q}"
            " --time-limit {resources.runtime} --source {params.source}",
        )
