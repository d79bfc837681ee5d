"""Distribution matching distillation of the frame-wise decoder.

A separable model has its history in an encoder that no denoising step touches. So only the decoder is distilled:
teacher, student and critic are three decoders on one frozen encoder, and what is matched is the distribution of the
next frame given the student's own history.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from worldsim.engine.sampler import levels
from worldsim.model.decoder import FrameDecoder, without_margin
from worldsim.model.world_model import WorldModel
from worldsim.training.loss import change_weights

CHANGED = 8 / 255 * 2  # of values in [-1, 1]: a made frame's still pixels tremble by less


def exit_frames(
    decoder: FrameDecoder, context: Tensor, last: Tensor, action: Tensor, noise: Tensor, at: Sequence[float]
) -> Tensor:
    """Frames that the decoder makes in the steps of a sampler, with the gradient of the last step only.

    One exit step of a roll-out's few carries the gradient (Self-Forcing, arXiv 2506.08009, algorithm 1).

    Args:
        decoder: The student.
        context, last: Of the frames before [N, L, D] and [N, L, V].
        action: int64 [N].
        noise: Standard normal [N, L, P].
        at: Falling noise levels from 1 to that of the exit step.

    Returns:
        x0 [N, L, P].
    """
    scene, x = decoder.scene(context, last), noise

    def x0(level: float, scene: Tensor) -> Tensor:
        t = torch.full_like(action, 1, dtype=noise.dtype) * level
        return decoder.denoise(x, scene, decoder.modulations(t, action))

    with torch.no_grad():
        for t, s in zip(at[:-1], at[1:], strict=True):
            made = x0(t, scene.detach())
            x = made + (s / t) * (x - made)
    return x0(at[-1], scene)


def matching_loss(made: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """Moves made frames along the difference of two predictions of x0 (DMD, arXiv 2311.18828, equations 7 and 8).

    The difference of scores at a noise level is, up to a weight, that of the frames which teacher and critic see in
    the noised frame. The weight is one: dividing by each frame's distance to the teacher, as the paper does, would make
    much of frames in which nothing happens.

    Args:
        made: The student's frames [N, L, P], with gradient.
        real, fake: What the teacher and the critic take them for.

    Returns:
        A scalar whose gradient with respect to ``made`` is the mean of ``fake - real``.
    """
    toward = (made.float() - (fake.float() - real.float())).detach()
    return 0.5 * (made.float() - toward).square().mean()


def made_weights(made: Tensor, last: Tensor, model: WorldModel, weight: float) -> Tensor:
    """Weights of a made frame's pixels, as :func:`~worldsim.training.loss.change_weights` gives those of a real one.

    Args:
        made, last: Patches [N, L, P] of the frame and of the one before it.
        model: Says how patches lie.
        weight: Of what changes.

    Returns:
        Patches [N, L, P].
    """
    moved = (made - last).abs() > CHANGED
    steps = model.unpatchify(torch.stack((torch.zeros_like(moved), moved), 1)).to(torch.uint8)  # [N, 2, H, W, 3]
    return model.patchify(change_weights(steps, weight)[:, 0].expand(-1, -1, -1, 3))


class Distillation:
    """The computations of one step, each compiled whole, in ``dtype`` from float32 weights.

    Args:
        teacher: Whole and frozen; its encoder is everybody's.
        student: Shares the encoder; its decoder learns.
        critic: A decoder that learns what the student's frames look like.
        steps: Of the student's sampler.
        weight: Of changed pixels in the critic's loss.
        dtype: Of all that is computed.
        compiled: Whether with torch.compile.
    """

    def __init__(
        self,
        teacher: WorldModel,
        student: WorldModel,
        critic: FrameDecoder,
        *,
        steps: int,
        weight: float,
        dtype: torch.dtype,
        compiled: bool,
    ) -> None:
        self.levels, self.dtype = levels(steps), dtype

        def in_dtype(module: nn.Module) -> dict[str, Tensor]:
            return {name: value.to(dtype) for name, value in module.named_parameters()}

        def call(module: nn.Module, *given: Tensor) -> Tensor:
            made: Tensor = functional_call(module, in_dtype(module), given)
            return made

        encode = _Encode(teacher)
        sees, doubts = _Denoise(teacher.decoder), _Denoise(critic)
        learns = _CriticLoss(critic, teacher, weight)
        makes = [_Exit(student.decoder, self.levels[: k + 1]) for k in range(steps)]

        @torch.no_grad()
        def contexts(seen: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
            made: tuple[Tensor, Tensor] = functional_call(encode, in_dtype(encode), (seen, previous))
            return made

        @torch.no_grad()
        def judge(noisy: Tensor, t: Tensor, context: Tensor, last: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
            given = noisy, t, context, last, action
            return call(sees, *given), call(doubts, *given)

        def critic_loss(*given: Tensor) -> Tensor:
            return call(learns, *given)

        def make_at(k: int):  # type: ignore[no-untyped-def]
            def make(*given: Tensor) -> Tensor:
                return call(makes[k], *given)

            return torch.compile(make) if compiled else make

        self._contexts = torch.compile(contexts) if compiled else contexts
        self._judge = torch.compile(judge) if compiled else judge
        self._critic_loss = torch.compile(critic_loss) if compiled else critic_loss
        self._make = [make_at(k) for k in range(steps)]

    def contexts(self, seen: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
        """Contexts [N, L, D] and views [N, L, V] of all frames but the last of clips [B, T, L, P], flattened."""
        made: tuple[Tensor, Tensor] = self._contexts(seen, previous)
        return made

    def make(self, k: int, context: Tensor, last: Tensor, action: Tensor, noise: Tensor) -> Tensor:
        """The student's frames [N, L, P] after k + 1 steps; see :func:`exit_frames`."""
        made: Tensor = self._make[k](context, last, action, noise)
        return made

    def student_loss(
        self, made: Tensor, context: Tensor, last: Tensor, action: Tensor, t: Tensor, noise: Tensor
    ) -> Tensor:
        """:func:`matching_loss` at noise levels t [N]."""
        shown = made.detach()
        noisy = torch.lerp(shown, noise, t[:, None, None])
        real, fake = self._judge(noisy, t, context, last, action)
        return matching_loss(made, real, fake)

    def critic_loss(
        self, made: Tensor, context: Tensor, last: Tensor, action: Tensor, t: Tensor, noise: Tensor
    ) -> Tensor:
        """The critic's error in telling the student's frames from noised ones."""
        loss: Tensor = self._critic_loss(made.detach(), context, last, action, t, noise)
        return loss


class _Encode(nn.Module):
    def __init__(self, model: WorldModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, seen: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
        views = self.model.views(seen)
        context = self.model.encode(views, previous, torch.zeros_like(previous))
        return context[:, :-1].flatten(0, 1), views[:, :-1].flatten(0, 1)


class _Exit(nn.Module):
    def __init__(self, decoder: FrameDecoder, at: Sequence[float]) -> None:
        super().__init__()
        self.decoder, self.at = decoder, tuple(at)

    def forward(self, context: Tensor, last: Tensor, action: Tensor, noise: Tensor) -> Tensor:
        return exit_frames(self.decoder, context, last, action, noise, self.at)


class _Denoise(nn.Module):
    def __init__(self, decoder: FrameDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, noisy: Tensor, t: Tensor, context: Tensor, last: Tensor, action: Tensor) -> Tensor:
        made: Tensor = self.decoder(noisy, t, context, last, action)
        return made


class _CriticLoss(nn.Module):
    def __init__(self, critic: FrameDecoder, model: WorldModel, weight: float) -> None:
        super().__init__()
        self.critic, self.weight = critic, weight
        self.layout = [model]  # for where patches lie; not a part of this module

    def forward(
        self, made: Tensor, context: Tensor, last: Tensor, action: Tensor, t: Tensor, noise: Tensor
    ) -> Tensor:
        model = self.layout[0]
        frame = last[..., : model.config.seen_dim]
        weights = made_weights(made, without_margin(frame, model.config), model, self.weight)
        noisy = torch.lerp(made, noise, t[:, None, None])
        x0 = self.critic(noisy, t, context, last, action)
        return ((x0.float() - made.float()).square() * weights).mean()
