//! Parameter files of ROS, and the values of a command line.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::Path,
    sync::Arc,
};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::{BOOLEAN, Handle, INTEGER, NUMBER, Parameter, ParameterError, Source, Spec, TEXT};

/// The node whose parameters are read. It has this name unless it is renamed, and the names of its topics begin with it.
const NODE: &str = "/policy";
/// The section of every node. What the node's own section says goes before it, in whichever file it is.
const ANY_NODE: &str = "/**";
/// Parameters that every node has.
const OF_EVERY_NODE: [&str; 2] = ["use_sim_time", "start_type_description_service"];
/// Beginning of the parameters that override the QoS of a topic, which a node may have.
const QOS_OVERRIDES: &str = "qos_overrides.";

/// A value in a parameter file.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    Boolean(bool),
    Integer(i64),
    Number(f64),
    Text(String),
    /// A list or nothing: no parameter here is one.
    Other,
}

/// Values by name, each with where it comes from.
#[derive(Debug, Default)]
pub struct ParameterFiles {
    given: BTreeMap<String, (Scalar, String)>,
    declared: BTreeSet<String>,
    resolved: BTreeMap<String, String>,
}

impl ParameterFiles {
    /// Reads what the files say of the node `/policy`. Of two files the later one counts.
    pub fn load(paths: &[impl AsRef<Path>]) -> Result<Self, ParameterError> {
        let files = paths.iter().map(|path| sections(path.as_ref())).collect::<Result<Vec<_>, _>>()?;
        let mut values = Self::default();
        for node in [ANY_NODE, NODE] {
            for (path, sections) in paths.iter().zip(&files) {
                for (_, parameters) in sections.iter().filter(|(name, _)| name == node) {
                    values.take_in("", parameters, &path.as_ref().display().to_string());
                }
            }
        }
        Ok(values)
    }

    /// Sets a value that goes before those of the files.
    pub fn set(&mut self, name: &str, value: Scalar, origin: &str) {
        self.given.insert(name.to_owned(), (value, origin.to_owned()));
    }

    /// Refuses a value of a parameter that nobody has declared.
    pub fn check_unknown(&self) -> Result<(), ParameterError> {
        let expected =
            |name: &str| self.declared.contains(name) || OF_EVERY_NODE.contains(&name) || name.starts_with(QOS_OVERRIDES);
        let Some((name, (_, origin))) = self.given.iter().find(|(name, _)| !expected(name)) else { return Ok(()) };
        let nearest = self.declared.iter().max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name)));
        Err(ParameterError::Unknown { origin: origin.clone(), name: name.clone(), nearest: nearest.cloned() })
    }

    /// The value of every declared parameter that decides what is computed or commanded, defaults included.
    pub fn resolved(&self) -> &BTreeMap<String, String> {
        &self.resolved
    }

    fn take_in(&mut self, prefix: &str, parameters: &[Entry], origin: &str) {
        for (key, value) in parameters {
            let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            match value {
                Yaml::Map(nested) => self.take_in(&name, nested, origin),
                Yaml::Scalar(value) => self.set(&name, value.clone(), origin),
            }
        }
    }

    fn declare<T: Clone + PartialOrd + Send + Sync + 'static>(
        &mut self,
        spec: Spec<T>,
        expected: &'static str,
        read: fn(&Scalar) -> Option<T>,
        show: fn(&T) -> String,
    ) -> Result<Handle<T>, ParameterError> {
        let Spec { name, description, default, bounds, constraints, check, settable: _, aside } = spec;
        let value = match self.given.get(&name) {
            None => default.ok_or_else(|| ParameterError::NotSet { name: name.clone(), description })?,
            Some((value, origin)) => {
                let checked = match read(value) {
                    None => Err(ParameterError::Type { name: name.clone(), expected, description }),
                    Some(value) if bounds.is_some_and(|(lower, upper)| value < lower || value > upper) => {
                        Err(ParameterError::Range { name: name.clone(), constraints })
                    }
                    Some(value) => match check(&value) {
                        Ok(()) => Ok(value),
                        Err(reason) => Err(ParameterError::Rejected { name: name.clone(), reason }),
                    },
                };
                checked.map_err(|error| ParameterError::At { origin: origin.clone(), error: Box::new(error) })?
            }
        };
        if !aside {
            self.resolved.insert(name.clone(), show(&value));
        }
        self.declared.insert(name);
        Ok(Box::new(Fixed(value)))
    }
}

impl Source for ParameterFiles {
    fn text(&mut self, spec: Spec<Arc<str>>) -> Result<Handle<Arc<str>>, ParameterError> {
        let read = |value: &Scalar| if let Scalar::Text(text) = value { Some(text.as_str().into()) } else { None };
        self.declare(spec, TEXT, read, |text| text.to_string())
    }

    fn integer(&mut self, spec: Spec<i64>) -> Result<Handle<i64>, ParameterError> {
        let read = |value: &Scalar| if let Scalar::Integer(value) = value { Some(*value) } else { None };
        self.declare(spec, INTEGER, read, i64::to_string)
    }

    fn boolean(&mut self, spec: Spec<bool>) -> Result<Handle<bool>, ParameterError> {
        let read = |value: &Scalar| if let Scalar::Boolean(value) = value { Some(*value) } else { None };
        self.declare(spec, BOOLEAN, read, bool::to_string)
    }

    fn number(&mut self, spec: Spec<f64>) -> Result<Handle<f64>, ParameterError> {
        // As in ROS an integer is no number.
        let read = |value: &Scalar| if let Scalar::Number(value) = value { Some(*value) } else { None };
        self.declare(spec, NUMBER, read, |value| format!("{value:?}"))
    }
}

/// A value that nobody sets any more.
struct Fixed<T>(T);

impl<T: Clone + Send + Sync> Parameter<T> for Fixed<T> {
    fn get(&self) -> T {
        self.0.clone()
    }
}

/// A key with its value.
type Entry = (String, Yaml);
/// The full name of a node with its parameters.
type Section = (String, Vec<Entry>);

/// What a file says of each node, by the node's full name. A file that says nothing of this node is refused.
fn sections(path: &Path) -> Result<Vec<Section>, ParameterError> {
    let text = fs::read_to_string(path).map_err(|source| ParameterError::Read { path: path.into(), source })?;
    let refused = |reason| ParameterError::File { path: path.into(), reason };
    let options = serde_saphyr::options! { non_finite_float_policy: serde_saphyr::options::NonFiniteFloatPolicy::PassThrough };
    let root: Yaml = serde_saphyr::from_str_with_options(&text, options).map_err(|error| refused(error.to_string()))?;
    let mut sections = Vec::new();
    find_sections("", root, &mut sections);
    if sections.is_empty() {
        return Err(refused("it has no ros__parameters. It begins with the name of a node, /policy or /**".to_owned()));
    }
    if sections.iter().any(|(name, _)| [ANY_NODE, NODE].contains(&name.as_str())) {
        Ok(sections)
    } else {
        let found = sections.into_iter().map(|(name, _)| name).collect();
        Err(ParameterError::OtherNode { path: path.into(), node: NODE, found })
    }
}

fn find_sections(node: &str, yaml: Yaml, sections: &mut Vec<Section>) {
    let Yaml::Map(entries) = yaml else { return };
    for (key, value) in entries {
        if key == "ros__parameters" {
            let parameters = if let Yaml::Map(parameters) = value { parameters } else { Vec::new() };
            sections.push((node.to_owned(), parameters));
        } else {
            find_sections(&format!("{node}/{}", key.trim_matches('/')), value, sections);
        }
    }
}

/// YAML of any shape.
#[derive(Debug)]
enum Yaml {
    Scalar(Scalar),
    Map(Vec<Entry>),
}

impl<'de> Deserialize<'de> for Yaml {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(YamlVisitor)
    }
}

struct YamlVisitor;

impl<'de> Visitor<'de> for YamlVisitor {
    type Value = Yaml;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("parameters")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Yaml, E> {
        Ok(Yaml::Scalar(Scalar::Boolean(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Yaml, E> {
        Ok(Yaml::Scalar(Scalar::Integer(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Yaml, E> {
        Ok(Yaml::Scalar(i64::try_from(value).map_or(Scalar::Other, Scalar::Integer)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Yaml, E> {
        Ok(Yaml::Scalar(Scalar::Number(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Yaml, E> {
        Ok(Yaml::Scalar(Scalar::Text(value.to_owned())))
    }

    fn visit_unit<E>(self) -> Result<Yaml, E> {
        Ok(Yaml::Scalar(Scalar::Other))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Yaml, A::Error> {
        while sequence.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Yaml::Scalar(Scalar::Other))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Yaml, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Yaml::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{CameraParameters, Parameters, SyncParameters},
        *,
    };
    use crate::{backend::BackendKind, control::StampSource};

    /// Files with these texts.
    fn files(texts: &[&str]) -> Result<ParameterFiles, String> {
        let folder = tempfile::tempdir().unwrap();
        let paths: Vec<_> = (0..texts.len()).map(|index| folder.path().join(format!("{index}.yaml"))).collect();
        paths.iter().zip(texts).for_each(|(path, text)| fs::write(path, text).unwrap());
        ParameterFiles::load(&paths).map_err(|error| error.to_string())
    }

    fn seed(texts: &[&str]) -> Result<i64, String> {
        let mut files = files(texts)?;
        let seed = files.integer(Spec::integer("seed", 0, (0, 100), "Seed.")).map_err(|error| error.to_string())?;
        files.check_unknown().map_err(|error| error.to_string())?;
        Ok(seed.get())
    }

    #[test]
    fn a_node_is_named_in_every_way_that_ros_has() {
        for name in ["/**", "policy", "/policy", "'/policy'"] {
            assert_eq!(seed(&[&format!("{name}:\n  ros__parameters:\n    seed: 7\n")]), Ok(7), "{name}");
        }
    }

    #[test]
    fn the_nodes_own_section_goes_before_the_one_of_all_nodes_and_a_later_file_before_an_earlier_one() {
        let (own, all) = ("policy: {ros__parameters: {seed: 1}}", "/**: {ros__parameters: {seed: 2}}");
        assert_eq!(seed(&[own, all]), Ok(1), "as rclrs resolves them");
        assert_eq!(seed(&[own, "policy: {ros__parameters: {seed: 3}}"]), Ok(3));
        assert_eq!(seed(&[all, "/**: {ros__parameters: {use_sim_time: true}}"]), Ok(2));
    }

    #[test]
    fn a_file_without_a_section_for_the_node_is_refused_with_those_that_it_has() {
        let error = seed(&["/arm/driver: {ros__parameters: {seed: 1}}"]).unwrap_err();
        assert!(
            error.ends_with("has no parameters for the node /policy, only for /arm/driver. Name it /policy or /**"),
            "{error}"
        );
        let error = seed(&["seed: 1"]).unwrap_err();
        assert!(error.contains("no ros__parameters"), "{error}");
        assert!(seed(&["/**: [1, {"]).unwrap_err().contains("0.yaml is not a parameter file"));
    }

    #[test]
    fn a_value_that_cannot_be_used_is_refused_with_its_file_and_name() {
        let refused = |value: &str| seed(&[&format!("/**: {{ros__parameters: {{seed: {value}}}}}")]).unwrap_err();
        for value in ["text", "'7'", "7.0", "true", "[7]", "{a: 7}", ".nan"] {
            let error = refused(value);
            let named = error.contains("0.yaml: ") && error.contains("seed");
            assert!(named && (error.contains("must be an integer") || error.contains("seed.a")), "{value}: {error}");
        }
        assert!(refused("101").ends_with("0.yaml: Parameter seed is out of range: 0 to 100"));
    }

    #[test]
    fn a_name_that_no_parameter_has_is_answered_with_the_nearest_one() {
        let mut files =
            files(&["/**: {ros__parameters: {chekpoint: a, checkpoint: b, robot: c, qos_overrides: {/tf: {depth: 1}}}}"])
                .unwrap();
        Parameters::declare(&mut files).unwrap();
        let error = files.check_unknown().unwrap_err().to_string();
        assert!(error.ends_with("There is no parameter chekpoint. Is it checkpoint?"), "{error}");
    }

    #[test]
    fn nested_and_dotted_names_are_the_same_and_everything_else_has_its_default() {
        let text = "policy:\n  ros__parameters:\n    checkpoint: here\n    robot: mine.yaml\n    backend: ttnn_host\n    \
                    sync.stamps: receive\n    sync: {max_skew_ms: 0.0}\n    cameras: {top.transport: compressed}\n    \
                    joint_limits: {elbow: {max_step: .nan}}\n    seed: 9\n";
        let mut files = files(&[text]).unwrap();
        let parameters = Parameters::declare(&mut files).unwrap();
        let options = parameters.policy_options().unwrap();
        assert_eq!((options.backend.kind, options.seed, options.steps), (BackendKind::TtnnHost, 9, None));
        let sync = SyncParameters::declare(&mut files).unwrap();
        let rules = sync.rules(sync.stamps().unwrap());
        assert_eq!((rules.stamps, rules.max_skew, rules.joint_age.seconds()), (StampSource::Receive, None, 0.1));
        let camera = CameraParameters::declare(&mut files, "top").unwrap();
        assert_eq!(camera.transport("top").unwrap(), super::super::Transport::Compressed);
        let limit = files.number(Spec::number("joint_limits.elbow.max_step", f64::NAN, (0.0, 1.0), "Step.")).unwrap();
        assert!(limit.get().is_nan());
        files.check_unknown().unwrap();
        let resolved = files.resolved();
        assert_eq!(resolved["inference.rate_hz"], "1.0");
        assert_eq!(resolved["sync.max_skew_ms"], "0.0");
        assert!(!resolved.contains_key("checkpoint") && !resolved.contains_key("autostart"), "{resolved:?}");
    }

    #[test]
    fn a_number_must_be_finite_and_within_its_bounds() {
        for (value, expected) in
            [(".nan", "is out of range"), (".inf", "out of range: 0.01 to 200"), ("5", "a number with a decimal point")]
        {
            let mut files = files(&[&format!("/**: {{ros__parameters: {{rate: {value}}}}}")]).unwrap();
            let error = files.number(Spec::number("rate", 1.0, (0.01, 200.0), "Rate.")).map(drop).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("0.yaml"), "{value}: {error}");
        }
    }

    #[test]
    fn the_installed_parameter_file_has_every_default() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/policy.yaml");
        let mut file = ParameterFiles::load(&[path]).unwrap();
        file.set("checkpoint", Scalar::Text("a".into()), "--checkpoint");
        file.set("robot", Scalar::Text("b.yaml".into()), "--robot");
        let required = file.given.iter().filter(|(name, _)| ["checkpoint", "robot"].contains(&name.as_str()));
        let given = required.map(|(name, value)| (name.clone(), value.clone())).collect();
        let mut defaults = ParameterFiles { given, ..Default::default() };
        for values in [&mut file, &mut defaults] {
            Parameters::declare(values).unwrap();
            SyncParameters::declare(values).unwrap();
            values.check_unknown().unwrap();
        }
        assert_eq!(file.resolved(), defaults.resolved());
    }
}
