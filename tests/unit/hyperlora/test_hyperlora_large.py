"""The released sizes, for real: 1.5 billion basis numbers in half precision, from disk to a LoRA for all of SDXL."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from full_size import anonymous_bytes, released_network, watched
from safetensors import safe_open

from hyperlora import HyperLoRA


@pytest.mark.large
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_full_size_checkpoint_goes_to_disk_and_back_and_emits_a_lora(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    # Given a network of the released sizes in half precision (3.1 GB), its numbers cheap to make
    network = released_network(torch.float16)
    with watched() as saving:
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
    before = anonymous_bytes()
    with watched() as loading:
        loaded = HyperLoRA.from_pretrained(tmp_path, dtype=torch.float16)
    with watched() as generating:
        lora = loaded.generate(*conditions)
    # Then there was never a second copy of the 3.14 GB in memory; pages that an earlier test left may be used again
    assert loading.peak_bytes > 2.9e9 and loading.peak_bytes - before < 3.5e9
    # And the LoRA is the same and has the released size
    assert loaded.fingerprint == fingerprint
    assert lora.equals(expected)
    assert sum(layer.down.numel() + layer.up.numel() for layer in lora.layers.values()) == 11_612_160
    assert {(layer.rank, layer.alpha) for layer in lora.layers.values()} == {(8, 4.0)}
    assert lora.non_finite_layer is None
    told = f"full size, float16: save {saving}; load {loading}; fingerprint and LoRA {generating}"
    record_property("measured", told)
    # pytest keeps the folders of the last runs; three gigabytes each are too much for that.
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
