//! The ROS 2 node. Its parameters and topics are in the README; `--ros-args` works as for every node.

fn main() -> std::process::ExitCode {
    pi0_tt::node::run(std::env::args())
}
