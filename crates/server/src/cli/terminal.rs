//! What commands say to people. A closed pipe is the reader's wish to hear no more.

use std::io::Write as _;

/// A result, on standard output.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// A message about the work, on standard error.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
