#!/usr/bin/env python
"""From photos to loaded LoRAs: milliseconds a person, photo by photo as against many people together, stage by stage.

    python bench/people.py                                         the mini pack's sizes on a CPU
    python bench/people.py --device cuda --out results/h100        CLIP ViT-L/14 and HyperLoRA in SDXL's sizes
    python bench/people.py --device cuda --faces insightface:~/antelopev2 --photos ~/portraits

Weights of CLIP and of the hypernetwork are random, as reading costs the same whatever they say. Faces are found and
known by a real pack, for its work depends on what it finds: by default the mini pack's in drawn portraits of `--side`
pixels; name a pack and photos of your own for figures that hold for them. Both ways take turns in every round:

    apart       one photo after the other, one person after the other
    together    everybody's photos in one pass over every network, as a worker does with those it claims together

The stages are timed one by one, with the device waited for; `load` reads a stored LoRA, as other workers do. `product`
is what a worker runs, all at once, up to the bytes to be stored.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from bench import common
from bench.common import Spread, timed, wait
from bench.random_models import GEOMETRIES, random_hyperlora
from hyperlora.clip import ClipVision
from hyperlora.faces import FaceAnalyzer, load_analyzer
from hyperlora.faces.closer import embed_closely_many
from hyperlora.faces.crops import masked_face
from hyperlora.faces.photo import upright_rgb
from hyperlora.faces.prepare import upright_searches
from hyperlora.lora import LoRA
from hyperlora.mini.attributes import Attributes
from hyperlora.mini.painter import portrait
from hyperlora.mini.people import person
from hyperlora.network import HyperLoRA
from hyperlora.side_by_side import side_by_side
from jobs.photos import decode_photo
from jobs.settings import Settings
from worker.generation import Generation
from worker.quiet import quiet_libraries
from worker.renderer import Order, Person

STAGES = ("decode", "detect", "recognise", "cut", "clip", "coefficients", "mix", "save", "load")
SLIDES = {"preprocess": 1143, "inference": 4327}
"""Milliseconds that the method's slides report for HyperLoRA (Full): a person prepared, and a picture drawn."""
WANTED = 50
"""Milliseconds a person on an H100."""
MINI_FACES = common.ROOT / "packs" / "mini-tiny" / "mini_faces"
WEAR = (("suit", "grey", "office"), ("sweater", "green", "forest"), ("t-shirt", "yellow", "beach"))


@dataclass
class Networks:
    """All that reads photos."""

    analyzer: FaceAnalyzer
    clip: ClipVision
    network: HyperLoRA
    settings: Settings
    device: torch.device

    def product(self, orders: Sequence[Order]) -> None:
        """As a worker makes them: generated together, loaded already."""
        generation = Generation(self.network, self.clip, self.analyzer, self.settings)
        made = generation.many(orders)
        for fault in (each for each in made if isinstance(each, Exception)):
            raise fault


class Clock:
    """Seconds of every stage."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what is inside, with all that the device was given."""
        wait(self._device)
        began = time.perf_counter()
        yield
        wait(self._device)
        self.seconds[name] += time.perf_counter() - began


@torch.no_grad()
def pass_over(nets: Networks, people: Sequence[Person], clock: Clock) -> None:
    """These people through every stage, all in one pass."""
    files = [data for each in people for data in each.photos]
    with clock.stage("decode"):
        opened = side_by_side(lambda data: upright_rgb(decode_photo(data, nets.settings)), files)
    with clock.stage("detect"):
        upright = upright_searches(nets.analyzer, [photo.image for photo in opened])
        seen = [(each.photo, each.search.faces[0]) for each in upright if each.search.faces]
    if len(seen) < len(files):
        raise SystemExit(f"{len(files) - len(seen)} of {len(files)} photos show no face to this pack; choose others")
    with clock.stage("recognise"):
        looks = embed_closely_many(nets.analyzer, seen)
    with clock.stage("cut"):
        pictures = side_by_side(lambda each: masked_face(*each), seen)
    with clock.stage("clip"):
        tokens = nets.clip.tokens(pictures)
    vectors = torch.stack([torch.from_numpy(look.embedding_E) for look in looks if not isinstance(look, Exception)])
    counts = [len(each.photos) for each in people]
    with clock.stage("coefficients"):
        rows = nets.network.coefficients_many(list(zip(vectors.split(counts), tokens.split(counts), strict=True)))
    with clock.stage("mix"):
        loras = nets.network.loras(rows)
    with clock.stage("save"):
        saved = side_by_side(LoRA.to_bytes, [lora.to("cpu") for lora in loras])
    with clock.stage("load"):
        side_by_side(LoRA.from_bytes, saved)


def apart(nets: Networks, people: Sequence[Person], clock: Clock) -> None:
    """One photo after the other through decoder, detector and recogniser; one person after the other through all."""
    for each in people:
        for photo in each.photos[1:]:
            alone = Clock(nets.device)
            pass_over(nets, [Person([photo], ["photo"], [None])], alone)
            for stage in ("decode", "detect", "recognise", "cut", "clip"):
                clock.seconds[stage] += alone.seconds[stage]
        # The first photo goes the whole way: mixing is the same for one photo and for many.
        pass_over(nets, [Person(each.photos[:1], ["photo"], [None])], clock)


def measure(nets: Networks, options: argparse.Namespace) -> dict[str, Any]:
    """Every number of people and photos, both ways in every round."""
    rows = []
    for people_count in options.people:
        for photo_count in options.photo_counts:
            people = some_people(people_count, photo_count, options)
            rows.append(compare(nets, people, options.repeat))
    last = rows[-1]
    return {
        "faces": nets.analyzer.name,
        "runs_on": list(getattr(nets.analyzer, "providers", ("OpenCV on the CPU",))),
        "model": options.model,
        "side": options.side,
        "rows": rows,
        "stages": {way: last[way]["stages"] for way in ("apart", "together")},
        "milliseconds_per_person": last["product_ms"],
        "slides_milliseconds": SLIDES,
        "wanted_milliseconds": WANTED,
    }


def compare(nets: Networks, people: Sequence[Person], repeat: int) -> dict[str, Any]:
    """Milliseconds a person, of every stage and of all; and what a worker runs, one by one and together."""
    ways: dict[str, Callable[[Clock], None]] = {
        "apart": lambda clock: apart(nets, people, clock),
        "together": lambda clock: pass_over(nets, people, clock),
    }
    orders = [Order("photos", [each]) for each in people]
    products: dict[str, Callable[[], None]] = {
        "product_one_by_one_ms": lambda: [nets.product([order]) for order in orders] and None,
        "product_ms": partial(nets.product, orders),
    }
    stages: dict[str, dict[str, list[float]]] = {way: {stage: [] for stage in STAGES} for way in ways}
    whole: dict[str, list[float]] = {name: [] for name in products}
    each_ms = 1000 / len(people)
    for turn in range(repeat + 1):
        for way in sorted(ways, reverse=bool(turn % 2)):
            clock = Clock(nets.device)
            ways[way](clock)
            for stage, seconds in clock.seconds.items():
                stages[way][stage] += [seconds * each_ms] if turn else []  # the first round warms up
        for name in sorted(products, reverse=bool(turn % 2)):
            seconds = timed(products[name], nets.device)
            whole[name] += [seconds * each_ms] if turn else []
    sums = {way: [sum(round_) for round_ in zip(*each.values(), strict=True)] for way, each in stages.items()}
    told = {
        way: {"all": Spread.of(sums[way]), "stages": {stage: Spread.of(each) for stage, each in stages[way].items()}}
        for way in ways
    }
    faster = [one / other for one, other in zip(sums["apart"], sums["together"], strict=True)]
    return {
        "people": len(people),
        "photos": len(people[0].photos),
        **told,
        "faster_together": Spread.of(faster),
        **{name: Spread.of(each) for name, each in whole.items()},
    }


def some_people(count: int, photos: int, options: argparse.Namespace) -> list[Person]:
    """People with so many JPEG photos each: the given ones in turn, or drawn ones."""
    files = _given(options.photos) if options.photos else _drawn(count * photos, options.side)
    data = [files[number % len(files)] for number in range(count * photos)]
    names, faces = ["photo"] * photos, [None] * photos
    return [Person(data[number * photos : (number + 1) * photos], names, faces) for number in range(count)]


def _given(folder: Path) -> list[bytes]:
    files = sorted(file for file in folder.expanduser().iterdir() if file.suffix.lower() in (".jpg", ".jpeg"))
    if not files:
        raise SystemExit(f"no JPEG photos in {folder}")
    return [file.read_bytes() for file in files]


DRAWN: dict[tuple[int, int], bytes] = {}


def _drawn(count: int, side: int) -> list[bytes]:
    """At most eight different ones: drawing them costs far more than looking at them."""
    for number in range(min(count, 8)):
        if (number, side) not in DRAWN:
            wears = Attributes(*WEAR[number % len(WEAR)], "none", "smiling")
            image = portrait(person(2_000_002 + number % 2), wears, number, size=512)
            file = io.BytesIO()
            image.resize((side, side), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
            DRAWN[number, side] = file.getvalue()
    return [DRAWN[number, side] for number in range(min(count, 8))]


def networks(options: argparse.Namespace) -> Networks:
    """Random ones of the model's sizes, and a real face pack."""
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

    geometry, settings = GEOMETRIES[options.model], Settings()
    providers = options.providers.split(",") if options.providers else None
    analyzer = load_analyzer(options.faces, providers=providers, engine_cache=options.engines)
    sizes = CLIPVisionConfig(**geometry.clip, intermediate_size=4 * geometry.clip["hidden_size"])
    side = geometry.clip["image_size"]
    tower: Any = CLIPVisionModel(sizes).to(options.device, options.dtype)
    processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    network = random_hyperlora(
        geometry, options.device, options.dtype, face_encoder=analyzer.name, face_width=analyzer.embedding_size
    )
    return Networks(analyzer, ClipVision(tower, processor), network, settings, options.device)


def markdown(found: dict[str, Any]) -> str:
    """The tables of a result."""
    head = (
        f"{found['model']} sizes, faces by {found['faces']} on {', '.join(found['runs_on'])}, photos of "
        f"{found['side']} pixels; ms a person, medians and in brackets quartiles. Slides: {SLIDES['preprocess']} ms "
        f"for a person (and {SLIDES['inference']} ms for a picture), device unknown; wanted of an H100: {WANTED} ms."
    )
    rows = [
        (
            row["people"],
            row["photos"],
            row["apart"]["all"].told(),
            row["together"]["all"].told(),
            row["faster_together"].told(),
            row["product_one_by_one_ms"].told(),
            row["product_ms"].told(),
        )
        for row in found["rows"]
    ]
    titles = ("people", "photos each", "apart", "together", "times as fast", "product, one by one", "product, together")
    stages = [
        (stage, found["stages"]["apart"][stage].told(), found["stages"]["together"][stage].told()) for stage in STAGES
    ]
    last = found["rows"][-1]
    below = f"Stage by stage, {last['people']} people with {last['photos']} photos each:"
    table = common.table(("stage", "apart", "together"), stages)
    return f"{head}\n\n{common.table(titles, rows)}\n\n{below}\n\n{table}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print Markdown, write JSON."""
    made = common.parser(__doc__, repeat=5)
    faces = f"insightface:{MINI_FACES}" if MINI_FACES.is_dir() else "opencv"
    made.add_argument("--faces", default=faces, help=f"face analyzer as a profile names it; default: {faces}")
    made.add_argument("--providers", help="where a pack runs, best first: tensorrt,cuda,cpu; default: the best present")
    made.add_argument("--engines", type=Path, help="folder for TensorRT's engines")
    made.add_argument("--photos", type=Path, help="folder of JPEG photos, each with a face; default: drawn ones")
    made.add_argument("--side", type=int, default=1024, help="pixels of a drawn photo's side")
    made.add_argument("--people", type=common.numbers, default=[1, 4, 8], help="people together")
    made.add_argument("--photo-counts", type=common.numbers, default=[1, 3], help="photos of each")
    options = common.parsed(made, arguments)
    if options.toy:
        options.people, options.photo_counts, options.side = [2], [1, 2], 256
    quiet_libraries()
    found = measure(networks(options), options)
    common.finish("people", found, markdown(found), options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
