//! The instruction in force.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::{Delivery, Input};
use crate::{
    control::{Arrival, NotUsable, Stamp, Verdict},
    observation::{InstructionError, check_instruction},
};

/// The instruction in force: the newest of the topic and the parameter. It does not grow stale.
pub struct Instruction {
    pub(super) input: Arc<Input>,
    newest: Mutex<Option<Text>>,
    /// Told when there is another text.
    changed: Box<dyn Fn() + Send + Sync>,
}

struct Text {
    text: Arc<str>,
    arrival: Stamp,
    /// Whether it was part of an observation.
    used: bool,
}

impl Instruction {
    /// `changed` is called when another text becomes the instruction.
    pub fn new(changed: impl Fn() + Send + Sync + 'static) -> Self {
        Self { input: Arc::new(Input::new("instruction")), newest: Mutex::default(), changed: Box::new(changed) }
    }

    pub fn input(&self) -> &Input {
        &self.input
    }

    /// Makes a text that arrived at `now` the instruction, or refuses it and keeps the instruction before.
    pub fn set(&self, bytes: &[u8], now: Stamp, delivery: Option<&Delivery>) -> Result<(), InstructionError> {
        let entered = Instant::now();
        match check_instruction(bytes) {
            Ok(text) => {
                let before = self.lock().replace(Text { text: text.into(), arrival: now, used: false });
                let superseded = before.as_ref().is_some_and(|before| !before.used);
                self.input.count(entered, Arrival { verdict: Verdict::Newest { superseded }, dropped: None::<()> }, delivery);
                self.input.accept();
                if before.is_none_or(|before| *before.text != *text) {
                    (self.changed)();
                }
                Ok(())
            }
            Err(error) => {
                self.input.refuse(error.to_string());
                Err(error)
            }
        }
    }

    /// Whether there is none yet.
    pub fn is_missing(&self) -> bool {
        self.lock().is_none()
    }

    /// The text and the seconds since it arrived. A clock that jumped back makes them 0, not the future.
    pub(super) fn look(&self, now: Stamp) -> Result<(Arc<str>, f64), NotUsable> {
        let newest = self.lock();
        let Text { text, arrival, .. } = newest.as_ref().ok_or(NotUsable::Missing)?;
        Ok((text.clone(), now.seconds_since(*arrival).max(0.0)))
    }

    pub(super) fn mark_used(&self) {
        if let Some(newest) = &mut *self.lock() {
            newest.used = true;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Text>> {
        // A panic ends the process, so a poisoned lock is never looked at again.
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
