//! What the checks found.

use std::fmt;

/// The most findings of one check that are told.
const MAX_FINDINGS: usize = 20;

/// What the suite found of one adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub adapter_type: String,
    /// All checks, in the order in which they ran.
    pub checks: Vec<Checked>,
}

/// One check, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    pub name: &'static str,
    /// What it holds an adapter to.
    pub claim: &'static str,
    pub verdict: Verdict,
}

/// What came of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    /// What does not hold, each in a sentence, without secrets.
    Failed(Vec<String>),
    /// Why it says nothing of this adapter, or what the sample would have to bring.
    Skipped(String),
}

impl Report {
    /// Whether no check failed.
    pub fn is_passed(&self) -> bool {
        self.failures().next().is_none()
    }

    /// The checks that failed.
    pub fn failures(&self) -> impl Iterator<Item = &Checked> {
        self.checks.iter().filter(|check| matches!(check.verdict, Verdict::Failed(_)))
    }
}

impl Verdict {
    /// One word for tables.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed(_) => "FAILED",
            Self::Skipped(_) => "skipped",
        }
    }

    /// What is to be said besides the word.
    pub fn details(&self) -> &[String] {
        match self {
            Self::Passed => &[],
            Self::Failed(findings) => findings,
            Self::Skipped(why) => std::slice::from_ref(why),
        }
    }
}

impl fmt::Display for Report {
    /// A line for each check, and one for each of its findings.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for check in &self.checks {
            write!(f, "{}: {}", check.name, check.verdict.as_str())?;
            match &check.verdict {
                Verdict::Passed => writeln!(f)?,
                Verdict::Skipped(why) => writeln!(f, ": {why}")?,
                Verdict::Failed(findings) => {
                    writeln!(f)?;
                    findings.iter().try_for_each(|finding| writeln!(f, "  {finding}"))?;
                }
            }
        }
        Ok(())
    }
}

/// Why a check cannot be made.
#[derive(Debug)]
pub(super) struct Skip(pub(super) String);

impl Skip {
    pub(super) fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

/// What a check finds while it runs.
#[derive(Debug, Default)]
pub(super) struct Findings(Vec<String>);

impl Findings {
    pub(super) fn add(&mut self, finding: String) {
        if self.0.len() < MAX_FINDINGS && !self.0.contains(&finding) {
            self.0.push(finding);
        }
    }

    /// Notes what is wrong, unless all is as it should be.
    pub(super) fn unless(&mut self, holds: bool, finding: impl FnOnce() -> String) {
        if !holds {
            self.add(finding());
        }
    }

    pub(super) fn verdict(self, ran: Result<(), Skip>) -> Verdict {
        match (self.0.is_empty(), ran) {
            (false, _) => Verdict::Failed(self.0),
            (true, Ok(())) => Verdict::Passed,
            (true, Err(Skip(why))) => Verdict::Skipped(why),
        }
    }
}
