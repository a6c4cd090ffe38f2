#!/usr/bin/env python3
"""Writes tests/data/images.safetensors: camera images as OpenCV and Pillow encode and decode them.

Needs: pip install numpy opencv-python-headless pillow safetensors
"""
import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from safetensors.numpy import save_file

WIDTH, HEIGHT = 64, 48
y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
rgb = np.stack([127 + 100 * np.sin(x / (7 + c) + c) * np.cos(y / (5 + c)) for c in range(3)], -1).round().astype(np.uint8)
bgr = rgb[..., ::-1]
gray = rgb[..., 1]
tensors = {"rgb": rgb}


def encode(extension, image, *params):
    ok, data = cv2.imencode(extension, image, params)
    assert ok
    return data.reshape(-1)


# What compressed_image_transport does: imencode of BGR or grey. The expected pixels are Pillow's.
for name, data in {
    "jpeg": encode(".jpg", bgr, cv2.IMWRITE_JPEG_QUALITY, 95),
    "jpeg_progressive": encode(".jpg", bgr, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "jpeg_gray": encode(".jpg", gray, cv2.IMWRITE_JPEG_QUALITY, 95),
    "png": encode(".png", bgr),
    "png_gray": encode(".png", gray),
    "png_rgba": encode(".png", cv2.cvtColor(np.ascontiguousarray(bgr), cv2.COLOR_BGR2BGRA)),
}.items():
    tensors[f"{name}.data"] = data
    tensors[f"{name}.rgb"] = np.array(Image.open(io.BytesIO(data.tobytes())).convert("RGB"))

# 16 bits per sample; the expected pixels are what cv_bridge's scaling gives.
deep = bgr.astype(np.uint16) * 257 + (x * 3)[..., None].astype(np.uint16) % 128
tensors["png16.data"] = encode(".png", deep)
tensors["png16.rgb"] = cv2.convertScaleAbs(deep, alpha=255 / 65535)[..., ::-1]

# A mosaic per colour filter array. OpenCV names the array after the second row's second and third pixel, ROS after the first four.
SITES = {"rggb": "RGGB", "bggr": "BGGR", "gbrg": "GBRG", "grbg": "GRBG"}
OPENCV = {"rggb": cv2.COLOR_BayerBG2RGB, "bggr": cv2.COLOR_BayerRG2RGB, "gbrg": cv2.COLOR_BayerGR2RGB, "grbg": cv2.COLOR_BayerGB2RGB}
for name, sites in SITES.items():
    mosaic = np.empty((HEIGHT, WIDTH), np.uint8)
    for i, site in enumerate(sites):
        mosaic[i // 2 :: 2, i % 2 :: 2] = rgb[i // 2 :: 2, i % 2 :: 2, "RGB".index(site)]
    tensors[f"bayer_{name}8.data"] = mosaic
    tensors[f"bayer_{name}8.rgb"] = cv2.cvtColor(mosaic, OPENCV[name])

save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, Path(__file__).parent.parent / "tests/data/images.safetensors")
