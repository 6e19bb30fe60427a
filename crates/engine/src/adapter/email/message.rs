//! From params to a message: addresses, headers, bodies, files. Must not know: SMTP.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use integration_model::ErrorCode;
use lettre::Address;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Attachment, Mailbox, Message, MultiPart, MultiPartBuilder, SinglePart};
use serde_json::{Map, Value, json};

use super::spec::{AttachmentPlan, Attachments, Mailboxes, Plan};
use crate::adapter::CallError;
use crate::adapter::template::{Template, invalid_param, invalid_params};
use crate::params::Params;

/// The longest text of a header.
const MAX_HEADER: usize = 998;

/// A message, rendered: what is in it, before it is written down.
#[derive(Debug)]
pub(super) struct Letter {
    pub(super) from: Mailbox,
    to: Vec<Mailbox>,
    cc: Vec<Mailbox>,
    bcc: Vec<Mailbox>,
    reply_to: Vec<Mailbox>,
    subject: String,
    text: Option<String>,
    html: Option<String>,
    headers: Vec<(HeaderName, String)>,
    files: Vec<File>,
    pub(super) message_id: String,
}

#[derive(Debug)]
struct File {
    name: String,
    content: Vec<u8>,
    content_type: ContentType,
    content_id: Option<String>,
}

/// Reads a mailbox: `name@host` or `Name <name@host>`. The error says what was expected.
pub(super) fn mailbox(text: &str) -> Result<Mailbox, String> {
    let expected = "expected one mailbox, such as name@host.example or Name <name@host.example>";
    check_line(text)?;
    let parsed: Mailbox = text.trim().parse().map_err(|_| expected.to_owned())?;
    Ok(Mailbox::new(parsed.name.filter(|name| !name.trim().is_empty()), sendable(&parsed.email).ok_or(expected)?))
}

/// The address with a host in ASCII. None where no command could carry it.
fn sendable(address: &Address) -> Option<Address> {
    let is_odd = |char: char| char.is_whitespace() || char.is_control() || "<>\"\\(),;:[]".contains(char);
    let host = match address.domain() {
        literal if literal.starts_with('[') => literal.to_owned(),
        domain => url::Host::parse(domain).ok()?.to_string(),
    };
    let fits = address.user().len() <= 64 && host.len() <= 255 && !address.user().contains(is_odd);
    if fits { Address::new(address.user(), host).ok() } else { None }
}

/// What stands in a header is one line.
fn check_line(text: &str) -> Result<(), String> {
    if text.len() > MAX_HEADER {
        return Err(format!("expected at most {MAX_HEADER} bytes"));
    }
    if text.chars().any(|char| char.is_control() || matches!(char, '\u{2028}' | '\u{2029}')) {
        return Err("expected no line breaks or other control characters".to_owned());
    }
    Ok(())
}

impl Plan {
    /// The message of a call. `key` tells calls apart; the same one gives the same Message-ID.
    pub(super) fn letter(&self, params: &Params, sender: Option<Mailbox>, key: &str) -> Result<Letter, CallError> {
        let from = match self.from.as_ref().map(|from| line(from, params, "from")).transpose()?.flatten() {
            Some(text) => mailbox(&text).map_err(|expected| wrong("from", &expected))?,
            None => sender.ok_or_else(|| {
                invalid_params("expected a sender: neither the operation nor the instance's config names one")
            })?,
        };
        let message_id = message_id(&from, key);
        let letter = Letter {
            to: mailboxes(&self.to, params, "to")?,
            cc: mailboxes(&self.cc, params, "cc")?,
            bcc: mailboxes(&self.bcc, params, "bcc")?,
            reply_to: mailboxes(&self.reply_to, params, "replyTo")?,
            subject: line(&self.subject, params, "subject")?.unwrap_or_default(),
            text: self.text.as_ref().map(|text| body(text, params, false)).transpose()?.flatten(),
            html: self.html.as_ref().map(|html| body(html, params, true)).transpose()?.flatten(),
            headers: self.headers(params)?,
            files: self.files(params)?,
            from,
            message_id,
        };
        if letter.text.is_none() && letter.html.is_none() {
            return Err(invalid_params("expected a body: text, html or both"));
        }
        let recipients = letter.recipients().len();
        if recipients == 0 || recipients > self.max_recipients || letter.reply_to.len() > self.max_recipients {
            let message = format!("expected 1 to {} recipients", self.max_recipients);
            return Err(invalid_params(&message));
        }
        Ok(letter)
    }

    fn headers(&self, params: &Params) -> Result<Vec<(HeaderName, String)>, CallError> {
        let mut headers = Vec::with_capacity(self.headers.len());
        for (name, template) in &self.headers {
            if let Some(text) = line(template, params, name)? {
                headers.push((name.clone(), text));
            }
        }
        Ok(headers)
    }

    fn files(&self, params: &Params) -> Result<Vec<File>, CallError> {
        let files = match &self.attachments {
            Attachments::Files(plans) => plans.iter().filter_map(|plan| file(plan, params).transpose()).collect(),
            Attachments::Param(name) => files_of_param(params, name, self.max_attachments),
        }?;
        if files.len() > self.max_attachments {
            return Err(invalid_params(&format!("expected at most {} attachments", self.max_attachments)));
        }
        Ok(files)
    }
}

/// The text of a template; none where it is one param that is not given.
fn optional(template: &Template, params: &Params) -> Result<Option<String>, CallError> {
    match template.only_param() {
        Some(name) if matches!(params.get(name), None | Some(Value::Null)) => Ok(None),
        _ => template.render(params).map(Some),
    }
}

fn line(template: &Template, params: &Params, field: &str) -> Result<Option<String>, CallError> {
    let text = optional(template, params)?;
    if let Some(text) = &text {
        check_line(text).map_err(|expected| wrong(field, &expected))?;
    }
    Ok(text)
}

fn body(template: &Template, params: &Params, is_html: bool) -> Result<Option<String>, CallError> {
    let text = if is_html && template.only_param().is_none() {
        Some(template.render_with(params, |text| escape_html(&text))?)
    } else {
        optional(template, params)?
    };
    // Lines end one way, so that no server takes a part of one for an end.
    Ok(text.map(|text| text.replace("\r\n", "\n").replace('\r', "\n").replace('\0', "\u{fffd}")))
}

fn escape_html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

fn wrong(field: &str, expected: &str) -> CallError {
    invalid_params(&format!("{field}: {expected}"))
}

fn mailboxes(plan: &Mailboxes, params: &Params, field: &str) -> Result<Vec<Mailbox>, CallError> {
    match plan {
        Mailboxes::Texts(templates) => {
            let mut mailboxes = Vec::with_capacity(templates.len());
            for template in templates {
                if let Some(text) = line(template, params, field)? {
                    mailboxes.push(mailbox(&text).map_err(|expected| wrong(field, &expected))?);
                }
            }
            Ok(mailboxes)
        }
        Mailboxes::Param(name) => match params.get(name) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(items)) => items.iter().map(|item| mailbox_of(item, name)).collect(),
            Some(item) => Ok(vec![mailbox_of(item, name)?]),
        },
    }
}

/// A mailbox of a param: a text, or an object of address and name.
fn mailbox_of(value: &Value, param: &str) -> Result<Mailbox, CallError> {
    let read = || match value {
        Value::String(text) => mailbox(text),
        Value::Object(members) => {
            let text = |name: &str| members.get(name).and_then(Value::as_str);
            let address = text("address").ok_or("expected an address")?;
            let name = text("name").filter(|name| !name.trim().is_empty());
            name.map_or(Ok(()), check_line)?;
            let parsed = mailbox(address)?;
            if parsed.name.is_some() {
                return Err("expected an address alone, with its name beside it".to_owned());
            }
            Ok(Mailbox::new(name.map(str::to_owned), parsed.email))
        }
        _ => Err("expected mailboxes: texts, or objects of address and name".to_owned()),
    };
    read().map_err(|expected| invalid_param(param, &expected))
}

fn file(plan: &AttachmentPlan, params: &Params) -> Result<Option<File>, CallError> {
    let Some(content) = optional(&plan.content, params)? else { return Ok(None) };
    let text = |template: &Option<Template>| template.as_ref().map(|text| optional(text, params)).transpose();
    let name = plan.filename.render(params)?;
    let content_type = text(&plan.content_type)?.flatten();
    let content_id = text(&plan.content_id)?.flatten();
    File::read(name, &content, content_type.as_deref(), content_id)
        .map(Some)
        .map_err(|expected| wrong("attachments", &expected))
}

fn files_of_param(params: &Params, param: &str, max: usize) -> Result<Vec<File>, CallError> {
    let items = match params.get(param) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(items)) if items.len() <= max => items,
        Some(_) => return Err(invalid_param(param, &format!("expected a list of at most {max} files"))),
    };
    let read = |item: &Value| {
        let text = |name: &str| item.get(name).and_then(Value::as_str);
        let (Some(name), Some(content)) = (text("filename"), text("content")) else {
            return Err("expected files: objects of filename and content, in base64".to_owned());
        };
        File::read(name.to_owned(), content, text("contentType"), text("contentId").map(str::to_owned))
    };
    items.iter().map(|item| read(item).map_err(|expected| invalid_param(param, &expected))).collect()
}

impl File {
    fn read(
        name: String,
        content: &str,
        content_type: Option<&str>,
        content_id: Option<String>,
    ) -> Result<Self, String> {
        if name.is_empty() || name.len() > 255 || name.contains(['/', '\\']) {
            return Err("expected a filename of 1 to 255 bytes, without a path".to_owned());
        }
        check_line(&name)?;
        let content = STANDARD.decode(content).map_err(|_| "expected the content of files in base64".to_owned())?;
        let content_type = content_type.unwrap_or("application/octet-stream");
        check_line(content_type)?;
        let content_type = match ContentType::parse(content_type) {
            // Parts of parts are made by the adapter alone.
            Ok(parsed) if !content_type.to_ascii_lowercase().starts_with("multipart/") => parsed,
            _ => return Err("expected a contentType such as application/pdf".to_owned()),
        };
        let is_id = |id: &String| {
            !id.is_empty()
                && id.len() <= 255
                && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._@+-".contains(&byte))
        };
        if content_id.as_ref().is_some_and(|id| !is_id(id)) {
            return Err("expected a contentId of letters, digits and . _ @ + -".to_owned());
        }
        Ok(Self { name, content, content_type, content_id })
    }

    fn part(self) -> SinglePart {
        match self.content_id {
            Some(id) => Attachment::new_inline_with_name(id, self.name),
            None => Attachment::new(self.name),
        }
        .body(self.content, self.content_type)
    }
}

/// A Message-ID that says nothing of the key, and is the same for the same one.
fn message_id(from: &Mailbox, key: &str) -> String {
    let name = URL_SAFE_NO_PAD.encode(digest(&SHA256, key.as_bytes()).as_ref());
    format!("<{name}@{}>", from.email.domain())
}

impl Letter {
    /// Everybody who gets the message, each once.
    pub(super) fn recipients(&self) -> Vec<&Address> {
        let mut recipients: Vec<&Address> = Vec::new();
        for mailbox in self.to.iter().chain(&self.cc).chain(&self.bcc) {
            if !recipients.contains(&&mailbox.email) {
                recipients.push(&mailbox.email);
            }
        }
        recipients
    }

    /// The message as a person looks at it before it is sent.
    pub(super) fn preview(&self) -> Value {
        let shown = |mailboxes: &[Mailbox]| mailboxes.iter().map(ToString::to_string).collect::<Vec<_>>();
        let headers: Map<String, Value> =
            self.headers.iter().map(|(name, text)| (name.to_string(), text.as_str().into())).collect();
        let files: Vec<Value> = self
            .files
            .iter()
            .map(|file| json!({"filename": file.name, "bytes": file.content.len(), "contentId": file.content_id}))
            .collect();
        json!({
            "from": self.from.to_string(), "to": shown(&self.to), "cc": shown(&self.cc), "bcc": shown(&self.bcc),
            "replyTo": shown(&self.reply_to), "subject": self.subject, "headers": headers, "messageId": self.message_id,
            "textBytes": self.text.as_ref().map(String::len), "htmlBytes": self.html.as_ref().map(String::len),
            "attachments": files,
        })
    }

    /// Writes the message down, with lines that end in CRLF.
    pub(super) fn write(self, max_bytes: usize) -> Result<Vec<u8>, CallError> {
        let recipients: Vec<Address> = self.recipients().into_iter().cloned().collect();
        let mut builder =
            Message::builder().from(self.from.clone()).subject(self.subject).message_id(Some(self.message_id));
        builder = self.to.into_iter().fold(builder, |builder, mailbox| builder.to(mailbox));
        builder = self.cc.into_iter().fold(builder, |builder, mailbox| builder.cc(mailbox));
        builder = self.reply_to.into_iter().fold(builder, |builder, mailbox| builder.reply_to(mailbox));
        builder = self
            .headers
            .into_iter()
            .fold(builder, |builder, (name, text)| builder.raw_header(HeaderValue::new(name, text)));
        let envelope = lettre::address::Envelope::new(Some(self.from.email), recipients);
        let unwritable = |_| invalid_params("expected a message that can be written down");
        let builder = builder.envelope(envelope.map_err(unwritable)?);
        let message = match body_of(self.text, self.html, self.files) {
            Body::Single(part) => builder.singlepart(part),
            Body::Multi(part) => builder.multipart(part),
        };
        let text = message.map_err(unwritable)?.formatted();
        if text.len() > max_bytes {
            let message = format!("the message has {} bytes, and may have {max_bytes}", text.len());
            return Err(CallError::not_sent(ErrorCode::PayloadTooLarge, message));
        }
        Ok(text)
    }
}

enum Body {
    Single(SinglePart),
    Multi(MultiPart),
}

/// Text and HTML as alternatives, what HTML shows beside it, and files after all.
fn body_of(text: Option<String>, html: Option<String>, files: Vec<File>) -> Body {
    let (shown, attached): (Vec<File>, Vec<File>) =
        files.into_iter().partition(|file| html.is_some() && file.content_id.is_some());
    let html = html.map(|html| Body::Single(SinglePart::html(html)).with(shown, MultiPart::related()));
    let body = match (text, html) {
        (Some(text), Some(Body::Single(html))) => {
            Body::Multi(MultiPart::alternative().singlepart(SinglePart::plain(text)).singlepart(html))
        }
        (Some(text), Some(Body::Multi(html))) => {
            Body::Multi(MultiPart::alternative().singlepart(SinglePart::plain(text)).multipart(html))
        }
        (None, Some(html)) => html,
        (text, None) => Body::Single(SinglePart::plain(text.unwrap_or_default())),
    };
    body.with(attached, MultiPart::mixed())
}

impl Body {
    /// The body, and files beside it where there are some.
    fn with(self, files: Vec<File>, parts: MultiPartBuilder) -> Self {
        if files.is_empty() {
            return self;
        }
        let parts = match self {
            Self::Single(part) => parts.singlepart(part),
            Self::Multi(part) => parts.multipart(part),
        };
        Self::Multi(files.into_iter().fold(parts, |parts, file| parts.singlepart(file.part())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_that_a_command_can_carry() {
        for (text, expected) in [
            ("a@x.example", "a@x.example"),
            ("Ann <a.b+c@x.example>", "Ann <a.b+c@x.example>"),
            ("\"Ann, B\" <a@x.example>", "\"Ann, B\" <a@x.example>"),
            ("a@bücher.example", "a@xn--bcher-kva.example"),
        ] {
            assert_eq!(mailbox(text).map(|mailbox| mailbox.to_string()).as_deref(), Ok(expected), "{text}");
        }
        for text in [
            "",
            "a",
            "@x.example",
            "a@",
            "a@x.example, b@x.example",
            "a@x.example\r\nRCPT TO:<b@x.example>",
            "<a@x.example",
            "\"a b\"@x.example",
            "a@x .example",
            "a@x.example\u{2028}",
            "a@x.example> SIZE=1 <b@x.example",
        ] {
            mailbox(text).expect_err(text);
        }
    }

    #[test]
    fn the_same_key_gives_the_same_id_and_tells_nothing() {
        let from = mailbox("a@x.example").expect("a mailbox");
        assert_eq!(message_id(&from, "key"), message_id(&from, "key"));
        assert_ne!(message_id(&from, "key"), message_id(&from, "another"));
        let id = message_id(&from, "x>\r\nBcc: b@x.example");
        assert!(id.ends_with("@x.example>") && !id.contains(['\r', '\n', ' ']), "{id}");
    }
}
