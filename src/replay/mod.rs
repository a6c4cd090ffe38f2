//! Recorded robots: reading rosbag2 bags (MCAP and SQLite storage), writing them (MCAP) and judging what a policy did with them. No ROS needed.
//!
//! ```text
//! rosbag2 folder, .mcap, .db3 ─► BagReader ─► BagMessage (CDR bytes) ─► cdr::decode ─► messages::JointState, ...
//! recorded inputs         ─► run, a policy in the time of the bag ─► Trace ─► Overview
//! recorded outputs        ─► BagWriter ─► rosbag2 folder          ─► Summary ─► table, JSON, SVG
//! ```
//!
//! Bags are input: a damaged one gives an error that names the record and its offset. What lies in front of the damage is used only where
//! that was asked for ([`BagReader::open_salvaging`]).

pub mod baseline;
pub mod cdr;
mod chunk;
pub mod compare;
mod definitions;
mod error;
mod mcap_file;
mod merge;
pub mod messages;
mod metadata;
#[cfg(test)]
mod mutants;
pub mod outputs;
pub mod overview;
mod plot;
mod reader;
mod records;
pub mod report;
pub mod run;
mod sqlite_file;
pub mod summary;
pub mod trace;
mod writer;

pub use definitions::definition;
pub use error::{CdrError, ReplayError};
pub use metadata::{Durability, History, Qos, Reliability};
pub use reader::{BagMessage, BagReader, Messages, Topic};
pub use writer::{BagWriter, TopicId};
