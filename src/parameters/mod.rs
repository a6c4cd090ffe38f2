//! The policy's parameters: what each is called, means, may be and is by default, and what a set of values decides. No ROS needed.
//!
//! ```text
//! Spec ─► Source ─► Handle ─► Parameters, CameraParameters, ... ─► PolicyOptions, Rules, ControlConfig
//!          │
//!          ├── the node, which declares parameters with its ROS services
//!          └── ParameterFiles: the values of parameter files and of a command line
//! ```
//!
//! So the node and a replay of its inputs understand the same file in the same way.

mod choice;
mod control;
mod error;
mod file;
mod inputs;
mod policy;
mod spec;

use std::sync::Arc;

pub use choice::Choice;
pub use control::{ControlParameters, JointParameters};
pub use error::ParameterError;
pub use file::{ParameterFiles, Scalar};
pub use inputs::{CameraParameters, SyncParameters, Transport};
pub use policy::{InstructionDurability, Parameters};
pub use spec::{BOOLEAN, Check, INTEGER, NUMBER, Spec, TEXT};

/// The value of a declared parameter. Dropping it undeclares the parameter.
pub trait Parameter<T>: Send + Sync {
    fn get(&self) -> T;

    /// Calls `told` whenever the value is set from now on. A value that is never set calls nobody.
    fn on_change(&self, told: Box<dyn Fn(&T) + Send + Sync>) {
        let _ = told;
    }
}

/// A declared parameter.
pub type Handle<T> = Box<dyn Parameter<T>>;

/// Where values come from. Everything that is declared is checked against its [`Spec`].
pub trait Source {
    fn text(&mut self, spec: Spec<Arc<str>>) -> Result<Handle<Arc<str>>, ParameterError>;
    fn integer(&mut self, spec: Spec<i64>) -> Result<Handle<i64>, ParameterError>;
    fn boolean(&mut self, spec: Spec<bool>) -> Result<Handle<bool>, ParameterError>;
    fn number(&mut self, spec: Spec<f64>) -> Result<Handle<f64>, ParameterError>;
}

/// The choice that a text parameter made.
fn chosen<T: Choice>(name: &str, parameter: &Handle<Arc<str>>) -> Result<T, ParameterError> {
    T::parse(&parameter.get()).map_err(|reason| ParameterError::Rejected { name: name.to_owned(), reason })
}
