//! Secrets that verify what external systems deliver: several in force together, so that one
//! is exchanged for another without a delivery lost between.

use std::time::Duration;

use integration_model::Timestamp;
use secrecy::{ExposeSecret, SecretString};

/// Secrets that are in force together, the newest first. Has no printable form.
#[derive(Clone)]
pub struct SigningSecrets(Vec<SigningSecret>);

/// One secret, and until when it is in force.
#[derive(Clone)]
pub struct SigningSecret {
    pub secret: SecretString,
    pub expires_at: Option<Timestamp>,
}

impl SigningSecrets {
    /// The most that are in force together: each costs every delivery a digest.
    pub const MAX: usize = 8;

    pub fn new(secrets: Vec<SigningSecret>) -> Self {
        Self(secrets)
    }

    pub fn iter(&self) -> impl Iterator<Item = &SigningSecret> {
        self.0.iter()
    }

    /// Those that are in force at a time.
    pub fn live(&self, now: Timestamp) -> impl Iterator<Item = &SecretString> {
        self.0.iter().filter(move |one| one.expires_at.is_none_or(|at| now < at)).map(|one| &one.secret)
    }

    /// When the last of them ends; never where one has no end.
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.0
            .iter()
            .map(|one| one.expires_at)
            .max_by_key(|at| at.unwrap_or(Timestamp::from_micros(i64::MAX)))
            .flatten()
    }

    /// These, and those of `before` for `overlap` more at most.
    #[must_use]
    pub fn overlapping(self, before: &Self, now: Timestamp, overlap: Duration) -> Self {
        let end = now.saturating_add(overlap);
        let mut secrets = self.0;
        for one in &before.0 {
            let is_over = one.expires_at.is_some_and(|at| at <= now);
            if !is_over && !secrets.iter().any(|new| new.secret.expose_secret() == one.secret.expose_secret()) {
                let expires_at = Some(one.expires_at.map_or(end, |at| at.min(end)));
                secrets.push(SigningSecret { secret: one.secret.clone(), expires_at });
            }
        }
        Self(secrets)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_000_000_000);

    fn secrets(texts: &[(&str, Option<u64>)]) -> SigningSecrets {
        let read = |(text, seconds): &(&str, Option<u64>)| SigningSecret {
            secret: SecretString::from(*text),
            expires_at: seconds.map(|seconds| NOW.saturating_add(Duration::from_secs(seconds))),
        };
        SigningSecrets::new(texts.iter().map(read).collect())
    }

    fn shown(secrets: &SigningSecrets) -> Vec<(String, Option<u64>)> {
        let show = |one: &SigningSecret| {
            (one.secret.expose_secret().to_owned(), one.expires_at.map(|at| at.since(NOW).as_secs()))
        };
        secrets.iter().map(show).collect()
    }

    #[test]
    fn a_secret_that_is_replaced_ends_when_it_is_told_and_no_later_than_it_was_told_before() {
        let before = secrets(&[("kept", None), ("ending", Some(10)), ("ended", Some(0)), ("again", None)]);
        let after = secrets(&[("new", None), ("again", None)]).overlapping(&before, NOW, Duration::from_secs(60));
        let expected = [("new", None), ("again", None), ("kept", Some(60)), ("ending", Some(10))];
        assert_eq!(shown(&after), expected.map(|(text, end)| (text.to_owned(), end)));
        let later = NOW.saturating_add(Duration::from_secs(10));
        assert_eq!(after.live(later).count(), 3, "what ends at a time is not in force at that time");
        assert_eq!(after.expires_at(), None);
        let ending = secrets(&[("a", Some(5)), ("b", Some(9))]);
        assert_eq!(ending.expires_at(), Some(NOW.saturating_add(Duration::from_secs(9))));
    }
}
