"""What the tiny model learns from: the train split of an MVC folder, each image decoded and resized once.

Shapes: I unique images, 3 x S x S pixels; N pairs; a trailing 2 is the side (a, b).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.images import decode_rgb
from pipeline.rewrite.contrast import contrast
from pipeline.schema import image_bytes, read_mvc

_COLUMNS = ("question", "answer_a", "answer_b", "caption_a", "caption_b", "image_a", "image_b", "image_a_sha256", "image_b_sha256", "meta")
