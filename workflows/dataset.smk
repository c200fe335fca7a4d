rule dataset:
    input:
        files=files("dataset"),
    output:
        data=ensure("<results>/{run}/data.nc", non_empty=True),
    log:
        "<logs>/{run}/dataset.log",
    benchmark:
        "<benchmarks>/{run}/dataset.tsv"
    retries: RETRIES
    conda:
        "envs/sciflow.yaml"
    threads: resource("dataset", "threads", 1)
    resources:
        gpu=resource("dataset", "gpu"),
        local_gpu=resource("dataset", "gpu"),
        mem_mb=memory("dataset"),
        runtime=resource("dataset", "runtime"),
    params:
        section=section("dataset"),
        source=source("dataset"),
        write=write_run,
        yaml=run_yaml,
        state=state,
    shell:
        counted(
            "dataset",
            "{params.write} && sciflow dataset {params.yaml:q} --out {output.data:q} --state {params.state:q}"
            " --time-limit {resources.runtime} --source {params.source}",
        )
