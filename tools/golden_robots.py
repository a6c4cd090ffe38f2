#!/usr/bin/env python3
"""Writes tests/data/aloha_adapt.json: the ALOHA adaptation of openpi, from joint values to the model's state and back to commands.

The formulas are those of openpi's aloha_policy.py and transforms.py (adapt_to_pi, DeltaActions, z-score statistics), written anew in
NumPy's float64. Needs: pip install numpy
"""
import json
from pathlib import Path

import numpy as np

FLIP = np.array([1, -1, -1, 1, 1, 1, 1] * 2)
GRIPPERS = [6, 13]
DELTA = np.array([True] * 6 + [False] + [True] * 6 + [False])
WIDTH, HORIZON, MODEL_WIDTH = 14, 10, 32


def interval(x, low, high):
    """Where x lies in low..high, as 0..1."""
    return (x - low) / (high - low)


def to_pi(joints):
    state = joints * FLIP
    finger = 0.01844 + joints[GRIPPERS] * (0.05800 - 0.01844)
    horn, arm = 0.022, 0.036
    sine = (horn**2 + finger**2 - arm**2) / (2 * horn * finger)
    state[GRIPPERS] = interval(np.arcsin(np.clip(sine, -1, 1)), 0.5476, 1.6296)
    return state


def to_robot(actions):
    commands = actions * FLIP
    commands[:, GRIPPERS] = interval(actions[:, GRIPPERS] + 0.5476, -0.6213, 1.4910)
    return commands


rng = np.random.default_rng(0)
state_mean, action_mean = rng.normal(0, 0.5, WIDTH), rng.normal(0, 0.2, WIDTH)
state_std, action_std = rng.uniform(0.05, 1, WIDTH), rng.uniform(0.05, 1, WIDTH)
cases = []
for case in range(12):
    joints = rng.uniform(-3, 3, WIDTH)
    # Within the travel, at its ends, and beyond: the linkage is clipped there.
    joints[GRIPPERS] = [rng.uniform(0, 1, 2), (0, 1), (-0.2, 1.3)][min(case, 2)]
    chunk = rng.normal(0, 1, (HORIZON, MODEL_WIDTH)).astype(np.float32)
    state = to_pi(joints)
    model_state = np.pad((state - state_mean) / (state_std + 1e-6), (0, MODEL_WIDTH - WIDTH))
    actions = chunk[:, :WIDTH].astype(np.float64) * (action_std + 1e-6) + action_mean
    actions = actions + np.where(DELTA, state, 0)
    cases.append(
        {
            "joints": joints.tolist(),
            "state": state.tolist(),
            "model_state": model_state.tolist(),
            "chunk": chunk.reshape(-1).tolist(),
            "commands": to_robot(actions).reshape(-1).tolist(),
        }
    )
norm_stats = {
    "state": {"mean": state_mean.tolist(), "std": state_std.tolist()},
    "actions": {"mean": action_mean.tolist(), "std": action_std.tolist()},
}
golden = {"norm_stats": {"norm_stats": norm_stats}, "cases": cases}
(Path(__file__).parent.parent / "tests/data/aloha_adapt.json").write_text(json.dumps(golden))
