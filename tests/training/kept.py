"""A small model and clips of recorded play, for tests of kept frames."""

from __future__ import annotations

from worldsim.data.clips import ClipStore
from worldsim.model.config import ModelConfig
from worldsim.training.batches import make_batch
from worldsim.training.loss import Batch, LossConfig

TINY = ModelConfig(
    6, 80, 80, 20, history=3, dim=32, heads=2, encoder_layers=1, decoder_layers=1, decoder_width=8, window=4
)
LOSS = LossConfig(draws=2, noise_shift=5.0, own_share=0.5)


def clips(store: ClipStore, number: int) -> Batch:
    return make_batch(store, TINY, LOSS, 0, number, range(2), begun=0)
