"""The ways that bench/swap.py compares are the same arithmetic, and what it tells of them is complete."""

from __future__ import annotations

import pytest
import torch

from bench import swap


@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_every_way_gives_the_same_weights() -> None:
    # Given one person
    unet, network = swap._models("mini", torch.device("cpu"), torch.float32)
    dice = torch.Generator().manual_seed(1)
    lora = network.lora(torch.randn(network.config.tokens, network.config.bases, generator=dice))
    merged = {}
    for name in ("stacked", "single", "fused"):
        # When merged in each way
        own, _ = swap._models("mini", torch.device("cpu"), torch.float32)
        swap.WAYS[name](own).merge(lora)
        merged[name] = {key.replace("base_layer.", ""): value for key, value in own.state_dict().items()}
    # Then the projections are the same, but for rounding
    for key, plain in unet.state_dict().items():
        assert torch.equal(merged["stacked"][key], merged["single"][key])
        torch.testing.assert_close(merged["fused"][key], merged["stacked"][key], rtol=1e-5, atol=1e-6)
        if ".to_q.weight" in key:
            assert not torch.equal(merged["stacked"][key], plain)


def test_an_unknown_way_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        swap.main(["--ways", "stacked,folded"])
    assert "unknown way 'folded', known: stacked, single, attached, fused" in capsys.readouterr().err
