"""deepinv's tomography in its own environment: told what to run, it answers with CPU seconds, in lines of JSON."""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
import warnings

import torch


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    answers = sys.stdout
    sys.stdout = sys.stderr  # a library may print, only answers may go out
    missing = torch.library.Library("torchvision", "DEF")  # operators of a torchvision that was built for another torch
    missing.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    missing.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from deepinv.physics import Tomography

    made = {}
    print(
        json.dumps({"version": importlib.metadata.version("deepinv"), "cpu": time.process_time()}),
        file=answers,
        flush=True,
    )
    with torch.no_grad():
        for line in sys.stdin:
            request = json.loads(line)
            side, views, repeats = request["side"], request["views"], request["repeats"]
            if side not in made:
                scanner = Tomography(angles=views, img_width=side, circle=False, normalize=False, device="cpu")
                image = torch.rand(1, 1, side, side)
                made[side] = scanner, image, scanner.A(image)
            scanner, image, measured = made[side]
            run, given = (scanner.A, image) if request["way"] == "A" else (scanner.A_adjoint, measured)
            run(given)
            start = time.process_time()
            for _ in range(repeats):
                run(given)
            seconds = (time.process_time() - start) / repeats
            print(json.dumps({"seconds": seconds, "cpu": time.process_time()}), file=answers, flush=True)


if __name__ == "__main__":
    main()
