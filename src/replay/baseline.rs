//! A recorded run in one file: what a later run is held against.
//!
//! A safetensors file, which Python opens with `safetensors.numpy.load_file`. Arrays are tensors; the rest is JSON in `__metadata__`:
//!
//! ```text
//! __metadata__: format: "pi0_tt replay baseline", version: "1", digest: of all that follows, trace: the Trace as JSON, arrays empty
//! model_actions        [chunks, horizon, action_dim] f32   actions  [chunks, horizon, joints] f64
//! state                [chunks, state_dim] f32             positions [chunks, state joints] f64
//! camera_fields        [images, 3, 8, 8] f32: the cameras that are not masked, chunk after chunk in the order of the slots
//! commands             [steps, joints] f64                 command_stamps [steps] i64, nanoseconds
//! intermediate_values  [values] f32, one tensor after the other    intermediate_sizes [tensors] i64    intermediate_rms [tensors] f64
//! ```
//!
//! A chunk that was refused before it had actions has NaN in its rows of `actions` and is listed in `without_actions`.
//! Reading gives the bits that were recorded, or an error: a flipped bit anywhere is found by the digest.

use std::{
    borrow::Cow,
    collections::HashMap,
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
};

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensorError, SafeTensors, View, tensor::TensorView};

use super::trace::{CameraTrace, Digest, Trace};

const FORMAT: &str = "pi0_tt replay baseline";
const VERSION: u32 = 1;

/// Values of [`CameraTrace::Present`]'s fields.
const FIELDS: [usize; 3] = [3, 8, 8];

/// What may be recorded, and over what.
#[derive(Clone, Copy, Debug, Default)]
pub struct RecordOptions {
    /// Replace a file that exists.
    pub force: bool,
    /// Record a run with times in which no observation could be made.
    pub allow_gaps: bool,
}

/// Why a baseline could not be recorded or read.
#[derive(Debug, thiserror::Error)]
pub enum BaselineError {
    #[error("{} exists already and no baseline is written over. Choose another name, or give --force to replace it", .0.display())]
    Exists(PathBuf),
    #[error(
        "The run has no chunk, so there is nothing to hold another run against. Is there an input that the policy waited for?"
    )]
    NoChunks,
    #[error(
        "The bag could not be read to its end, and a baseline of a part would hide the rest: {0}. Repair the bag and record again"
    )]
    Damaged(String),
    #[error(
        "The run has {count} gap{} in which no observation could be made (the first: {first}). Give --allow-gaps when the bag is meant to be \
         so",
        if *.count == 1 { "" } else { "s" }
    )]
    Gaps { count: usize, first: String },
    #[error("{what} of chunk {chunk} has {found} values and {expected} were expected, so the run cannot be recorded")]
    Width { what: &'static str, chunk: u64, found: usize, expected: usize },
    #[error("The run cannot be recorded: {0}")]
    Unwritable(String),
    #[error("Cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("Cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is empty. Record the baseline again with --record", .0.display())]
    Empty(PathBuf),
    #[error("{} is not a baseline: {reason}. Give the file that pi0_tt replay --record wrote", path.display())]
    Foreign { path: PathBuf, reason: String },
    #[error(
        "{} is a baseline of version {found}, and this pi0_tt reads version {VERSION}. Use the pi0_tt that recorded it, or record it again",
        path.display()
    )]
    Version { path: PathBuf, found: String },
    #[error("{} is cut off or damaged: {reason}. Take it from a copy, or record it again with --record", path.display())]
    Damage { path: PathBuf, reason: String },
}

/// Refuses to write over a file, unless it is forced. For asking before a long run.
pub fn check_free(path: &Path, force: bool) -> Result<(), BaselineError> {
    if !force && path.symlink_metadata().is_ok() { Err(BaselineError::Exists(path.to_owned())) } else { Ok(()) }
}

/// Writes a run to `path`, which appears whole or not at all. Runs that are no measure for others are refused.
pub fn record(path: &Path, trace: &Trace, options: RecordOptions) -> Result<(), BaselineError> {
    check_free(path, options.force)?;
    if trace.chunks.is_empty() {
        return Err(BaselineError::NoChunks);
    }
    if let Some(damage) = &trace.damage {
        return Err(BaselineError::Damaged(damage.clone()));
    }
    if let Some(gap) = trace.gaps.first().filter(|_| !options.allow_gaps) {
        let first = gap.inputs.iter().map(|(input, reason)| format!("{input}: {reason}")).collect::<Vec<_>>().join(", ");
        return Err(BaselineError::Gaps { count: trace.gaps.len(), first });
    }
    let bytes = encode(trace)?;
    // A number that JSON does not have would be found when the baseline is needed.
    decode(&bytes).map_err(|cause| BaselineError::Unwritable(cause.reason()))?;

    let failed = |source| BaselineError::Write { path: path.to_owned(), source };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = temporary(folder).map_err(failed)?;
    file.write_all(&bytes).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
    let placed = if options.force { file.persist(path) } else { file.persist_noclobber(path) };
    placed.map(drop).map_err(|cause| match cause.error.kind() {
        io::ErrorKind::AlreadyExists => BaselineError::Exists(path.to_owned()),
        _ => failed(cause.error),
    })
}

/// A file beside the final one that is gone when the recording fails, with the permissions of any other file.
fn temporary(folder: &Path) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".baseline");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
    builder.tempfile_in(folder)
}

/// Reads a baseline.
pub fn open(path: &Path) -> Result<Trace, BaselineError> {
    let failed = |source| BaselineError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let about = file.metadata().map_err(failed)?;
    if about.is_dir() {
        return Err(BaselineError::Foreign { path: path.to_owned(), reason: "it is a folder".to_owned() });
    }
    if about.len() == 0 {
        return Err(BaselineError::Empty(path.to_owned()));
    }
    // SAFETY: the map is read-only. A file that another process shrinks meanwhile would end this process (SIGBUS), as with weights.
    let map = unsafe { Mmap::map(&file) }.map_err(failed)?;
    decode(&map).map_err(|cause| cause.of(path))
}

/// Why bytes are not a baseline.
#[derive(Debug)]
enum Undecodable {
    Foreign(String),
    Version(String),
    Damage(String),
}

impl Undecodable {
    fn of(self, path: &Path) -> BaselineError {
        let path = path.to_owned();
        match self {
            Self::Foreign(reason) => BaselineError::Foreign { path, reason },
            Self::Version(found) => BaselineError::Version { path, found },
            Self::Damage(reason) => BaselineError::Damage { path, reason },
        }
    }

    fn reason(self) -> String {
        match self {
            Self::Foreign(reason) | Self::Version(reason) | Self::Damage(reason) => reason,
        }
    }
}

/// The file's metadata beside `format`, `version` and `digest`.
#[derive(serde::Serialize, serde::Deserialize)]
struct Document<T> {
    /// Indices into the chunks.
    without_actions: Vec<usize>,
    trace: T,
}

/// One tensor with its bytes.
struct Array {
    name: &'static str,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Array {
    fn f32(name: &'static str, shape: Vec<usize>, values: &[f32]) -> Self {
        Self { name, dtype: Dtype::F32, shape, bytes: values.iter().flat_map(|value| value.to_le_bytes()).collect() }
    }

    fn f64(name: &'static str, shape: Vec<usize>, values: &[f64]) -> Self {
        Self { name, dtype: Dtype::F64, shape, bytes: values.iter().flat_map(|value| value.to_le_bytes()).collect() }
    }

    fn i64(name: &'static str, values: &[i64]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self { name, dtype: Dtype::I64, shape: vec![values.len()], bytes }
    }
}

impl View for &Array {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.bytes.as_slice().into()
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

fn encode(trace: &Trace) -> Result<Vec<u8>, BaselineError> {
    let (document, arrays) = split(trace)?;
    let digest =
        digest(&document, arrays.iter().map(|array| (array.name, array.dtype, array.shape.as_slice(), array.bytes.as_slice())));
    let metadata: HashMap<String, String> =
        [("format", FORMAT.to_owned()), ("version", VERSION.to_string()), ("digest", digest), ("trace", document)]
            .map(|(key, value)| (key.to_owned(), value))
            .into();
    let tensors = arrays.iter().map(|array| (array.name, array));
    safetensors::serialize(tensors, Some(metadata)).map_err(|error| BaselineError::Unwritable(error.to_string()))
}

/// The trace as JSON with its arrays taken out, and those arrays.
fn split(trace: &Trace) -> Result<(String, Vec<Array>), BaselineError> {
    let mut rest = trace.clone();
    let (setup, chunks) = (&trace.setup, rest.chunks.len());
    let joints = setup.joints.len();
    let state_dim = trace.chunks.first().map_or(0, |chunk| chunk.model.state.len());

    let mut without_actions = Vec::new();
    let (mut model_actions, mut actions, mut state, mut positions) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut fields, mut values, mut sizes, mut rms) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (position, chunk) in rest.chunks.iter_mut().enumerate() {
        if chunk.actions.is_empty() && setup.horizon * joints > 0 {
            without_actions.push(position);
            chunk.actions = vec![f64::NAN; setup.horizon * joints];
        }
        for (what, found, expected) in [
            ("model_actions", chunk.model_actions.len(), setup.horizon * setup.action_dim),
            ("actions", chunk.actions.len(), setup.horizon * joints),
            ("state", chunk.model.state.len(), state_dim),
            ("positions", chunk.positions.len(), setup.state_joints.len()),
            ("cameras", chunk.model.cameras.len(), setup.cameras.len()),
        ] {
            if found != expected {
                return Err(BaselineError::Width { what, chunk: chunk.index, found, expected });
            }
        }
        model_actions.append(&mut chunk.model_actions);
        actions.append(&mut chunk.actions);
        state.append(&mut chunk.model.state);
        positions.append(&mut chunk.positions);
        for camera in &mut chunk.model.cameras {
            if let CameraTrace::Present { fields: of_camera, .. } = camera {
                let (found, expected) = (of_camera.len(), FIELDS.iter().product());
                if found != expected {
                    return Err(BaselineError::Width { what: "camera fields", chunk: chunk.index, found, expected });
                }
                fields.append(of_camera);
            }
        }
        for tensor in &mut chunk.model.intermediates {
            sizes.push(tensor.values.len() as i64);
            values.append(&mut tensor.values);
            rms.push(std::mem::take(&mut tensor.rms));
        }
    }
    let (mut rows, mut stamps) = (Vec::new(), Vec::new());
    for (step, mut command) in std::mem::take(&mut rest.commands).into_iter().enumerate() {
        if command.row.len() != joints {
            let (found, expected) = (command.row.len(), joints);
            return Err(BaselineError::Width { what: "command", chunk: step as u64, found, expected });
        }
        rows.append(&mut command.row);
        stamps.push(command.stamp);
    }
    let images = fields.len() / FIELDS.iter().product::<usize>();
    let arrays = vec![
        Array::f64("actions", vec![chunks, setup.horizon, joints], &actions),
        Array::f32("camera_fields", [&[images], &FIELDS[..]].concat(), &fields),
        Array::i64("command_stamps", &stamps),
        Array::f64("commands", vec![stamps.len(), joints], &rows),
        Array::f64("intermediate_rms", vec![rms.len()], &rms),
        Array::i64("intermediate_sizes", &sizes),
        Array::f32("intermediate_values", vec![values.len()], &values),
        Array::f32("model_actions", vec![chunks, setup.horizon, setup.action_dim], &model_actions),
        Array::f64("positions", vec![chunks, setup.state_joints.len()], &positions),
        Array::f32("state", vec![chunks, state_dim], &state),
    ];
    let document = serde_json::to_string(&Document { without_actions, trace: &rest });
    Ok((document.map_err(|error| BaselineError::Unwritable(error.to_string()))?, arrays))
}

/// Of the document and of every tensor with its name, type and shape, in the order of the names.
fn digest<'a>(document: &str, arrays: impl Iterator<Item = (&'a str, Dtype, &'a [usize], &'a [u8])>) -> String {
    let mut arrays: Vec<_> = arrays.collect();
    arrays.sort_by_key(|(name, ..)| *name);
    let labels: Vec<String> = arrays.iter().map(|(name, dtype, shape, _)| format!("\n{name} {dtype:?} {shape:?}\n")).collect();
    let parts = labels.iter().zip(&arrays).flat_map(|(label, (.., bytes))| [label.as_bytes(), bytes]);
    Digest::of(std::iter::once(document.as_bytes()).chain(parts)).to_string()
}

fn decode(bytes: &[u8]) -> Result<Trace, Undecodable> {
    let unsound = |error: SafeTensorError| match error {
        // No length and no JSON at the start: this never was a safetensors file.
        SafeTensorError::HeaderTooLarge
        | SafeTensorError::InvalidHeader(_)
        | SafeTensorError::InvalidHeaderDeserialization(_) => {
            Undecodable::Foreign(format!("it is no safetensors file, or its header is damaged ({error})"))
        }
        error => Undecodable::Damage(error.to_string()),
    };
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(unsound)?;
    let Some(metadata) =
        header.metadata().as_ref().filter(|metadata| metadata.get("format").is_some_and(|format| format == FORMAT))
    else {
        return Err(Undecodable::Foreign("it is a safetensors file of something else".to_owned()));
    };
    let entry = |name: &str| metadata.get(name).ok_or_else(|| Undecodable::Damage(format!("its metadata has no {name}")));
    let version = entry("version")?;
    if version.parse() != Ok(VERSION) {
        return Err(Undecodable::Version(version.clone()));
    }
    let file = SafeTensors::deserialize(bytes).map_err(unsound)?;
    let document = entry("trace")?;
    let views = file.tensors();
    let found = digest(document, views.iter().map(|(name, view)| (name.as_str(), view.dtype(), view.shape(), view.data())));
    if found != *entry("digest")? {
        return Err(Undecodable::Damage("its content does not have the digest that was recorded with it".to_owned()));
    }
    let Document { without_actions, trace } = serde_json::from_str::<Document<Trace>>(document)
        .map_err(|error| Undecodable::Damage(format!("the trace in its metadata cannot be read: {error}")))?;
    fill(trace, &without_actions, &file)
}

/// Puts the arrays back where they were taken from.
fn fill(mut trace: Trace, without_actions: &[usize], file: &SafeTensors) -> Result<Trace, Undecodable> {
    let chunks = trace.chunks.len();
    let (horizon, action_dim) = (trace.setup.horizon, trace.setup.action_dim);
    let (joints, state_joints) = (trace.setup.joints.len(), trace.setup.state_joints.len());
    let images =
        trace.chunks.iter().flat_map(|chunk| &chunk.model.cameras).filter(|camera| **camera != CameraTrace::Masked).count();
    let mut model_actions =
        Take::new(file, "model_actions", Dtype::F32, &[Some(chunks), Some(horizon), Some(action_dim)], f32::from_le_bytes)?;
    let mut actions = Take::new(file, "actions", Dtype::F64, &[Some(chunks), Some(horizon), Some(joints)], f64::from_le_bytes)?;
    let mut state = Take::new(file, "state", Dtype::F32, &[Some(chunks), None], f32::from_le_bytes)?;
    let mut positions = Take::new(file, "positions", Dtype::F64, &[Some(chunks), Some(state_joints)], f64::from_le_bytes)?;
    let mut fields =
        Take::new(file, "camera_fields", Dtype::F32, &[Some(images), Some(3), Some(8), Some(8)], f32::from_le_bytes)?;
    let mut values = Take::new(file, "intermediate_values", Dtype::F32, &[None], f32::from_le_bytes)?;
    let mut sizes = Take::new(file, "intermediate_sizes", Dtype::I64, &[None], i64::from_le_bytes)?;
    let mut rms = Take::new(file, "intermediate_rms", Dtype::F64, &[None], f64::from_le_bytes)?;
    let mut stamps = Take::new(file, "command_stamps", Dtype::I64, &[None], i64::from_le_bytes)?;
    let steps = stamps.shape[0];
    let mut commands = Take::new(file, "commands", Dtype::F64, &[Some(steps), Some(joints)], f64::from_le_bytes)?;

    let state_dim = state.shape[1];
    for (position, chunk) in trace.chunks.iter_mut().enumerate() {
        chunk.model_actions = model_actions.next(horizon * action_dim)?;
        chunk.actions = actions.next(horizon * joints)?;
        if without_actions.contains(&position) {
            chunk.actions.clear();
        }
        chunk.model.state = state.next(state_dim)?;
        chunk.positions = positions.next(state_joints)?;
        for camera in &mut chunk.model.cameras {
            if let CameraTrace::Present { fields: of_camera, .. } = camera {
                *of_camera = fields.next(FIELDS.iter().product())?;
            }
        }
        for tensor in &mut chunk.model.intermediates {
            let size = sizes.one()?;
            tensor.values =
                values.next(usize::try_from(size).map_err(|_| Undecodable::Damage(format!("it claims {size} values")))?)?;
            tensor.rms = rms.one()?;
        }
    }
    for _ in 0..steps {
        trace.commands.push(super::trace::Command { stamp: stamps.one()?, row: commands.next(joints)? });
    }
    Ok(trace)
}

/// Values of a tensor, from the first to the last.
struct Take<'a, T, const N: usize> {
    name: &'static str,
    shape: Vec<usize>,
    bytes: &'a [u8],
    value: fn([u8; N]) -> T,
}

impl<'a, T, const N: usize> Take<'a, T, N> {
    /// The tensor `name`, whose dimensions are `shape` where they are known.
    fn new(
        file: &SafeTensors<'a>,
        name: &'static str,
        dtype: Dtype,
        shape: &[Option<usize>],
        value: fn([u8; N]) -> T,
    ) -> Result<Self, Undecodable> {
        let view: TensorView<'a> = file.tensor(name).map_err(|error| Undecodable::Damage(error.to_string()))?;
        let known = |(found, known): (&usize, &Option<usize>)| known.is_none_or(|known| known == *found);
        if view.dtype() != dtype || view.shape().len() != shape.len() || !view.shape().iter().zip(shape).all(known) {
            let reason = format!("its tensor {name} is {:?} {:?}, which does not fit its trace", view.dtype(), view.shape());
            return Err(Undecodable::Damage(reason));
        }
        Ok(Self { name, shape: view.shape().to_vec(), bytes: view.data(), value })
    }

    fn next(&mut self, count: usize) -> Result<Vec<T>, Undecodable> {
        let taken = count.checked_mul(N).and_then(|bytes| self.bytes.split_at_checked(bytes));
        let (taken, left) = taken.ok_or_else(|| Undecodable::Damage(format!("its tensor {} ends too early", self.name)))?;
        self.bytes = left;
        Ok(taken.as_chunks::<N>().0.iter().map(|bytes| (self.value)(*bytes)).collect())
    }

    fn one(&mut self) -> Result<T, Undecodable> {
        let ended = || Undecodable::Damage(format!("its tensor {} ends too early", self.name));
        let (first, left) = self.bytes.split_first_chunk::<N>().ok_or_else(ended)?;
        self.bytes = left;
        Ok((self.value)(*first))
    }
}

#[cfg(test)]
mod tests;
