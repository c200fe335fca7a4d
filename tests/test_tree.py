"""sciflow.open on a folder: lazy arrays, tables, what is missing, and the report's own figures."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import sciflow
from sciflow.data.store import open_dataset, provenance_path, write_dataset
from sciflow.data.table import read_rows
from sciflow.errors import InputError
from sciflow.runs import resolve
from tests.tiny import IMAGING, Place, change

STORED = {"data": "data.nc", "samples": "samples.nc", "arrays": "metrics.nc"}
SWEPT = "analytic~sample.times.n_steps="


def loaded(tree: xr.DataTree) -> set[str]:
    """Variables that are in memory, labels of dims apart, which xarray reads to make its indexes."""
    return {
        f"{name}/{key}"
        for name in STORED
        if name in tree.children
        for key, variable in tree[name].to_dataset().variables.items()
        if variable._in_memory and (key,) != variable.dims
    }


def held(folder: Path) -> set[str]:
    """netCDF files in a folder that this process has open."""
    links = (os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd))
    return {Path(link).name for link in links if Path(link).parent == folder}


def _is_open(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


def settle(place: Place, name: str, **changes: object) -> Path:
    """Write the run.yaml that the workflow would have written."""
    folder = place.results(name)
    (run,) = resolve(place.folder / f"{name}.yaml", overrides={"every": changes}).values()
    (folder / "run.yaml").write_text(run.text())
    return folder


@pytest.fixture
def swept(copied: Place) -> Iterator[Place]:
    """Two children with the tables of `analytic`, the second with twice its numbers and calls, and one not begun."""
    (copied.folder / "analytic.yaml").write_text(
        (copied.folder / "analytic.yaml").read_text() + "sweep: {sample.times.n_steps: [5, 10, 20]}\n"
    )
    runs = resolve(copied.folder / "analytic.yaml")
    own = copied.results("analytic")
    samples = open_dataset(own / "samples.nc")
    for name, run in runs.items():
        folder = copied.results(name)
        if name.endswith("=20"):
            continue
        folder.mkdir(exist_ok=True)
        (folder / "run.yaml").write_text(run.text())
        if run.assignments:
            factor = run.assignments[0][1] / 5
            rows = read_rows(own / "metrics.csv")
            lines = [
                f"{name},{r['posterior']},{r['metric']},{r['value'] * factor!r},{r['stderr']!r},{r['n']},{r['unit']},\n"
                for r in rows
            ]
            head = "run,posterior,metric,value,stderr,n,unit,note\n"
            (folder / "metrics.csv").write_text(head + "".join(lines))
            write_dataset(folder / "samples.nc", samples.assign(nfe=samples["nfe"] * factor))
    yield copied


@pytest.mark.parametrize("name", ["imaging", "analytic"])
def test_a_run_opens_without_reading_an_array(name: str, built: Place) -> None:
    folder = built.results(name)
    tree = sciflow.open(folder)
    assert isinstance(tree, xr.DataTree) and list(tree.children) == ["data", "model", "samples", "metrics", "arrays"]
    assert loaded(tree) == set() and held(folder) == set(STORED.values())
    shown = tree._repr_html_()
    assert all(f">{part}<" in shown or part in shown for part in ("samples", "provenance_seconds", "stderr"))
    assert loaded(tree) == set(), "to look at a tree reads nothing either"
    for group, file in STORED.items():
        found, wanted = tree[group].to_dataset(), open_dataset(folder / file)
        xr.testing.assert_equal(found, wanted)
        assert wanted.attrs.items() <= found.attrs.items()
    tree.close()
    assert held(folder) == set()


def test_reading_one_array_reads_no_other(built: Place) -> None:
    tree = sciflow.open(built.results("analytic"))
    assert tree["samples/samples"].isel(member=0).mean() is not None
    tree["samples/ess"].load()
    assert loaded(tree) == {"samples/ess"}


def test_the_root_says_what_was_asked_and_the_groups_how_they_were_made(copied: Place) -> None:
    folder = settle(copied, "imaging")
    tree = sciflow.open(folder)
    assert tree.attrs["title"] == "A tiny run" and tree.attrs["question"] == "Does it work?"
    assert (tree.attrs["run"], tree.attrs["domain"], tree.attrs["seed"]) == ("imaging", "imaging", 3)
    assert "missing: 0.5" in tree.attrs["run_file"] and tree.attrs["missing"] == tree.attrs["stale"] == ""
    assert tree["samples"].attrs["stage"] == "sample" and "PiGDM" in tree["samples"].attrs["section"]
    assert tree["model"].attrs["provenance_seconds"] > 0 and "posterior_seconds" in str(tree["samples"].attrs)
    assert tree["data"].attrs["file"] == str(folder / "data.nc")


def test_metrics_are_a_table_with_standard_errors(built: Place) -> None:
    folder = built.results("imaging")
    table, rows = sciflow.open(folder)["metrics"].to_dataset(), read_rows(folder / "metrics.csv")
    assert table["value"].dims == ("posterior", "metric") and len(rows) == int((table["n"] > 0).sum())
    for row in rows:
        one = table.sel(posterior=row["posterior"], metric=row["metric"])
        for name in ("value", "stderr", "n"):
            np.testing.assert_equal(one[name].item(), row[name])  # as they stand in the file, NaN too
        assert (one["unit"].item(), one["note"].item()) == (row["unit"], row["note"])


def test_a_half_built_run_says_what_is_missing(place: Place) -> None:
    values = change(IMAGING, {"train": {"kind": "closed_form"}, "dataset.n_observations": 1})
    folder = place.build(values, until="dataset")
    tree = sciflow.open(folder)
    assert list(tree.children) == ["data"] and loaded(tree) == set()
    lacking = [("model.pt", "train"), ("samples.nc", "sample"), ("metrics.csv", "evaluate"), ("metrics.nc", "evaluate")]
    assert tree.sciflow.missing == (*(f"{f} (stage {s})" for f, s in lacking), "report.html (stage report)")
    assert (tree.attrs["domain"], tree.attrs["run"], tree.attrs["seed"]) == ("imaging", "run", 3), "of its header"
    with pytest.raises(InputError, match=r"lacks model.pt, samples.nc, metrics.csv, metrics.nc. Run the stages"):
        tree.sciflow.plot("calibration")
    tree.close()
    (folder / "data.nc").unlink()
    tree = sciflow.open(folder)  # begun, and nothing finished
    assert not tree.children and len(tree.sciflow.missing) == 6


def test_what_is_no_run_is_refused_in_a_sentence(built: Place, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "page.html").write_text("<html>")
    results = built.folder / "results"
    for path, said in (
        (results / "analitic", r"analitic is not there\. Did you mean 'analytic'\?"),
        (results / "zzz", r"zzz is not there\. .*holds \['analytic', 'imaging'\]"),
        (results, r"folder of no run: it holds neither run.yaml nor data.nc.*the runs \['analytic', 'imaging'\]"),
        (tmp_path, r"folder of no run.*Give results/<run>\."),
        (tmp_path / "pipe", "pipe is neither a folder nor a file"),
        (tmp_path / "page.html", r"page.html is no netCDF4 file"),
        (results / "analytic" / "model.pt", r"model.pt is no netCDF4 file"),
        (results / "analytic" / "none.nc", r"none.nc does not exist"),
    ):
        with pytest.raises(InputError, match=said) as caught:
            sciflow.open(path)
        assert len(str(caught.value).splitlines()) == 1


def test_one_file_opens_as_before(built: Place) -> None:
    for file in STORED.values():
        found = sciflow.open(str(built.results("analytic") / file))
        assert isinstance(found, xr.Dataset)
        xr.testing.assert_identical(found, open_dataset(built.results("analytic") / file))


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("samples.nc", b"hello", r"samples.nc is no netCDF4 file"),
        ("samples.nc", b"\x89HDF\r\n\x1a\n" + bytes(500), r"samples.nc is truncated or damaged"),
        ("samples.nc", "data.nc", r"samples.nc belongs to stage 'dataset', needs stage 'sample'"),
        ("samples.nc", "../imaging/samples.nc", r"samples.nc belongs to run 'imaging', needs run 'analytic'"),
        ("metrics.csv", b"a,b\n1,2\n", r"metrics.csv is no metrics table"),
        ("metrics.csv", b"run,posterior,metric,value,stderr,n,unit,note\nx,y\n", r"metrics.csv is no metrics table"),
        ("samples.nc.provenance.json", b"{", r"samples.nc.provenance.json is no JSON"),
        ("samples.nc.provenance.json", b"[1]", r"samples.nc.provenance.json must hold an object, got \[1\]"),
    ],
    ids=["text", "truncated", "other stage", "other run", "other table", "short table", "no JSON", "no object"],
)
def test_a_foreign_or_damaged_file_is_named(file: str, content: bytes | str, said: str, copied: Place) -> None:
    folder = settle(copied, "analytic")
    (folder / file).write_bytes(content if isinstance(content, bytes) else (folder / content).read_bytes())
    with pytest.raises(InputError, match=said):
        sciflow.open(folder)
    assert held(folder) == set(), "what had been opened is closed again"


def test_an_artefact_of_other_inputs_is_named(copied: Place) -> None:
    folder = copied.results("analytic")
    other = open_dataset(folder / "data.nc")
    write_dataset(folder / "data.nc", other.assign(data=other["data"] + 1))
    sidecar = provenance_path(folder / "data.nc")
    sidecar.write_text(re.sub(r'"sha256": "\w+"', f'"sha256": "{"0" * 64}"', sidecar.read_text()))
    tree = sciflow.open(folder)
    assert "samples.nc was made from another data.nc: run its stage again" in tree.attrs["stale"].splitlines()
    with pytest.raises(InputError, match="SHA-256"):
        tree.sciflow.plot("distance")


def test_words_of_a_run_file_are_shown_and_not_obeyed(copied: Place) -> None:
    folder = settle(copied, "imaging", title="<script>alert(1)</script>")
    shown = sciflow.open(folder)._repr_html_()
    assert "<script>" not in shown and "&lt;script&gt;" in shown


@pytest.mark.parametrize("name", ["imaging", "analytic"])
def test_plots_are_the_figures_of_the_report(name: str, built: Place) -> None:
    """To the byte: same data, same drawing."""
    tree = sciflow.open(built.results(name))
    page = (built.results(name) / "report.html").read_text()
    images = re.findall(r'<img src="data:image/png;base64,([^"]+)"', page)
    drawn = []
    for figure in tree.sciflow.figures:
        try:
            picture = tree.sciflow.plot(figure)
        except InputError as error:
            assert f"figure '{figure}' has nothing to show in run {name}" in str(error)
            continue
        drawn.append(base64.b64encode(picture._repr_png_()).decode())
        assert picture.caption and picture.figure.axes
    assert drawn == images and len(images) >= 3


def test_a_picture_is_shown_with_its_words(built: Place) -> None:
    picture = sciflow.open(built.results("imaging")).sciflow.plot("calibration")
    shown = picture._repr_html_()
    assert shown.count('<img src="data:image/png;base64,') == 1
    assert "A calibrated posterior lies on the diagonal" in shown
    lines = {str(line.get_label()): line.get_ydata() for line in picture.figure.axes[0].get_lines()}
    coverage = sciflow.open(built.results("imaging"))["arrays/coverage"]
    for name in IMAGING["sample"]["posteriors"]:
        np.testing.assert_allclose(lines[name], 100 * coverage.sel(posterior=name), rtol=1e-6)  # float32, as per cent


def test_a_figure_that_is_not_there_is_named(copied: Place) -> None:
    folder = settle(copied, "imaging", report={"figures": ["calibration"]}, plugins=["mine.py"])
    tree = sciflow.open(folder)
    assert tree.sciflow.figures == ("calibration",)
    with pytest.raises(InputError, match=r"no figure 'calibratoin'.*Did you mean 'calibration'") as caught:
        tree.sciflow.plot("calibratoin")
    assert "load_plugins(['mine.py']) first" in str(caught.value)
    with pytest.raises(InputError, match="This is no tree of a run"):
        tree["data"].sciflow.plot("calibration")
    with pytest.raises(InputError, match=r"imaging has no sweep"):
        tree.sciflow.compare("crps")
    with pytest.raises(InputError, match=r"imaging has no sweep"):
        tree.sciflow.stack("samples/nfe")


def test_a_sweep_is_compared_as_on_its_page(swept: Place) -> None:
    """Beside the run of the base itself, which was built before it had a sweep."""
    tree = sciflow.open(swept.results("analytic"))
    assert set(tree.children) == {"data", "model", "samples", "metrics", "arrays", "sweep"}
    assert tree.sciflow.missing == (f"{SWEPT}20 (child)",)
    values = tree["sweep"]["value"].sel(metric="sliced_w2")
    own = tree["metrics"]["value"].sel(metric="sliced_w2")
    for n_steps, factor in ((5, 1), (10, 2)):
        found = values.sel({"sample.times.n_steps": n_steps}).reindex_like(own)
        np.testing.assert_allclose(found, factor * own, rtol=1e-15)  # one product in float64
    assert bool(values.sel({"sample.times.n_steps": 20}).isnull().all())
    folders = [swept.results(f"{SWEPT}{n}") for n in (5, 10)]
    out = swept.results("analytic") / "comparison.html"
    assert swept.sciflow("compare", *folders, "--out", out).status == 0
    picture = tree.sciflow.compare("sliced_w2")
    assert base64.b64encode(picture._repr_png_()).decode() in out.read_text()
    assert picture.caption == "sliced w2 for each value of sample.times.n_steps."
    with pytest.raises(InputError, match=r"no child has metric 'slicedw2'.*Did you mean 'sliced_w2'"):
        tree.sciflow.compare("slicedw2")
    with pytest.raises(InputError, match=r"no child has posterior 'SMC'"):
        tree.sciflow.compare("sliced_w2", posterior="SMC")


def test_stored_arrays_of_children_are_stacked(swept: Place) -> None:
    tree = sciflow.open(swept.results("analytic"))
    calls, own = tree.sciflow.stack("samples/nfe"), tree["samples/nfe"]
    assert calls.dims == ("sample.times.n_steps", *own.dims)
    for n_steps, factor in ((5, 1), (10, 2)):
        xr.testing.assert_equal(calls.sel({"sample.times.n_steps": n_steps}, drop=True), factor * own)
    assert bool(calls.sel({"sample.times.n_steps": 20}).isnull().all())
    for path, said in (
        ("samples/nef", r"no child has numbers 'nef' in 'samples'.*Did you mean 'nfe'"),
        ("samples/posterior", r"no child has numbers 'posterior'"),
        ("metrics/value", r"must be group/variable"),
    ):
        with pytest.raises(InputError, match=said):
            tree.sciflow.stack(path)
    child = swept.results(f"{SWEPT}10")
    write_dataset(child / "samples.nc", open_dataset(child / "samples.nc").isel(member=slice(3)))
    with pytest.raises(InputError, match=r"'samples/samples' differs between the children"):
        tree.sciflow.stack("samples/samples")


def test_opening_a_run_does_not_import_torch(built: Place) -> None:
    program = (
        f"import sys, sciflow; tree = sciflow.open({str(built.results('analytic'))!r}); tree._repr_html_(); "
        "assert not {'torch', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
