//! The sentence of every finding.

use std::fmt;

use super::finding::{ArrayChange, Finding, Limit, SetupItem, Side};

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setup { item: SetupItem::File(name), baseline, current } => {
                write!(f, "Changed: {name}, whose hash is {current} and was {baseline}")
            }
            Self::Setup { item, baseline, current } => write!(f, "{item} is {current} and was {baseline}"),
            Self::Messages { input, baseline, current } => {
                write!(f, "The bag has other messages of {input}: {current}, and it had {baseline}")
            }
            Self::OnlyIn { side, index, observed } => {
                write!(f, "Chunk {index}, observed at {}, is in the {side} alone", Seconds(*observed))
            }
            Self::Gaps { baseline, current } => {
                write!(f, "Times without an observation: {current}, and there were {baseline}, or they are at other times")
            }
            Self::Failed { reason, baseline, current } => {
                write!(f, "{current} inferences gave no chunk, and {baseline} did not in the baseline: {reason}")
            }
            Self::Latch { baseline, current } => {
                write!(f, "The controller stopped for good: {}. In the baseline: {}", or_not(current), or_not(baseline))
            }
            Self::Sample { chunk, input } => write!(f, "Chunk {chunk} was made of another sample of {input}: the bag differs"),
            Self::Instruction { chunk, baseline, current } => {
                write!(f, "The instruction of chunk {chunk} is {current:?} and was {baseline:?}")
            }
            Self::Tokens { chunk, first, baseline, current } => write!(
                f,
                "The prompt's tokens of chunk {chunk} differ from token {first} on, for the same instruction: {} tokens and there were {}. \
                 Tokenizer or prompt rule changed, or tokens of another instruction were kept",
                current.len(),
                baseline.len()
            ),
            Self::Positions { chunk, change } => Changed("joint positions", *chunk, change).fmt(f),
            Self::MaskDropped { camera } => {
                write!(f, "The mask of camera {camera} was dropped: the model sees an image where the robot has no camera")
            }
            Self::MaskAdded { camera } => {
                write!(f, "The mask of camera {camera} was added: the model does not see this camera any more")
            }
            Self::CameraConstant { camera, value } => {
                let word = match value {
                    v if *v <= -0.999 => "black",
                    v if *v >= 0.999 => "white",
                    v if v.abs() < 0.01 => "gray",
                    _ => "of one colour",
                };
                write!(f, "Camera {camera} is {word}: every pixel is {value}")
            }
            Self::CamerasSwapped { first, second } => write!(f, "Cameras {first} and {second} were exchanged"),
            Self::CameraTurned { camera } => write!(f, "The image of camera {camera} was turned by 180 degrees"),
            Self::CameraMirrored { camera, axis } => write!(f, "The image of camera {camera} was mirrored {axis}"),
            Self::CameraColours { camera } => write!(f, "Red and blue of camera {camera} were exchanged"),
            Self::CameraImage { camera, distance } => write!(
                f,
                "Resize, crop or colour of camera {camera} changed: the means of 8 x 8 fields are up to {distance:.2e} apart (values in -1..1)"
            ),
            Self::State { chunk, change } => Changed("normalized state", *chunk, change).fmt(f),
            Self::Noise { chunk } => {
                write!(f, "The noise of chunk {chunk} is another one: seed, chunk counter or generator changed")
            }
            Self::Guidance { chunk, baseline, current } => match (baseline, current) {
                (true, false) => write!(f, "Chunk {chunk} is not guided any more"),
                (false, true) => write!(f, "Chunk {chunk} is guided and was not"),
                _ => write!(f, "Chunk {chunk} is guided by other rows or weights, although the chunks before are the same"),
            },
            Self::RopePositions { tower, baseline, current } => write!(
                f,
                "RoPE positions of the {tower} changed: they start at {current} and did at {baseline}{}",
                if baseline == current { ", and differ further on" } else { "" }
            ),
            Self::RopeRotation { layer } => {
                write!(
                    f,
                    "RoPE changed: the keys of {layer} are turned by other angles and keep their size; the values are the same"
                )
            }
            Self::Intermediate { name, place, relative_rms } => write!(
                f,
                "{place} changed inside of the model: {name} is the first tensor that differs ({relative_rms:.2e} relative RMS)"
            ),
            Self::Steps { baseline, current } => write!(f, "The backend makes {current} denoise steps and made {baseline}"),
            Self::ModelActions { chunk, on_the_way, change } => {
                Changed("model actions", *chunk, change).fmt(f)?;
                if *on_the_way {
                    f.write_str(". The backend answered the same as before: they changed on the way from it")?;
                }
                Ok(())
            }
            Self::Actions { chunk, change } => Changed("actions in the robot's units", *chunk, change).fmt(f),
            Self::Refused { chunk, baseline, current } => {
                let state =
                    |reason: &Option<String>| reason.as_ref().map_or("installed".to_owned(), |r| format!("refused ({r})"));
                write!(f, "Chunk {chunk} is {} and was {}", state(current), state(baseline))
            }
            Self::Delay { chunk, baseline, current } => {
                write!(f, "Chunk {chunk} is commanded from row {current} on and was from row {baseline}: its delay changed")
            }
            Self::GuidedRows { chunk, baseline, current } => {
                write!(f, "Chunk {chunk} is guided by {current} rows and was by {baseline}")
            }
            Self::Joining { chunk, baseline, current } => {
                write!(f, "Chunk {chunk} is joined to the one before by {current} and was by {baseline}")
            }
            Self::Start { chunk, baseline, current } => write!(
                f,
                "Row 0 of chunk {chunk} is at {} and was at {}, {:+.1} ms",
                Seconds(*current),
                Seconds(*baseline),
                (current - baseline) as f64 * 1e-6
            ),
            Self::Executed { chunk, baseline, current } => {
                write!(f, "{current} rows of chunk {chunk} were executed before the next chunk took over, and {baseline} were")
            }
            Self::Commands { stamp, change } => {
                write!(f, "The commands from {} on changed although the chunks are the same: {change}", Seconds(*stamp))?;
                if let ArrayChange::Values { .. } = change {
                    f.write_str(". Limits or joining")?;
                }
                Ok(())
            }
            Self::CommandTimes { side, count, first } => {
                write!(f, "{count} commands, the first at {}, are in the {side} alone", Seconds(*first))
            }
        }
    }
}

/// What changed in an array of one chunk.
struct Changed<'a>(&'static str, u64, &'a ArrayChange);

impl fmt::Display for Changed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(what, chunk, change) = self;
        write!(f, "The {what} of chunk {chunk} changed: {change}")
    }
}

impl fmt::Display for ArrayChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Permuted(columns) => {
                let pairs: Vec<String> =
                    columns.iter().map(|(column, holds)| format!("{column} has the values of {holds}")).collect();
                write!(f, "joint order, {}", pairs.join(", "))
            }
            Self::Negated(columns) => write!(f, "the sign of {} is turned", columns.join(", ")),
            Self::Reversed { column, sum } => write!(f, "{column} runs the other way: v became {sum:.4} - v"),
            Self::Affine(columns) => {
                let maps: Vec<String> =
                    columns.iter().map(|c| format!("{} became {:.4} v {:+.4}", c.column, c.scale, c.offset)).collect();
                write!(f, "scale or offset (units, gripper map or statistics), {}", maps.join(", "))
            }
            Self::Zero(columns) => write!(f, "0 in {}", columns.join(", ")),
            Self::Shifted { rows } => {
                let (count, way) = (rows.abs(), if *rows > 0 { "later" } else { "earlier" });
                write!(f, "every row comes {count} row{} {way}", if count == 1 { "" } else { "s" })
            }
            Self::Limited { limit, columns } => {
                let limit = match limit {
                    Limit::Position => "position",
                    Limit::Velocity => "step or velocity",
                    Limit::Acceleration => "acceleration",
                };
                write!(f, "the {limit} limit of {} holds in one run only", columns.join(", "))
            }
            Self::Values { columns, row, column, baseline, current } => write!(
                f,
                "{} of {}, first {column} in row {row}, which is {current} and was {baseline}",
                if columns.len() == 1 { "values" } else { "the values" },
                columns.join(", ")
            ),
            Self::Length { baseline, current } => write!(f, "{current} values, and there were {baseline}"),
        }
    }
}

impl fmt::Display for SetupItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parameter(name) => write!(f, "The parameter {name}"),
            Self::File(name) => write!(f, "The hash of the {name}"),
            Self::Seed => f.write_str("The seed"),
            Self::Steps => f.write_str("The number of denoise steps"),
            Self::Latency => f.write_str("The latency in seconds"),
            Self::Horizon => f.write_str("The number of rows of a chunk"),
            Self::ActionDim => f.write_str("The width of the model's output"),
            Self::Period => f.write_str("The time between two rows in seconds"),
            Self::Joints => f.write_str("The list of commanded joints"),
            Self::StateJoints => f.write_str("The list of the state's joints"),
            Self::Cameras => f.write_str("The list of camera slots"),
            Self::Backend => f.write_str("The backend"),
            Self::Dtypes => f.write_str("The number format"),
            Self::Version => f.write_str("The version of pi0_tt"),
            Self::Build => f.write_str("The hash of the program"),
            Self::Machine => f.write_str("The machine"),
            Self::Bag => f.write_str("The bag's name"),
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Baseline => "baseline",
            Self::Current => "current run",
        })
    }
}

/// Nanoseconds as seconds, with all their digits.
pub(super) struct Seconds(pub i64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        write!(f, "{sign}{}.{:09} s", self.0.unsigned_abs() / 1_000_000_000, self.0.unsigned_abs() % 1_000_000_000)
    }
}

fn or_not(reason: &Option<String>) -> &str {
    reason.as_deref().unwrap_or("it did not")
}
