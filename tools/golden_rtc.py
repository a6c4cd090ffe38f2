#!/usr/bin/env python3
"""Writes tests/data/rtc_previous.safetensors: what LeRobot's rollout makes of a chunk's unexecuted rows before it guides the next one.

LeRobot's own steps, on random numbers and the statistics of tests/data/lerobot_ckpt, in the order of rollout/inference/rtc.py: the
chunk goes through the postprocessor at the state that it was computed from, and comes back relative to the state of the next one. Also
the weights of its four schedules for several delays and horizons. Needs: pip install "lerobot==0.6.1"

tests/data/rtc.safetensors is made by LeRobot too, by its pi0 with the weights of the golden set tiny: inference_delay=2,
execution_horizon=6, max_guidance_weight=10, each schedule once.
"""

from pathlib import Path

import torch
from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature, RTCAttentionSchedule
from lerobot.policies.rtc import RTCConfig, RTCProcessor, reanchor_relative_rtc_prefix
from lerobot.processor import (
    AbsoluteActionsProcessorStep,
    NormalizerProcessorStep,
    RelativeActionsProcessorStep,
    TransitionKey,
    UnnormalizerProcessorStep,
    create_transition,
)
from safetensors.torch import load_file, save_file

DATA = Path(__file__).parent.parent / "tests/data"
WIDTH, ROWS = 14, 7
# (delay, horizon, rows)
WEIGHTS = [(0, 10, 50), (7, 25, 50), (17, 33, 50), (17, 50, 50), (30, 25, 50), (3, 60, 50), (0, 1, 50), (49, 50, 50), (2, 6, 10)]


def weights() -> dict[str, torch.Tensor]:
    def of(schedule: RTCAttentionSchedule, case: tuple[int, int, int]) -> torch.Tensor:
        return RTCProcessor(RTCConfig(prefix_attention_schedule=schedule)).get_prefix_weights(*case)

    return {f"weights.{schedule.value}.{'.'.join(map(str, case))}": of(schedule, case) for schedule in RTCAttentionSchedule for case in WEIGHTS}


def previous() -> dict[str, torch.Tensor]:
    stats = {}
    for name, values in load_file(DATA / "lerobot_ckpt/policy_preprocessor_step_6_normalizer_processor.safetensors").items():
        feature, statistic = name.rsplit(".", 1)
        stats.setdefault(feature, {})[statistic] = values
    features = {"action": PolicyFeature(FeatureType.ACTION, (WIDTH,)), "observation.state": PolicyFeature(FeatureType.STATE, (WIDTH,))}
    modes = {FeatureType.ACTION: NormalizationMode.MEAN_STD, FeatureType.STATE: NormalizationMode.MEAN_STD}
    normalizer, unnormalizer = [step(features, modes, stats=stats) for step in (NormalizerProcessorStep, UnnormalizerProcessorStep)]
    joints = [f"{'gripper' if i % 7 == 6 else 'arm'}_{i}" for i in range(WIDTH)]
    relative = RelativeActionsProcessorStep(enabled=True, exclude_joints=["gripper"], action_names=joints)
    absolute = AbsoluteActionsProcessorStep(enabled=True, relative_step=relative)

    generator = torch.Generator().manual_seed(0)
    old_state, new_state, rows = (torch.randn(1, *shape, generator=generator) for shape in [(WIDTH,), (WIDTH,), (ROWS, WIDTH)])

    def observe(state: torch.Tensor) -> None:
        relative(create_transition(observation={"observation.state": state}))

    observe(old_state)
    executed = absolute(unnormalizer(create_transition(action=rows)))[TransitionKey.ACTION].squeeze(0)
    observe(new_state)
    moved = reanchor_relative_rtc_prefix(executed, relative.get_cached_state(), relative, normalizer, "cpu")
    found = {"old_state": old_state, "new_state": new_state, "model": rows, "executed": executed, "previous": moved}
    return {name: values.reshape(-1, WIDTH).contiguous() for name, values in found.items()}


save_file(previous() | weights(), DATA / "rtc_previous.safetensors")
