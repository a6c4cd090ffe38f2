//! π0 policies on Tenstorrent cards, as a ROS 2 node and a command line.
//!
//! Camera images, joint states and an instruction go in; a π0 model that stays resident turns them into chunks of actions; a control layer
//! turns chunks into commands that a robot can follow.
//!
//! ```text
//! sensor msgs ─► observation ─► Backend::prefix ─► PrefixCache ─► Backend::denoise ─► Chunk
//!   (node)        decode, resize,   SigLIP + Gemma     KV per layer    action expert        │
//!                 normalise, tokenise                                                       ▼
//! commands ◄──── control ◄──── un-normalise, delta to absolute, robot map (observation) ◄───┘
//!   (node)
//! ```
//!
//! [`control`] decides at both ends: which samples make an observation (`Synchronizer`), and what the robot is told of a chunk
//! (`Controller`). It is pure, with the time as an argument; [`sim`] runs it in closed loop with a simulated arm.
//!
//! A backend is the CPU in float32 ([`backend::reference`]) or the graph of a Tenstorrent card ([`backend::ttnn`]), which runs on the card
//! or on the CPU in the card's number formats.
//!
//! [`session`] is a policy at work, from samples to commands: the node runs it in real time, [`replay`] over a recorded bag in the time of the
//! bag. [`parameters`] tells both what an operator may set.
//!
//! Dependencies point one way: `node`, `replay` and the binaries use [`session`] and [`policy`], which joins [`checkpoint`], [`observation`] and
//! [`backend`]; those use [`model`]. `model`, `control` and `observation` know nothing of ROS, TTNN, files or wall clocks.

pub mod backend;
pub mod checkpoint;
pub mod cli;
pub mod control;
mod html;
pub mod model;
#[cfg(feature = "ros")]
pub mod node;
pub mod observation;
pub mod parameters;
mod picture;
pub mod policy;
mod progress;
pub mod replay;
pub mod robot;
pub mod session;
pub mod sim;
pub mod verify;
