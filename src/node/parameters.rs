//! The parameters of the node, declared with description, range and constraints, and checked when they are set.

use std::sync::Arc;

use rclrs::{
    DeclarationError, MandatoryParameter, NodeState, ParameterBuilder, ParameterRange, ParameterVariant, ReadOnlyParameter,
};

use crate::parameters::{BOOLEAN, Handle, INTEGER, NUMBER, Parameter, ParameterError, Source, Spec, TEXT};

/// Declares parameters at a node.
pub struct Declaring<'a>(pub &'a NodeState);

impl Declaring<'_> {
    fn declare<T: Declarable>(
        &self,
        spec: Spec<T>,
        expected: &'static str,
        range: fn((T, T)) -> T::Range,
    ) -> Result<Handle<T>, ParameterError> {
        let Spec { name, description, default, bounds, constraints, check, settable, aside: _ } = spec;
        let mut builder: ParameterBuilder<'_, T> = self
            .0
            .declare_parameter::<T>(name.as_str())
            .description(description)
            .constraints(constraints.as_str())
            .validate(move |value: &T| check(value));
        if let Some(default) = default {
            builder = builder.default(default);
        }
        if let Some(bounds) = bounds {
            builder = builder.range(range(bounds));
        }
        let declared: Result<Handle<T>, DeclarationError> = match settable {
            true => builder.mandatory().map(|parameter| Box::new(Settable(parameter)) as Handle<T>),
            false => builder.read_only().map(|parameter| Box::new(Fixed(parameter)) as Handle<T>),
        };
        declared.map_err(|source| explain(name, expected, description, constraints, source))
    }
}

impl Source for Declaring<'_> {
    fn text(&mut self, spec: Spec<Arc<str>>) -> Result<Handle<Arc<str>>, ParameterError> {
        self.declare(spec, TEXT, |_| ())
    }

    fn integer(&mut self, spec: Spec<i64>) -> Result<Handle<i64>, ParameterError> {
        self.declare(spec, INTEGER, between)
    }

    fn boolean(&mut self, spec: Spec<bool>) -> Result<Handle<bool>, ParameterError> {
        self.declare(spec, BOOLEAN, |_| ())
    }

    fn number(&mut self, spec: Spec<f64>) -> Result<Handle<f64>, ParameterError> {
        self.declare(spec, NUMBER, between)
    }
}

/// What a parameter may hold.
trait Declarable: ParameterVariant + Send + Sync {}

impl<T: ParameterVariant + Send + Sync> Declarable for T {}

/// A parameter that can be set at run time.
struct Settable<T: ParameterVariant>(MandatoryParameter<T>);

impl<T: Declarable> Parameter<T> for Settable<T> {
    fn get(&self) -> T {
        self.0.get()
    }

    fn on_change(&self, told: Box<dyn Fn(&T) + Send + Sync>) {
        self.0.on_change(told);
    }
}

/// A parameter that is set once.
struct Fixed<T: ParameterVariant>(ReadOnlyParameter<T>);

impl<T: Declarable> Parameter<T> for Fixed<T> {
    fn get(&self) -> T {
        self.0.get()
    }
}

fn between<T: ParameterVariant + PartialOrd>((lower, upper): (T, T)) -> ParameterRange<T> {
    ParameterRange { lower: Some(lower), upper: Some(upper), step: None }
}

/// rclrs does not name the parameter in its errors.
fn explain(
    name: String,
    expected: &'static str,
    description: &'static str,
    constraints: String,
    source: DeclarationError,
) -> ParameterError {
    match source {
        DeclarationError::NoValueAvailable => ParameterError::NotSet { name, description },
        DeclarationError::OverrideValueTypeMismatch => ParameterError::Type { name, expected, description },
        DeclarationError::InitialValueOutOfRange => ParameterError::Range { name, constraints },
        DeclarationError::InitialValueRejected(reason) => ParameterError::Rejected { name, reason },
        source => ParameterError::Declaration { name, reason: source.to_string() },
    }
}
