"""tools/rosidl_rust.py: what it generates is compiled, and messages with every kind of field come back unchanged from Rust."""

import ctypes
import os
import pathlib
import subprocess
import sys

import pytest
from rclpy.serialization import deserialize_message, serialize_message

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = ROOT / "tests/peers/rosidl_rust"
BUILD = ROOT / "build/tests/rosidl_rust"
GENERATOR = ROOT / "tools/rosidl_rust.py"
PACKAGE = "pi0_tt_test_interfaces"


def run(*command, **options):
    """Runs a command to its end; what it said is shown when it fails."""
    done = subprocess.run(list(map(str, command)), capture_output=True, **options)
    assert done.returncode == 0, done.stderr.decode() + done.stdout.decode()
    return done.stdout


def generator(output, *packages, prefix=""):
    """Command line and environment of the generator, with `prefix` in front of the ROS installation."""
    environment = os.environ | {"AMENT_PREFIX_PATH": f"{prefix}:{os.environ['AMENT_PREFIX_PATH']}"}
    return [sys.executable, GENERATOR, "--output", output, *packages], environment


def generate(output, *packages, prefix=""):
    command, environment = generator(output, *packages, prefix=prefix)
    return run(*command, env=environment).decode()


@pytest.fixture(scope="module")
def interfaces():
    """Prefix of the package of test interfaces, built and installed; its Python module can be imported."""
    prefix = BUILD / "install"
    if not (BUILD / "cmake/configured").exists():
        options = [f"-DCMAKE_INSTALL_PREFIX={prefix}", f"-DCMAKE_INSTALL_RPATH={prefix}/lib", "-DBUILD_TESTING=OFF"]
        run("cmake", "-S", HERE / "interfaces", "-B", BUILD / "cmake", *options)
        (BUILD / "cmake/configured").touch()
    run("cmake", "--build", BUILD / "cmake", "-j2")
    run("cmake", "--install", BUILD / "cmake")
    # As if the prefix had been on PYTHONPATH and LD_LIBRARY_PATH when Python started.
    sys.path.append(str(next(prefix.glob("lib/python3.*/site-packages"))))
    for library in (prefix / "lib").glob("*.so"):
        ctypes.CDLL(library)
    return prefix


@pytest.fixture(scope="module")
def rust(interfaces):
    """Rust sources of the test interfaces and of what they use."""
    output = BUILD / "rust"
    generate(output, PACKAGE, prefix=interfaces)
    return output


@pytest.fixture(scope="module")
def round_trip(interfaces, rust):
    """Runs the program that is compiled with the generated code."""
    fix_ups = [os.environ["PI0_TT_ROS_SHIM"]] if "PI0_TT_ROS_SHIM" in os.environ else []
    environment = os.environ | {
        "AMENT_PREFIX_PATH": ":".join(map(str, [rust, *fix_ups, interfaces, os.environ["AMENT_PREFIX_PATH"]])),
        "LD_LIBRARY_PATH": ":".join(
            [*os.environ.get("PI0_TT_ROS_RPATH", "").split(";"), f"{interfaces}/lib", os.environ["LD_LIBRARY_PATH"]]
        ),
    }
    manifest = HERE / "round_trip/Cargo.toml"
    # The compiler itself has no need of the ROS libraries.
    run("cargo", "build", "--locked", "--manifest-path", manifest, "--target-dir", BUILD / "cargo", env=environment | {"LD_LIBRARY_PATH": ""})

    def call(*arguments, message=b""):
        return run(BUILD / "cargo/debug/round_trip", *arguments, input=message, env=environment)

    return call



@pytest.fixture(scope="module")
def messages(interfaces):
    """Messages with content in every field, by type name."""
    from builtin_interfaces.msg import Duration, Time
    from pi0_tt_test_interfaces.msg import Element, Everything, Nothing
    from pi0_tt_test_interfaces.srv import Exchange

    def element(number):
        return Element(number=number, name=f"element {number}")

    everything = Everything(
        flag=True,
        raw=b"\xfe",
        letter=65,
        i8=-8,
        u8=8,
        i16=-16,
        u16=16,
        i32=-32,
        u32=2**32 - 1,
        i64=-(2**63),
        u64=2**64 - 1,
        f32=0.5,
        f64=1e-300,
        text="π₀ \u2615",
        short_text="12345",
        wide="wide π₀",
        short_wide="µ",
        stamp=Time(sec=-1, nanosec=999_999_999),
        element=element(1),
        pair=[element(2), element(3)],
        elements=[element(4), element(5), element(6)],
        few_elements=[element(7)],
        triple=[1, -2, 3],
        text_pair=["left", ""],
        short_text_pair=["abc", "d"],
        wide_pair=["ü", "w"],
        flags=[True, False, True],
        bytes=bytes(range(256)),
        doubles=[0.1, -0.0, 1e300],
        texts=["", "a", "bc"],
        short_texts=["xyz", ""],
        wides=["ä", ""],
        few_numbers=[1, 65535],
        few_texts=["only one"],
        few_short_texts=["abc", "de"],
        answer=-1,
        greeting="",
        weights=[],
        type="keyword",
        match=5,
        ref=[False],
        box=element(8),
        loop=["l", "oop"],
    )
    return {
        "Everything": everything,
        "Nothing": Nothing(),
        "Exchange_Request": Exchange.Request(wanted=element(9), move=["a", ""]),
        "Exchange_Response": Exchange.Response(given=[element(10)], took=Duration(sec=1, nanosec=2)),
    }


@pytest.mark.parametrize("name", ["Everything", "Nothing", "Exchange_Request", "Exchange_Response"])
def test_a_message_with_content_in_every_field_comes_back_unchanged(messages, round_trip, name):
    message = messages[name]
    returned = round_trip("round_trip", name, message=serialize_message(message))
    assert deserialize_message(returned, type(message)) == message


def test_default_values_of_the_definition_are_those_of_python(messages, round_trip):
    everything = type(messages["Everything"])
    default = deserialize_message(round_trip("default", "Everything"), everything)
    assert default == everything()
    assert (default.answer, default.greeting, list(default.weights)) == (42, "hello", [1.0, -2.5])


def test_fields_constants_and_services_have_their_rust_names(round_trip):
    round_trip("check_names")


def test_comments_of_the_definition_become_documentation(rust):
    source = (rust / f"share/{PACKAGE}/rust/src/msg.rs").read_text()
    assert "/// A message inside of another.\n" in source
    assert "    /// Two lines\n    /// of documentation.\n    pub name: " in source


def test_packages_in_use_are_generated_too_and_unchanged_files_keep_their_time(interfaces, rust):
    assert {path.name for path in (rust / "share").iterdir()} == {PACKAGE, "builtin_interfaces"}
    source = rust / f"share/{PACKAGE}/rust/src/msg.rs"
    before = source.stat().st_mtime_ns
    generate(rust, PACKAGE, prefix=interfaces)
    assert source.stat().st_mtime_ns == before


def test_a_package_whose_rust_sources_a_prefix_brings_is_left_alone(interfaces, tmp_path):
    brought = tmp_path / "ros/share/builtin_interfaces/rust"
    brought.mkdir(parents=True)
    (brought / "Cargo.toml").touch()
    output = generate(tmp_path / "output", PACKAGE, prefix=f"{tmp_path}/ros:{interfaces}")
    assert "(from ROS: builtin_interfaces)" in output
    assert not (tmp_path / "output/share/builtin_interfaces").exists()


def test_an_unknown_package_is_refused_by_name(tmp_path):
    command, environment = generator(tmp_path, "no_such_msgs")
    refused = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    assert refused.returncode == 1
    assert refused.stderr.startswith("Package no_such_msgs is in none of ")
