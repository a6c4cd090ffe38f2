//! What a checkpoint folder holds, and everything that is missing or wrong, also where it cannot be opened.

use std::{collections::BTreeMap, fmt, path::Path, path::PathBuf};

use serde::Serialize;

use super::{Family, Normalizer, OpenOptions, TokenizerKind, survey::Survey};
use crate::model::{GemmaGeometry, Geometry};

/// Findings; parts that could not be found out are absent and have a problem.
#[derive(Debug, Serialize)]
pub struct InspectReport {
    pub dir: PathBuf,
    /// Whether the folder opens.
    pub usable: bool,
    pub family: Option<Family>,
    /// Never trained: the actions mean nothing.
    pub synthetic_weights: bool,
    pub geometry: Option<Geometry>,
    /// Number of parameters under names that are known.
    pub parameters: Option<u64>,
    /// By element type.
    pub dtypes: BTreeMap<String, DtypeShare>,
    pub cameras: Vec<String>,
    pub camera_renames: BTreeMap<String, String>,
    pub denoise_steps: Option<usize>,
    pub state: Option<FeatureReport>,
    pub action: Option<FeatureReport>,
    pub relative_actions: Option<Vec<bool>>,
    pub processor_steps: Vec<String>,
    pub tokenizer: Option<TokenizerReport>,
    pub problems: Vec<String>,
}

#[derive(Debug, Default, Serialize)]
pub struct DtypeShare {
    pub tensors: usize,
    pub parameters: u64,
    pub bytes: u64,
}

/// One feature of the robot with its statistics, one value per entry.
#[derive(Debug, Serialize)]
pub struct FeatureReport {
    pub width: usize,
    pub mode: &'static str,
    pub statistics: BTreeMap<&'static str, Vec<f64>>,
}

#[derive(Debug, Serialize)]
pub struct TokenizerReport {
    pub path: PathBuf,
    pub kind: TokenizerKind,
    pub tokens: usize,
}

/// Looks at a folder without demanding anything of it.
pub fn inspect(dir: &Path, options: &OpenOptions) -> InspectReport {
    let survey = Survey::complete(dir, options);
    let mut dtypes = BTreeMap::<String, DtypeShare>::new();
    for (_, tensor) in survey.tensors.iter().flat_map(|tensors| tensors.weights.iter()) {
        let share = dtypes.entry(tensor.dtype().to_string()).or_default();
        share.tensors += 1;
        share.parameters += tensor.len() as u64;
        share.bytes += tensor.bytes();
    }
    let config = survey.config.as_ref();
    let feature = |normalizer: &Normalizer| FeatureReport {
        width: normalizer.width(),
        mode: normalizer.mode(),
        statistics: normalizer.statistics().into_iter().collect(),
    };
    InspectReport {
        usable: survey.causes.is_empty(),
        family: survey.family,
        synthetic_weights: config.is_some_and(|config| config.synthetic),
        geometry: survey.geometry,
        parameters: survey.tensors.as_ref().map(|tensors| tensors.weights.parameters()),
        dtypes,
        cameras: config.map(|config| config.cameras.clone()).unwrap_or_default(),
        camera_renames: survey.side.camera_renames,
        denoise_steps: config.map(|config| config.steps),
        state: survey.side.state_norm.as_ref().map(feature),
        action: survey.side.action_norm.as_ref().map(feature),
        relative_actions: survey.side.relative_actions,
        processor_steps: survey.side.processor_steps,
        tokenizer: survey.side.tokenizer.map(|tokenizer| TokenizerReport {
            kind: tokenizer.kind,
            tokens: tokenizer.size,
            path: tokenizer.path,
        }),
        problems: survey.causes.iter().map(ToString::to_string).collect(),
        dir: survey.dir,
    }
}

impl fmt::Display for InspectReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.dir.display())?;
        if let Some(family) = self.family {
            writeln!(f, "  family      {family}")?;
        }
        if self.synthetic_weights {
            writeln!(f, "  weights     SYNTHETIC, never trained: the actions mean nothing")?;
        }
        if let Some(geometry) = &self.geometry {
            write_geometry(f, geometry)?;
        }
        if let Some(parameters) = self.parameters {
            writeln!(f, "  parameters  {}", thousands(parameters))?;
        }
        for (dtype, share) in &self.dtypes {
            let DtypeShare { tensors, parameters, bytes } = share;
            writeln!(f, "  {dtype:<10}  {tensors} tensors, {} parameters, {}", thousands(*parameters), megabytes(*bytes))?;
        }
        if !self.cameras.is_empty() {
            writeln!(f, "  cameras     {}", self.cameras.join(", "))?;
        }
        for (recorded, slot) in &self.camera_renames {
            writeln!(f, "              {recorded} was renamed to {slot}")?;
        }
        if let Some(steps) = self.denoise_steps {
            writeln!(f, "  denoise     {steps} steps")?;
        }
        for (name, feature) in [("state", &self.state), ("action", &self.action)] {
            if let Some(feature) = feature {
                write_feature(f, name, feature)?;
            }
        }
        if let Some(relative) = &self.relative_actions {
            let marks: Vec<&str> = relative.iter().map(|&relative| if relative { "relative" } else { "absolute" }).collect();
            writeln!(f, "  relative    {}", marks.join(", "))?;
        }
        if let Some(TokenizerReport { path, kind, tokens }) = &self.tokenizer {
            writeln!(f, "  tokenizer   {kind}, {} tokens, {}", thousands(*tokens as u64), path.display())?;
        }
        if !self.processor_steps.is_empty() {
            writeln!(f, "  processors  {}", self.processor_steps.join(", "))?;
        }
        match self.problems.len() {
            0 => write!(f, "Complete: this checkpoint can be used"),
            1 => write!(f, "1 problem: this checkpoint cannot be used"),
            n => write!(f, "{n} problems: this checkpoint cannot be used"),
        }?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n- {problem}"))
    }
}

fn write_geometry(f: &mut fmt::Formatter<'_>, geometry: &Geometry) -> fmt::Result {
    let vision = &geometry.vision;
    let gemma = |name: &str, gemma: &GemmaGeometry| {
        let GemmaGeometry { width, depth, heads, kv_heads, head_dim, mlp_width } = gemma;
        format!(
            "  {name:<10}  width {width}, {depth} layers, {heads} heads ({kv_heads} key-value) of {head_dim}, MLP {mlp_width}"
        )
    };
    writeln!(
        f,
        "  SigLIP      width {}, {} layers, {} heads of {}, MLP {}, {} px in patches of {}: {} tokens per camera",
        vision.width,
        vision.depth,
        vision.heads,
        vision.head_dim(),
        vision.mlp_width,
        vision.image_size,
        vision.patch,
        vision.tokens()
    )?;
    writeln!(f, "{}, {} embeddings", gemma("language", &geometry.vlm), thousands(geometry.vocab_size as u64))?;
    writeln!(f, "{}", gemma("expert", &geometry.expert))?;
    writeln!(
        f,
        "  chunk       {} rows of {}, state {}, prompt {} tokens",
        geometry.horizon, geometry.action_dim, geometry.state_dim, geometry.prompt_slots
    )
}

fn write_feature(f: &mut fmt::Formatter<'_>, name: &str, feature: &FeatureReport) -> fmt::Result {
    writeln!(f, "  {name:<10}  {} entries, {}", feature.width, feature.mode)?;
    for (statistic, values) in &feature.statistics {
        let values: Vec<String> = values.iter().map(|value| format!("{value:.3}")).collect();
        writeln!(f, "    {statistic:<8}  {}", values.join(" "))?;
    }
    Ok(())
}

/// 3238048528 as 3,238,048,528.
fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
