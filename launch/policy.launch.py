"""Starts the policy node.

    ros2 launch pi0_tt policy.launch.py checkpoint:=/models/pi0_aloha robot:=aloha

`params_file` holds every parameter; an argument that is not given, or is empty, keeps the value of the file.
"""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

# Launch arguments that override a parameter of the same name, with the parameter's type.
OVERRIDES = {
    "checkpoint": (str, "Checkpoint folder (LeRobot or openpi's PyTorch conversion)"),
    "backend": (str, "Where chunks are computed: reference (CPU), ttnn (Tenstorrent card) or ttnn_host (the card's graph on the CPU)"),
    "robot": (str, "Robot profile: a name of config/robots or the path of a YAML file"),
    "autostart": (bool, "Configure and activate at start: true, or false to wait for ~/change_state"),
    "use_sim_time": (bool, "Take the time from /clock: true or false"),
}


def policy_node(context: LaunchContext) -> list[Node]:
    given = {name: context.perform_substitution(LaunchConfiguration(name)) for name in (*OVERRIDES, "log_level")}
    overrides = {name: ParameterValue(LaunchConfiguration(name), value_type=type_) for name, (type_, _) in OVERRIDES.items() if given[name]}
    return [
        Node(
            package="pi0_tt",
            executable="policy_node",
            name="policy",
            namespace=LaunchConfiguration("namespace"),
            parameters=[LaunchConfiguration("params_file"), overrides],
            arguments=["--ros-args", "--log-level", given["log_level"]] if given["log_level"] else [],
            output="both",
            emulate_tty=True,
            # One write per log line: lines of two processes do not mix, and a full pipe does not stall the node once per character.
            additional_env={"RCUTILS_LOGGING_BUFFERED_STREAM": "1"},
        )
    ]


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "params_file",
                default_value=PathJoinSubstitution([FindPackageShare("pi0_tt"), "config", "policy.yaml"]),
                description="YAML file of the node's parameters",
            ),
            DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node; its topics are relative to it"),
            DeclareLaunchArgument("log_level", default_value="", description="debug, info, warn, error or fatal; empty: info"),
            *(
                DeclareLaunchArgument(name, default_value="", description=f"{description}. Empty: as in params_file")
                for name, (_, description) in OVERRIDES.items()
            ),
            OpaqueFunction(function=policy_node),
        ]
    )
