#!/usr/bin/env python3
r"""Renders an episode of the ALOHA bimanual simulation (gym-aloha, MuJoCo) into a rosbag2 folder.

The arms follow a scripted, smooth motion: poses of the grippers are turned into joint positions by inverse kinematics, and
minimum-jerk curves join them. The physics then runs at its own 50 Hz control rate, so joint states are those of the simulated
robot, not of the script. The same arguments give the same episode again (pixels may differ in a bit between OpenGL versions).

Set-up:  python3.12 -m venv build/bag-venv && build/bag-venv/bin/pip install -r tools/requirements-bag.txt
Example: build/bag-venv/bin/python tools/make_aloha_bag.py --output build/my_bag --seed 3 --seconds 6 \
             --camera base_0_rgb=top --camera left_wrist_0_rgb=left_wrist --camera right_wrist_0_rgb=right_wrist --raw --storage sqlite3

No display or GPU is needed: frames are rendered through EGL (Debian package libegl1). MUJOCO_GL=osmesa takes OSMesa (libosmesa6).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# dm_control reads it when it is imported.
os.environ.setdefault("MUJOCO_GL", "egl")

import numpy as np
from dm_control import mujoco
from dm_control.rl import control
from dm_control.utils import inverse_kinematics
from gym_aloha.constants import ASSETS_DIR, DT
from gym_aloha.tasks.sim import BOX_POSE, InsertionTask, TransferCubeTask
from gym_aloha.utils import sample_box_pose, sample_insertion_pose
from robot_bag import Encoder, RobotBag, add_arguments, encoder
from scipy.spatial.transform import Rotation

ARM_JOINTS = ["waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate"]
JOINT_NAMES = [f"{side}_{joint}" for side in ("left", "right") for joint in [*ARM_JOINTS, "gripper"]]
CAMERAS = ["top", "angle", "front_close", "left_pillar", "right_pillar", "left_wrist", "right_wrist"]
WIDTH, HEIGHT = 640, 480
# Log time of the first message: 2026-01-01T00:00:00Z.
START_NS = 1_767_225_600_000_000_000


@dataclass(frozen=True)
class Pose:
    """Where a gripper is to be at one moment."""

    at: float  # fraction of the episode
    position: tuple[float, float, float]  # of the point between the fingertips, in m
    pitch: float  # degrees, positive points the fingers down
    roll: float  # degrees about the fingers' direction
    open: float  # 1 open, 0 closed


@dataclass(frozen=True)
class Episode:
    """A task with its objects in place."""

    task: control.Task
    model: str
    instruction: str
    left: list[Pose]
    right: list[Pose]


def transfer_cube(seed: int) -> Episode:
    """The right arm lifts the cube and hands it to the left arm."""
    BOX_POSE[0] = sample_box_pose(seed)
    x, y, _ = BOX_POSE[0][:3]
    meet_x, meet_y, meet_z = 0.0, 0.58, 0.22
    right = [
        Pose(0.18, (x, y, 0.12), 60, 0, 1.0),
        Pose(0.30, (x, y, 0.02), 60, 0, 1.0),
        Pose(0.38, (x, y, 0.02), 60, 0, 0.0),
        Pose(0.48, (x, y, 0.12), 45, 0, 0.0),
        Pose(0.62, (meet_x + 0.01, meet_y, meet_z), 0, 0, 0.0),
        Pose(0.78, (meet_x + 0.01, meet_y, meet_z), 0, 0, 0.0),
        Pose(0.84, (meet_x + 0.01, meet_y, meet_z), 0, 0, 1.0),
        Pose(0.96, (meet_x + 0.14, meet_y, meet_z), 0, 0, 1.0),
    ]
    left = [
        Pose(0.45, (meet_x - 0.16, meet_y, meet_z), 0, 90, 1.0),
        Pose(0.62, (meet_x - 0.12, meet_y, meet_z), 0, 90, 1.0),
        Pose(0.70, (meet_x + 0.02, meet_y, meet_z), 0, 90, 1.0),
        Pose(0.78, (meet_x + 0.02, meet_y, meet_z), 0, 90, 0.0),
        Pose(0.85, (meet_x + 0.02, meet_y, meet_z), 0, 90, 0.0),
        Pose(0.98, (meet_x - 0.10, meet_y, meet_z + 0.02), 0, 90, 0.0),
    ]
    return Episode(QuietTransferCube(seed), "transfer_cube", "Transfer the red cube to the other arm", left, right)


def insertion(seed: int) -> Episode:
    """Each arm lifts one part and the parts are pushed into each other in the air."""
    peg, socket = sample_insertion_pose(seed)
    BOX_POSE[0] = np.concatenate([peg, socket])
    meet_y, meet_z = 0.5, 0.18

    def arm(part: np.ndarray, side: int, lift: float) -> list[Pose]:
        x, y = part[0], part[1]
        return [
            Pose(0.22, (x, y, 0.12), 60, 0, 1.0),
            Pose(0.36, (x, y, 0.02), 60, 0, 1.0),
            Pose(0.46, (x, y, 0.02), 60, 0, 0.0),
            Pose(0.62, (x, y, 0.14 + lift), 60, 0, 0.0),
            Pose(0.78, (side * 0.14, meet_y, meet_z + lift), 60, 0, 0.0),
            Pose(0.96, (side * 0.045, meet_y, meet_z + lift), 60, 0, 0.0),
        ]

    # The peg is 1 cm thinner below its axis than the socket and both are taken at the same height.
    return Episode(QuietInsertion(seed), "insertion", "Insert the peg into the socket", arm(socket, -1, 0.0), arm(peg, 1, 0.01))


class QuietObservation:
    """Leaves the rendering of three cameras per control step out: this tool renders what it records."""

    def get_observation(self, physics: mujoco.Physics) -> dict[str, np.ndarray]:
        return {"qpos": self.get_qpos(physics), "qvel": self.get_qvel(physics)}


class QuietTransferCube(QuietObservation, TransferCubeTask):
    pass


class QuietInsertion(QuietObservation, InsertionTask):
    pass


TASKS = {"transfer_cube": transfer_cube, "insertion": insertion}


def solve_arm(physics: mujoco.Physics, side: str, start: np.ndarray, pose: Pose) -> np.ndarray:
    """Six joint positions that bring the gripper of `side` to `pose`, near the joint positions `start`."""
    joints = [f"vx300s_{side}/{joint}" for joint in ARM_JOINTS]
    physics.named.data.qpos[joints] = start
    facing = Rotation.from_euler("z", 0 if side == "left" else 180, degrees=True)
    wrist = Rotation.from_euler("yx", [pose.pitch, pose.roll], degrees=True)
    x, y, z, w = (facing * wrist).as_quat()
    result = inverse_kinematics.qpos_from_site_pose(
        physics,
        f"cali_{side}_site1",
        np.asarray(pose.position),
        np.array([w, x, y, z]),
        joint_names=joints,
        tol=1e-6,
        max_steps=500,
    )
    if not result.success:
        sys.exit(f"No joint positions bring the {side} gripper to {pose}: the inverse kinematics ends {result.err_norm:.3g} away")
    physics.data.qpos[:] = result.qpos
    return np.array(physics.named.data.qpos[joints])


def plan_arm(physics: mujoco.Physics, side: str, poses: list[Pose], home: np.ndarray, steps: int) -> np.ndarray:
    """Commands `[steps, 7]` of one arm: minimum-jerk curves from `home` through the poses, resting at the last one."""
    times, points = [0.0], [home]
    for pose in poses:
        times.append(pose.at)
        points.append(np.append(solve_arm(physics, side, points[-1][:6], pose), pose.open))
    plan = np.empty((steps, 7))
    for step in range(steps):
        now = step / steps
        leg = np.searchsorted(times, now, side="right") - 1
        if leg + 1 == len(times):
            plan[step] = points[-1]
            continue
        s = (now - times[leg]) / (times[leg + 1] - times[leg])
        plan[step] = points[leg] + (points[leg + 1] - points[leg]) * (10 * s**3 - 15 * s**4 + 6 * s**5)
    return plan


@dataclass(frozen=True)
class Sample:
    """The simulated robot at one control step."""

    positions: np.ndarray
    velocities: np.ndarray
    images: dict[str, np.ndarray]  # by camera slot, empty between two camera frames


def simulate(episode: Episode, steps: int, frame_every: int, cameras: dict[str, str]) -> Iterator[Sample]:
    """Runs the episode. `cameras` names the simulated camera of every camera slot."""
    physics = mujoco.Physics.from_xml_path(str(ASSETS_DIR / f"bimanual_viperx_{episode.model}.xml"))
    env = control.Environment(physics, episode.task, control_timestep=DT)
    observation = env.reset().observation
    home = observation["qpos"].copy()
    planner = physics.copy()
    left = plan_arm(planner, "left", episode.left, home[:7], steps)
    right = plan_arm(planner, "right", episode.right, home[7:], steps)
    reward = 0
    for step, command in enumerate(np.hstack([left, right])):
        images = {}
        if step % frame_every == 0:
            images = {slot: physics.render(height=HEIGHT, width=WIDTH, camera_id=name) for slot, name in cameras.items()}
        yield Sample(observation["qpos"].copy(), observation["qvel"].copy(), images)
        after = env.step(command)
        observation, reward = after.observation, after.reward
        if step % 50 == 49:
            print(f"  {(step + 1) * DT:4.1f} s of {steps * DT:.1f} s", flush=True)
    print(f"  the task's reward at the end: {reward} of {episode.task.max_reward}")


def write_bag(path: Path, samples: Iterator[Sample], instruction: str, slots: list[str], storage: str, encode: Encoder) -> None:
    with RobotBag(path, storage, slots, encode) as bag:
        for step, sample in enumerate(samples):
            now = START_NS + round(step * DT * 1e9)
            # An operator's panel repeats the instruction, so that a node that starts late hears it too.
            if now % 10**9 == 0:
                bag.write_instruction(now, instruction)
            bag.write_joints(now, JOINT_NAMES, sample.positions, sample.velocities)
            for slot, pixels in sample.images.items():
                bag.write_image(now, slot, pixels)


def camera(text: str) -> tuple[str, str]:
    slot, found, name = text.partition("=")
    if not (found and slot and name in CAMERAS):
        raise argparse.ArgumentTypeError(f"{text!r} is not SLOT=CAMERA with one of the cameras {', '.join(CAMERAS)}")
    return slot, name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder to make; must not exist")
    parser.add_argument("--task", choices=sorted(TASKS), default="transfer_cube")
    parser.add_argument("--seed", type=int, default=0, help="where the objects lie (default 0)")
    parser.add_argument("--seconds", type=float, default=5.0, help="length; the motion is stretched to it (default 5)")
    parser.add_argument("--frame-rate", type=int, choices=[10, 25, 50], default=25, help="camera frames per second (default 25)")
    add_arguments(parser)
    parser.add_argument(
        "--camera",
        type=camera,
        action="append",
        metavar="SLOT=CAMERA",
        help=f"camera slot and the simulated camera it shows, repeatable (default base_0_rgb=top): {', '.join(CAMERAS)}",
    )
    arguments = parser.parse_args()
    if arguments.output.exists():
        sys.exit(f"{arguments.output} exists already. Remove it or choose another folder")
    if not 1 <= arguments.seconds <= 600:
        sys.exit(f"--seconds {arguments.seconds} is outside of 1 to 600")
    cameras = dict(arguments.camera or [("base_0_rgb", "top")])
    episode = TASKS[arguments.task](arguments.seed)
    steps = round(arguments.seconds / DT)
    print(f"{episode.instruction!r}, seed {arguments.seed}, {steps} steps, cameras {cameras}")
    samples = simulate(episode, steps, round(1 / DT / arguments.frame_rate), cameras)
    write_bag(arguments.output, samples, episode.instruction, list(cameras), arguments.storage, encoder(arguments))
    size = sum(file.stat().st_size for file in arguments.output.iterdir())
    print(f"Wrote {arguments.output} ({size / 1e6:.2f} MB)")


if __name__ == "__main__":
    main()
