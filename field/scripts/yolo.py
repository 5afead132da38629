"""Ultralytics: a YOLO from its configuration, trained on pictures made here, validated, and predicting."""

import os
import tempfile
from pathlib import Path

os.environ["YOLO_OFFLINE"] = "true"
import numpy as np
from PIL import Image
from ultralytics import YOLO, settings

with tempfile.TemporaryDirectory() as folder:
    settings.update({"datasets_dir": folder, "runs_dir": folder, "sync": False})
    for part in ("train", "val"):
        for kind in ("images", "labels"):
            Path(folder, kind, part).mkdir(parents=True)
        for number in range(8):
            Image.fromarray(np.random.randint(0, 255, (96, 96, 3), np.uint8)).save(
                f"{folder}/images/{part}/{number}.png"
            )
            Path(folder, "labels", part, f"{number}.txt").write_text("0 0.5 0.5 0.4 0.4\n1 0.3 0.3 0.2 0.2\n")
    Path(folder, "data.yaml").write_text(f"path: {folder}\ntrain: images/train\nval: images/val\nnames: [one, two]\n")
    model = YOLO("yolov8n.yaml")
    model.train(data=f"{folder}/data.yaml", epochs=2, imgsz=96, batch=4, device=0, workers=0, plots=False, amp=False)
    found = model.predict(np.zeros((96, 96, 3), np.uint8), imgsz=96, device=0)
    print(len(found))
