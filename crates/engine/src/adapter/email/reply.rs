//! What a mail server answers, and what that means, as facts for the caller.

use integration_model::ErrorCode;
use serde_json::{Value, json};

use crate::adapter::server::failure::bounded;
use crate::adapter::{CallError, Effect};

/// The most lines of one reply, and the longest.
const MAX_LINES: usize = 100;
pub(super) const MAX_LINE: usize = 4_096;

/// A reply of a server: `250 2.1.0 Ok`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) code: u16,
    /// The text of each line.
    pub(super) lines: Vec<String>,
}

/// A reply as it is read, line by line.
#[derive(Debug, Default)]
pub(super) struct ReplyReader {
    code: Option<u16>,
    lines: Vec<String>,
}

impl ReplyReader {
    /// Takes a line without its end. Gives the reply with its last line; none where the line
    /// is no SMTP.
    pub(super) fn take(&mut self, line: &[u8]) -> Result<Option<Reply>, NoReply> {
        let (digits, rest) = line.split_at_checked(3).ok_or(NoReply)?;
        let code = std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()).ok_or(NoReply)?;
        let is_last = match rest.first() {
            None | Some(b' ') => true,
            Some(b'-') => false,
            Some(_) => return Err(NoReply),
        };
        if !(200..600).contains(&code) || self.code.is_some_and(|first| first != code) || self.lines.len() >= MAX_LINES
        {
            return Err(NoReply);
        }
        self.code = Some(code);
        self.lines.push(String::from_utf8_lossy(rest.get(1..).unwrap_or_default()).into_owned());
        Ok(is_last.then(|| Reply { code, lines: std::mem::take(&mut self.lines) }))
    }
}

/// A line that no mail server says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoReply;

impl Reply {
    pub(super) fn is_positive(&self) -> bool {
        self.code < 300
    }

    /// Whether the same may be accepted later.
    pub(super) fn is_transient(&self) -> bool {
        (400..500).contains(&self.code)
    }

    /// The status of RFC 3463, where the server tells one: `5.1.1`.
    pub(super) fn enhanced_status(&self) -> Option<&str> {
        let word = self.lines.first()?.split(' ').next()?;
        let mut parts = word.split('.');
        let is_number = |part: Option<&str>| {
            part.is_some_and(|part| (1..=3).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit()))
        };
        let fits = matches!(parts.next(), Some("2" | "4" | "5")) && is_number(parts.next()) && is_number(parts.next());
        (fits && parts.next().is_none()).then_some(word)
    }

    /// The text without its status, bounded.
    pub(super) fn text(&self) -> String {
        let text = self.lines.join(" ");
        let text = match self.enhanced_status() {
            Some(status) => text.strip_prefix(status).unwrap_or(&text).trim_start(),
            None => &text,
        };
        bounded(&text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect::<String>())
    }

    /// The reply as part of an answer.
    pub(super) fn as_json(&self) -> Value {
        json!({"code": self.code, "enhancedStatus": self.enhanced_status(), "message": self.text()})
    }

    /// The refusal of what a command asked for. Nothing was done.
    pub(super) fn refusal(&self, what: &str) -> CallError {
        let is_credential = matches!(self.code, 530 | 534 | 535 | 538);
        let (code, message) = if is_credential {
            (
                ErrorCode::Auth,
                format!("the mail server does not accept the credential, or asks for one ({})", self.code),
            )
        } else {
            (ErrorCode::Upstream, format!("the mail server refused {what} ({})", self.code))
        };
        let error = CallError {
            retryable: self.is_transient(),
            upstream_failed: self.is_transient(),
            credential_refused: is_credential,
            effect: Effect::None,
            ..CallError::not_sent(code, message)
        }
        .with_detail("smtpStatus", self.code)
        .with_detail("smtpMessage", self.text());
        match self.enhanced_status() {
            Some(status) => error.with_detail("enhancedStatus", status),
            None => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Reply>, NoReply> {
        let mut reader = ReplyReader::default();
        let mut replies = Vec::new();
        for line in text.split("\r\n") {
            if let Some(reply) = reader.take(line.as_bytes())? {
                reader = ReplyReader::default();
                replies.push(reply);
            }
        }
        Ok(replies)
    }

    #[test]
    fn replies_of_one_line_and_of_several_are_read() {
        let replies =
            read("250-mail.example\r\n250-SIZE 100\r\n250 HELP\r\n354\r\n550 5.1.1 no such user").expect("replies");
        assert_eq!(replies.len(), 3);
        assert_eq!(replies[0].lines, ["mail.example", "SIZE 100", "HELP"]);
        assert_eq!((replies[1].code, replies[1].enhanced_status()), (354, None));
        assert_eq!((replies[2].enhanced_status(), replies[2].text().as_str()), (Some("5.1.1"), "no such user"));
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        for text in ["", "25", "HTTP/1.1 400", "250x", "999 no", "100 no", "250-a\r\n251 b", "+OK"] {
            assert_eq!(read(text), Err(NoReply), "{text:?}");
        }
        assert_eq!(read(&"250-a\r\n".repeat(MAX_LINES + 1)), Err(NoReply));
    }

    #[test]
    fn a_status_is_told_apart_from_text() {
        for (text, expected) in [
            ("550 5.1.1 x", Some("5.1.1")),
            ("550 5.1 x", None),
            ("550 5.1.1.1 x", None),
            ("550 no.1.1", None),
            ("550", None),
        ] {
            assert_eq!(read(text).expect("a reply")[0].enhanced_status(), expected, "{text}");
        }
    }
}
