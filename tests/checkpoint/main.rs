//! Opening checkpoint folders: LeRobot's own, and crafted good and bad ones.

#[path = "../common/mod.rs"]
mod common;
mod folder;
mod golden;
mod hostile;
mod side_files;
mod weights;
