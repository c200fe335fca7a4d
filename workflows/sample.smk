# `sample` scatters over the shards that the run asks for and gathers them; with one it is done at once. The samples do not
# depend on their number.
rule sample_part:
    input:
        data=artefact("dataset"),
        model=artefact("train"),
        files=files("sample"),
    output:
        part=temp(ensure("<results>/{run}/samples.part{shard}of{shards}.nc", non_empty=True)),
    log:
        "<logs>/{run}/sample.part{shard}of{shards}.log",
    benchmark:
        "<benchmarks>/{run}/sample.part{shard}of{shards}.tsv"
    retries: RETRIES
    conda:
        "envs/sciflow.yaml"
    threads: all_threads("sample")
    resources:
        **spread("sample"),
        local_gpu=devices("sample"),
        mem_mb=memory("sample"),
        runtime=resource("sample", "runtime"),
    params:
        section=section("sample"),
        source=source("sample"),
        before=before("sample"),
        write=write_run,
        yaml=run_yaml,
        state=state,
        launch=launch("sample"),
    shell:
        counted(
            "sample.part{wildcards.shard}of{wildcards.shards}",
            "{params.write} && {params.launch} sciflow sample {params.yaml:q} --data {input.data:q}"
            " --model {input.model:q} --out {output.part:q}"
            " --shard {wildcards.shard}/{wildcards.shards} --state {params.state:q}"
            " --time-limit {resources.runtime} --source {params.source}",
        )


rule sample:
    input:
        data=artefact("dataset"),
        model=artefact("train"),
        files=files("sample"),
        parts=parts("sample"),
    output:
        samples=ensure("<results>/{run}/samples.nc", non_empty=True),
    log:
        "<logs>/{run}/sample.log",
    benchmark:
        "<benchmarks>/{run}/sample.tsv"
    retries: RETRIES
    conda:
        "envs/sciflow.yaml"
    threads: all_threads("sample")
    resources:
        **spread("sample"),
        local_gpu=devices("sample"),
        mem_mb=memory("sample"),
        runtime=resource("sample", "runtime"),
    params:
        section=section("sample"),
        source=source("sample"),
        before=before("sample"),
        write=write_run,
        yaml=run_yaml,
        state=state,
        launch=launch("sample"),
        work=work_or_gather("data", "model"),
    shell:
        counted(
            "sample",
            "{params.write} && {params.launch} sciflow sample {params.yaml:q} {params.work}"
            " --out {output.samples:q} --state {params.state:q}"
            " --time-limit {resources.runtime} --source {params.source}",
        )
