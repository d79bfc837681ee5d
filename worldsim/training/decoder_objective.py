"""What the decoder alone learns from, on kept frames."""

from __future__ import annotations

import copy
import math
from dataclasses import fields, replace

import torch
from torch import Tensor, nn

from worldsim.model.config import ModelConfig
from worldsim.model.conv_decoder import ConvDecoder
from worldsim.model.views import Views
from worldsim.model.world_model import WorldModel
from worldsim.training.computing import Computer
from worldsim.training.crops import Crops, cut
from worldsim.training.kept import Frames
from worldsim.training.loss import LossConfig, attention

BUSY = 24  # tokens of a frame whose motion is looked at
_AROUND = 4  # pixels that a thing may move in a tick


def extrapolated(model: WorldModel) -> WorldModel:
    """The same model, whose views hold the change that is due if all motion goes on, whatever it was told of before."""
    twin = copy.copy(model)
    tokens = min(BUSY, model.config.tokens)
    twin.config = replace(model.config, extrapolated=tokens, margin=model.config.margin or _AROUND)
    twin._modules = dict(model._modules)
    twin.looks = Views(twin.config).to(next(model.parameters()).device)
    return twin


class _Guess(nn.Module):
    """The next frame from kept ones, as a module, so that it can be called with its parameters in another format.

    Args:
        model: Whose decoder it is.
        blind: Whether contexts are the encoder's blind ones.
        drawer: Of squares, with the same weights; None: of whole frames.
    """

    def __init__(self, model: WorldModel, blind: bool, drawer: WorldModel | None = None) -> None:
        super().__init__()
        self.decoder, self.encoder = model.decoder, model.encoder if blind else None
        # The same weights again: as parts of this module they would be swapped twice.
        self._model, self._drawer = [model], [drawer or model]

    @property
    def layout(self) -> ModelConfig:
        """Of what it draws."""
        return self._drawer[0].config

    def forward(
        self,
        noisy: Tensor,
        t: Tensor,
        context: Tensor,
        past: Tensor,
        previous: Tensor,
        cue: Tensor,
        squares: Tensor | None,
    ) -> Tensor:
        decoder = self._drawer[0].decoder
        if self.encoder is not None:
            context = self.encoder.blind(previous)
        context = cut(context, squares)
        times = len(noisy) // len(context)  # of several guesses at each frame the scene is made once
        cue = cue.repeat(times)
        if isinstance(decoder, ConvDecoder) and not self.layout.extrapolated:  # views' margins are not looked at
            of_each = None if squares is None else squares[:, None].expand(-1, past.shape[1], -1)
            scene = decoder.scene_of(context, cut(past, of_each))
        else:
            scene = decoder.scene(context, cut(self._model[0].view_of(past), squares))
        scene = scene.repeat(times, *[1] * (scene.ndim - 1))
        return decoder.denoise(noisy, scene, decoder.modulations(t, cue))


class DecoderObjective:
    """Errors of the decoder on single frames, computed in ``dtype`` from float32 weights.

    Args:
        model: Its decoder is trained.
        config: Of the loss.
        dtype: Of all that is computed.
        compiled: Whether with torch.compile.
        crops: Of the frames that :meth:`loss` is told squares of.
        blind: Whether no context is kept, and the decoder learns from the encoder's blind ones, which learn with it.
        unmix: Of which things :meth:`arrival` and :meth:`turned` tell the errors once more, float32 [3, K] of
            :meth:`~worldsim.vision.colours.ColourReader.unmixing`; None: of none.
    """

    def __init__(
        self,
        model: WorldModel,
        config: LossConfig,
        dtype: torch.dtype,
        compiled: bool,
        crops: Crops | None = None,
        *,
        blind: bool = False,
        unmix: Tensor | None = None,
    ) -> None:
        frozen = copy.deepcopy(model).to(dtype).eval().requires_grad_(False)
        computer = Computer(dtype, compiled)
        whole, square = _Guess(model, blind), _Guess(model, blind, crops.within(model) if crops else None)

        def guessed(
            squares: Tensor | None, t: Tensor, noise: Tensor, frames: Frames
        ) -> tuple[Tensor, Tensor, Tensor]:
            """Patches of the frames before, of the guess, and by how much it is off, in float32."""
            past, following = model.shown(frames.past, dtype), cut(model.shown(frames.following, dtype), squares)
            guess, level = whole if squares is None else square, t.to(dtype)
            noisy = torch.lerp(following, noise, level[:, None, None])
            x0 = computer.call(guess, noisy, level, frames.context, past, frames.previous, frames.cue, squares)
            return past, x0, x0.float() - following.float()

        def loss(
            squares: Tensor | None, worth: Tensor, least: Tensor, t: Tensor, noise: Tensor, *given: Tensor
        ) -> Tensor:
            past, x0, off = guessed(squares, t, noise, Frames(*given))
            before, last = (cut(past[:, at], squares) for at in (-2, -1))
            layout = (whole if squares is None else square).layout
            weights = attention(layout, before, last, x0, config.moved_weight).clamp(min=least[:, None, None])
            return ((off.square() * weights).mean((1, 2)) * worth).mean()

        def counted(off: Tensor) -> Tensor:
            """Mean squares [1, N, L] of patches [N, L, P], or [2, N, L]: of everything, and of some things alone."""
            kinds = [off] if unmix is None else [off, (off.unflatten(2, (-1, 3)) @ unmix).flatten(2)]
            return torch.stack([kind.square().mean(2) for kind in kinds])

        @torch.no_grad()
        def arrival(noise: Tensor, *given: Tensor) -> Tensor:
            pure = torch.ones(len(noise), device=noise.device)
            return counted(guessed(None, pure, noise, Frames(*given))[2])

        @torch.no_grad()
        def chosen(squares: Tensor | None, lots: Tensor, noise: Tensor, *given: Tensor) -> Tensor:
            frames, guess = Frames(*given), whole if squares is None else square
            following = cut(model.shown(frames.following, dtype), squares)
            pure, past = torch.ones(noise.shape[:2].numel(), dtype=dtype, device=noise.device), frames.past
            told = frames.context, model.shown(past, dtype), frames.previous, frames.cue, squares
            x0 = computer.call(guess, noise.flatten(0, 1), pure, *told).view_as(noise)
            off = (x0.float() - following.float()).square().sum((2, 3))
            likely = (-off / max(1e-6, 1.5 if config.choice_error is None else config.choice_error)).softmax(0)
            which = (likely.cumsum(0) <= lots).sum(0).clamp(max=len(noise) - 1)
            return noise[which, torch.arange(noise.shape[1], device=noise.device)]

        extrapolating = extrapolated(model)

        @torch.no_grad()
        def turned(before: Tensor, following: Tensor) -> Tensor:
            shown = model.shown(before, dtype)
            due = extrapolating.view_of(shown)[..., -shown.shape[-1] :]
            return counted((model.shown(following, dtype) - shown[:, -1] - due).float())

        @torch.no_grad()
        def moved(before: Tensor) -> Tensor:
            shown = model.shown(before, dtype)
            return counted((shown[:, 1] - shown[:, 0]).float())

        @torch.no_grad()
        def encode(seen: Tensor, actions: Tensor) -> Tensor:
            if blind:
                return seen.new_empty(*actions.shape, 0)
            previous = frozen.previous_actions(actions)
            context: Tensor = frozen.encode(frozen.views(seen), previous, torch.zeros_like(previous))
            return context[:, :-1]

        self.dtype = dtype
        self._loss, self._arrival, self._encode = computer.built(loss), computer.built(arrival), computer.built(encode)
        self._turned, self._moved, self._chosen = computer.built(turned), moved, computer.built(chosen)
        self._pure = config.pure

    def choose(
        self, frames: Frames, t: Tensor, noise: Tensor, lots: Tensor, squares: Tensor | None = None
    ) -> Tensor:
        """Of several draws of noise one for each frame, see :attr:`~worldsim.training.loss.LossConfig.choices`.

        Args:
            frames: N of them.
            t: Their levels [N]. Where they are not those of pure noise, the first draw is taken.
            noise: The draws, [choices, N, L, P], or [choices, N, K, P] of ``squares``.
            lots: Uniform numbers [N] in [0, 1) that decide.
            squares: As for :meth:`loss`.

        Returns:
            [N, L, P] or [N, K, P].
        """
        mean, spread = self._pure * len(t), math.sqrt(self._pure * (1 - self._pure) * len(t))
        some = min(len(t), math.ceil(mean + 3 * spread))  # always as many, and hardly ever too few
        at = t.argsort(descending=True, stable=True)[:some]
        of = Frames(*(value[at] for value in _values(frames)))
        which = None if squares is None else squares[at]
        found = self._chosen(which, lots[at], noise[:, at].to(self.dtype), *_values(of)).to(noise.dtype)
        kept = torch.where((t[at] == 1)[:, None, None], found, noise[0, at])
        return noise[0].index_copy(0, at, kept)

    def loss(
        self,
        frames: Frames,
        worth: Tensor,
        t: Tensor,
        noise: Tensor,
        squares: Tensor | None = None,
        least: Tensor | None = None,
    ) -> Tensor:
        """The mean error at noise levels t [N], of frames that weigh ``worth`` [N].

        Of ``squares`` [N, K] of the frames' patches, where they are given: ``noise`` is then that of theirs [N, K, P].
        Pixels weigh at least as much as ``least`` [N] says of their frame, 1 if not given.
        """
        least = torch.ones_like(worth) if least is None else least
        result: Tensor = self._loss(squares, worth, least, t, noise.to(self.dtype), *_values(frames))
        return result

    def arrival(self, frames: Frames, noise: Tensor) -> Tensor:
        """Errors [1, N, L] of patches of the guess from pure noise; [2, N, L] with those of some things alone.

        No pixel weighs more: what comes where nothing has moved is as badly foretold as what moves on otherwise. Where
        what moves weighed 16 times as much, a ball that is served was hardly drawn beside one that is hit.
        """
        errors: Tensor = self._arrival(noise.to(self.dtype), *_values(frames))
        return errors

    def turned(self, frames: Frames) -> Tensor:
        """Likewise the errors of the frames that follow if all motion goes on."""
        errors: Tensor = self._turned(frames.past[:, -2:], frames.following)
        return errors

    def moved(self, frames: Frames) -> Tensor:
        """Likewise the mean squares of what the last frame changed."""
        return self._moved(frames.past[:, -2:])

    def encode(self, seen: Tensor, actions: Tensor) -> Tensor:
        """Contexts [B, T-1, L, D] of clips' patches [B, T, L, P], but of their last frames; [B, T-1, 0] if blind."""
        contexts: Tensor = self._encode(seen, actions)
        return contexts


def _values(frames: Frames) -> list[Tensor]:
    return [getattr(frames, field.name) for field in fields(frames)]
