rule report:
    input:
        data=artefact("dataset"),
        model=artefact("train"),
        samples=artefact("sample"),
        table=artefact("evaluate"),
        arrays=artefact("evaluate", ".nc"),
        files=files("report"),
    output:
        page=report(
            ensure("<results>/{run}/report.html", non_empty=True),
            caption="captions/report.rst",
            category=domain,
            labels={"run": "{run}", "page": "report"},
        ),
    log:
        "<logs>/{run}/report.log",
    benchmark:
        "<benchmarks>/{run}/report.tsv"
    conda:
        "envs/sciflow.yaml"
    threads: resource("report", "threads", 1)
    resources:
        mem_mb=resource("report", "mem_mb"),
        runtime=resource("report", "runtime"),
    params:
        section=section("report"),
        source=source("report"),
        before=before("report"),
        write=write_run,
        yaml=run_yaml,
    shell:
        heard(
            "{params.write} && sciflow report {params.yaml:q} --data {input.data:q} --model {input.model:q}"
            " --samples {input.samples:q} --metrics {input.table:q} --out {output.page:q}"
            " --source {params.source}"
        )


rule compare:
    input:
        tables=tables,
    output:
        page=report(
            ensure("<results>/{run}/comparison.html", non_empty=True),
            caption="captions/comparison.rst",
            category=domain,
            labels={"run": "{run}", "page": "comparison"},
        ),
    log:
        "<logs>/{run}/compare.log",
    benchmark:
        "<benchmarks>/{run}/compare.tsv"
    conda:
        "envs/sciflow.yaml"
    threads: resource("report", "threads", 1)
    resources:
        mem_mb=resource("report", "mem_mb"),
        runtime=resource("report", "runtime"),
    params:
        section=section("report"),
        source=page_source("comparison"),
        before=before("report"),
        write=write_run,
        yaml=run_yaml,
        compared=tables,
        runs=lambda wildcards, input: [Path(table).parent for table in input.tables],
    shell:
        heard("{params.write} && sciflow compare {params.runs:q} --out {output.page:q}")


rule index:
    input:
        pages=asked_pages,
    output:
        page=ensure("<results>/index.html", non_empty=True),
    log:
        "<logs>/index.log",
    benchmark:
        "<benchmarks>/index.tsv"
    localrule: True
    conda:
        "envs/sciflow.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        source=page_source("report"),
        linked=asked_pages,
        results=lambda wildcards, output: Path(output[0]).parent,
    shell:
        heard("sciflow index {params.results:q} --out {output.page:q}")
