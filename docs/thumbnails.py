"""Cut the figures out of the reports of the default runs: `python docs/thumbnails.py [results] [--smoke]`.

A report embeds its figures in the order of `report.figures` in results/{run}/run.yaml.
Each becomes docs/images/<name>.png.
"""

from __future__ import annotations

import argparse
import base64
import io
import re
from pathlib import Path

import yaml
from PIL import Image

RUNS = {
    "digits-inpainting": "",
    "mixture-posterior": "",
    "tomography": "tomography_",
    "stochastic-flow": "forecast_",
    "muller-brown~train.loss.weight=1.0": "muller_brown_",
}
"""Default run, of a sweep one child -> what stands before the names of its figures, which other runs have too."""
OTHERS = {"darcy-inverse": "darcy_", "posterior-calibration": "sbc_"}
"""Runs of which the pages show figures though they are no default: drawn where their results are."""
IMAGES = Path(__file__).resolve().parent / "images"
EMBEDDED = re.compile(r'<figure>\s*<img src="data:image/png;base64,([A-Za-z0-9+/=]+)"')
WIDTH = 840  # pixels; larger figures are shrunk


def figures(folder: Path) -> dict[str, bytes]:
    """Name -> PNG of every figure of one finished run.

    Raises:
        ValueError: the report does not show the figures that its run file asks for.
    """
    names = yaml.safe_load((folder / "run.yaml").read_text(encoding="utf-8"))["report"]["figures"]
    found = EMBEDDED.findall((folder / "report.html").read_text(encoding="utf-8"))
    if len(found) != len(names):
        raise ValueError(
            f"{folder}/report.html has {len(found)} figures, its run file asks for {names}. Build it again."
        )
    return {name: base64.b64decode(text) for name, text in zip(names, found, strict=True)}


def shrink(png: bytes) -> Image.Image:
    """The picture at most WIDTH wide, with a palette of 256 colours: a few tens of kilobytes."""
    with Image.open(io.BytesIO(png)) as opened:
        picture = opened.convert("RGB")
    if picture.width > WIDTH:
        height = round(picture.height * WIDTH / picture.width)
        picture = picture.resize((WIDTH, height), Image.Resampling.LANCZOS)
    return picture.quantize(256, dither=Image.Dither.NONE)


def main() -> None:
    """Write docs/images/*.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="?", type=Path, default=Path("results"), help="folder of results")
    parser.add_argument("--smoke", action="store_true", help="take the runs of the smoke size")
    options = parser.parse_args()
    IMAGES.mkdir(exist_ok=True)
    for run, prefix in {**RUNS, **OTHERS}.items():
        base, swept, values = run.partition("~")
        folder = options.results / f"{base}{'-smoke' * options.smoke}{swept}{values}"
        if run in OTHERS and not folder.is_dir():
            continue
        for name, png in figures(folder).items():
            file = IMAGES / f"{prefix}{name}.png"
            shrink(png).save(file, optimize=True)
            print(f"wrote {file} ({file.stat().st_size // 1024} kB)")


if __name__ == "__main__":
    main()
