"""Every draw comes from (seed, step): the same again, different elsewhere, with the shares that were asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tiny_training import TinyPortraits, tiny_config

from hyperlora.training.draws import Dice, Order, Others
from hyperlora.training.feed import Feed
from hyperlora.training.stages import settings_of

SHAPE = (4, 2, 2)


def dice(samples: int = 4000, seed: int = 1, people: int = 50, others: bool = False) -> Dice:
    config = tiny_config("id-face", Path("run"), shares={"reconstruct": 18, "foundation": 1, "base": 1})
    persons = np.arange(people * 3) % people
    return Dice(
        settings_of(config),
        Order(len(persons), seed),
        seed=seed,
        samples=samples,
        timesteps=range(1000),
        latents=SHAPE,
        caption_dropout=0.1,
        others=Others(persons) if others else None,
    )


def test_shares_are_those_asked_for() -> None:
    # Given 18 : 1 : 1 and 10 % of captions dropped, 16,000 draws
    drawn = [dice().step(step) for step in range(4)]
    settings = np.concatenate([each.settings for each in drawn])
    dropped = np.concatenate([each.dropped for each in drawn])

    # Then shares are within five standard deviations: sqrt(.05 * .95 / 16000) = 0.0017
    assert np.abs(np.bincount(settings, minlength=3) / len(settings) - (0.90, 0.05, 0.05)).max() < 0.012
    assert abs(dropped.mean() - 0.1) < 0.012
    # And a caption is dropped in every setting alike
    assert all(0.03 < dropped[settings == setting].mean() < 0.2 for setting in range(3))
    times = torch.cat([each.timesteps_B for each in drawn])
    assert (int(times.min()), int(times.max())) == (0, 999)
    noise = torch.cat([each.noise_BCHW for each in drawn])
    assert abs(float(noise.mean())) < 0.01 and abs(float(noise.std()) - 1) < 0.01


def test_the_same_step_is_drawn_again_alike_and_another_one_not() -> None:
    one, again = dice(8, others=True), dice(8, others=True)
    again.step(0)
    first, same, next_one, other_seed = one.step(3), again.step(3), one.step(4), dice(8, seed=2).step(3)
    assert torch.equal(first.noise_BCHW, same.noise_BCHW) and torch.equal(first.timesteps_B, same.timesteps_B)
    assert np.array_equal(first.indices, same.indices) and np.array_equal(first.settings, same.settings)
    assert first.references is not None and same.references is not None
    assert np.array_equal(first.references, same.references)
    for different in (next_one, other_seed):
        assert not torch.equal(first.noise_BCHW, different.noise_BCHW)
        assert not np.array_equal(first.indices, different.indices)


def test_every_epoch_sees_every_sample_once_in_an_order_of_its_own() -> None:
    order = Order(10, seed=3)
    # Given steps of 4 over 10 samples: the third crosses the border
    seen = np.concatenate([order.take(start, 4) for start in range(0, 20, 4)])
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert list(seen[:10]) != list(seen[10:])
    # And a step may be larger than the whole set
    assert np.bincount(Order(3, 1).take(0, 9)).tolist() == [3, 3, 3]


def test_another_picture_of_the_same_person() -> None:
    # Given people with three, two and one picture, mixed
    persons = np.array([7, 3, 7, 9, 3, 7])
    others, dice_ = Others(persons), torch.Generator().manual_seed(1)
    drawn = np.stack([others.draw(np.arange(6), dice_) for _ in range(200)])

    # Then it is the person's, never the same picture where there is another, and each other one is drawn
    assert (persons[drawn] == persons).all()
    chosen = [set(column.tolist()) for column in drawn.T]
    assert chosen == [{2, 5}, {4}, {0, 5}, {3}, {1}, {0, 2}]


def test_processes_and_passes_share_a_step_without_gaps() -> None:
    # Given two processes with two passes of three samples
    portraits = TinyPortraits()
    feeds = [
        Feed(portraits, dice(12, people=8), batch_size=3, passes=2, process=process, processes=2) for process in (0, 1)
    ]
    # When they do two steps (the second was begun to be read during the first)
    parts = [[list(feed.passes(step)) for step in range(2)] for feed in feeds]
    for feed in feeds:
        feed.close()

    # Then together they see each step's samples once, with the captions that belong to them
    whole = dice(12, people=8)
    for step in range(2):
        drawn = [draws for feed in parts for draws, _ in feed[step]]
        assert sorted(np.concatenate([each.indices for each in drawn])) == sorted(whole.step(step).indices)
    draws, batch = parts[1][1][0]
    assert batch.captions == [f"picture {index}" for index in draws.indices]


def test_face_conditions_come_from_the_reference_and_the_rest_from_the_picture() -> None:
    portraits = TinyPortraits()
    feed = Feed(portraits, dice(6, people=8, others=True), batch_size=6, passes=1)
    ((draws, batch),) = list(feed.passes(0))
    feed.close()
    assert draws.references is not None and (draws.references != draws.indices).all()
    assert batch.clip_tokens_BTC is not None and batch.base_tokens_BTC is not None
    assert torch.equal(batch.clip_tokens_BTC, portraits.clip[draws.references])
    assert torch.equal(batch.base_tokens_BTC, portraits.base[draws.indices])
