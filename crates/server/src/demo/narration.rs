//! How the demo speaks to people: numbered steps, indented JSON, no line beyond 100
//! columns that can be shortened. Must not know what is told.

use std::io::IsTerminal as _;

use serde_json::Value;

use crate::cli::terminal::say;

const WIDTH: usize = 100;
const INDENT: &str = "    ";
/// The most lines that one document is shown with.
const MAX_LINES: usize = 40;

/// Tells the steps on standard output.
pub(crate) struct Narration {
    step: usize,
    colours: bool,
}

impl Narration {
    pub(crate) fn new() -> Self {
        Self { step: 0, colours: std::io::stdout().is_terminal() }
    }

    /// Begins a step; gives its number.
    pub(crate) fn step(&mut self, title: &str) -> usize {
        self.step += 1;
        say("");
        say(&self.emphasised(&format!("{:2}. {title}", self.step)));
        self.step
    }

    /// A remark under the step.
    pub(crate) fn tell(&self, text: &str) {
        say(&clipped(format!("{INDENT}{text}").trim_end()));
    }

    /// A text that must stay whole, such as an address.
    pub(crate) fn tell_whole(&self, text: &str) {
        say(&format!("{INDENT}{text}"));
    }

    /// A request with the status of its answer.
    pub(crate) fn request(&self, request: &str, status: u16) {
        self.tell(&format!("{request}  →  {status}"));
    }

    /// A JSON document, indented.
    pub(crate) fn json(&self, value: &Value) {
        let text = format!("{value:#}");
        let lines = text.lines().count();
        for line in text.lines().take(MAX_LINES) {
            self.tell(&format!("  {line}"));
        }
        if lines > MAX_LINES {
            self.tell(&format!("  … {} more lines", lines - MAX_LINES));
        }
    }

    fn emphasised(&self, text: &str) -> String {
        if self.colours { format!("\u{1b}[1m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// The line, cut where it would go beyond the width.
fn clipped(line: &str) -> String {
    if line.chars().count() <= WIDTH {
        return line.to_owned();
    }
    let mut short: String = line.chars().take(WIDTH - 1).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_cut_between_characters() {
        assert_eq!(clipped("short"), "short");
        let cut = clipped(&"é".repeat(101));
        assert_eq!((cut.chars().count(), cut.ends_with("é…")), (WIDTH, true));
        assert_eq!(clipped(&"x".repeat(WIDTH)).len(), WIDTH);
    }
}
