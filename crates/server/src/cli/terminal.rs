//! What commands say to people. A closed pipe is the reader's wish to hear no more.

use std::io::Write as _;

/// A result, on standard output.
pub(super) fn say(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// A message about the work, on standard error.
pub(super) fn complain(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
