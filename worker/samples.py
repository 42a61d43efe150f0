"""From drawings to what the renderer is asked for: texts, seeds, and the given pictures at the right size."""

from __future__ import annotations

from dataclasses import replace

from PIL import Image

from hyperlora.errors import InvalidRequest
from jobs.options import ControlOption, Picture
from jobs.storage import Storage
from worker.cast import Cast
from worker.pictures import GivenPictures
from worker.plan import BatchKey
from worker.renderer import Photo, Renderer, Sample, Setting
from worker.trial import Draw

KEPT_KEYPOINTS = 16


def text_sample(draw: Draw) -> Sample:
    """The texts, the seed and how they are read; without pictures."""
    render, options = draw.render, draw.trial.options
    words = draw.part.words if draw.part is not None else ""
    return Sample(
        prompt=f"{render.prompt}, {words}" if words else render.prompt,
        negative_prompt=render.negative_prompt,
        seed=draw.seed,
        guidance=render.guidance,
        trigger_words=options.trigger_words,
        weighted=options.weighting == "compel",
    )


def setting_of(key: BatchKey, cast: Cast) -> Setting:
    """What a batch of this key has in common."""
    return Setting(
        width=key.width,
        height=key.height,
        steps=key.steps,
        scheduler=key.scheduler,
        strength=key.strength,
        controls=key.controls,
        places=cast.places(key),
    )


class Samples:
    """Makes samples for one group; a picture that several renders are given is read once."""

    def __init__(self, renderer: Renderer, storage: Storage, pictures: GivenPictures, cast: Cast) -> None:
        self._renderer, self._storage, self._pictures, self._cast = renderer, storage, pictures, cast
        self._keypoints: dict[tuple[str, int, int], Image.Image] = {}

    def of(self, draw: Draw, key: BatchKey) -> Sample:
        """One sample with its pictures. Raises ObjectMissing, FaceError, InvalidRequest."""
        sample, options = text_sample(draw), draw.trial.options
        if draw.part is not None:
            return replace(sample, image=draw.part.start)
        control = tuple(self._control(option, key.width, key.height) for option in options.control)
        if options.start is None:
            return replace(sample, control=control)
        image = self._pictures.image(options.start.image, key.width, key.height, tenant=self._cast.tenant)
        mask = None
        if options.start.mask == "face":
            mask = self._renderer.face_mask(image)
        elif options.start.mask is not None:
            mask = self._pictures.mask(options.start.mask, key.width, key.height, tenant=self._cast.tenant)
        return replace(sample, control=control, image=image, mask=mask)

    def _control(self, option: ControlOption, width: int, height: int) -> Image.Image:
        if option.image is not None:
            return self._pictures.image(option.image, width, height, tenant=self._cast.tenant)
        wanted = option.keypoints
        name = wanted.sha256 if isinstance(wanted, Picture) else "photo"
        if (name, width, height) not in self._keypoints:
            if isinstance(wanted, Picture):
                photos = [Photo(self._pictures.read(wanted, tenant=self._cast.tenant))]
            else:
                photos = self._photos()
            while len(self._keypoints) >= KEPT_KEYPOINTS:
                self._keypoints.pop(next(iter(self._keypoints)))
            self._keypoints[name, width, height] = self._renderer.keypoints(photos, width, height)
        return self._keypoints[name, width, height]

    def _photos(self) -> list[Photo]:
        if len(self._cast.roles) > 1:
            raise InvalidRequest(
                "key points are drawn from one person's photo, this picture shows several; name a picture instead: "
                "control: [{net: ..., keypoints: FILE}]"
            )
        source = self._cast.roles[0].source
        photos = source.photos or tuple(
            photo for member in source.members for photo in self._cast.source_of(member.photo_set_id).photos
        )
        if not photos:
            raise InvalidRequest("key points are drawn from a person's photo, this identity has none; name a picture")
        return [Photo(self._storage.get(photo.storage_key), photo.face) for photo in photos]
