use crate::checkpoint::CheckpointError;

/// Why a sensor value was refused. Nothing of a refused value is used.
#[derive(Debug, thiserror::Error)]
pub enum ObservationError {
    #[error(
        "Image encoding \"{0}\" is not supported. Let the camera publish rgb8 or bgr8 (also read: rgba8, bgra8, mono8, 8UC3, \
         rgb16, bgr16, rgba16, bgra16, mono16, bayer_rggb8, bayer_bggr8, bayer_gbrg8, bayer_grbg8)"
    )]
    Encoding(String),
    #[error("The image is {width} x {height} pixels. Check the camera driver: both sides must be at least 1")]
    EmptyImage { width: u32, height: u32 },
    #[error("A {encoding} image of {width} x {height} pixels cannot be demosaiced. Both sides must be at least 2")]
    BayerTooSmall { encoding: String, width: u32, height: u32 },
    #[error(
        "Image step {step} is shorter than a row of {width} {encoding} pixels, which takes {needed} bytes. Check the camera driver"
    )]
    Step { step: u32, width: u32, encoding: String, needed: u64 },
    #[error(
        "The image was cut off: {found} bytes of data, and {height} rows of {step} bytes make {expected}. Check the camera driver and its link"
    )]
    TruncatedImage { found: u64, height: u32, step: u32, expected: u64 },
    #[error(
        "The image has {found} bytes of data, and {height} rows of {step} bytes make only {expected}. Check the camera driver"
    )]
    OverlongImage { found: u64, height: u32, step: u32, expected: u64 },
    #[error("{found} bytes are not {width} x {height} RGB pixels")]
    RgbSize { width: usize, height: usize, found: usize },

    #[error(
        "CompressedImage format \"{0}\" is not supported. Use compressed_image_transport with format jpeg or png, for example \
         \"jpeg\" or \"rgb8; jpeg compressed bgr8\""
    )]
    Format(String),
    #[error(
        "CompressedImage format \"{0}\" is a depth image. The policy sees colour only: subscribe to the camera's colour topic"
    )]
    DepthFormat(String),
    #[error("CompressedImage format \"{format}\" does not fit its data, which begin like {found}. Check the publisher")]
    FormatMismatch { format: String, found: &'static str },
    #[error("The compressed image is {width} x {height} pixels, more than {limit} on a side. Lower the camera's resolution")]
    CompressedSize { width: u32, height: u32, limit: u32 },
    #[error("The JPEG image of {0} bytes was cut off: its end marker is missing. Check the camera and the network")]
    TruncatedJpeg(usize),
    #[error("The {codec} image cannot be decoded: {source}. Check the camera and the network")]
    Codec { codec: &'static str, source: ::image::ImageError },

    #[error("An image of {width} x {height} pixels is too narrow: scaled to {side} pixels it vanishes. Crop the camera image")]
    AspectRatio { width: usize, height: usize, side: usize },

    #[error("The JointState message has no joints. Check the joint state publisher")]
    NoJoints,
    #[error("The JointState message has {names} names and {positions} positions. Check the joint state publisher")]
    JointLengths { names: usize, positions: usize },
    #[error("Joint{} {} missing from the JointState message, which has: {}. Compare with the robot profile",
        if .missing.len() == 1 { "" } else { "s" },
        format_args!("{} {}", .missing.join(", "), if .missing.len() == 1 { "is" } else { "are" }),
        .found.join(", "))]
    MissingJoints { missing: Vec<String>, found: Vec<String> },
    #[error("Joint {joint} appears twice in the JointState message. Do two publishers share the topic?")]
    DuplicateJoint { joint: String },
    #[error("Joint {joint} has the position {value}. Check its encoder and driver")]
    JointNotFinite { joint: String, value: f64 },

    #[error("The robot profile {profile} does not fit the checkpoint:{}", .problems.iter().map(|problem| format!("\n- {problem}")).collect::<String>())]
    Profile { profile: String, problems: Vec<String> },
    #[error(
        "Camera slot {slot} has no image. Check that the camera {camera} publishes, or declare the slot absent in the robot profile"
    )]
    MissingCamera { slot: String, camera: String },
    #[error("An image was given for {slot}, which is not a camera slot in use. These are: {}", .required.join(", "))]
    UnknownCamera { slot: String, required: Vec<String> },
    #[error("The {what} has {found} values, and {expected} are needed")]
    Width { what: &'static str, found: usize, expected: usize },
    #[error(
        "The chunk before has {values} values left. Guidance takes whole rows of {action_dim}, at least one and at most {horizon}"
    )]
    PreviousRows { values: usize, action_dim: usize, horizon: usize },
    #[error(transparent)]
    Prompt(#[from] CheckpointError),
    #[error("The policy gave joint {joint} the value {value} in row {row} of the chunk. Nothing of the chunk may be executed")]
    ActionNotFinite { row: usize, joint: String, value: f64 },
}
