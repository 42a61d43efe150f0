"""Write docs/memory.md, counted for SDXL and the released HyperLoRA: `python scripts/memory_page.py [--check]`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from hyperlora.clip import MOST_IMAGES
from hyperlora.memory import GIB, BlankModel, Measure, MemoryPlan, ModelFacts, plan_memory
from hyperlora.memory.measures import seconds_a_person
from hyperlora.memory.plan import CONTEXT, CONTROLLED, FEW_PHOTOS, LOST, MERGE, SCRATCH
from hyperlora.network import MOST_PHOTOS
from worker.vram import FACE_BYTES, FACE_NETWORKS

TARGET = Path(__file__).resolve().parents[1] / "docs" / "memory.md"
BATCHES = (1, 2, 4, 8, 16)
LIMITS = (8, 12, 24, 80)
SIZES = ((512, 512), (768, 768), (1024, 1024), (832, 1216), (1536, 1536), (2048, 2048))
ASKED = 16
LOSSY = ("int8", "fp8")
STEPS = (
    Measure.DECODE_SINGLY,
    Measure.BASES_STREAMED,
    Measure.PRISTINE_ON_HOST,
    Measure.PHOTOS_VISIT,
    Measure.TEXT_VISITS,
    Measure.VAE_VISITS,
    Measure.DECODE_TILED,
)
HEAD = """# Memory

What a worker takes of a GPU, and how to draw in less. This page is written by `scripts/memory_page.py`: weights are
counted from the networks, the work of a step or of decoding by running them without numbers (PyTorch's meta device),
operation by operation. GB means GiB, as cards are named.

```sh
portraits worker --vram-gb 12     # or PORTRAITS_VRAM_GB=12; portraits doctor says what it means for your profiles
```

Without a limit everything lies on the device and nothing is done to take less. With one, a worker counts its profile
when it loads it, and chooses the cheapest measures that keep the batch that the profile asks for; then a smaller batch;
and only where not even one picture fits, tiles, the one measure that changes pictures. What cannot fit is refused with
the number. PyTorch is held to the limit, so that a neighbour on the same GPU has the rest.

All figures are computed. What a GPU really takes, beside them: `python bench/memory.py --device cuda`.
"""


def page(facts: ModelFacts, lossy: Mapping[str, ModelFacts]) -> str:
    """The whole page; `lossy` are the facts with linear layers in 8 bits, by their number type."""
    parts = [HEAD, _parts(facts, lossy), _by_batch(facts), _limits(facts), _sizes(facts), _costs(facts), _how()]
    return "\n".join(parts)


def lossy_facts(facts: ModelFacts, model: BlankModel) -> dict[str, ModelFacts]:
    """The facts of the number types that GPUs have."""
    return {name: facts.with_linears(model, name) for name in LOSSY}


def _parts(facts: ModelFacts, lossy: Mapping[str, ModelFacts]) -> str:
    copies = lossy["int8"].linears
    assert all(each.linears == copies for each in lossy.values())
    rows = {
        "UNet": facts.unet,
        "pristine copy of its attention weights": facts.attention,
        "bases of the hypernetwork": facts.bases,
        "text encoders": facts.text_encoders,
        "CLIP vision tower": facts.clip,
        "resampler and ID projector": facts.resamplers,
        "VAE": facts.vae,
        "512 remembered prompts": facts.texts,
        f"8-bit copies of large linear layers, where `linears` is {' or '.join(lossy)}": copies,
    }
    return f"""## Parts

SDXL in float16 with the released HyperLoRA (ID branch, rank 8). A ControlNet has about {facts.unet / 2 / GIB:.1f} GB
more; those that a batch does not use are let go, the longest unused first, where it has no room beside them.

Under a limit face networks run on the CPU, unless `PORTRAITS_FACE_PROVIDERS` names others: then each of the
{FACE_NETWORKS} may take {FACE_BYTES / GIB:g} GB of the GPU in ONNX Runtime's own memory, which the plan counts.

{_table(("weights", "GB"), [(name, f"{size / GIB:.2f}") for name, size in rows.items()])}

{
        _table(
            ("work", "GB"),
            [
                ("a step, each row of 1024x1024 (two rows a picture with guidance)", _gb(facts.step * 1024**2)),
                *((f"the same where `linears` is {name}", _gb(each.step * 1024**2)) for name, each in lossy.items()),
                ("texts' keys and values, each row", _gb(facts.row)),
                ("LoRAs of 8 ranks together on activations, each row of a mixed batch", _gb(facts.lora_bytes(8))),
                ("decoding a picture of 1024x1024", _gb(facts.decode * 1024**2)),
                ("reading a given picture of 1024x1024", _gb(facts.encode * 1024**2)),
                ("a crop of a photo in CLIP", _gb(facts.crop)),
                ("a photo in the resampler", _gb(facts.photo)),
            ],
        )
    }
"""


def _by_batch(facts: ModelFacts) -> str:
    rows = []
    for number in range(len(STEPS) + 1):
        measures = frozenset(STEPS[:number])
        plan = MemoryPlan(facts, measures, None, ASKED)
        name = f"+ {STEPS[number - 1]}" if number else "everything on the device"
        rows.append((name, *(f"{plan.peak_bytes(batch, rank=facts.rank) / GIB:.1f}" for batch in BATCHES)))
    return f"""## GB by batch and measures

1024x1024 with guidance, each picture with a LoRA of its own (the dearest kind of batch), the next person prepared
meanwhile. Each line adds a measure to those above it.

{_table(("measures", *(f"{batch}" for batch in BATCHES)), rows)}

Decoding is the largest piece of work: four pictures at once, the default, take more than a batch of sixteen takes in
the UNet. Where a line does not grow with the batch, another phase than denoising is the largest.
"""


def _limits(facts: ModelFacts) -> str:
    rows = []
    for limit in LIMITS:
        for asked in (4, 8, 16):
            plan = plan_memory(limit, facts, asked=asked)
            done = "; ".join(each for each in Measure if each in plan.measures) or "nothing"
            peak = plan.peak_bytes(plan.batch, rank=facts.rank) / GIB
            rows.append((f"{limit}", asked, plan.batch, f"{peak:.1f}", done))
    return f"""## What a limit chooses

{_table(("--vram-gb", "batch asked", "batch", "GB", "measures"), rows)}
"""


def _sizes(facts: ModelFacts) -> str:
    plans = {limit: plan_memory(limit, facts, asked=ASKED) for limit in LIMITS}
    rows = [
        (
            f"{width}x{height}",
            *(plan.largest_batch(width, height, rank=facts.rank) or "none" for plan in plans.values()),
        )
        for width, height in SIZES
    ]
    return f"""The largest batch of other sizes, where {ASKED} are asked for:

{_table(("pixels", *(f"{limit} GB" for limit in LIMITS)), rows)}

"none" means that the plan has no room for that size; a worker tries one picture all the same, as the plan's allowances
may be larger than need be, and fails the render with `out_of_memory` where it does not fit.
"""


def _costs(facts: ModelFacts) -> str:
    rows = [(each, f"{seconds_a_person(frozenset({each}), facts, 4):.2f}") for each in Measure]
    away = facts.bases + facts.attention + facts.text_encoders + facts.clip + facts.resamplers + facts.vae
    return f"""## What the measures cost

Computed, for a person with twenty pictures in batches of four, at 12 GB/s from pinned host memory (half of what PCIe
4.0 x16 can). Twenty pictures take about twenty seconds on the fastest cards, and minutes on those that need measures.

{_table(("measure", "seconds"), rows)}

Streamed bases, visits and pristine weights in host memory need as much pinned memory there as they save on the device:
about {away / GIB:.0f} GB for all of them, and all weights once more while a profile is loaded.
"""


def _how() -> str:
    fixed = f"{CONTEXT / GIB:.2f} GB (CUDA) + {SCRATCH / GIB:.2f} GB (inside kernels)"
    return f"""## How it is counted

    all = {fixed} + {1 + LOST:.2f} * (what stays + drawing + preparing)

What stays is the UNet, remembered prompts and every part that does not visit. Drawing is the largest of its phases:
texts (visiting encoders and a pass), denoising (rows times a step, texts and LoRAs, whose ranks together are filled up
to 8, 16, 32 or a multiple of 32), decoding (a visiting VAE and its work), merging (at most {MERGE / GIB:.2f} GB and a
LoRA). Preparing is CLIP and resampler with {MOST_IMAGES} crops and {MOST_PHOTOS} photos at a time, or mixing. Where
CLIP and resampler visit, they read {FEW_PHOTOS} at a time and take turns with drawing, so the larger of the two counts.
ControlNets add their weights and make a step {CONTROLLED:g} times as large.

Weights and work are exact for the eager networks, and a test counts other batches and sizes. Compiled networks take
less for elementwise work; what a captured graph takes is not in it. CUDA's share, kernels' share and the {LOST:.0%}
that an allocator loses are allowances, not measurements. Attention is taken as fused: no table of all pairs of tokens.

## When it does not fit all the same

A batch that runs out of memory is cut in half and drawn again, and the worker remembers: in
`PORTRAITS_HOME/batches.json`, for the device, the model, the limit and the kind of picture, so that the next start
knows it too. The lesson holds for an hour; then twice as many are tried once. If they fit, they hold; if not, the
lesson holds four times as long as before, up to a week.
"""


def _gb(size: float) -> str:
    return f"{size / GIB:.3f}"


def _table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    return "\n".join(_lines(head, rows))


def _lines(head: Sequence[object], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    yield f"| {' | '.join(map(str, head))} |"
    yield f"|---|{'---:|' * (len(head) - 1)}"
    for row in rows:
        yield f"| {' | '.join(map(str, row))} |"


if __name__ == "__main__":
    model = BlankModel.released()
    counted = ModelFacts.of(model)
    written = page(counted, lossy_facts(counted, model))
    if "--check" in sys.argv[1:]:
        if not TARGET.exists() or TARGET.read_text(encoding="utf-8") != written:
            sys.exit("docs/memory.md is not what is counted; run python scripts/memory_page.py")
    else:
        TARGET.write_text(written, encoding="utf-8")
