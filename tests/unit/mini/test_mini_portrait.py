"""Portraits: pixels, labels, landmarks, and that detectors take them for faces."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from hyperlora.faces import load_analyzer
from hyperlora.mini.attributes import STYLES, VOCABULARY, Attributes, draw_attributes
from hyperlora.mini.landmarks import POLYGON
from hyperlora.mini.painter import portrait
from hyperlora.mini.people import TEST, person
from hyperlora.mini.pose import Pose

# the 106-point order of InsightFace's 2d106det
LEFT_EYE, RIGHT_EYE, MOUTH = range(33, 43), range(87, 97), range(52, 72)
LEFT_PUPIL, RIGHT_PUPIL, NOSE_TIP, MOUTH_CORNERS = 38, 88, 86, (52, 61)


def _pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(np.float64)


def test_the_same_seed_gives_the_same_pixels() -> None:
    # Given one person and attributes in every style
    for style in STYLES:
        first = portrait(person(5), {"style": style}, seed=7, size=128)
        again = portrait(person(5), {"style": style}, seed=7, size=128)
        # Then nothing but the arguments decides
        assert first.tobytes() == again.tobytes()
        assert (first.info["landmarks"] == again.info["landmarks"]).all()
    assert portrait(person(5), seed=8, size=128).tobytes() != portrait(person(5), seed=7, size=128).tobytes()


def test_a_picture_is_rgb_of_the_size_asked_for() -> None:
    image = portrait(person(5))
    assert (image.mode, image.size) == ("RGB", (256, 256))
    assert portrait(person(5), size=96).size == (96, 96)
    for size in (63, 769):
        with pytest.raises(ValueError, match="64 to 768"):
            portrait(person(5), size=size)
    with pytest.raises(ValueError, match="pose is for 128"):
        portrait(person(5), size=96, pose=Pose(128))


def test_labels_say_what_was_drawn() -> None:
    said = {"clothing": "suit", "clothing_colour": "navy", "background": "beach", "accessory": "glasses"}
    image = portrait(person(11), said, 3, size=96)
    labels = image.info["labels"]
    assert {name: labels[name] for name in said} == said
    assert (labels["expression"], labels["style"], labels["person"]) == ("neutral", "plain", 11)
    assert labels["features"]["hair_cut"] == person(11).hair_cut
    assert all(word in image.info["caption"] for word in ("navy suit", "glasses", "beach"))


@pytest.mark.parametrize("attribute", sorted(VOCABULARY))
def test_every_word_changes_the_picture(attribute: str) -> None:
    # Given one person, one seed
    drawn = [
        _pixels(portrait(person(12), Attributes(clothing_colour="red").with_(**{attribute: word}), 1, size=96))
        for word in VOCABULARY[attribute]
    ]
    # Then no two words of an attribute give the same picture
    for i, one in enumerate(drawn):
        for other in drawn[:i]:
            assert np.abs(one - other).max() > 20


def test_landmarks_fit_the_picture_and_each_other() -> None:
    for seed in range(TEST.start, TEST.start + 25):
        image = portrait(person(seed), draw_attributes(seed), seed, size=128)
        points = image.info["landmarks"]
        assert points.shape == (106, 2)
        assert points.dtype == np.float32
        # Then all lie inside the picture, the viewer's left is left, and up is up
        assert points.min() > 0
        assert points.max() < 128
        assert points[LEFT_PUPIL, 0] < points[NOSE_TIP, 0] < points[RIGHT_PUPIL, 0]
        assert points[MOUTH_CORNERS[0], 0] < points[MOUTH_CORNERS[1], 0]
        assert points[[LEFT_PUPIL, RIGHT_PUPIL], 1].max() < points[NOSE_TIP, 1] < points[list(MOUTH), 1].min()
        assert points[0, 1] > points[:, 1].max() - 1.5  # the chin is lowest, but for a tilted head's jaw
        # And the polygon that masks a face encloses eyes and mouth, with brows and contour on its edge
        polygon = points[list(POLYGON)]
        for index in (*LEFT_EYE, *RIGHT_EYE, *MOUTH):
            x, y = (float(v) for v in points[index])
            assert cv2.pointPolygonTest(polygon, (x, y), False) > 0, (seed, index)


def test_the_polygon_has_the_documented_order() -> None:
    # 1, 9-16, 2-8, 0, 24-18 descending, 32-25 descending, 17, 101, 105, 104, 103, 102, 50, 51, 49, 48, 43
    left, right = [1, *range(9, 17), *range(2, 9), 0], [*range(24, 17, -1), *range(32, 24, -1), 17]
    assert list(POLYGON) == [*left, *right, 101, 105, 104, 103, 102, 50, 51, 49, 48, 43]


def test_eyes_are_where_the_landmarks_say() -> None:
    # Given a person who looks straight on, drawn large, without glasses
    image = portrait(person(2_000_002), {}, 0, size=384, pose=Pose(384))
    grey = _pixels(image.convert("L"))
    for pupil in (LEFT_PUPIL, RIGHT_PUPIL):
        x, y = image.info["landmarks"][pupil]
        # Then a pupil is dark, and the cheek below is not
        assert grey[round(y) - 1 : round(y) + 2, round(x) - 1 : round(x) + 2].mean() < 70
        assert grey[round(y) + 60, round(x)] > 150


def test_the_face_detector_finds_the_people() -> None:
    # Given one plain portrait of each of 60 people nobody trains on
    analyzer = load_analyzer("opencv")
    found, errors = 0, []
    for seed in range(TEST.start, TEST.start + 60):
        image = portrait(person(seed), draw_attributes(seed, "plain"), seed)
        faces = analyzer.detect(np.asarray(image), 256)
        if not faces:
            continue
        found += 1
        best = max(faces, key=lambda face: face.score)
        truth = image.info["landmarks"][[LEFT_PUPIL, RIGHT_PUPIL]]
        apart = np.hypot(*(truth[1] - truth[0]))
        errors.append(np.hypot(*(best.points_5_2[:2] - truth).T).mean() / apart)
    # Then at least 98 % are found, with the eyes where they were drawn
    assert found >= 59
    assert np.median(errors) < 0.12


def test_portraits_of_one_person_are_closer_than_of_two() -> None:
    # Given three portraits each of a dozen people, in all clothes and places
    analyzer = load_analyzer("opencv")
    rows = []
    for seed in range(TEST.start, TEST.start + 12):
        for k in range(3):
            pixels = np.asarray(portrait(person(seed), draw_attributes(seed * 10 + k, "plain"), seed * 10 + k))
            rows.append(analyzer.embed(pixels, analyzer.detect(pixels, 256)[0]))
    similarity = np.array(rows) @ np.array(rows).T
    who = np.repeat(np.arange(12), 3)
    same = (who[:, None] == who) & ~np.eye(36, dtype=bool)
    # Then a recogniser made for photographs of real people sees it
    assert similarity[same].mean() > similarity[who[:, None] != who].mean() + 0.15
