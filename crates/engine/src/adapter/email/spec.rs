//! An operation as its author writes it, and the check that it can be compiled.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use integration_model::Problem;
use integration_model::definition::Method;
use integration_model::problem::push_pointer;
use lettre::message::header::HeaderName;
use serde::Deserialize;
use serde_json::Value;

use crate::adapter::own_schema::OwnSchema;
use crate::adapter::template::Template;

pub(super) static OPERATION_SCHEMA: LazyLock<OwnSchema> =
    LazyLock::new(|| OwnSchema::compile(include_str!("operation.schema.json")));

/// The headers that the adapter, or a server on the way, makes.
const RESERVED: &[&str] = &[
    "bcc",
    "cc",
    "date",
    "from",
    "message-id",
    "mime-version",
    "received",
    "reply-to",
    "return-path",
    "sender",
    "subject",
    "to",
];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct OperationSpec {
    from: Option<String>,
    to: Option<MailboxesSpec>,
    cc: Option<MailboxesSpec>,
    bcc: Option<MailboxesSpec>,
    reply_to: Option<MailboxesSpec>,
    subject: String,
    text: Option<String>,
    html: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    attachments: Option<AttachmentsSpec>,
    #[serde(default = "default_recipients")]
    max_recipients: usize,
    #[serde(default = "default_attachments")]
    max_attachments: usize,
    #[serde(default = "default_bytes")]
    max_message_bytes: usize,
}

const fn default_recipients() -> usize {
    100
}

const fn default_attachments() -> usize {
    20
}

const fn default_bytes() -> usize {
    25 << 20
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum MailboxesSpec {
    One(String),
    Many(Vec<String>),
    Param { param: String },
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum AttachmentsSpec {
    Files(Vec<AttachmentSpec>),
    Param { param: String },
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AttachmentSpec {
    filename: String,
    content: String,
    content_type: Option<String>,
    content_id: Option<String>,
}

/// Mailboxes of a message.
#[derive(Debug)]
pub(super) enum Mailboxes {
    Texts(Vec<Template>),
    Param(String),
}

/// Files of a message.
#[derive(Debug)]
pub(super) enum Attachments {
    Files(Vec<AttachmentPlan>),
    Param(String),
}

#[derive(Debug)]
pub(super) struct AttachmentPlan {
    pub(super) filename: Template,
    pub(super) content: Template,
    pub(super) content_type: Option<Template>,
    pub(super) content_id: Option<Template>,
}

/// An operation, checked.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) from: Option<Template>,
    pub(super) to: Mailboxes,
    pub(super) cc: Mailboxes,
    pub(super) bcc: Mailboxes,
    pub(super) reply_to: Mailboxes,
    pub(super) subject: Template,
    pub(super) text: Option<Template>,
    pub(super) html: Option<Template>,
    pub(super) headers: Vec<(HeaderName, Template)>,
    pub(super) attachments: Attachments,
    pub(super) max_recipients: usize,
    pub(super) max_attachments: usize,
    pub(super) max_message_bytes: usize,
}

/// Reads the parts of an operation, and gathers what is wrong with them.
struct Reader<'a> {
    method: &'a Method,
    problems: Vec<Problem>,
}

impl Plan {
    /// Reads a method's operation; all that is wrong with it at once.
    pub(super) fn compile(method: &Method) -> Result<Self, Vec<Problem>> {
        let problems = OPERATION_SCHEMA.check(&method.operation);
        if !problems.is_empty() {
            return Err(problems);
        }
        let spec: OperationSpec =
            integration_model::problem::from_value(method.operation.clone()).map_err(|problem| vec![problem])?;
        let mut reader = Reader { method, problems: Vec::new() };
        if spec.to.is_none() && spec.cc.is_none() && spec.bcc.is_none() {
            reader.problems.push(Problem::new("", "expected recipients: to, cc or bcc"));
        }
        let plan = Self {
            from: spec.from.map(|text| reader.template("/from", &text)),
            to: reader.mailboxes("/to", spec.to),
            cc: reader.mailboxes("/cc", spec.cc),
            bcc: reader.mailboxes("/bcc", spec.bcc),
            reply_to: reader.mailboxes("/replyTo", spec.reply_to),
            subject: reader.template("/subject", &spec.subject),
            text: spec.text.map(|text| reader.template("/text", &text)),
            html: spec.html.map(|text| reader.template("/html", &text)),
            headers: reader.headers(spec.headers),
            attachments: reader.attachments(spec.attachments),
            max_recipients: spec.max_recipients,
            max_attachments: spec.max_attachments,
            max_message_bytes: spec.max_message_bytes,
        };
        if reader.problems.is_empty() { Ok(plan) } else { Err(reader.problems) }
    }
}

impl Reader<'_> {
    fn template(&mut self, pointer: &str, text: &str) -> Template {
        match Template::parse(text) {
            Ok(template) => {
                let names: BTreeSet<&str> = template.params().collect();
                names.into_iter().for_each(|name| self.param(pointer, name));
                template
            }
            Err(expected) => {
                self.problems.push(Problem::new(pointer, expected));
                Template::of_text(String::new())
            }
        }
    }

    /// Checks that the method has a param. A transform makes params of its own.
    fn param(&mut self, pointer: &str, name: &str) {
        let declared = self.method.param_schema.get("properties").and_then(|declared| declared.get(name));
        if self.method.request_transform.is_none() && declared.is_none_or(|schema| *schema == Value::Bool(false)) {
            self.problems.push(Problem::new(pointer, format!("the method's paramSchema has no param {name:?}")));
        }
    }

    fn mailboxes(&mut self, pointer: &str, spec: Option<MailboxesSpec>) -> Mailboxes {
        match spec {
            None => Mailboxes::Texts(Vec::new()),
            Some(MailboxesSpec::One(text)) => Mailboxes::Texts(vec![self.template(pointer, &text)]),
            Some(MailboxesSpec::Many(texts)) => {
                let texts = texts.iter().enumerate();
                Mailboxes::Texts(
                    texts.map(|(index, text)| self.template(&format!("{pointer}/{index}"), text)).collect(),
                )
            }
            Some(MailboxesSpec::Param { param }) => {
                self.param(pointer, &param);
                Mailboxes::Param(param)
            }
        }
    }

    fn headers(&mut self, headers: BTreeMap<String, String>) -> Vec<(HeaderName, Template)> {
        let mut compiled = Vec::with_capacity(headers.len());
        for (name, text) in headers {
            let pointer = push_pointer("/headers", &name);
            let lower = name.to_ascii_lowercase();
            if RESERVED.contains(&lower.as_str()) || lower.starts_with("content-") || lower.starts_with("resent-") {
                self.problems.push(Problem::new(pointer, "expected no header that the adapter makes"));
                continue;
            }
            let template = self.template(&pointer, &text);
            match HeaderName::new_from_ascii(name) {
                Ok(name) => compiled.push((name, template)),
                Err(_) => self.problems.push(Problem::new(pointer, "expected the name of a header")),
            }
        }
        compiled
    }

    fn attachments(&mut self, spec: Option<AttachmentsSpec>) -> Attachments {
        match spec {
            None => Attachments::Files(Vec::new()),
            Some(AttachmentsSpec::Param { param }) => {
                self.param("/attachments", &param);
                Attachments::Param(param)
            }
            Some(AttachmentsSpec::Files(files)) => {
                let files = files.into_iter().enumerate().map(|(index, file)| {
                    let at = |field: &str| format!("/attachments/{index}/{field}");
                    AttachmentPlan {
                        filename: self.template(&at("filename"), &file.filename),
                        content: self.template(&at("content"), &file.content),
                        content_type: file.content_type.map(|text| self.template(&at("contentType"), &text)),
                        content_id: file.content_id.map(|text| self.template(&at("contentId"), &text)),
                    }
                });
                Attachments::Files(files.collect())
            }
        }
    }
}
