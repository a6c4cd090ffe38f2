//! Recorded robots: reading and writing rosbag2 bags (MCAP storage) and judging what a policy did with them. No ROS needed.
//!
//! ```text
//! rosbag2 folder or .mcap ─► BagReader ─► BagMessage (CDR bytes) ─► cdr::decode ─► messages::JointState, ...
//! recorded outputs        ─► BagWriter ─► rosbag2 folder          ─► Summary ─► table, JSON, SVG
//! ```
//!
//! Bags are input: a damaged one gives an error that names the record and its offset, and nothing of it is used.

pub mod cdr;
pub mod compare;
mod definitions;
mod error;
mod mcap_file;
pub mod messages;
mod metadata;
mod plot;
mod reader;
pub mod report;
pub mod summary;
pub mod trace;
mod writer;

pub use definitions::definition;
pub use error::{CdrError, ReplayError};
pub use metadata::{Durability, History, Qos, Reliability};
pub use reader::{BagMessage, BagReader, Messages, Topic};
pub use writer::{BagWriter, TopicId};
