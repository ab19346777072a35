from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from training import draws
from training.config import ObjectiveSettings
from training.draws import Purpose
from training.objective import add_noise, draw, drop, loss_weights, noise_loss, sample_latents

SHAPE = (4, 3, 5)


def test_a_samples_chance_does_not_depend_on_its_batch():
    settings = ObjectiveSettings(alpha=(0.25, 0.75))
    alone = draw(settings, 11, [29], SHAPE)
    among = draw(settings, 11, [7, 29, 31], SHAPE)
    for name, value in vars(alone).items():
        assert torch.equal(value[0], getattr(among, name)[1]), name
    assert not torch.equal(among.noise[0], among.noise[1])
    assert not torch.equal(alone.noise, alone.latent)
    assert not torch.equal(alone.noise, draw(settings, 12, [29], SHAPE).noise)


def test_draws_are_the_same_in_every_process():
    # Written down once; another value means that old runs can no longer be resumed.
    assert draws.integer(5, Purpose.TIMESTEP, 3, 1000) == PINNED_INTEGER
    assert draws.normal(5, Purpose.NOISE, [3], (2,))[0].tolist() == pytest.approx(PINNED_NORMAL)


PINNED_INTEGER = 631
PINNED_NORMAL = [-0.20299981534481049, 0.6314800381660461]


def test_drops_happen_as_often_as_asked():
    settings = ObjectiveSettings(drop_image=0.1, drop_text=0.2, drop_both=0.05, alpha=(0.5, 1.0))
    count = 4000
    chance = draw(settings, 3, range(count), (1,))
    image, text = chance.drop_image, chance.drop_text
    shares = {
        "image": (image & ~text, 0.1),
        "text": (~image & text, 0.2),
        "both": (image & text, 0.05),
    }
    for name, (happened, share) in shares.items():
        spread = 4 * math.sqrt(share * (1 - share) / count)  # four standard deviations
        assert happened.float().mean().item() == pytest.approx(share, abs=spread), name
    assert chance.alpha.min() >= 0.5
    assert chance.alpha.max() < 1.0
    assert chance.alpha.mean().item() == pytest.approx(0.75, abs=0.01)
    assert chance.timesteps.min() == 0
    assert chance.timesteps.max() == 999
    assert chance.timesteps.float().mean().item() == pytest.approx(499.5, abs=20)
    assert chance.noise.std().item() == pytest.approx(1.0, abs=0.05)


def test_without_drops_nothing_is_dropped():
    chance = draw(ObjectiveSettings(drop_image=0, drop_text=0, drop_both=0), 3, range(500), (1,))
    assert not chance.drop_image.any()
    assert not chance.drop_text.any()
    assert chance.alpha.eq(1).all()


def test_an_epoch_shows_every_row_once_and_each_epoch_differs():
    first, second = draws.epoch_order(1, 0, 13), draws.epoch_order(1, 1, 13)
    assert sorted(first) == list(range(13))
    assert not np.array_equal(first, second)


def test_drop_replaces_whole_samples():
    conditions = torch.ones(3, 2, 5)
    unconditional = torch.zeros(1, 2, 5)
    dropped = drop(conditions, unconditional, torch.tensor([False, True, False]))
    assert dropped.sum(dim=(1, 2)).tolist() == [10, 0, 10]


def test_latents_are_mean_plus_deviation_times_factor():
    mean, log_variance = torch.full((1, 4, 1, 1), 3.0), torch.full((1, 4, 1, 1), math.log(4.0))
    moments = torch.cat([mean, log_variance], dim=1)
    latents = sample_latents(moments, torch.full((1, 4, 1, 1), 0.5), scaling_factor=0.1)
    assert latents.flatten().tolist() == pytest.approx([0.4] * 4)  # (3 + 2 * 0.5) * 0.1


def test_add_noise_keeps_the_variance_of_unit_inputs():
    noisy = add_noise(torch.ones(1, 1, 1, 1), torch.full((1, 1, 1, 1), 2.0), torch.tensor([0.36]))
    assert noisy.item() == pytest.approx(0.6 * 1 + 0.8 * 2)


def test_spread_timesteps_are_even_in_every_batch_and_over_all():
    settings = ObjectiveSettings(timesteps="spread")
    for start in (0, 16, 10**6):
        steps = draw(settings, 3, range(start, start + 16), (1,)).timesteps.sort().values
        assert steps.diff().max() < 2.5 * 1000 / 16
        assert steps.diff().min() > 1000 / 16 / 3
    many = draw(settings, 3, range(20_000), (1,)).timesteps
    assert many.bincount(minlength=1000).float().std() < 1  # 20 of each
    other = draw(settings, 4, range(16), (1,)).timesteps
    assert not torch.equal(other, draw(settings, 3, range(16), (1,)).timesteps)


def test_min_snr_weighs_the_clean_steps_down():
    kept = torch.tensor([0.9, 0.5])  # SNR 9 and 1
    assert loss_weights(kept).tolist() == [1.0, 1.0]
    assert loss_weights(kept, min_snr_gamma=5.0).tolist() == pytest.approx([5 / 9, 1.0])


def test_high_noise_weighs_more_up_to_a_limit():
    kept = torch.tensor([0.9, 0.5, 0.2, 0.001])  # SNR 9, 1, 1/4, about 1/1000
    weights = loss_weights(kept, min_snr_gamma=5.0, high_noise_weight=10.0)
    assert weights.tolist() == pytest.approx([5 / 9, 1.0, 2.0, 10.0])


def test_the_loss_is_the_mean_square_of_each_sample():
    predicted, noise = torch.full((2, 4, 1, 1), 3.0), torch.full((2, 4, 1, 1), 1.0)
    predicted[1] = 1.5
    assert noise_loss(predicted, noise).tolist() == [4.0, 0.25]
