//! Reading the schema definition language.

use apollo_parser::cst::{self, CstNode, Definition};
use apollo_parser::{Parser, SyntaxNode};
use integration_model::Problem;

use super::model::{Argument, Field, Kind, MAX_WRAPS, Model, TypeDefinition, TypeRef, bounded, is_name};
use crate::import::ImportError;

/// The largest text that is read, in bytes: its syntax tree takes many times as much.
const MAX_TEXT: usize = 8 * 1024 * 1024;
const MAX_DEPTH: usize = 64;
const MAX_TOKENS: usize = 4_000_000;
/// How many of its faults are told.
const MAX_FAULTS: usize = 20;

pub(super) fn read(text: &str) -> Result<Model, ImportError> {
    if text.len() > MAX_TEXT {
        return Err(ImportError::new(format!("expected a schema of at most {MAX_TEXT} bytes")));
    }
    let tree = Parser::new(text).recursion_limit(MAX_DEPTH).token_limit(MAX_TOKENS).parse();
    let problems: Vec<_> = tree
        .errors()
        .take(MAX_FAULTS)
        .map(|error| {
            let line = text.as_bytes().iter().take(error.index()).filter(|byte| **byte == b'\n').count() + 1;
            Problem::new("", format!("line {line}: {}", error.message()))
        })
        .collect();
    if !problems.is_empty() {
        let message = "expected a GraphQL schema, or the answer to an introspection query".to_owned();
        return Err(ImportError { message, problems });
    }
    let mut model = Model::default();
    let mut has_schema = false;
    for definition in tree.document().definitions() {
        if matches!(definition, Definition::OperationDefinition(_) | Definition::FragmentDefinition(_)) {
            return Err(ImportError::new("expected a schema; this is a query"));
        }
        let node = definition.syntax();
        if matches!(definition, Definition::SchemaDefinition(_) | Definition::SchemaExtension(_)) {
            has_schema = true;
            model.description.push_str(&description(node));
            node.children()
                .filter_map(cst::RootOperationTypeDefinition::cast)
                .for_each(|root| name_root(&root, &mut model));
        } else if let (Some(kind), Some(name)) = (kind(&definition), valid(definition.name())) {
            model.add(name, type_definition(kind, node));
        }
    }
    if !has_schema {
        let usual = |name: &str| model.types.contains_key(name).then(|| name.to_owned());
        (model.query, model.mutation, model.subscription) = (usual("Query"), usual("Mutation"), usual("Subscription"));
    }
    Ok(model)
}

fn name_root(root: &cst::RootOperationTypeDefinition, model: &mut Model) {
    let Some(kind) = root.operation_type() else { return };
    let name = valid(root.named_type().and_then(|named| named.name()));
    if kind.query_token().is_some() {
        model.query = name;
    } else if kind.mutation_token().is_some() {
        model.mutation = name;
    } else {
        model.subscription = name;
    }
}

fn kind(definition: &Definition) -> Option<Kind> {
    use Definition as D;
    Some(match definition {
        D::ScalarTypeDefinition(_) | D::ScalarTypeExtension(_) => Kind::Scalar,
        D::ObjectTypeDefinition(_) | D::ObjectTypeExtension(_) => Kind::Object,
        D::InterfaceTypeDefinition(_) | D::InterfaceTypeExtension(_) => Kind::Interface,
        D::UnionTypeDefinition(_) | D::UnionTypeExtension(_) => Kind::Union,
        D::EnumTypeDefinition(_) | D::EnumTypeExtension(_) => Kind::Enum,
        D::InputObjectTypeDefinition(_) | D::InputObjectTypeExtension(_) => Kind::Input,
        _ => return None,
    })
}

/// A definition and an extension of a type have the same parts.
fn type_definition(kind: Kind, node: &SyntaxNode) -> TypeDefinition {
    let fields = node.children().filter_map(cst::FieldsDefinition::cast).flat_map(|list| list.field_definitions());
    let inputs =
        node.children().filter_map(cst::InputFieldsDefinition::cast).flat_map(|list| list.input_value_definitions());
    let values =
        node.children().filter_map(cst::EnumValuesDefinition::cast).flat_map(|list| list.enum_value_definitions());
    let members = node.children().filter_map(cst::UnionMemberTypes::cast).flat_map(|list| list.named_types());
    TypeDefinition {
        kind,
        fields: fields.filter_map(|found| field(&found)).collect(),
        inputs: inputs.filter_map(|found| argument(&found)).collect(),
        values: values.filter_map(|found| valid(found.enum_value()?.name())).collect(),
        members: members.filter_map(|found| valid(found.name())).collect(),
    }
}

fn field(found: &cst::FieldDefinition) -> Option<Field> {
    let arguments = found.arguments_definition().into_iter().flat_map(|list| list.input_value_definitions());
    let mut directives = found.directives().into_iter().flat_map(|list| list.directives());
    Some(Field {
        name: valid(found.name())?,
        description: description(found.syntax()),
        arguments: arguments.filter_map(|found| argument(&found)).collect(),
        of: type_ref(&found.ty()?, MAX_WRAPS)?,
        deprecated: directives.any(|directive| directive.name().is_some_and(|name| name.text() == "deprecated")),
    })
}

fn argument(found: &cst::InputValueDefinition) -> Option<Argument> {
    Some(Argument {
        name: valid(found.name())?,
        description: description(found.syntax()),
        of: type_ref(&found.ty()?, MAX_WRAPS)?,
        has_default: found.default_value().is_some(),
    })
}

fn type_ref(found: &cst::Type, depth: usize) -> Option<TypeRef> {
    let depth = depth.checked_sub(1)?;
    let list = |list: &cst::ListType| Some(TypeRef::List(Box::new(type_ref(&list.ty()?, depth)?)));
    let named = |named: &cst::NamedType| Some(TypeRef::Named(valid(named.name())?));
    match found {
        cst::Type::NamedType(found) => named(found),
        cst::Type::ListType(found) => list(found),
        cst::Type::NonNullType(found) => {
            let inner = match (found.named_type(), found.list_type()) {
                (Some(inner), _) => named(&inner)?,
                (None, inner) => list(&inner?)?,
            };
            Some(TypeRef::NonNull(Box::new(inner)))
        }
    }
}

fn valid(name: Option<cst::Name>) -> Option<String> {
    name.map(|name| name.text().to_string()).filter(|name| is_name(name))
}

fn description(node: &SyntaxNode) -> String {
    let found = node.children().find_map(cst::Description::cast).and_then(|found| found.string_value());
    found.map(|text| bounded(&String::from(text))).unwrap_or_default()
}
