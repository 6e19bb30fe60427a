//! A GraphQL document as an author writes it: parsed, and checked as far as it can be
//! without the external system's schema.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use apollo_parser::Parser;
use apollo_parser::cst::{self, CstNode, Definition, OperationDefinition, Selection, SelectionSet};
use integration_model::Problem;

/// How deep a document may nest.
const MAX_DEPTH: usize = 64;
/// The most tokens of a document.
const MAX_TOKENS: usize = 20_000;
/// The most faults of one document that are told.
const MAX_PROBLEMS: usize = 50;

/// The operation of a document that calls execute.
pub(super) struct Document {
    /// None where the operation is anonymous.
    pub(super) operation_name: Option<String>,
    pub(super) is_query: bool,
    /// The variables that the operation declares, in their order.
    pub(super) variables: Vec<Variable>,
    /// Whether the operation asks for one field only, so that its failure is the whole
    /// operation's.
    pub(super) has_one_field: bool,
    selection: SelectionSet,
    fragments: BTreeMap<String, SelectionSet>,
}

/// A variable of an operation.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Variable {
    pub(super) name: String,
    /// Whether the external system refuses the operation without it.
    pub(super) is_required: bool,
}

impl Document {
    /// Reads a document; all that is wrong with it at once. Of several operations, `wanted`
    /// names the one to execute.
    pub(super) fn read(text: &str, wanted: Option<&str>) -> Result<Self, Vec<Problem>> {
        let tree = Parser::new(text).recursion_limit(MAX_DEPTH).token_limit(MAX_TOKENS).parse();
        let faults: Vec<_> = tree
            .errors()
            .take(MAX_PROBLEMS)
            .map(|error| at_query(format!("{}: {}", place(text, error.index()), error.message())))
            .collect();
        if !faults.is_empty() {
            return Err(faults);
        }
        let mut problems = Vec::new();
        let (mut operations, mut fragments) = (Vec::new(), BTreeMap::new());
        for definition in tree.document().definitions() {
            match definition {
                Definition::OperationDefinition(operation) => operations.push(operation),
                Definition::FragmentDefinition(fragment) => {
                    let name = fragment.fragment_name().and_then(|name| text_of(name.name()));
                    if let (Some(name), Some(selection)) = (name, fragment.selection_set())
                        && fragments.insert(name.clone(), selection).is_some()
                    {
                        problems.push(at_query(format!("there are two fragments {name:?}")));
                    }
                }
                _ => problems.push(at_query("expected operations and fragments only, no definitions of types")),
            }
        }
        problems.extend(operations.iter().flat_map(|operation| check_operation(operation, &fragments)));
        problems.extend(check_fragments(&operations, &fragments));
        let chosen = choose(operations, wanted).map_err(|problem| problems.push(problem)).ok();
        problems.truncate(MAX_PROBLEMS);
        match chosen {
            Some((operation, selection)) if problems.is_empty() => Ok(Self::of(&operation, selection, fragments)),
            _ => Err(problems),
        }
    }

    fn of(operation: &OperationDefinition, selection: SelectionSet, fragments: BTreeMap<String, SelectionSet>) -> Self {
        let mut selections = selection.selections();
        let has_one_field = matches!((selections.next(), selections.next()), (Some(Selection::Field(_)), None));
        Self {
            operation_name: text_of(operation.name()),
            is_query: operation.operation_type().is_none_or(|kind| kind.query_token().is_some()),
            variables: declared_variables(operation),
            has_one_field,
            selection,
            fragments,
        }
    }

    /// Whether the operation asks for what a JSON Pointer into its data leads to. List indices
    /// are passed over.
    pub(super) fn selects(&self, pointer: &str) -> bool {
        let mut at = vec![self.selection.clone()];
        for token in pointer.split('/').skip(1) {
            if token.bytes().all(|b| b.is_ascii_digit()) {
                continue;
            }
            let mut found = false;
            let mut next = Vec::new();
            let mut seen = HashSet::new();
            while let Some(selection) = at.pop() {
                for selected in selection.selections() {
                    match selected {
                        Selection::Field(field) if response_key(&field).as_deref() == Some(token) => {
                            found = true;
                            next.extend(field.selection_set());
                        }
                        Selection::Field(_) => {}
                        Selection::InlineFragment(fragment) => at.extend(fragment.selection_set()),
                        Selection::FragmentSpread(spread) => {
                            let name = spread_name(&spread).filter(|name| seen.insert(name.clone()));
                            at.extend(name.and_then(|name| self.fragments.get(&name).cloned()));
                        }
                    }
                }
            }
            if !found {
                return false;
            }
            at = next;
        }
        true
    }
}

fn at_query(message: impl Into<String>) -> Problem {
    Problem::new("/query", message)
}

/// Line and column of a byte, from 1.
fn place(text: &str, index: usize) -> String {
    let before = &text.as_bytes()[..index.min(text.len())];
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
    format!("line {line}, column {column}")
}

fn text_of(name: Option<cst::Name>) -> Option<String> {
    name.map(|name| name.text().to_string())
}

fn spread_name(spread: &cst::FragmentSpread) -> Option<String> {
    text_of(spread.fragment_name()?.name())
}

/// The member of the answer that a field becomes.
fn response_key(field: &cst::Field) -> Option<String> {
    text_of(field.alias().and_then(|alias| alias.name()).or_else(|| field.name()))
}

fn choose(
    mut operations: Vec<OperationDefinition>,
    wanted: Option<&str>,
) -> Result<(OperationDefinition, SelectionSet), Problem> {
    let index = match wanted {
        Some(name) => operations
            .iter()
            .position(|operation| text_of(operation.name()).as_deref() == Some(name))
            .ok_or_else(|| Problem::new("/operationName", format!("the query has no operation {name:?}")))?,
        None if operations.len() == 1 => 0,
        None if operations.is_empty() => return Err(at_query("expected an operation")),
        None => {
            return Err(Problem::new("/operationName", "the query has several operations: name the one to execute"));
        }
    };
    let operation = operations.swap_remove(index);
    if operation.operation_type().is_some_and(|kind| kind.subscription_token().is_some()) {
        return Err(at_query("expected a query or a mutation: a subscription has no single answer"));
    }
    let selection = operation.selection_set().ok_or_else(|| at_query("expected fields to ask for"))?;
    Ok((operation, selection))
}

fn declared_variables(operation: &OperationDefinition) -> Vec<Variable> {
    let definitions = operation.variable_definitions().into_iter().flat_map(|list| list.variable_definitions());
    let variable = |definition: cst::VariableDefinition| {
        let is_required =
            matches!(definition.ty(), Some(cst::Type::NonNullType(_))) && definition.default_value().is_none();
        Some(Variable { name: text_of(definition.variable()?.name())?, is_required })
    };
    definitions.filter_map(variable).collect()
}

/// The fragments that a part of the document spreads, directly or by others.
fn spread_fragments<'a>(
    part: &SelectionSet,
    fragments: &'a BTreeMap<String, SelectionSet>,
) -> BTreeMap<&'a str, &'a SelectionSet> {
    let mut reached = BTreeMap::new();
    let mut waiting = vec![part.clone()];
    while let Some(part) = waiting.pop() {
        for name in spreads(&part) {
            if let Some((name, selection)) = fragments.get_key_value(&name)
                && reached.insert(name.as_str(), selection).is_none()
            {
                waiting.push(selection.clone());
            }
        }
    }
    reached
}

fn spreads(part: &SelectionSet) -> impl Iterator<Item = String> {
    part.syntax().descendants().filter_map(cst::FragmentSpread::cast).filter_map(|spread| spread_name(&spread))
}

fn used_variables(node: &apollo_parser::SyntaxNode) -> impl Iterator<Item = String> {
    node.descendants().filter_map(cst::Variable::cast).filter_map(|variable| text_of(variable.name()))
}

/// Variables that are used and declared, each of both; external systems refuse others.
fn check_operation(operation: &OperationDefinition, fragments: &BTreeMap<String, SelectionSet>) -> Vec<Problem> {
    let declared = declared_variables(operation);
    let mut names = BTreeSet::new();
    let mut problems: Vec<_> = declared
        .iter()
        .filter(|variable| !names.insert(variable.name.as_str()))
        .map(|variable| at_query(format!("the variable ${} is declared twice", variable.name)))
        .collect();
    let mut used = BTreeSet::new();
    if let Some(selection) = operation.selection_set() {
        used.extend(used_variables(selection.syntax()));
        let reached = spread_fragments(&selection, fragments);
        used.extend(reached.values().flat_map(|selection| used_variables(selection.syntax())));
    }
    used.extend(operation.directives().iter().flat_map(|directives| used_variables(directives.syntax())));
    let undeclared = used.iter().filter(|name| !names.contains(name.as_str()));
    problems.extend(undeclared.map(|name| at_query(format!("the variable ${name} is not declared"))));
    let unused = names.iter().filter(|name| !used.contains(**name));
    problems.extend(unused.map(|name| at_query(format!("the variable ${name} is never used"))));
    problems
}

/// Fragments that are missing, that nobody uses, or that contain themselves.
fn check_fragments(operations: &[OperationDefinition], fragments: &BTreeMap<String, SelectionSet>) -> Vec<Problem> {
    let roots: Vec<_> = operations.iter().filter_map(OperationDefinition::selection_set).collect();
    let named: BTreeSet<String> = roots.iter().chain(fragments.values()).flat_map(spreads).collect();
    let missing = named.iter().filter(|name| !fragments.contains_key(*name));
    let mut problems: Vec<_> = missing.map(|name| at_query(format!("there is no fragment {name:?}"))).collect();
    let used: BTreeSet<&str> = roots.iter().flat_map(|root| spread_fragments(root, fragments).into_keys()).collect();
    for (name, selection) in fragments {
        if !used.contains(name.as_str()) {
            problems.push(at_query(format!("the fragment {name:?} is never used")));
        } else if spread_fragments(selection, fragments).contains_key(name.as_str()) {
            problems.push(at_query(format!("the fragment {name:?} contains itself")));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        match Document::read(text, None) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.iter().map(ToString::to_string).collect(),
        }
    }

    fn read(text: &str, wanted: Option<&str>) -> Document {
        Document::read(text, wanted).unwrap_or_else(|problems| panic!("{problems:?}"))
    }

    #[test]
    fn the_operation_to_execute_is_found() {
        let both = "query A($id: ID!) { a(id: $id) } mutation B { b c }";
        let a = read(both, Some("A"));
        assert_eq!((a.operation_name.as_deref(), a.is_query, a.has_one_field), (Some("A"), true, true));
        assert_eq!(a.variables, [Variable { name: "id".to_owned(), is_required: true }]);
        let b = read(both, Some("B"));
        assert_eq!((b.is_query, b.has_one_field), (false, false));
        let short = read("{ a ...F } fragment F on Query { b }", None);
        assert_eq!((short.operation_name, short.is_query, short.has_one_field), (None, true, false));
        assert_eq!(faults(both), ["/operationName: the query has several operations: name the one to execute"]);
        let other = Document::read(both, Some("C")).err().expect("no C");
        assert_eq!(other[0].pointer, "/operationName");
    }

    #[test]
    fn what_an_external_system_would_refuse_is_told_before() {
        for (text, fault) in [
            ("", "expected"),
            ("query {", "line 1, column 8"),
            ("subscription { a }", "a subscription has no single answer"),
            ("type A { a: Int }", "no definitions of types"),
            ("query Q($a: Int) { a }", "the variable $a is never used"),
            ("query Q { a(b: {c: [$a]}) }", "the variable $a is not declared"),
            ("query Q($a: Int, $a: Int) { a(b: $a) }", "the variable $a is declared twice"),
            ("{ ...F } fragment F on A { b(c: $a) }", "the variable $a is not declared"),
            ("{ ...F }", "there is no fragment \"F\""),
            ("{ a } fragment F on A { b }", "the fragment \"F\" is never used"),
            ("{ ...F } fragment F on A { b { ...G } } fragment G on A { ...F }", "the fragment \"F\" contains itself"),
            ("{ ...F } fragment F on A { b } fragment F on A { c }", "two fragments \"F\""),
        ] {
            let faults = faults(text);
            assert!(faults.iter().any(|told| told.contains(fault)), "{text}: {faults:?}");
        }
        for deep in [
            "{a".to_owned(),
            "...on A{".to_owned(),
            "{a(b:[".to_owned(),
            "query($a:[".to_owned(),
            "{a(b:{c:".to_owned(),
        ] {
            assert!(!faults(&format!("{{ {}", deep.repeat(10_000))).is_empty(), "depth is bounded: {deep}");
        }
        let values = format!("{{ a(b: {}1{}) }}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(!faults(&values).is_empty(), "depth is bounded");
        assert!(faults("query Q($a: Int = 1) @d(x: $a) { a ... on B @include(if: true) { c } }").is_empty());
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_too_strange(parts in proptest::collection::vec(
            proptest::sample::select(vec![
                "query", "mutation", "fragment", "F", "on", "...", "{", "}", "(", ")", "$", "a", ":", "!", "[", "]",
                "=", "@d", "1", "1.5e", "\"", "\"\"\"", "\\u{", "#", "\n", ",", "\u{feff}", "é", " ",
            ]),
            0..40,
        )) {
            let text = parts.concat();
            if let Ok(document) = Document::read(&text, None) {
                document.selects("/a/a");
            }
            let _ = Document::read(&parts.join(" "), Some("F"));
        }
    }

    #[test]
    fn pointers_are_looked_up_through_fragments_and_aliases() {
        let text = "{ shop { all: items { ...C } } } fragment C on X { edges { node { id } } ... on Y { pageInfo { endCursor } } }";
        let document = read(text, None);
        for known in ["", "/shop", "/shop/all/edges/0/node/id", "/shop/all/pageInfo/endCursor"] {
            assert!(document.selects(known), "{known}");
        }
        for unknown in ["/items", "/shop/items", "/shop/all/pageInfo/hasNextPage", "/shop/all/edges/node/id/x"] {
            assert!(!document.selects(unknown), "{unknown}");
        }
    }
}
