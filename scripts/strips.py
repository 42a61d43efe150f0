"""Draw the strips of pictures in the docs with the mini pack: `python scripts/strips.py [NAME...]`.

A few minutes on two cores; the same machine draws the same pixels again.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from hyperlora.coefficients import interpolate, mix
from hyperlora.detail import face_mask
from hyperlora.errors import LoRAMismatch
from hyperlora.faces import find_faces
from hyperlora.lora import LoRA
from hyperlora.lora_formats import FORMATS
from hyperlora.mini.attributes import Attributes
from hyperlora.mini.painter import portrait
from hyperlora.mini.people import person as drawn_person
from hyperlora.mini.photos import PHOTOS as PEOPLE
from hyperlora.pipeline import PortraitPipeline
from hyperlora.refine import refine
from hyperlora.regional import Region
from jobs.profiles import MINI, find_profile
from jobs.settings import Settings
from worker.lora_tools.drawing import load_pipeline
from worker.lora_tools.maker import LoRAMaker, Person, Place
from worker.lora_tools.photos import read_photos
from worker.lora_tools.strip import Row, Strip, Tile, draw_strip
from worker.quiet import quiet_libraries

ROOT = Path(__file__).resolve().parents[1]
PHOTOS, IMAGES = ROOT / "examples" / "photos", ROOT / "docs" / "images"
PROMPT = "portrait photo of a person, wearing a blue sweater, smiling, in a garden"
SEED, STEPS, WEIGHT, SIDE, GUIDANCE = 4, 20, 0.8, 64, 3.0


class Studio:
    """The mini pack, loaded once."""

    def __init__(self, home: Path) -> None:
        self.settings = Settings(home=home, profile=MINI)
        profile = find_profile(self.settings, MINI)
        self.notice = profile.notice
        place = Place.of(profile, self.settings)
        self.maker = LoRAMaker.load(place)
        self.pipeline: PortraitPipeline = load_pipeline(place)
        self._home = home

    def person(self, who: str) -> Person:
        """One of the example people, from all photos."""
        photos = read_photos([PHOTOS / f"{who}-*.jpg"], self.settings)
        return self.maker.read(photos, ["clearest"] * len(photos))

    def coefficients(self, who: str) -> object:
        """How this person mixes the bases."""
        found = self.person(who).conditions
        return self.maker.network.coefficients(found.face_embeddings, found.clip_tokens)

    def portrait(self, who: str, **attributes: str) -> Person:
        """The same person drawn with other attributes and the same pose, read like a photo."""
        file = self._home / f"{who}-{'-'.join(attributes.values())}.png".replace(" ", "-")
        portrait(drawn_person(PEOPLE[who][0]), Attributes(**attributes), seed=3, size=512).save(file)
        return self.maker.read(read_photos([file], self.settings), ["clearest"])

    def draw(
        self, *loras: tuple[LoRA, float], prompt: str = PROMPT, seed: int = SEED, **options: object
    ) -> Image.Image:
        """One picture."""
        settings = {"steps": STEPS, "guidance": GUIDANCE, "width": SIDE, "height": SIDE, **options}
        return self.pipeline(prompt, list(loras), seeds=seed, **settings)[0]  # type: ignore[arg-type]


def generate(studio: Studio) -> list[Row]:
    """People down, LoRA weights across."""
    rows = []
    for who in ("ada", "grace", "omar"):
        person = studio.person(who)
        lora = studio.maker.generate(person, "id")
        tiles = [Tile(person.photos[0].image, "a photo")]
        tiles += [Tile(studio.draw((lora, weight)), f"weight {weight:g}") for weight in (0.0, 0.4, 0.8, 1.2)]
        rows.append(Row(f"{who}, {_photos(len(person.photos))}", tiles))
    return rows


def mixed(studio: Studio) -> list[Row]:
    """From one person to another, and three people in one."""
    network = studio.maker.network
    ada, alan, omar = (studio.coefficients(who) for who in ("ada", "alan", "omar"))
    walk = [
        Tile(studio.draw((network.lora(interpolate(ada, alan, t)), WEIGHT)), f"{1 - t:g} ada, {t:g} alan")  # type: ignore[arg-type]
        for t in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    corners = []
    for shares in ((1, 0, 0), (0.6, 0.2, 0.2), (1, 1, 1), (0.2, 0.2, 0.6), (0, 0, 1)):
        pairs = [(c, share) for c, share in zip((ada, alan, omar), shares, strict=True) if share]
        blend = network.lora(mix(pairs))  # type: ignore[arg-type]
        corners.append(Tile(studio.draw((blend, WEIGHT)), " : ".join(f"{share:g}" for share in shares)))
    return [Row("from ada to alan: coefficients are mixed", walk), Row("ada : alan : omar", corners)]


def slider(studio: Studio) -> list[Row]:
    """Two sliders beside a person's LoRA, at weights on both sides of zero."""
    rows = []
    hedy = studio.maker.generate(studio.person("hedy"), "id")
    changes = {"laughing": {"expression": "laughing"}, "sunglasses": {"accessory": "sunglasses"}}
    for name, attributes in changes.items():
        original, edited = studio.portrait("ada", expression="neutral"), studio.portrait("ada", **attributes)
        lora = studio.maker.slide(edited, original, "id")
        tiles = [Tile(original.photos[0].image, "original"), Tile(edited.photos[0].image, "edited")]
        for weight in (-2.0, -1.0, 0.0, 1.0, 2.0):
            tiles.append(
                Tile(studio.draw((hedy, WEIGHT), (lora, weight)), f"slider {weight:+g}" if weight else "no slider")
            )
        rows.append(Row(f"{name}: made of two pictures of ada, applied beside hedy's LoRA", tiles))
    return rows


def formats(studio: Studio) -> list[Row]:
    """One LoRA through every file format, read back and drawn."""
    lora = studio.maker.generate(studio.person("ada"), "id")
    tiles = [Tile(studio.draw((lora, WEIGHT)), "never saved")]
    for form in FORMATS:
        try:
            back = LoRA.from_bytes(lora.to_bytes(form))  # type: ignore[arg-type]
        except LoRAMismatch as error:  # kohya names SDXL's own blocks alone, and the small UNet has others
            print(f"left out: {error}")
            continue
        tiles.append(Tile(studio.draw((back, WEIGHT)), form))
    return [Row("ada, saved in each format, read back and drawn", tiles)]


def branches(studio: Studio) -> list[Row]:
    """The face alone, what is around it alone, and both."""
    rows = []
    for who in ("ada", "omar"):
        person = studio.person(who)
        face, base = studio.maker.generate(person, "id"), studio.maker.generate(person, "base")
        tiles = [
            Tile(studio.draw((face, WEIGHT)), f"ID {WEIGHT:g}"),
            Tile(studio.draw((base, WEIGHT)), f"Base {WEIGHT:g}"),
        ]
        for weight in (0.2, 0.4, 0.8):
            tiles.append(Tile(studio.draw((face, WEIGHT), (base, weight)), f"ID {WEIGHT:g} + Base {weight:g}"))
        rows.append(Row(who, tiles))
    return rows


def words(studio: Studio) -> list[Row]:
    """The same prompts with and without the trigger words."""
    lora = studio.maker.generate(studio.person("ada"), "id")
    prompts = tuple(
        f"portrait photo of a person, wearing {words}"
        for words in ("a navy suit, in an office", "a red t-shirt, on a beach", "a hoodie, under a starry sky")
    )
    rows, known = [], studio.pipeline.trigger_words
    for label, trigger in ((f'with "{known}"', known), ("without", "")):
        studio.pipeline.trigger_words = trigger
        rows.append(
            Row(
                label,
                [Tile(studio.draw((lora, WEIGHT), prompt=text), text.partition("wearing ")[2]) for text in prompts],
            )
        )
    studio.pipeline.trigger_words = known
    return rows


def samplers(studio: Studio) -> list[Row]:
    """Samplers down, steps across, without guidance as few-step models are drawn."""
    lora = studio.maker.generate(studio.person("ada"), "id")
    rows = []
    for name in ("dpmpp_2m_karras", "euler_trailing", "tcd", "lcm"):
        drawn = [
            Tile(
                studio.draw((lora, WEIGHT), steps=steps, scheduler=name, guidance=0.0),
                f"{steps} step{'s'[: steps > 1]}",
            )
            for steps in (1, 2, 4, 8)
        ]
        rows.append(Row(name, drawn))
    return rows


def refined(studio: Studio) -> list[Row]:
    """One LoRA as it was emitted, and after more and more steps of training on the same photos."""
    rows = []
    for who in ("ada", "omar"):
        person = studio.person(who)
        lora = studio.maker.generate(person, "id")
        photos = [photo.image for photo in person.photos]
        tiles = [Tile(studio.draw((lora, WEIGHT)), "as it was emitted")]
        for steps in (10, 50, 200):
            studio.pipeline.restore()  # the plain base model is trained on
            after = refine(studio.pipeline, lora, photos, steps=steps, analyzer=studio.maker.analyzer)
            tiles.append(Tile(studio.draw((after, WEIGHT)), f"{steps} steps"))
        rows.append(Row(f"{who}, trained on {_photos(len(photos))}", tiles))
    return rows


def start(studio: Studio) -> list[Row]:
    """A picture that drawing starts from, at growing strength."""
    given = Image.open(PHOTOS / "grace-2.jpg").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    tiles = [Tile(given, "the picture")]
    lora = studio.maker.generate(studio.person("ada"), "id")
    for strength in (0.2, 0.4, 0.6, 0.8, 1.0):
        tiles.append(Tile(studio.draw((lora, WEIGHT), image=given, strength=strength), f"strength {strength:g}"))
    return [Row("image: {file: grace-2.jpg, strength: ...}, drawn with ada's LoRA", tiles)]


def inpaint(studio: Studio) -> list[Row]:
    """Only the face of a given picture, and only what is white in a mask."""
    lora = studio.maker.generate(studio.person("ada"), "id")
    photo = Image.open(PHOTOS / "hedy-1.jpg").convert("RGB")
    face = face_mask(photo.size, find_faces(studio.maker.analyzer, np.asarray(photo))[0])
    around = Image.open(ROOT / "examples" / "pictures" / "around-the-person.png").convert("L")
    given = photo.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    rows = []
    for title, mask in (("mask: face", face), ("mask: around-the-person.png", around)):
        fitted = mask.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        tiles = [Tile(given, "the picture"), Tile(fitted, "the mask")]
        for strength in (0.6, 0.9, 1.0):
            drawn = studio.draw((lora, WEIGHT), image=given, mask=fitted, strength=strength)
            tiles.append(Tile(drawn, f"strength {strength:g}"))
        rows.append(Row(title, tiles))
    return rows


def together(studio: Studio) -> list[Row]:
    """Two people, each in a half of the picture."""
    ada, omar = (studio.maker.generate(studio.person(who), "id") for who in ("ada", "omar"))
    left, right = Image.new("L", (SIDE, SIDE)), Image.new("L", (SIDE, SIDE))
    left.paste(255, (0, 0, SIDE // 2, SIDE))
    right.paste(255, (SIDE // 2, 0, SIDE, SIDE))
    tiles = [Tile(studio.draw((ada, WEIGHT)), "ada everywhere"), Tile(studio.draw((omar, WEIGHT)), "omar everywhere")]
    for first, second, label in ((ada, omar, "ada left, omar right"), (omar, ada, "omar left, ada right")):
        regions = [Region(((first, WEIGHT),), left), Region(((second, WEIGHT),), right)]
        tiles.append(Tile(studio.draw(regions=regions), label))
    return [Row("identity: {together: {ada: left, omar: right}}", tiles)]


def norms(studio: Studio) -> list[Row]:
    """How strongly each layer is changed, a bar for each, in the order of the UNet."""
    tiles = []
    for who in ("ada", "grace", "omar"):
        lora = studio.maker.generate(studio.person(who), "id")
        tiles.append(Tile(_bars([float(layer.delta().norm()) for layer in lora.layers.values()]), who))
    return [Row("the norm of each layer's change, from the first block to the last", tiles)]


def _bars(values: list[float], height: int = 336) -> Image.Image:
    """A bar for each value, the tallest as high as the picture."""
    page = Image.new("RGB", (4 * len(values), height), "#f1efe9")
    pen = ImageDraw.Draw(page)
    for place, value in enumerate(values):
        tall = round(value / max(values) * (height - 24))
        pen.rectangle((4 * place, height - tall, 4 * place + 2, height), "#4a6fa5")
    return page


def _photos(count: int) -> str:
    return f"{count} photo{'s' if count > 1 else ''}"


STRIPS: dict[str, tuple[str, Callable[[Studio], list[Row]]]] = {
    "generate": ("portraits lora generate: one pass for each person", generate),
    "mix": ("portraits lora mix: people between people", mixed),
    "slide": ("portraits lora slide: the edited pictures minus the original ones", slider),
    "convert": ("portraits lora convert: the same LoRA under other programs' names", formats),
    "inspect": ("portraits lora inspect: how large the change is, and where", norms),
    "refine": ("portraits lora refine: ordinary training from an emitted LoRA", refined),
    "image": ("Start from a picture", start),
    "inpaint": ("Redraw a part of a picture", inpaint),
    "together": ("Two people in one picture", together),
    "branches": ("ID, Base and Full", branches),
    "trigger-words": ("Trigger words", words),
    "samplers": ("Samplers at few steps", samplers),
}


def main(names: list[str]) -> None:
    """Draw the named strips, or all."""
    unknown = set(names) - STRIPS.keys()
    if unknown:
        sys.exit(f"no strip is called {', '.join(sorted(unknown))}; there are {', '.join(STRIPS)}")
    quiet_libraries()
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home:
        studio = Studio(Path(home))
        for name in names or STRIPS:
            title, draw = STRIPS[name]
            page = draw_strip(Strip(title, draw(studio), studio.notice))
            page.save(IMAGES / f"strip-{name}.jpg", quality=86, optimize=True)
            print(f"docs/images/strip-{name}.jpg  {page.width}x{page.height}")


if __name__ == "__main__":
    main(sys.argv[1:])
