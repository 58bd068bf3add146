"""The network as a policy: observations and an instruction in, a chunk in robot units and a foresight out."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from internvla_a1.core.errors import ConfigError
from internvla_a1.core.robot import RobotSpec
from internvla_a1.core.types import ActionChunk, FloatArray, Foresight, Observation
from internvla_a1.model import load_model
from internvla_a1.model.checkpoint import open_checkpoint
from internvla_a1.policy.contract import agree
from internvla_a1.policy.failures import InferenceError, device_errors_named
from internvla_a1.policy.instruction import clean_instruction
from internvla_a1.policy.latent_memory import LatentMemory
from internvla_a1.policy.pipeline import Pipeline, make_pipeline
from internvla_a1.policy.protocol import Committed, PolicyRequest, PolicyResult
from internvla_a1.policy.rtc import Guidance, Prefix, RtcSettings, committed_rows, soft_mask

MOST_NOISE = 2.0


class NetworkPolicy:
    """policy.protocol.Policy around an InternVLA-A1 checkpoint.

    weights: folder. device, dtype, compat: see model.load_model. steps: Euler steps, None takes the checkpoint's.
    tokenizer: folder of the text tokenizer, None looks in the weights folder. foresight: predict the future latents too.
    threads: of torch on the CPU, for the whole process; a tiny model on a busy machine wants 1, None leaves torch's choice.
    noise_scale: standard deviation of the noise that the flow starts from, 1 as trained and published. 0 starts from its mean: the
    chunk is then a function of the observation, and successive chunks agree, which a tracker within limits can follow.
    past_tolerance_s: a remembered frame this close to the past one asked for stands in for it; 0 takes exact stamps only.
    Raises CheckpointError for weights that are refused and ConfigError where they do not fit the robot.
    """

    needs_scene = False

    def __init__(
        self,
        robot: RobotSpec,
        weights: str | Path,
        device: str = "cpu",
        dtype: str = "float32",
        compat: str | None = None,
        steps: int | None = None,
        threads: int | None = None,
        tokenizer: str | Path | None = None,
        foresight: bool = True,
        rtc: RtcSettings | None = None,
        noise_scale: float = 1.0,
        past_tolerance_s: float = 0.0,
        normalization: str = "mean_std",
        verify: bool = True,
    ) -> None:
        if steps is not None and steps < 1:
            raise ConfigError(f"steps must be at least 1, not {steps}")
        if not 0.0 <= noise_scale <= MOST_NOISE:
            raise ConfigError(f"noise_scale must be in [0, {MOST_NOISE:g}], not {noise_scale}")
        if threads is not None:
            if threads < 1:
                raise ConfigError(f"threads must be at least 1, not {threads}")
            torch.set_num_threads(threads)
        self.robot, self.device = robot, torch.device(device)
        with device_errors_named(self.device, f"loading {weights}"):
            self.model = load_model(weights, device=device, dtype=dtype, compat=compat, verify=verify)
        checkpoint = open_checkpoint(weights, verify=False)  # verified just now; only headers, config and statistics are read
        self.agreement = agree(checkpoint, self.model.config, robot, normalization)
        self.pipeline: Pipeline = make_pipeline(checkpoint, self.model.config, self.agreement, tokenizer)
        self.history_s, self.horizon_s = self.agreement.history_s, self.agreement.horizon_s
        self.steps, self.noise_scale = steps or self.model.config.steps, noise_scale
        self.foresight, self.rtc = foresight, rtc or RtcSettings()
        self._memory = LatentMemory(self.model.config.views, past_tolerance_s)

    def reset(self) -> None:
        """Forget the latents of earlier frames."""
        self._memory.clear()

    def infer(self, request: PolicyRequest) -> PolicyResult:
        """One chunk. Raises InstructionError, DataError or InferenceError; the policy stays usable.

        want_images asks for the future latents at least; the pictures themselves come from `decode`, after the chunk is out.
        """
        started = time.perf_counter()
        instruction = clean_instruction(request.instruction)
        with device_errors_named(self.device, "inference"):
            state = self._state(request.observation)
            past_latents = self._memory.recall(request.past, self._present(request.observation))
            previous = None if request.previous is None else self._state(request.previous)
            batch = self.pipeline.batch(request.observation, request.past, state, instruction, past_latents is None, previous)
            hook, rows, frozen = self._guidance(request.committed, state)
            prediction = self.model.predict(
                batch, self._noise(request.seed), self.steps, foresight=self.foresight or request.want_images,
                past_latents=past_latents, velocity_hook=hook,
            )  # fmt: skip
            positions = self.pipeline.absolute(prediction.actions[0].float().cpu(), state).double().numpy()
            latents = None if prediction.latents is None else prediction.latents[0].float().cpu().numpy()
            self._memory.store(request.observation, self._present(request.observation), prediction.now_latents)
        if not np.isfinite(positions).all():
            raise InferenceError(f"the chunk holds {int((~np.isfinite(positions)).sum())} values that are not finite")
        if rows is not None:
            positions[:frozen] = rows[:frozen]  # guidance comes close; what will be executed anyway is repeated exactly
        seen = request.observation
        chunk = ActionChunk(
            seen.stamp_ns, request.chunk_id, self.robot.joint_names, self.robot.control_dt_s, positions, frozen_steps=frozen,
            inference_time_s=time.perf_counter() - started, instruction=instruction,
        )  # fmt: skip
        return PolicyResult(chunk, None if latents is None else self._foresight(request, latents))

    def decode(self, foresight: Foresight) -> Foresight:
        """Images of a foresight, camera name -> (H, W, 3) uint8 RGB. Needs nothing of the inference that made it."""
        if not foresight.cameras:
            return foresight
        with device_errors_named(self.device, "decoding a foresight"):
            latents = torch.from_numpy(np.ascontiguousarray(foresight.latents)).to(self.device)
            images = self.model.decode_foresight(latents[None])[0].float().cpu()
            pictures = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).movedim(1, -1).numpy()
        return replace(foresight, images=dict(zip(foresight.cameras, pictures, strict=True)))

    def _state(self, observation: Observation) -> Tensor:
        """(joints,) float32 in the robot's order and units."""
        if observation.joint_names != self.robot.joint_names:
            asked = ", ".join(self.robot.joint_names)
            raise InferenceError(f"joints of the observation: {', '.join(observation.joint_names)}; expected: {asked}")
        if not np.isfinite(observation.positions).all():
            raise InferenceError("the observation's joint positions are not finite")
        return torch.from_numpy(np.asarray(observation.positions, dtype=np.float32))

    def _present(self, observation: Observation) -> dict[int, str]:
        return {view: name for view, name in self.agreement.views.items() if observation.images.get(name) is not None}

    def _noise(self, seed: int | None) -> Tensor:
        generator = torch.Generator()
        if seed is None:
            generator.seed()
        else:
            generator.manual_seed(seed)
        return self.noise_scale * torch.randn(1, self.model.config.chunk, self.model.config.action_dim, generator=generator)

    def _guidance(self, committed: Committed | None, state: Tensor) -> tuple[Any, FloatArray | None, int]:
        """Velocity hook, the committed rows on the chunk's grid (chunk, joints), and how many of them are frozen."""
        if committed is None or len(committed.positions) == 0:
            return None, None, 0
        positions = np.asarray(committed.positions, dtype=np.float64)
        if positions.ndim != 2 or positions.shape[1] != len(state) or not np.isfinite(positions).all():
            raise InferenceError(f"committed steps must be finite and (steps, {len(state)}), got {positions.shape}")
        horizon = self.model.config.chunk
        frozen, shown = (min(max(n, 0), horizon) for n in (committed.frozen, committed.shown or committed.frozen))
        if 0 < shown <= self.model.config.prefix_steps:
            return self._prefix(positions, shown, state)
        if self.rtc.soft_steps >= 0:
            positions = positions[: frozen + self.rtc.soft_steps]
        if not len(positions):
            return None, None, 0
        rows, covered = committed_rows(torch.from_numpy(positions), horizon, frozen)
        target = self.pipeline.normalised_actions(rows.float(), state)
        weights = soft_mask(horizon, frozen, covered)
        limit = self.rtc.max_guidance or float(self.steps)
        hook = Guidance(target.to(self.device), weights.to(self.device), len(state), limit)
        return hook, rows.numpy(), frozen

    def _prefix(self, positions: FloatArray, shown: int, state: Tensor) -> tuple[Prefix, FloatArray, int]:
        horizon = self.model.config.chunk
        rows, _ = committed_rows(torch.from_numpy(positions), horizon, shown)
        target, known = self.pipeline.normalised_actions(rows.float(), state), torch.arange(horizon) < shown
        return Prefix(target.to(self.device), known.to(self.device)), rows.numpy(), shown

    def _foresight(self, request: PolicyRequest, latents: np.ndarray) -> Foresight:
        present = self._present(request.observation)
        views = sorted(present)
        cameras = tuple(present[v] for v in views)
        return Foresight(request.observation.stamp_ns, request.chunk_id, self.horizon_s, cameras, latents[views])
