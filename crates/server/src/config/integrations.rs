//! `integrations.yaml`: the definitions and instances that are registered at start. Owns
//! its shape; registering is another's.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use integration_model::definition::{AuthType, ClientSecret, DefinitionSpec};
use integration_model::problem::push_pointer;
use integration_model::{DefinitionId, InstanceId, Problem, TenantId};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::decode::decode;
use super::document::{Content, Node, child_pointer, read_file};
use super::fault::Fault;
use super::secret::Secret;
use super::systems::System;
use crate::catalogue;

/// What is registered at start.
#[derive(Debug, Clone, Default)]
pub struct Integrations {
    pub definitions: Vec<DefinitionSpec>,
    pub instances: Vec<InstanceSeed>,
    /// What the environment describes by variables of its own.
    pub systems: Vec<System>,
}

/// An instance as the file describes it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InstanceSeed {
    pub id: InstanceId,
    pub integration_definition_id: DefinitionId,
    /// The newest published one unless given.
    pub definition_version: Option<String>,
    /// The id unless given.
    pub name: Option<String>,
    #[serde(default = "TenantId::default_tenant")]
    pub tenant_id: TenantId,
    #[serde(default)]
    pub config: Map<String, Value>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    pub credential: Option<CredentialSeed>,
}

/// The secret of an instance.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialSeed {
    #[serde(rename = "type")]
    pub auth_type: AuthType,
    /// The credential's fields by its type, as JSON text.
    #[serde(deserialize_with = "secret_mapping")]
    pub data: Secret,
}

fn secret_mapping<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
    let fields = Map::<String, Value>::deserialize(deserializer)?;
    Ok(Secret::new(Value::Object(fields).to_string()))
}

/// Reads the document; `folder` is where `file:` references start from.
pub(crate) fn decode_integrations(document: &Node, folder: &Path, faults: &mut Vec<Fault>) -> Integrations {
    let mut integrations = Integrations::default();
    let Content::Mapping(entries) = &document.content else {
        faults.push(Fault::new(document.origin.clone(), "", format!("expected an object, found {}", document.kind())));
        return integrations;
    };
    for entry in entries {
        let pointer = child_pointer("", &entry.key);
        match entry.key.as_str() {
            "definitions" => integrations.definitions = decode_definitions(&entry.value, &pointer, folder, faults),
            "instances" => integrations.instances = decode_instances(&entry.value, &pointer, faults),
            _ => faults.push(Fault::new(
                entry.key_origin.clone(),
                pointer,
                "unknown key; expected one of definitions, instances",
            )),
        }
    }
    integrations
}

/// The items of a list; a null is an empty one.
fn items<'a>(node: &'a Node, pointer: &str, faults: &mut Vec<Fault>) -> &'a [Node] {
    match &node.content {
        Content::Sequence(items) => items,
        _ => {
            if !node.is_null() {
                faults.push(Fault::new(
                    node.origin.clone(),
                    pointer,
                    format!("expected an array, found {}", node.kind()),
                ));
            }
            &[]
        }
    }
}

fn decode_definitions(list: &Node, pointer: &str, folder: &Path, faults: &mut Vec<Fault>) -> Vec<DefinitionSpec> {
    let mut definitions = Vec::new();
    let mut seen = HashSet::new();
    for (index, node) in items(list, pointer, faults).iter().enumerate() {
        let pointer = child_pointer(pointer, index);
        let spec = if node.get("file").is_some() {
            decode_definition_file(node, &pointer, folder, faults)
        } else if node.get("catalogue").is_some() {
            decode_catalogue_entry(node, &pointer, faults)
        } else {
            decode_definition(node, &pointer, faults)
        };
        let Some(spec) = spec else { continue };
        if seen.insert((spec.id.clone(), spec.version.to_string())) {
            definitions.push(spec);
        } else {
            let message = format!("a second definition {} of version {}", spec.id, spec.version);
            faults.push(Fault::new(node.origin.clone(), pointer, message));
        }
    }
    definitions
}

/// Reads one definition and checks it, all faults noted.
pub(crate) fn decode_definition(node: &Node, prefix: &str, faults: &mut Vec<Fault>) -> Option<DefinitionSpec> {
    let spec: DefinitionSpec = decode(node, prefix, &Value::Null, faults)?;
    let problems = spec.check();
    let sound = problems.is_empty();
    faults.extend(problems.into_iter().map(|problem| {
        Fault::new(node.origin_of(&problem.pointer), format!("{prefix}{}", problem.pointer), problem.message)
    }));
    sound.then_some(spec)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileReference {
    file: String,
}

fn decode_definition_file(
    node: &Node,
    pointer: &str,
    folder: &Path,
    faults: &mut Vec<Fault>,
) -> Option<DefinitionSpec> {
    let reference: FileReference = decode(node, pointer, &Value::Null, faults)?;
    // No references to the environment in there: `${` is an expression's own, and a
    // definition holds no secret.
    match read_file(&folder.join(&reference.file)) {
        Ok(Some(document)) => decode_definition(&document, "", faults),
        Ok(None) => {
            let pointer = push_pointer(pointer, "file");
            faults.push(Fault::new(node.origin_of("/file"), pointer, format!("there is no file {:?}", reference.file)));
            None
        }
        Err(fault) => {
            faults.push(fault);
            None
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CatalogueReference {
    catalogue: String,
    id: Option<DefinitionId>,
    client_id: Option<String>,
    client_secret: Option<ClientSecret>,
}

fn decode_catalogue_entry(node: &Node, pointer: &str, faults: &mut Vec<Fault>) -> Option<DefinitionSpec> {
    let reference: CatalogueReference = decode(node, pointer, &Value::Null, faults)?;
    let Some(entry) = catalogue::find(&reference.catalogue) else {
        let message = format!("the catalogue has no definition {:?}", reference.catalogue);
        faults.push(Fault::new(node.origin_of("/catalogue"), push_pointer(pointer, "catalogue"), message));
        return None;
    };
    let CatalogueReference { id, client_id, client_secret, .. } = reference;
    let mut note = |problems: Vec<Problem>| {
        faults.extend(problems.into_iter().map(|problem| {
            Fault::new(node.origin_of(&problem.pointer), format!("{pointer}{}", problem.pointer), problem.message)
        }));
    };
    let spec = catalogue::Installation { id, client_id, client_secret }.apply(entry).map_err(&mut note).ok()?;
    let problems = spec.check();
    let sound = problems.is_empty();
    note(problems);
    sound.then_some(spec)
}

fn decode_instances(list: &Node, pointer: &str, faults: &mut Vec<Fault>) -> Vec<InstanceSeed> {
    let mut instances = Vec::new();
    let mut seen = HashSet::new();
    for (index, node) in items(list, pointer, faults).iter().enumerate() {
        let pointer = child_pointer(pointer, index);
        let Some(instance) = decode::<InstanceSeed>(node, &pointer, &Value::Null, faults) else { continue };
        if seen.insert(instance.id.clone()) {
            instances.push(instance);
        } else {
            let message = format!("a second instance {}", instance.id);
            faults.push(Fault::new(node.origin_of("/id"), push_pointer(&pointer, "id"), message));
        }
    }
    instances
}
