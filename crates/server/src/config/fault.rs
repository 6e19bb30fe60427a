//! Faults of the configuration: where, and what was expected. Must not know what a
//! setting means, and never holds a value, which could be a secret.

use std::fmt;
use std::sync::Arc;

/// Where a value of the configuration came from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// A place in a file; lines and columns count from 1.
    File { file: Arc<str>, line: u64, column: u64 },
    /// An environment variable.
    Environment(&'static str),
    /// A flag of the command line.
    Flag(&'static str),
    /// The built-in defaults.
    Default,
}

impl Origin {
    /// The beginning of a file.
    pub(crate) fn file(file: &Arc<str>) -> Self {
        Self::File { file: file.clone(), line: 1, column: 1 }
    }
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub origin: Origin,
    /// JSON Pointer to the faulty value; empty for the whole document.
    pub path: String,
    /// What was expected.
    pub message: String,
}

impl Fault {
    pub(crate) fn new(origin: Origin, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { origin, path: path.into(), message: message.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.path.is_empty() { "/" } else { &self.path };
        match &self.origin {
            Origin::File { file, line, column } => write!(f, "{file}:{line}:{column}: {path}: {}", self.message),
            Origin::Environment(name) | Origin::Flag(name) => write!(f, "{name}: {}", self.message),
            Origin::Default => write!(f, "{path}: {}", self.message),
        }
    }
}

impl std::error::Error for Fault {}

/// All faults of a configuration, files in their order and lines in theirs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(Vec<Fault>);

impl ConfigErrors {
    /// The faults as an error, or nothing where there are none.
    pub(crate) fn collect(mut faults: Vec<Fault>) -> Result<(), Self> {
        if faults.is_empty() {
            return Ok(());
        }
        faults.sort_by(|left, right| left.origin.cmp(&right.origin));
        Err(Self(faults))
    }

    pub fn faults(&self) -> &[Fault] {
        &self.0
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
