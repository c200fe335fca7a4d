rule train:
    input:
        data=artefact("dataset"),
        files=files("train"),
    output:
        model=ensure("<results>/{run}/model.pt", non_empty=True),
    log:
        "<logs>/{run}/train.log",
    benchmark:
        "<benchmarks>/{run}/train.tsv"
    retries: 3
    conda:
        "envs/sciflow.yaml"
    threads: resource("train", "threads", 1)
    resources:
        gpu=resource("train", "gpu"),
        mem_mb=resource("train", "mem_mb"),
        runtime=resource("train", "runtime"),
    params:
        section=section("train"),
        source=source("train"),
        write=write_run,
        yaml=run_yaml,
        state=state,
    shell:
        "{params.write} && sciflow train {params.yaml:q} --data {input.data:q} --out {output.model:q}"
        " --state {params.state:q} --time-limit {resources.runtime} --source {params.source} 2>&1 | tee {log:q}"
