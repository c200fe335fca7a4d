"""A folder of pictures through the command line: checked, hashed, learned from, and one more picture sampled for."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import xarray as xr
from PIL import Image

from tests.tiny import IMAGING, Place, change


def test_a_folder_of_pictures_is_a_data_set(place: Place) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)
    for k, picture in enumerate(pictures):
        folder = place.folder / "slides" / f"patient{k % 5}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / f"{k}.png")
    files = sorted((place.folder / "slides").rglob("*.png"))
    dataset = {"kind": "file", "path": "slides", "split_by": "folder", "n_observations": 2, "test": 0.4}
    values = change({**IMAGING, "dataset": dataset}, {"train": {"kind": "closed_form"}})
    place.build(values, "slides", until="train")
    with xr.open_dataset(place.results("slides") / "data.nc") as data:
        assert data["data"].attrs["scaling"] == "full" and data["truth"].attrs["stored_value_of_one"] == 255
        read = np.stack([np.asarray(Image.open(file)) for file in files])
        np.testing.assert_array_equal(data["data"].to_numpy()[:, 0], (read / 255).astype(np.float32))
        names = data["unit"].to_numpy()
        assert all(len(set(data["split"].to_numpy()[names == name])) == 1 for name in set(names))
        digests = {file.relative_to(place.folder / "slides"): hashlib.sha256(file.read_bytes()) for file in files}
        listed = [f"{name} {digest.hexdigest()}\n" for name, digest in digests.items()]
        wanted = hashlib.sha256("".join(listed).encode()).hexdigest()
        assert json.loads(data.attrs["inputs"])["file slides"] == wanted
    opaque = np.zeros((8, 8), np.uint8)
    opaque[::2] = 255
    Image.fromarray(np.dstack([pictures[0], opaque])).save(place.folder / "mine.png")
    outcome = place.sciflow("apply", "slides.yaml", "mine.png", "--out", "mine.nc")
    assert outcome.status == 0, outcome.text
    with xr.open_dataset(place.folder / "mine.nc") as found:
        assert found["samples"].shape[1:2] == (1,) and bool(np.isfinite(found["samples"]).all())
    (place.folder / "empty").mkdir()
    (place.folder / "empty.yaml").write_text(json.dumps({**values, "dataset": {**dataset, "path": "empty"}}))
    outcome = place.sciflow("check", "empty.yaml")
    assert outcome.status == 2 and "empty: this folder holds no picture" in outcome.text, outcome.text
