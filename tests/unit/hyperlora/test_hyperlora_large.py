"""The released sizes, for real: 1.5 billion basis numbers in half precision, from disk to a LoRA for all of SDXL."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from hyperlora import HyperLoRA, HyperLoRAConfig


@pytest.mark.large
def test_a_full_size_checkpoint_goes_to_disk_and_back_and_emits_a_lora(tmp_path: Path) -> None:
    # Given a network of the released sizes in half precision (3.1 GB), its numbers cheap to make
    with torch.device("meta"):
        network = HyperLoRA(HyperLoRAConfig.sdxl())
    network = network.to(torch.float16).to_empty(device="cpu").requires_grad_(False)
    for index, parameter in enumerate(network.parameters()):
        pattern = torch.randn(4096 + index, generator=torch.Generator().manual_seed(index)).half() * 0.02
        flat = parameter.view(-1)
        flat.copy_(pattern.repeat(-(-flat.numel() // pattern.numel()))[: flat.numel()])
    network.save_pretrained(tmp_path)
    # Then the file has the released tensors
    with safe_open(tmp_path / "hyper_lora_modules.safetensors", framework="pt") as opened:
        assert len(opened.keys()) == 1120
        assert opened.get_slice("139.to_k.id_down_basis").get_shape() == [128, 2048, 8]
        assert opened.get_slice("139.to_k.id_up_basis").get_shape() == [128, 8, 640]
    conditions = torch.randn(2, 512), torch.randn(2, 257, 1024)
    expected = network.generate(*conditions)
    fingerprint = network.fingerprint
    del network
    # When it is loaded again
    loaded = HyperLoRA.from_pretrained(tmp_path, dtype=torch.float16)
    lora = loaded.generate(*conditions)
    # Then the LoRA is the same and has the released size
    assert loaded.fingerprint == fingerprint
    assert lora.equals(expected)
    assert sum(layer.down.numel() + layer.up.numel() for layer in lora.layers.values()) == 11_612_160
    assert {(layer.rank, layer.alpha) for layer in lora.layers.values()} == {(8, 4.0)}
    assert lora.non_finite_layer is None
    # pytest keeps the folders of the last runs; three gigabytes each are too much for that.
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
