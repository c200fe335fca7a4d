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
    retries: RETRIES
    conda:
        "envs/sciflow.yaml"
    threads: all_threads("train")
    resources:
        **spread("train"),
        local_gpu=resource("train", "gpu"),
        mem_mb=memory("train"),
        runtime=resource("train", "runtime"),
    params:
        section=section("train"),
        source=source("train"),
        before=before("train"),
        write=write_run,
        yaml=run_yaml,
        state=state,
        launch=launch("train"),
    shell:
        counted(
            "train",
            "{params.write} && {params.launch} sciflow train {params.yaml:q} --data {input.data:q}"
            " --out {output.model:q} --state {params.state:q} --time-limit {resources.runtime} --source {params.source}",
        )
