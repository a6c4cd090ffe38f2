//! Plays a bag into a ROS 2 graph over DDS and records what comes back, as any other client of the policy node would.
//!
//! Everything happens in one thread: [`Client::spin`] takes what arrived, and messages are published when their time has come.

mod client;
mod player;
mod recorder;

pub use client::{Client, ClientError, Incoming, qos};
pub use player::{Player, Remap, Timeline};
pub use recorder::Recorder;
