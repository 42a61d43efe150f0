"""On a GPU in fp16, a picture hardly depends on the batch it was drawn in.

Bars, over 64 pictures: PSNR of at least 40 dB in the median and 30 dB at worst, each picture drawn alone against the
same one drawn in a batch of 8 among others. Run with `make gpu`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hyperlora import HyperLoRA, PortraitPipeline, Sample
from hyperlora.mini import build_untrained_pack

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def psnr(a: Image.Image, b: Image.Image) -> float:
    """Peak signal-to-noise ratio in dB of two 8 bit pictures; infinite when they are equal."""
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    error = float((difference**2).mean())
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))


def test_fp16_pictures_hardly_depend_on_their_batch(tmp_path: Path) -> None:
    # Given the mini pack on the GPU in fp16, and a person's LoRA
    pack = build_untrained_pack(tmp_path / "pack", seed=0)
    network = HyperLoRA.from_pretrained(pack / "hyperlora", device="cuda", dtype=torch.float16)
    pipeline = PortraitPipeline.from_pretrained(
        pack / "sdxl", device="cuda", dtype=torch.float16, trigger_words=network.config.trigger_words
    )
    generator = torch.Generator().manual_seed(0)
    config = network.config
    face = torch.nn.functional.normalize(torch.randn(2, config.face_width, generator=generator), dim=-1)
    tokens = torch.randn(2, 37, config.clip_width, generator=generator)
    lora = network.generate(face.to("cuda", torch.float16), tokens.to("cuda", torch.float16))
    pipeline.apply([(lora, 0.8)])
    samples = [Sample(prompt=f"portrait {n} in a garden", seed=n, guidance=3.0 + n % 5) for n in range(64)]
    common = {"width": 128, "height": 128, "steps": 8}

    # When 64 pictures are drawn alone, and in batches of eight
    alone = [pipeline.draw([sample], **common).images[0] for sample in samples]
    together = [
        image for start in range(0, 64, 8) for image in pipeline.draw(samples[start : start + 8], **common).images
    ]

    # Then they are the same to the eye
    found = sorted(psnr(a, b) for a, b in zip(alone, together, strict=True))
    assert found[32] >= 40, f"median {found[32]:.1f} dB"
    assert found[0] >= 30, f"worst {found[0]:.1f} dB"
