//! What a parameter is.

use std::sync::Arc;

use super::Choice;

// What a value of each type looks like in a parameter file.
pub const TEXT: &str = "text, in quotes if it looks like a number";
pub const INTEGER: &str = "an integer";
pub const BOOLEAN: &str = "true or false";
pub const NUMBER: &str = "a number with a decimal point, such as 10.0";

/// What a value must be beyond its bounds, or why it is not.
pub type Check<T> = Box<dyn Fn(&T) -> Result<(), String> + Send + Sync>;

/// One parameter.
pub struct Spec<T> {
    pub name: String,
    pub description: &'static str,
    /// `None`: it must be set.
    pub default: Option<T>,
    /// The least and the largest value.
    pub bounds: Option<(T, T)>,
    /// What it may be, in words.
    pub constraints: String,
    pub check: Check<T>,
    /// It may be set while the node runs.
    pub settable: bool,
    /// The same inputs give the same chunks and commands whatever its value, or its value names a file whose content decides.
    pub aside: bool,
}

impl<T> Spec<T> {
    fn new(name: impl Into<String>, description: &'static str, default: Option<T>) -> Self {
        Self {
            name: name.into(),
            description,
            default,
            bounds: None,
            constraints: String::new(),
            check: Box::new(|_| Ok(())),
            settable: false,
            aside: false,
        }
    }

    pub fn settable(self) -> Self {
        Self { settable: true, ..self }
    }

    pub fn aside(self) -> Self {
        Self { aside: true, ..self }
    }
}

impl Spec<Arc<str>> {
    /// A text that must be set.
    pub fn text(name: impl Into<String>, description: &'static str) -> Self {
        Self::new(name, description, None)
    }

    pub fn default(self, default: &str) -> Self {
        Self { default: Some(default.into()), ..self }
    }

    pub fn noted(self, constraints: &str) -> Self {
        Self { constraints: constraints.to_owned(), ..self }
    }

    pub fn checked(self, constraints: &str, check: fn(&str) -> Result<(), String>) -> Self {
        Self { check: Box::new(move |text| check(text)), ..self }.noted(constraints)
    }

    pub fn one_of<C: Choice>(self) -> Self {
        self.checked(&C::words(), |text| C::parse(text).map(drop))
    }
}

impl Spec<i64> {
    pub fn integer(name: impl Into<String>, default: i64, bounds: (i64, i64), description: &'static str) -> Self {
        let constraints = format!("{} to {}", bounds.0, bounds.1);
        Self { bounds: Some(bounds), constraints, ..Self::new(name, description, Some(default)) }
    }
}

impl Spec<bool> {
    pub fn boolean(name: impl Into<String>, default: bool, description: &'static str) -> Self {
        Self { constraints: BOOLEAN.to_owned(), ..Self::new(name, description, Some(default)) }
    }
}

impl Spec<f64> {
    /// Where the default is NaN, NaN means that there is none.
    pub fn number(name: impl Into<String>, default: f64, bounds: (f64, f64), description: &'static str) -> Self {
        let (lower, upper) = bounds;
        let constraints = format!("{lower} to {upper}{}", if default.is_nan() { ", or .nan for none" } else { "" });
        let reason = constraints.clone();
        // The bounds that clients see let NaN and the infinities pass.
        let check: Check<f64> = Box::new(move |value| {
            let none = value.is_nan() && default.is_nan();
            if none || (lower..=upper).contains(value) { Ok(()) } else { Err(format!("{value} is out of range: {reason}")) }
        });
        Self { bounds: Some(bounds), constraints, check, ..Self::new(name, description, Some(default)) }
    }
}
