//! Progress bars of long work, on standard error.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar that counts bytes, parameters or inferences up to `length`.
pub fn bar(message: &'static str, length: u64) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{msg} [{bar:40}] {percent}% {eta}").unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length).with_style(style).with_message(message)
}
