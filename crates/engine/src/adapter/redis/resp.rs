//! RESP, the protocol of Redis, versions 2 and 3. Must not know: commands, connections.

use bytes::{Buf as _, Bytes, BytesMut};

/// The longest line: a simple string, an error, a number.
const MAX_LINE: usize = 64 << 10;
/// How deep replies may lie in each other.
const MAX_DEPTH: usize = 32;
/// How many replies one reply may hold, so that many small ones do not fill the memory.
const MAX_REPLIES: usize = 1 << 20;

/// What a server answers.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Reply {
    Nil,
    Integer(i64),
    Double(f64),
    Boolean(bool),
    /// An integer of any size, in decimal.
    BigNumber(Bytes),
    /// A status such as `OK`.
    Simple(Bytes),
    Bulk(Bytes),
    Array(Vec<Reply>),
    /// Keys and values in turn.
    Map(Vec<Reply>),
    Error(Refusal),
}

/// An error that the server answers: `WRONGTYPE Operation against a key …`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: String,
    pub(super) message: String,
}

/// Why bytes are no reply that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("it is not the protocol of Redis")]
    Malformed,
    #[error("it is larger than maxReplyBytes allows")]
    TooLarge,
}

/// Appends a command of these arguments.
pub(super) fn encode<A: AsRef<[u8]>>(arguments: &[A], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{}\r\n", arguments.len()).as_bytes());
    for argument in arguments {
        let argument = argument.as_ref();
        out.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        out.extend_from_slice(argument);
        out.extend_from_slice(b"\r\n");
    }
}

/// Reads replies out of bytes as they come.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    /// What is not complete yet, the outermost first.
    open: Vec<Aggregate>,
    /// How many replies the one that is read holds so far.
    replies: usize,
}

#[derive(Debug)]
struct Aggregate {
    kind: Kind,
    missing: usize,
    items: Vec<Reply>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Array,
    Map,
    /// Attributes stand before a reply, pushes between two; nobody asked for either.
    Attribute,
    Push,
}

enum Token {
    Reply(Reply),
    Open(Kind, usize),
}

impl Decoder {
    /// The next reply, where all of it has come. `max_bytes` bounds each of its strings; the
    /// caller bounds what it reads in all.
    pub(super) fn decode(&mut self, buffer: &mut BytesMut, max_bytes: usize) -> Result<Option<Reply>, Unreadable> {
        loop {
            let Some(token) = next_token(buffer, max_bytes)? else { return Ok(None) };
            self.replies += 1;
            if self.replies > MAX_REPLIES {
                return Err(Unreadable::TooLarge);
            }
            let complete = match token {
                Token::Reply(reply) => self.close(reply),
                Token::Open(kind, 0) => self.end(Aggregate { kind, missing: 0, items: Vec::new() }),
                Token::Open(kind, missing) => {
                    let is_inside = !self.open.is_empty();
                    if self.open.len() >= MAX_DEPTH || (kind == Kind::Push && is_inside) {
                        return Err(Unreadable::Malformed);
                    }
                    self.open.push(Aggregate { kind, missing, items: Vec::new() });
                    None
                }
            };
            if let Some(reply) = complete {
                self.replies = 0;
                return Ok(Some(reply));
            }
        }
    }

    /// Whether the last reply was given, and nothing of another one has come.
    pub(super) fn is_between_replies(&self) -> bool {
        self.open.is_empty()
    }

    /// Takes in a complete reply; gives it, or what it completes, where nothing is open.
    fn close(&mut self, reply: Reply) -> Option<Reply> {
        let Some(innermost) = self.open.last_mut() else { return Some(reply) };
        innermost.items.push(reply);
        innermost.missing -= 1;
        if innermost.missing > 0 {
            return None;
        }
        let done = self.open.pop()?;
        self.end(done)
    }

    fn end(&mut self, aggregate: Aggregate) -> Option<Reply> {
        match aggregate.kind {
            Kind::Array => self.close(Reply::Array(aggregate.items)),
            Kind::Map => self.close(Reply::Map(aggregate.items)),
            Kind::Attribute | Kind::Push => None,
        }
    }
}

/// The next line, or the next string with its length; none where it has not come whole.
fn next_token(buffer: &mut BytesMut, max_bytes: usize) -> Result<Option<Token>, Unreadable> {
    let seen = &buffer[..buffer.len().min(MAX_LINE)];
    let Some(end) = seen.windows(2).position(|pair| pair == b"\r\n") else {
        // What begins like no reply will not become one.
        let is_known = buffer.first().is_none_or(|kind| b"+-:$*_,#!=(%~>|".contains(kind));
        return if is_known && buffer.len() < MAX_LINE { Ok(None) } else { Err(Unreadable::Malformed) };
    };
    let Some((&kind, line)) = seen[..end].split_first() else { return Err(Unreadable::Malformed) };
    let integer = || std::str::from_utf8(line).ok()?.parse::<i64>().ok();
    let reply = match kind {
        b'$' | b'!' | b'=' => {
            let length = integer().ok_or(Unreadable::Malformed)?;
            if length == -1 && kind == b'$' {
                buffer.advance(end + 2);
                return Ok(Some(Token::Reply(Reply::Nil)));
            }
            let length = usize::try_from(length).map_err(|_| Unreadable::Malformed)?;
            if length > max_bytes {
                return Err(Unreadable::TooLarge);
            }
            let whole = end + 2 + length + 2;
            if buffer.len() < whole {
                buffer.reserve((whole - buffer.len()).min(1 << 20));
                return Ok(None);
            }
            buffer.advance(end + 2);
            let text = buffer.split_to(length).freeze();
            if !buffer.starts_with(b"\r\n") {
                return Err(Unreadable::Malformed);
            }
            buffer.advance(2);
            return Ok(Some(Token::Reply(match kind {
                b'!' => Reply::Error(Refusal::parse(&text)),
                // `txt:` and the like stand before the text.
                b'=' if text.get(3) == Some(&b':') => Reply::Bulk(text.slice(4..)),
                b'=' => return Err(Unreadable::Malformed),
                _ => Reply::Bulk(text),
            })));
        }
        b'*' | b'~' | b'%' | b'|' | b'>' => {
            let count = integer().ok_or(Unreadable::Malformed)?;
            if count == -1 && kind == b'*' {
                Reply::Nil
            } else {
                let count = usize::try_from(count).map_err(|_| Unreadable::Malformed)?;
                let (kind, items) = match kind {
                    b'%' => (Kind::Map, count.checked_mul(2)),
                    b'|' => (Kind::Attribute, count.checked_mul(2)),
                    b'>' => (Kind::Push, Some(count)),
                    _ => (Kind::Array, Some(count)),
                };
                let items = items.filter(|items| *items <= MAX_REPLIES).ok_or(Unreadable::TooLarge)?;
                buffer.advance(end + 2);
                return Ok(Some(Token::Open(kind, items)));
            }
        }
        b'+' => Reply::Simple(Bytes::copy_from_slice(line)),
        b'-' => Reply::Error(Refusal::parse(line)),
        b':' => Reply::Integer(integer().ok_or(Unreadable::Malformed)?),
        b'_' if line.is_empty() => Reply::Nil,
        b'#' if line == b"t" => Reply::Boolean(true),
        b'#' if line == b"f" => Reply::Boolean(false),
        b',' => {
            let number = std::str::from_utf8(line).ok().and_then(|text| text.parse().ok());
            Reply::Double(number.ok_or(Unreadable::Malformed)?)
        }
        b'(' => {
            let digits = line.strip_prefix(b"-").unwrap_or(line);
            if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
                return Err(Unreadable::Malformed);
            }
            Reply::BigNumber(Bytes::copy_from_slice(line))
        }
        _ => return Err(Unreadable::Malformed),
    };
    buffer.advance(end + 2);
    Ok(Some(Token::Reply(reply)))
}

impl Refusal {
    fn parse(line: &[u8]) -> Self {
        let text = String::from_utf8_lossy(line);
        let (code, message) = text.split_once(' ').unwrap_or((&text, ""));
        // Where no code stands first, the text is all there is.
        let is_code = !code.is_empty() && code.len() <= 32 && code.bytes().all(|byte| byte.is_ascii_uppercase());
        if is_code {
            Self { code: code.to_owned(), message: message.to_owned() }
        } else {
            Self { code: "ERR".to_owned(), message: text.into_owned() }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(bytes: &[u8]) -> Result<Option<Reply>, Unreadable> {
        Decoder::default().decode(&mut BytesMut::from(bytes), 1 << 20)
    }

    fn bulk(text: &'static str) -> Reply {
        Reply::Bulk(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn every_kind_of_reply_is_read() {
        let error = |code: &str, message: &str| Reply::Error(Refusal { code: code.into(), message: message.into() });
        for (bytes, expected) in [
            ("+OK\r\n", Reply::Simple(Bytes::from_static(b"OK"))),
            (":-7\r\n", Reply::Integer(-7)),
            ("$5\r\na\r\nbc\r\n", bulk("a\r\nbc")),
            ("$0\r\n\r\n", bulk("")),
            ("$-1\r\n", Reply::Nil),
            ("*-1\r\n", Reply::Nil),
            ("_\r\n", Reply::Nil),
            ("#t\r\n", Reply::Boolean(true)),
            (",1.5\r\n", Reply::Double(1.5)),
            (",-inf\r\n", Reply::Double(f64::NEG_INFINITY)),
            ("(12345678901234567890\r\n", Reply::BigNumber(Bytes::from_static(b"12345678901234567890"))),
            ("=6\r\ntxt:ab\r\n", bulk("ab")),
            ("-WRONGTYPE no\r\n", error("WRONGTYPE", "no")),
            ("-no code here\r\n", error("ERR", "no code here")),
            ("!5\r\nERR x\r\n", error("ERR", "x")),
            ("*0\r\n", Reply::Array(vec![])),
            (
                "*2\r\n*1\r\n:1\r\n~0\r\n",
                Reply::Array(vec![Reply::Array(vec![Reply::Integer(1)]), Reply::Array(vec![])]),
            ),
            ("%1\r\n$1\r\na\r\n:1\r\n", Reply::Map(vec![bulk("a"), Reply::Integer(1)])),
            (">2\r\n+message\r\n+x\r\n:1\r\n", Reply::Integer(1)),
            (">0\r\n:1\r\n", Reply::Integer(1)),
            ("*1\r\n|1\r\n+ttl\r\n:3\r\n:1\r\n", Reply::Array(vec![Reply::Integer(1)])),
        ] {
            assert_eq!(decode(bytes.as_bytes()), Ok(Some(expected)), "{bytes:?}");
        }
    }

    #[test]
    fn a_reply_may_come_byte_by_byte_and_another_after_it() {
        let bytes = b"*2\r\n$3\r\nabc\r\n%1\r\n+k\r\n_\r\n:5\r\n";
        let (mut decoder, mut buffer, mut replies) = (Decoder::default(), BytesMut::new(), Vec::new());
        for byte in bytes {
            buffer.extend_from_slice(&[*byte]);
            replies.extend(decoder.decode(&mut buffer, 100).expect("a reply"));
        }
        let map = Reply::Map(vec![Reply::Simple(Bytes::from_static(b"k")), Reply::Nil]);
        assert_eq!(replies, [Reply::Array(vec![bulk("abc"), map]), Reply::Integer(5)]);
        assert!(decoder.is_between_replies() && buffer.is_empty());
    }

    #[test]
    fn garbage_and_what_is_too_large_is_refused() {
        for bytes in [
            "HTTP/1.1 400 Bad Request\r\n",
            "\r\n",
            ":x\r\n",
            "$-2\r\n",
            "$x\r\n",
            "#x\r\n",
            "(1x\r\n",
            ",x\r\n",
            "=2\r\nab\r\n",
            "$1\r\nabc\r\n",
            "*-2\r\n",
            "*1\r\n>1\r\n:1\r\n",
            "?",
            "(\r\n",
            "$?\r\n",
        ] {
            assert_eq!(decode(bytes.as_bytes()), Err(Unreadable::Malformed), "{bytes:?}");
        }
        for bytes in ["$9999999999\r\n", "*9999999999\r\n", "%9223372036854775807\r\n"] {
            assert_eq!(decode(bytes.as_bytes()), Err(Unreadable::TooLarge), "{bytes:?}");
        }
        assert_eq!(decode("*1\r\n".repeat(100).as_bytes()), Err(Unreadable::Malformed));
        assert_eq!(decode(&[b'+'; MAX_LINE]), Err(Unreadable::Malformed));
        let mut many = b"*1048576\r\n".to_vec();
        many.extend_from_slice(&b"_\r\n".repeat(MAX_REPLIES));
        assert_eq!(decode(&many), Err(Unreadable::TooLarge));
    }

    proptest! {
        #[test]
        fn nothing_that_comes_is_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn arguments_stay_apart(arguments in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 1..8)) {
            let mut bytes = Vec::new();
            encode(&arguments, &mut bytes);
            let expected = arguments.into_iter().map(|argument| Reply::Bulk(argument.into())).collect();
            prop_assert_eq!(decode(&bytes), Ok(Some(Reply::Array(expected))));
        }
    }
}
