//! What commands say to people. A closed pipe is the reader's wish to hear no more.

use std::io::{IsTerminal as _, Write as _};

/// A result, on standard output.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// A message about the work, on standard error.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Rows under their heads, each column as wide as its widest cell.
pub(crate) fn table<const N: usize>(heads: [&str; N], rows: &[[String; N]]) -> String {
    let widths: [usize; N] = std::array::from_fn(|column| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([heads[column].chars().count()]).max().unwrap_or_default()
    });
    let line = |cells: [&str; N]| {
        let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let rows = rows.iter().map(|row| line(std::array::from_fn(|column| row[column].as_str())));
    std::iter::once(line(heads)).chain(rows).collect::<Vec<_>>().join("\n")
}

/// A bar on standard error, where that is a terminal; it goes when the work ends.
pub(crate) struct Progress {
    what: Option<String>,
    shown: usize,
}

const BAR_WIDTH: usize = 30;

impl Progress {
    pub(crate) fn new(what: &str) -> Self {
        let what = std::io::stderr().is_terminal().then(|| what.chars().filter(|c| !c.is_control()).collect());
        Self { what, shown: usize::MAX }
    }

    pub(crate) fn show(&mut self, done: usize, all: usize) {
        let Some(what) = &self.what else { return };
        let filled = (done * BAR_WIDTH).checked_div(all).unwrap_or(BAR_WIDTH).min(BAR_WIDTH);
        // A step of the bar is worth a line to the terminal, an operation is not.
        if filled != self.shown {
            self.shown = filled;
            let bar = format!("{}{}", "#".repeat(filled), "-".repeat(BAR_WIDTH - filled));
            let _ = write!(std::io::stderr().lock(), "\r[{bar}] {done}/{all} {what}\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.what.is_some() && self.shown != usize::MAX {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K");
        }
    }
}
