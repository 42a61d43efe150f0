"""Training without preparation: a plain folder or plain shards, whose conditions are computed as they are asked for.

Shapes: B pictures of a batch, N of the set, S pixels of a side, T and C tokens and width of CLIP's vision tower, E
numbers of a face embedding.

Every photo is looked at once, at the start, as `portraits dataset prepare` would: where its face is, whether it can be
used, its embedding. Pictures and CLIP tokens are made anew for each batch; for more than a few thousand photos, or many
epochs, prepare the set instead.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from hyperlora.dataset.crop import Square, cut
from hyperlora.dataset.info import DatasetInfo
from hyperlora.dataset.picture import MOST_PICTURE_BYTES, decode_picture
from hyperlora.dataset.reader import Indices, PortraitBatch, checked_indices, pixels_of
from hyperlora.dataset.screen import Dropped, Rules, Sample, screen
from hyperlora.dataset.sources import Source, list_sources
from hyperlora.errors import DatasetMissing, InvalidRequest
from hyperlora.faces.crops import faceless, masked_face
from hyperlora.faces.photo import upright_rgb
from hyperlora.faces.prepare import upright_search
from hyperlora.faces.types import Face, FaceAnalyzer
from hyperlora.identity import ImageTokens

logger = logging.getLogger(__name__)


class _Usable:
    """What is remembered of a photo: where its face is, and where it is cut."""

    def __init__(self, source: Source, sample: Sample) -> None:
        self.source, self.caption, self.record = source, sample.caption, sample.record
        self.face: Face = sample.conditions.face
        self.square: Square = sample.square
        self.embedding_E = torch.from_numpy(sample.conditions.face_embedding)
        # Photos that lie on their side were turned by their face; they are turned again each time.
        self.turned = any(finding.code == "turned_photo" for finding in sample.conditions.findings)


class LivePortraits:
    """Usable photos of a folder as training reads a prepared set."""

    def __init__(
        self,
        folder: str | Path,
        analyzer: FaceAnalyzer,
        clip: ImageTokens | None,
        rules: Rules,
        *,
        clip_vision: str | None = None,
        people: bool = True,
    ) -> None:
        """Look at every photo; those that break a rule are left out and logged.

        Parameters
        ----------
        folder
            Pictures in folders, or webdataset shards.
        analyzer, clip
            The face analyzer; CLIP's vision tower, None where no stream reads its tokens.
        rules
            What a photo must be; `rules.size` is the pictures' side.
        clip_vision
            Name of the tower, for the checkpoint that is trained.
        people
            Take the first folders for people.

        Raises
        ------
        DatasetMissing
            No picture, or none that is usable.
        DatasetDamaged
            A tar cannot be read.
        """
        self._analyzer, self._clip, self._rules = analyzer, clip, rules
        self._photos: list[_Usable] = []
        for source in list_sources([Path(folder)], people=people):
            try:
                self._photos.append(_Usable(source, screen(source, analyzer, rules)))
            except Dropped as dropped:
                logger.warning("not trained on %r: %s (%s)", source.name, dropped, dropped.code)
        if not self._photos:
            raise DatasetMissing(f"no photo of {folder} can be trained on; the log names each one's reason")
        tokens = clip.tokens([Image.new("RGB", (rules.size, rules.size))]) if clip is not None else None
        self.info = DatasetInfo(
            count=len(self._photos),
            image_size=rules.size,
            face_encoder=analyzer.name,
            face_width=analyzer.embedding_size,
            clip_vision=clip_vision,
            clip_tokens=None if tokens is None else (tokens.shape[1], tokens.shape[2]),
        )

    def __len__(self) -> int:
        return len(self._photos)

    @property
    def persons(self) -> npt.NDArray[np.int64] | None:
        """(N,) a number for each person, negative where somebody is not known; None where nobody is."""
        numbers = [photo.record["person"] for photo in self._photos]
        if all(number is None for number in numbers):
            return None
        return np.array([-1 - row if number is None else number for row, number in enumerate(numbers)], dtype=np.int64)

    def batch(self, indices: Indices, *, references: Indices | None = None, pixels: bool = False) -> PortraitBatch:
        """As `PortraitDataset.batch`; pixels are always decoded.

        Raises `InvalidRequest` for numbers beyond the set, and `BadPhoto`, `DatasetDamaged` where a photo has changed.
        """
        del pixels
        rows = checked_indices(indices, len(self), "indices").tolist()
        faces = rows if references is None else checked_indices(references, len(self), "references").tolist()
        if len(faces) != len(rows):
            raise InvalidRequest(f"one reference for each sample: found {len(faces)} for {len(rows)}")
        photos = {row: self._upright(self._photos[row]) for row in {*rows, *faces}}
        clip_tokens = base_tokens = None
        if self._clip is not None:
            shown = [masked_face(photos[row], self._photos[row].face) for row in faces]
            shown += [faceless(photos[row], self._photos[row].face) for row in rows]
            tokens_MTC = self._clip.tokens(shown)
            clip_tokens, base_tokens = tokens_MTC[: len(rows)], tokens_MTC[len(rows) :]
        return PortraitBatch(
            captions=[self._photos[row].caption for row in rows],
            pixels_B3HW=pixels_of([cut(photos[row], self._photos[row].square, self._rules.size) for row in rows]),
            latents_BCHW=None,
            clip_tokens_BTC=clip_tokens,
            base_tokens_BTC=base_tokens,
            face_embeddings_BE=torch.stack([self._photos[row].embedding_E for row in faces]),
        )

    def _upright(self, usable: _Usable) -> Image.Image:
        photo = upright_rgb(decode_picture(usable.source.entry.picture.read(MOST_PICTURE_BYTES, usable.source.name)))
        return upright_search(self._analyzer, photo.image)[0] if usable.turned else photo.image
