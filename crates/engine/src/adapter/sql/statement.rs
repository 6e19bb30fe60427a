//! A statement as its author writes it, with `:name` for params, made into what a database
//! prepares. Params are placeholders always: no value ever becomes part of the text.

use std::ops::Range;

/// What differs between the databases' languages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    PostgreSql,
    MySql,
    Sqlite,
}

/// A statement with the database's own placeholders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Statement {
    pub(super) sql: String,
    /// The param of each placeholder, in order.
    pub(super) binds: Vec<String>,
}

/// Statements that would change the connection or leave the transaction that a call runs in,
/// or that reach for the server's files.
const REFUSED: [&str; 34] = [
    "abort",
    "attach",
    "begin",
    "change",
    "commit",
    "copy",
    "deallocate",
    "detach",
    "discard",
    "do",
    "end",
    "execute",
    "handler",
    "install",
    "kill",
    "listen",
    "load",
    "lock",
    "notify",
    "pragma",
    "prepare",
    "release",
    "reset",
    "rollback",
    "savepoint",
    "set",
    "shutdown",
    "start",
    "uninstall",
    "unlisten",
    "unlock",
    "use",
    "vacuum",
    "xa",
];

impl Statement {
    /// Reads a statement. The message says what is wrong with it.
    pub(super) fn parse(text: &str, dialect: Dialect) -> Result<Self, String> {
        let mut scanner = Scanner { text, at: 0, dialect };
        let mut statement = Self { sql: String::with_capacity(text.len()), binds: Vec::new() };
        let mut first_word = None;
        let mut ended = false;
        while let Some(token) = scanner.next()? {
            let piece = &text[token.span.clone()];
            match token.kind {
                TokenKind::Space => {}
                TokenKind::End => {
                    ended = true;
                    continue;
                }
                _ if ended => return Err("expected one statement: there is more after its semicolon".to_owned()),
                TokenKind::Word if first_word.is_none() => first_word = Some(piece.to_ascii_lowercase()),
                TokenKind::Word | TokenKind::Other => {}
                TokenKind::Param => {
                    statement.bind(&piece[1..], dialect);
                    continue;
                }
            }
            statement.sql.push_str(piece);
        }
        match first_word {
            None => Err("expected a statement".to_owned()),
            Some(word) if REFUSED.contains(&word.as_str()) => Err(format!(
                "{} is not taken: transactions, sessions and files are not the statement's",
                word.to_ascii_uppercase()
            )),
            Some(_) => Ok(statement),
        }
    }

    fn bind(&mut self, name: &str, dialect: Dialect) {
        if dialect == Dialect::MySql {
            self.binds.push(name.to_owned());
            self.sql.push('?');
            return;
        }
        let known = self.binds.iter().position(|bound| bound == name);
        let number = known.unwrap_or_else(|| {
            self.binds.push(name.to_owned());
            self.binds.len() - 1
        });
        self.sql.push(if dialect == Dialect::PostgreSql { '$' } else { '?' });
        self.sql.push_str(&(number + 1).to_string());
        // What follows must not run into the number.
        self.sql.push(' ');
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TokenKind {
    /// White space or a comment.
    Space,
    Word,
    /// `:name`
    Param,
    /// A semicolon.
    End,
    Other,
}

struct Token {
    kind: TokenKind,
    span: Range<usize>,
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
    dialect: Dialect,
}

impl Scanner<'_> {
    fn next(&mut self) -> Result<Option<Token>, String> {
        let start = self.at;
        let Some(first) = self.rest().chars().next() else { return Ok(None) };
        let kind = self.token(first)?;
        Ok(Some(Token { kind, span: start..self.at }))
    }

    fn token(&mut self, first: char) -> Result<TokenKind, String> {
        let mysql = self.dialect == Dialect::MySql;
        let rest = self.rest();
        let second = rest[first.len_utf8()..].chars().next();
        match first {
            '\0' => Err("expected no NUL character".to_owned()),
            _ if first.is_whitespace() => {
                self.take_while(char::is_whitespace);
                Ok(TokenKind::Space)
            }
            // MySQL asks for a space after the dashes.
            '-' if rest.starts_with("--")
                && (!mysql
                    || rest[2..].starts_with(|c: char| c.is_whitespace() || c.is_control())
                    || rest.len() == 2) =>
            {
                self.line_comment()
            }
            '#' if mysql => self.line_comment(),
            '/' if second == Some('*') => self.block_comment(),
            '\'' => self.quoted('\'', mysql, "string"),
            '"' => self.quoted('"', mysql, "quoted text"),
            '`' if self.dialect != Dialect::PostgreSql => self.quoted('`', false, "quoted name"),
            '[' if self.dialect == Dialect::Sqlite => self.bracketed_name(),
            '$' if self.dialect == Dialect::PostgreSql => self.dollar_quoted(),
            '$' | '@' if self.dialect == Dialect::Sqlite => Err(self.foreign_placeholder()),
            '?' if self.dialect != Dialect::PostgreSql => Err(self.foreign_placeholder()),
            ':' => self.colon(second),
            ';' => {
                self.at += 1;
                Ok(TokenKind::End)
            }
            _ if is_name_start(first) => self.word(first),
            // A number with what belongs to it, so that `1e5` has no word in it.
            _ if first.is_ascii_digit() => {
                self.take_while(|c| c.is_alphanumeric() || c == '_' || c == '.');
                Ok(TokenKind::Other)
            }
            _ => {
                self.at += first.len_utf8();
                Ok(TokenKind::Other)
            }
        }
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn take_while(&mut self, accepts: impl Fn(char) -> bool) {
        let rest = self.rest();
        self.at += rest.find(|c| !accepts(c)).unwrap_or(rest.len());
    }

    fn colon(&mut self, second: Option<char>) -> Result<TokenKind, String> {
        match second {
            // A cast, or an assignment.
            Some(':' | '=') => {
                self.at += 2;
                Ok(TokenKind::Other)
            }
            Some(c) if c.is_ascii_alphabetic() || c == '_' => {
                self.at += 1;
                self.take_while(|c| c.is_ascii_alphanumeric() || c == '_');
                Ok(TokenKind::Param)
            }
            _ => {
                self.at += 1;
                Ok(TokenKind::Other)
            }
        }
    }

    fn word(&mut self, first: char) -> Result<TokenKind, String> {
        // PostgreSQL's E'…' has backslashes that escape; N'…', B'…' and X'…' have none.
        if self.dialect == Dialect::PostgreSql && matches!(first, 'e' | 'E') && self.rest()[1..].starts_with('\'') {
            self.at += 1;
            return self.quoted('\'', true, "string");
        }
        self.take_while(|c| is_name_start(c) || c.is_ascii_digit() || c == '$');
        Ok(TokenKind::Word)
    }

    /// A text in quotes, which are doubled to stand for themselves.
    fn quoted(&mut self, quote: char, backslash_escapes: bool, what: &str) -> Result<TokenKind, String> {
        self.at += 1;
        let mut chars = self.rest().char_indices().peekable();
        while let Some((offset, c)) = chars.next() {
            if c == '\0' {
                break;
            }
            if c == '\\' && backslash_escapes {
                chars.next();
            } else if c == quote && chars.next_if(|(_, next)| *next == quote).is_none() {
                self.at += offset + 1;
                return Ok(TokenKind::Other);
            }
        }
        Err(format!("a {what} is not closed"))
    }

    fn bracketed_name(&mut self) -> Result<TokenKind, String> {
        let end = self.rest().find(']').ok_or("a name in brackets is not closed")?;
        self.at += end + 1;
        Ok(TokenKind::Other)
    }

    fn dollar_quoted(&mut self) -> Result<TokenKind, String> {
        let rest = self.rest();
        let after = &rest[1..];
        if after.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(self.foreign_placeholder());
        }
        let tag_end = after.find(|c: char| !(is_name_start(c) || c.is_ascii_digit())).unwrap_or(after.len());
        if !after[tag_end..].starts_with('$') {
            self.at += 1;
            return Ok(TokenKind::Other);
        }
        let tag = &rest[..tag_end + 2];
        let end = rest[tag.len()..].find(tag).ok_or("a text in dollar quotes is not closed")?;
        self.at += tag.len() + end + tag.len();
        Ok(TokenKind::Other)
    }

    fn line_comment(&mut self) -> Result<TokenKind, String> {
        self.take_while(|c| c != '\n');
        Ok(TokenKind::Space)
    }

    fn block_comment(&mut self) -> Result<TokenKind, String> {
        let rest = self.rest();
        if self.dialect == Dialect::MySql && (rest.starts_with("/*!") || rest.starts_with("/*M!")) {
            return Err("expected no comment that the server executes (/*! … */)".to_owned());
        }
        let nests = self.dialect == Dialect::PostgreSql;
        let bytes = rest.as_bytes();
        let (mut at, mut depth) = (2, 1);
        while at + 1 < bytes.len() {
            match &bytes[at..at + 2] {
                b"*/" => {
                    depth -= 1;
                    at += 2;
                    if depth == 0 {
                        self.at += at;
                        return Ok(TokenKind::Space);
                    }
                }
                b"/*" if nests => {
                    depth += 1;
                    at += 2;
                }
                _ => at += 1,
            }
        }
        Err("a comment is not closed".to_owned())
    }

    fn foreign_placeholder(&self) -> String {
        format!("expected params as :name, not as {:?}", self.rest().chars().take(2).collect::<String>())
    }
}

fn is_name_start(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || !c.is_ascii()
}

#[cfg(test)]
mod tests {
    use super::Dialect::{MySql, PostgreSql, Sqlite};
    use super::*;

    fn parse(text: &str, dialect: Dialect) -> (String, Vec<String>) {
        let statement = Statement::parse(text, dialect).unwrap_or_else(|message| panic!("{text}: {message}"));
        (statement.sql, statement.binds)
    }

    fn names(text: &str, dialect: Dialect) -> Vec<String> {
        parse(text, dialect).1
    }

    #[test]
    fn names_become_the_databases_placeholders() {
        let text = "select :a, :b where x = :a";
        assert_eq!(parse(text, PostgreSql), ("select $1 , $2  where x = $1 ".into(), vec!["a".into(), "b".into()]));
        assert_eq!(parse(text, Sqlite), ("select ?1 , ?2  where x = ?1 ".into(), vec!["a".into(), "b".into()]));
        assert_eq!(parse(text, MySql), ("select ?, ? where x = ?".into(), vec!["a".into(), "b".into(), "a".into()]));
        assert_eq!(parse("select :a::text;", PostgreSql).0, "select $1 ::text");
    }

    #[test]
    fn a_name_in_a_literal_a_comment_or_a_quoted_name_is_no_param() {
        for text in
            ["select ':a', 'it''s :a'", "select \":a\" from t", "select 1 -- :a\n", "select 1 /* :a */", "select x::a"]
        {
            for dialect in [PostgreSql, MySql, Sqlite] {
                assert!(names(text, dialect).is_empty(), "{text} {dialect:?}");
            }
        }
        for text in ["select $$ :a $$", "select $t$ $$ :a $t$", "select E'\\' :a'", "select 1 /* /* :a */ :a */"] {
            assert!(names(text, PostgreSql).is_empty(), "{text}");
        }
        for text in ["select '\\' :a'", "select 1 # :a", "select `:a` from t", "set_me(@x := :=1)"] {
            assert!(names(text, MySql).is_empty(), "{text}");
        }
        assert!(names("select [:a], `:a` from t", Sqlite).is_empty());
    }

    #[test]
    fn what_only_looks_like_a_literal_or_a_comment_hides_no_param() {
        // A backslash ends no string where it does not escape, nor begins one.
        assert_eq!(names("select '\\', :a", PostgreSql), ["a"]);
        assert_eq!(names("select '\\', :a", Sqlite), ["a"]);
        assert_eq!(names("select e'\\'', :a", PostgreSql), ["a"]);
        assert_eq!(names("select 5--:a", MySql), ["a"]);
        assert_eq!(names("select 1 /* /* */ :a", MySql), ["a"]);
        assert_eq!(names("select foo$1bar$ , :a", MySql), ["a"]);
        assert_eq!(names("select items[:a] from t", PostgreSql), ["a"]);
        assert_eq!(names("select 'é', :a_1", PostgreSql), ["a_1"]);
        assert_eq!(names("select data ? 'key' and x = :a", PostgreSql), ["a"]);
    }

    #[test]
    fn what_is_more_than_one_statement_or_not_a_whole_one_is_refused() {
        for (text, dialect) in [
            ("select 1; drop table t", PostgreSql),
            ("select 1;;select 2", Sqlite),
            ("select 'open", PostgreSql),
            ("select \"open", Sqlite),
            ("select $$ open", PostgreSql),
            ("select /* open", MySql),
            ("select /* /* */", PostgreSql),
            ("select /*! drop table t */", MySql),
            ("select /*M!100100 1 */", MySql),
            ("select $1", PostgreSql),
            ("select ?", MySql),
            ("select ?1", Sqlite),
            ("select @a", Sqlite),
            ("select 'a\0b'", PostgreSql),
            ("", PostgreSql),
            (" -- nothing\n ; ", PostgreSql),
        ] {
            assert!(Statement::parse(text, dialect).is_err(), "{text}");
        }
    }

    #[test]
    fn statements_that_leave_the_transaction_or_reach_for_files_are_refused() {
        for text in
            ["commit", "/* x */ Commit", "begin", "SET x = 1", "pragma x", "attach 'a' as b", "copy t to stdout"]
        {
            for dialect in [PostgreSql, MySql, Sqlite] {
                let message = Statement::parse(text, dialect).expect_err(text);
                assert!(message.contains("not taken"), "{message}");
            }
        }
    }
}
