"""launch/policy.launch.py, run by `launch`: the command line, parameter files and environment that the node is started with.

The PyPI wheels of ROS 2 hold no `launch`, so tools/test.sh runs this with an installed ROS 2 only.
"""

from pathlib import Path

import pytest
import yaml
from ament_index_python import get_package_share_directory
from launch import LaunchDescription, LaunchService
from launch.actions import EmitEvent, IncludeLaunchDescription, RegisterEventHandler
from launch.event_handlers import OnProcessStart
from launch.events import Shutdown
from launch.events.process import ProcessStarted
from launch.launch_description_sources import PythonLaunchDescriptionSource

SHARE = Path(get_package_share_directory("pi0_tt"))
LAUNCH_FILE = str(SHARE / "launch/policy.launch.py")


def start(**arguments: str) -> ProcessStarted:
    """Starts the node and ends it at once."""
    events = []

    def on_start(event: ProcessStarted, _) -> EmitEvent:
        events.append(event)
        return EmitEvent(event=Shutdown())

    service = LaunchService(noninteractive=True)
    service.include_launch_description(
        LaunchDescription(
            [
                RegisterEventHandler(OnProcessStart(on_start=on_start)),
                IncludeLaunchDescription(PythonLaunchDescriptionSource(LAUNCH_FILE), launch_arguments=arguments.items()),
            ]
        )
    )
    service.run()
    (event,) = events
    return event


def after(command: list[str], option: str) -> list[str]:
    return [value for flag, value in zip(command, command[1:]) if flag == option]


def overrides(command: list[str]) -> dict:
    """Parameters of the files that come after params_file."""
    values = {}
    for path in after(command, "--params-file")[1:]:
        for node in yaml.safe_load(Path(path).read_text()).values():
            values |= node["ros__parameters"]
    return values


def test_without_arguments_the_installed_parameter_file_decides_everything():
    command = start().cmd
    assert Path(command[0]).name == "policy_node"
    assert after(command, "--params-file")[0] == str(SHARE / "config/policy.yaml")
    assert overrides(command) == {}
    assert after(command, "--log-level") == []
    assert "__node:=policy" in command


def test_arguments_override_the_parameter_file_with_the_type_of_the_parameter():
    command = start(checkpoint="/models/7", backend="ttnn", robot="aloha", autostart="false", use_sim_time="true").cmd
    assert overrides(command) == {"checkpoint": "/models/7", "backend": "ttnn", "robot": "aloha", "autostart": False, "use_sim_time": True}


@pytest.mark.parametrize("checkpoint", ["42", "true", "1e3"])
def test_a_checkpoint_whose_name_looks_like_a_number_stays_a_string(checkpoint):
    assert overrides(start(checkpoint=checkpoint).cmd) == {"checkpoint": checkpoint}


def test_namespace_log_level_and_parameter_file_reach_the_node(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("/**:\n  ros__parameters:\n    seed: 7\n")
    command = start(namespace="left_arm", log_level="debug", params_file=str(file)).cmd
    assert "__ns:=/left_arm" in command
    assert after(command, "--log-level") == ["debug"]
    assert after(command, "--params-file")[0] == str(file)


def test_log_lines_are_written_whole():
    assert start().env["RCUTILS_LOGGING_BUFFERED_STREAM"] == "1"
