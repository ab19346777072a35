"""Keeps the caption that fits the picture best: the filter of CapFilt (BLIP, arXiv:2201.12086).

A network with a head for image-text matching (training/matching.py) says how probable it is that a
sentence belongs to a picture. BLIP drops what is more likely not to match (section 3.3 there); here
it is marked for review. Asked is with the colour picture and sentences without sketch keywords,
since "lineart" does not match a colour picture. BLIP-2's network has 1.17 billion weights, 2.3 GB
in bfloat16; BLIP's is smaller.
"""

from __future__ import annotations

import torch

from training import matching

from ..config import CaptionSettings

SETTING = "caption.itm"
SOURCE = (
    "a copy of Salesforce/blip2-itm-vit-g or Salesforce/blip-itm-base-coco from huggingface.co, "
    "with safetensors weights"
)


def open_matcher(settings: CaptionSettings, device: torch.device) -> matching.Matcher:
    """Loads the network in caption.itm and tries it.

    Raises:
        ModelError: the folder is missing, damaged, holds another network, or one that does not
            look at pictures or does not read sentences.
    """
    return matching.open_matcher(settings.itm, SETTING, SOURCE, settings.precision, device)
