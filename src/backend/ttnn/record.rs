//! A runtime that writes down what another one is asked to do: every op, every transfer, every freed tensor.
//!
//! The coverage report, the cost model and the replay on TTNN itself read the recording.

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    op::Op,
    runtime::{DeviceInfo, Runtime, RuntimeError},
    terms::TensorSpec,
};
use crate::model::Geometry;

/// Version of the recording's format.
pub const FORMAT: u32 = 1;

/// Number of a tensor in a recording.
pub type TensorId = usize;

/// Everything a runtime was asked for, in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recording {
    pub format: u32,
    pub workload: Workload,
    pub device: DeviceInfo,
    /// By [`TensorId`].
    pub tensors: Vec<TensorSpec>,
    pub events: Vec<Event>,
}

/// What was computed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Workload {
    pub geometry: Geometry,
    pub cameras: usize,
    pub tokens: usize,
    pub steps: usize,
    /// Guided by the chunk before (real-time chunking).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub guided: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// Names the events up to the matching `Leave`.
    Enter {
        scope: String,
    },
    Leave,
    /// Host to device: a new tensor.
    Upload {
        tensor: TensorId,
    },
    /// Host to device: new values for a tensor.
    Write {
        tensor: TensorId,
    },
    /// Device to host.
    Download {
        tensor: TensorId,
    },
    Run {
        call: Op,
        inputs: Vec<TensorId>,
        outputs: Vec<TensorId>,
    },
    /// The tensor's last handle is gone.
    Deallocate {
        tensor: TensorId,
    },
    BeginCapture,
    EndCapture,
    /// The ops between the `BeginCapture` and `EndCapture` number `trace` of this recording, again.
    Replay {
        trace: usize,
    },
}

impl Recording {
    pub fn read(path: &Path) -> Result<Self, RecordingError> {
        let text = std::fs::read(path).map_err(|source| RecordingError::Read { path: path.into(), source })?;
        let recording: Self =
            serde_json::from_slice(&text).map_err(|source| RecordingError::Parse { path: path.into(), source })?;
        if recording.format != FORMAT {
            return Err(RecordingError::Format { path: path.into(), found: recording.format });
        }
        Ok(recording)
    }

    pub fn write(&self, path: &Path) -> Result<(), RecordingError> {
        let text = serde_json::to_vec(self).map_err(|source| RecordingError::Parse { path: path.into(), source })?;
        std::fs::write(path, text).map_err(|source| RecordingError::Write { path: path.into(), source })
    }
}

/// Why a recording could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    #[error("Cannot read the recording {path}: {source}", path = path.display())]
    Read { path: std::path::PathBuf, source: std::io::Error },
    #[error("Cannot write the recording {path}: {source}", path = path.display())]
    Write { path: std::path::PathBuf, source: std::io::Error },
    #[error("{path} is not a recording of `pi0_tt graph`: {source}", path = path.display())]
    Parse { path: std::path::PathBuf, source: serde_json::Error },
    #[error("{path} has recording format {found} and this version reads {FORMAT}. Record it again with `pi0_tt graph`", path = path.display())]
    Format { path: std::path::PathBuf, found: u32 },
}

#[derive(Default)]
struct Log {
    tensors: Vec<TensorSpec>,
    events: Vec<Event>,
    captures: usize,
}

/// Wraps `R` and records what it is asked for.
pub struct Record<R> {
    inner: R,
    log: Arc<Mutex<Log>>,
}

/// A tensor of the wrapped runtime with its number.
pub struct Recorded<T> {
    inner: T,
    handle: Arc<Handle>,
}

impl<T: Clone> Clone for Recorded<T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), handle: self.handle.clone() }
    }
}

/// Notes the end of its tensor.
struct Handle {
    id: TensorId,
    log: Arc<Mutex<Log>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        locked(&self.log).events.push(Event::Deallocate { tensor: self.id });
    }
}

// A panic elsewhere leaves the log whole: events are pushed one at a time.
fn locked(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<R: Runtime> Record<R> {
    pub fn new(inner: R) -> Self {
        Self { inner, log: Arc::default() }
    }

    /// What was recorded up to now.
    pub fn recording(&self, workload: Workload) -> Recording {
        let log = locked(&self.log);
        Recording {
            format: FORMAT,
            workload,
            device: self.inner.device().clone(),
            tensors: log.tensors.clone(),
            events: log.events.clone(),
        }
    }

    fn event(&self, event: Event) {
        locked(&self.log).events.push(event);
    }

    fn track(&self, inner: R::Tensor) -> Recorded<R::Tensor> {
        let spec = self.inner.spec(&inner);
        let mut log = locked(&self.log);
        log.tensors.push(spec);
        Recorded { inner, handle: Arc::new(Handle { id: log.tensors.len() - 1, log: self.log.clone() }) }
    }
}

impl<R: Runtime> Runtime for Record<R> {
    type Tensor = Recorded<R::Tensor>;
    /// The wrapped runtime's trace with its number in the recording.
    type Trace = (R::Trace, usize);

    fn device(&self) -> &DeviceInfo {
        self.inner.device()
    }

    fn spec(&self, tensor: &Self::Tensor) -> TensorSpec {
        self.inner.spec(&tensor.inner)
    }

    fn upload(
        &mut self,
        spec: TensorSpec,
        packed: &mut dyn FnMut() -> Result<Bytes, RuntimeError>,
    ) -> Result<Self::Tensor, RuntimeError> {
        let inner = self.inner.upload(spec, packed)?;
        let tensor = self.track(inner);
        self.event(Event::Upload { tensor: tensor.handle.id });
        Ok(tensor)
    }

    fn write(&mut self, tensor: &Self::Tensor, packed: Bytes) -> Result<(), RuntimeError> {
        self.event(Event::Write { tensor: tensor.handle.id });
        self.inner.write(&tensor.inner, packed)
    }

    fn download(&mut self, tensor: &Self::Tensor) -> Result<Bytes, RuntimeError> {
        self.event(Event::Download { tensor: tensor.handle.id });
        self.inner.download(&tensor.inner)
    }

    fn run(&mut self, op: &Op, inputs: &[&Self::Tensor]) -> Result<Vec<Self::Tensor>, RuntimeError> {
        let operands: Vec<&R::Tensor> = inputs.iter().map(|tensor| &tensor.inner).collect();
        let outputs = self.inner.run(op, &operands)?;
        let outputs: Vec<Self::Tensor> = outputs.into_iter().map(|inner| self.track(inner)).collect();
        let ids = |tensors: &mut dyn Iterator<Item = &Self::Tensor>| tensors.map(|tensor| tensor.handle.id).collect();
        self.event(Event::Run { call: op.clone(), inputs: ids(&mut inputs.iter().copied()), outputs: ids(&mut outputs.iter()) });
        Ok(outputs)
    }

    fn begin_capture(&mut self) -> Result<(), RuntimeError> {
        self.event(Event::BeginCapture);
        self.inner.begin_capture()
    }

    fn end_capture(&mut self) -> Result<Self::Trace, RuntimeError> {
        self.event(Event::EndCapture);
        let trace = self.inner.end_capture()?;
        let mut log = locked(&self.log);
        log.captures += 1;
        Ok((trace, log.captures - 1))
    }

    fn replay(&mut self, (trace, number): &Self::Trace) -> Result<(), RuntimeError> {
        self.event(Event::Replay { trace: *number });
        self.inner.replay(trace)
    }

    fn synchronize(&mut self) -> Result<(), RuntimeError> {
        self.inner.synchronize()
    }

    fn enter(&mut self, scope: &str) {
        self.event(Event::Enter { scope: scope.to_owned() });
        self.inner.enter(scope);
    }

    fn leave(&mut self) {
        self.event(Event::Leave);
        self.inner.leave();
    }
}
