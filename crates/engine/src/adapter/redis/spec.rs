//! An operation as its author writes it, and the check that it can be compiled.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use integration_model::definition::Method;
use integration_model::{ErrorCode, Problem};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::commands::{Class, blocks, class};
use crate::adapter::CallError;
use crate::adapter::own_schema::OwnSchema;
use crate::adapter::template::{Template, invalid_param, invalid_params, text_of};
use crate::params::Params;

pub(super) static OPERATION_SCHEMA: LazyLock<OwnSchema> =
    LazyLock::new(|| OwnSchema::compile(include_str!("operation.schema.json")));

/// The most arguments of one call.
const MAX_ARGUMENTS: usize = 10_000;

const NO_BLOCK: &str = "expected no BLOCK: it waits, and keeps the connection from other calls";

/// What strings in replies become.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ResultEncoding {
    #[default]
    Text,
    Base64,
    Json,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct OperationSpec {
    command: Option<Vec<ArgumentSpec>>,
    pipeline: Option<Vec<Vec<ArgumentSpec>>>,
    #[serde(default)]
    transaction: bool,
    #[serde(default)]
    restricted: bool,
    #[serde(default)]
    result_encoding: ResultEncoding,
    #[serde(default = "default_reply_bytes")]
    max_reply_bytes: usize,
    #[serde(default)]
    error_mapping: BTreeMap<String, ErrorCode>,
}

const fn default_reply_bytes() -> usize {
    4 << 20
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum ArgumentSpec {
    Text(String),
    Integer(serde_json::Number),
    Spread { spread: String },
    Json { json: String },
    Base64 { base64: String },
    When { when: String, arguments: Vec<ArgumentSpec> },
}

/// What becomes an argument of a command, or several.
#[derive(Debug)]
enum Argument {
    Text(Template),
    Spread(String),
    Json(String),
    Base64(String),
    When(String, Vec<Argument>),
}

/// A command, checked.
#[derive(Debug)]
pub(super) struct Command {
    /// In upper case.
    name: String,
    class: Class,
    arguments: Vec<Argument>,
}

/// An operation, checked.
#[derive(Debug)]
pub(super) struct Plan {
    commands: Vec<Command>,
    /// Whether the answer is a list of replies.
    pub(super) is_pipeline: bool,
    pub(super) is_transaction: bool,
    pub(super) result_encoding: ResultEncoding,
    pub(super) max_reply_bytes: usize,
    pub(super) error_mapping: BTreeMap<String, ErrorCode>,
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
        let mut problems = Vec::new();
        if spec.transaction && spec.pipeline.is_none() {
            problems.push(Problem::new("/transaction", "expected a pipeline: a single command is whole by itself"));
        }
        let is_pipeline = spec.pipeline.is_some();
        let one = spec.command.into_iter().map(|command| ("/command".to_owned(), command));
        let several = spec.pipeline.into_iter().flatten().enumerate();
        let several = several.map(|(index, command)| (format!("/pipeline/{index}"), command));
        let mut commands = Vec::new();
        for (pointer, command) in one.chain(several) {
            let command = Command::compile(command, &pointer, &mut problems);
            command.check(method, spec.restricted, &pointer, &mut problems);
            commands.push(command);
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Self {
            commands,
            is_pipeline,
            is_transaction: spec.transaction,
            result_encoding: spec.result_encoding,
            max_reply_bytes: spec.max_reply_bytes,
            error_mapping: spec.error_mapping,
        })
    }

    /// Whether no command changes anything.
    pub(super) fn is_read_only(&self) -> bool {
        self.commands.iter().all(|command| command.class == Class::Read)
    }

    /// The commands that an instance has to allow.
    pub(super) fn restricted(&self) -> impl Iterator<Item = &str> {
        let restricted = self.commands.iter().filter(|command| command.class == Class::Restricted);
        restricted.map(|command| command.name.as_str())
    }

    /// The arguments of each command, its name first.
    pub(super) fn render(&self, params: &Params) -> Result<Vec<Vec<Vec<u8>>>, CallError> {
        let mut commands = Vec::with_capacity(self.commands.len());
        let mut left = MAX_ARGUMENTS;
        for command in &self.commands {
            let mut out = vec![command.name.clone().into_bytes()];
            for argument in &command.arguments {
                argument.render(params, &mut out)?;
            }
            left = left.checked_sub(out.len()).ok_or_else(|| {
                invalid_params(&format!("expected params that make at most {MAX_ARGUMENTS} arguments of commands"))
            })?;
            if blocks(&out) {
                return Err(invalid_params(NO_BLOCK));
            }
            commands.push(out);
        }
        Ok(commands)
    }
}

impl Command {
    fn compile(mut arguments: Vec<ArgumentSpec>, pointer: &str, problems: &mut Vec<Problem>) -> Self {
        // The schema has seen to it that a name stands first.
        let name = match (!arguments.is_empty()).then(|| arguments.remove(0)) {
            Some(ArgumentSpec::Text(name)) => name.to_ascii_uppercase(),
            _ => String::new(),
        };
        let arguments = compile_arguments(arguments, 1, pointer, problems);
        Self { class: class(&name), name, arguments }
    }

    fn check(&self, method: &Method, restricted: bool, pointer: &str, problems: &mut Vec<Problem>) {
        let name = &self.name;
        let mut check = |holds: bool, message: String| {
            if !holds {
                problems.push(Problem::new(format!("{pointer}/0"), message));
            }
        };
        if let Class::Refused(reason) = self.class {
            check(false, format!("expected no {name}: {reason}"));
        }
        check(
            self.class != Class::Restricted || restricted,
            format!(
                "expected no {name}, unless restricted is true and the instance's config allows it by allowCommands"
            ),
        );
        check(
            self.class != Class::WriteAnew || !method.idempotent,
            format!("{name} does or answers something else when it is made again: the method cannot be idempotent"),
        );
        let literals: Vec<Vec<u8>> =
            std::iter::once(name.clone().into_bytes()).chain(self.arguments.iter().map(Argument::literal)).collect();
        check(!blocks(&literals), NO_BLOCK.to_owned());
        // A transform makes params of its own.
        if method.request_transform.is_some() {
            return;
        }
        let declared = method.param_schema.get("properties");
        let mut names = BTreeSet::new();
        self.arguments.iter().for_each(|argument| argument.params(&mut names));
        for param in names {
            if declared.and_then(|declared| declared.get(param)).is_none_or(|schema| *schema == Value::Bool(false)) {
                problems.push(Problem::new(pointer, format!("the method's paramSchema has no param {param:?}")));
            }
        }
    }
}

fn compile_arguments(
    arguments: Vec<ArgumentSpec>,
    first: usize,
    pointer: &str,
    problems: &mut Vec<Problem>,
) -> Vec<Argument> {
    let mut compiled = Vec::with_capacity(arguments.len());
    for (index, argument) in arguments.into_iter().enumerate() {
        let pointer = format!("{pointer}/{}", index + first);
        compiled.push(match argument {
            ArgumentSpec::Text(text) => match Template::parse(&text) {
                Ok(template) => Argument::Text(template),
                Err(expected) => {
                    problems.push(Problem::new(pointer, expected));
                    continue;
                }
            },
            ArgumentSpec::Integer(number) => Argument::Text(Template::of_text(number.to_string())),
            ArgumentSpec::Spread { spread } => Argument::Spread(spread),
            ArgumentSpec::Json { json } => Argument::Json(json),
            ArgumentSpec::Base64 { base64 } => Argument::Base64(base64),
            ArgumentSpec::When { when, arguments } => {
                let pointer = format!("{pointer}/arguments");
                Argument::When(when, compile_arguments(arguments, 0, &pointer, problems))
            }
        });
    }
    compiled
}

impl Argument {
    fn literal(&self) -> Vec<u8> {
        match self {
            Self::Text(template) => template.literal().unwrap_or_default().as_bytes().to_vec(),
            _ => Vec::new(),
        }
    }

    fn params<'a>(&'a self, names: &mut BTreeSet<&'a str>) {
        match self {
            Self::Text(template) => names.extend(template.params()),
            Self::Spread(name) | Self::Json(name) | Self::Base64(name) => {
                names.insert(name);
            }
            Self::When(name, arguments) => {
                names.insert(name);
                arguments.iter().for_each(|argument| argument.params(names));
            }
        }
    }

    fn render(&self, params: &Params, out: &mut Vec<Vec<u8>>) -> Result<(), CallError> {
        match self {
            Self::Text(template) => out.push(template.render(params)?.into_bytes()),
            Self::Json(name) => {
                let text = params.json_text(name);
                out.push(text.ok_or_else(|| invalid_param(name, "expected a value: the operation needs it"))?.to_vec());
            }
            Self::Base64(name) => {
                let bytes = STANDARD.decode(text_of(params, name)?);
                out.push(bytes.map_err(|_| invalid_param(name, "expected bytes in base64"))?);
            }
            Self::Spread(name) => spread(params, name, out)?,
            Self::When(name, arguments) => {
                if !matches!(params.get(name), None | Some(Value::Null | Value::Bool(false))) {
                    arguments.iter().try_for_each(|argument| argument.render(params, out))?;
                }
            }
        }
        Ok(())
    }
}

/// The items of an array, or the names and values of an object.
fn spread(params: &Params, name: &str, out: &mut Vec<Vec<u8>>) -> Result<(), CallError> {
    let wrong =
        || invalid_param(name, "expected an array or an object of texts, numbers and booleans, with something in it");
    // Only the text knows all digits.
    let text = params.json_text(name).ok_or_else(wrong)?;
    let argument = |raw: &RawValue| match serde_json::from_str(raw.get()) {
        Ok(Value::String(text)) => Ok(text.into_bytes()),
        Ok(Value::Number(_) | Value::Bool(_)) => Ok(raw.get().as_bytes().to_vec()),
        _ => Err(wrong()),
    };
    let before = out.len();
    match params.get(name) {
        Some(Value::Array(_)) => {
            let items: Vec<&RawValue> = serde_json::from_slice(&text).map_err(|_| wrong())?;
            for item in items {
                out.push(argument(item)?);
            }
        }
        Some(Value::Object(_)) => {
            let members: BTreeMap<String, &RawValue> = serde_json::from_slice(&text).map_err(|_| wrong())?;
            for (member, value) in members {
                out.push(member.into_bytes());
                out.push(argument(value)?);
            }
        }
        _ => {}
    }
    if out.len() == before { Err(wrong()) } else { Ok(()) }
}
