"""bench/swap.py runs, and its ways are the same arithmetic."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def swap() -> ModuleType:
    spec = importlib.util.spec_from_file_location("swap", ROOT / "bench" / "swap.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore")
def test_the_toy_size_is_measured_for_every_way(
    swap: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given one round
    file = tmp_path / "swap.json"
    # When measured
    assert swap.main(["--repeats", "1", "--warm-up", "0", "--json", str(file)]) == 0
    # Then every step of every way has its time, in the table too, and nothing is left by those that restore by copying
    found = json.loads(file.read_text())
    assert found["size"] == "toy"
    assert found["projections"] == 88
    assert list(found["milliseconds"]) == ["stacked", "single", "attached", "fused"]
    assert all(value > 0 for steps in found["milliseconds"].values() for value in steps.values())
    assert found["change_against_stacked"]["stacked"] == 1
    assert [found["left_behind"][name] for name in ("stacked", "single", "attached")] == [0, 0, 0]
    table = capsys.readouterr().out
    assert [line.split(" |")[0] for line in table.splitlines()[4:]] == [f"| {name}" for name in swap.WAYS]


@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_every_way_gives_the_same_weights(swap: ModuleType) -> None:
    # Given one person
    unet, network = swap._models("toy", torch.device("cpu"), torch.float32)
    dice = torch.Generator().manual_seed(1)
    lora = network.lora(torch.randn(network.config.tokens, network.config.bases, generator=dice))
    merged = {}
    for name in ("stacked", "single", "fused"):
        # When merged in each way
        own, _ = swap._models("toy", torch.device("cpu"), torch.float32)
        swap.WAYS[name](own).merge(lora)
        merged[name] = {key.replace("base_layer.", ""): value for key, value in own.state_dict().items()}
    # Then the projections are the same, but for rounding
    for key, plain in unet.state_dict().items():
        assert torch.equal(merged["stacked"][key], merged["single"][key])
        torch.testing.assert_close(merged["fused"][key], merged["stacked"][key], rtol=1e-5, atol=1e-6)
        if ".to_q.weight" in key:
            assert not torch.equal(merged["stacked"][key], plain)


def test_an_unknown_way_and_a_missing_gpu_are_told(swap: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        swap.main(["--ways", "stacked,folded"])
    assert "unknown way 'folded', known: stacked, single, attached, fused" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert swap.main(["--device", "cuda"]) == 3
        assert "a CUDA device is asked for" in capsys.readouterr().err
