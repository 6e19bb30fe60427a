//! Conditions of lists: values go in as arguments, never as text. Must not know any table.

use crate::sql::{Arg, Query};

/// The longest text that a search looks for, in characters; the rest is not compared.
pub const MAX_SEARCH_LENGTH: usize = 256;

/// By what a list of definitions or instances is ordered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SortField {
    #[default]
    Name,
    Id,
    CreatedAt,
    UpdatedAt,
}

/// The order of a list; rows that are equal in it are ordered by id.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sort {
    pub field: SortField,
    pub descending: bool,
}

/// The order of a list of definitions.
pub type DefinitionSort = Sort;
/// The order of a list of instances.
pub type InstanceSort = Sort;

impl Sort {
    pub(crate) fn order_by(self) -> &'static str {
        match (self.field, self.descending) {
            (SortField::Name, false) => "lower(name), id",
            (SortField::Name, true) => "lower(name) desc, id desc",
            (SortField::Id, false) => "id",
            (SortField::Id, true) => "id desc",
            (SortField::CreatedAt, false) => "created_at, id",
            (SortField::CreatedAt, true) => "created_at desc, id desc",
            (SortField::UpdatedAt, false) => "updated_at, id",
            (SortField::UpdatedAt, true) => "updated_at desc, id desc",
        }
    }
}

/// Conditions that all have to hold, with their arguments.
#[derive(Debug, Clone, Default)]
pub(crate) struct Conditions {
    clauses: Vec<String>,
    args: Vec<Arg>,
}

impl Conditions {
    /// Adds a condition whose `?`s stand for the arguments, in their order.
    pub(crate) fn add(&mut self, clause: &str, args: impl IntoIterator<Item = Arg>) {
        let mut args = args.into_iter();
        let mut text = String::with_capacity(clause.len() + 4);
        for character in clause.chars() {
            if character == '?' {
                let arg = args.next().expect("a clause has as many arguments as question marks");
                text.push_str(&self.placeholder(arg));
            } else {
                text.push(character);
            }
        }
        self.clauses.push(text);
    }

    pub(crate) fn add_if(&mut self, clause: &str, arg: Option<impl Into<Arg>>) {
        if let Some(arg) = arg {
            self.add(clause, [arg.into()]);
        }
    }

    /// A row passes where the folded text of `column` contains `search`, whatever its case.
    pub(crate) fn add_search(&mut self, column: &str, search: Option<&str>) {
        if let Some(search) = search.filter(|text| !text.is_empty()) {
            self.add(&format!("{column} like ? escape '\\'"), [contains_pattern(search).into()]);
        }
    }

    /// Takes an argument; gives the `$n` that stands for it.
    pub(crate) fn placeholder(&mut self, arg: impl Into<Arg>) -> String {
        self.args.push(arg.into());
        format!("${}", self.args.len())
    }

    /// ` where …`, or nothing.
    pub(crate) fn where_clause(&self) -> String {
        if self.clauses.is_empty() { String::new() } else { format!(" where {}", self.clauses.join(" and ")) }
    }

    pub(crate) fn into_query(self, text: String) -> Query {
        Query::built(text, self.args)
    }
}

/// What a search column holds for these texts.
pub(crate) fn search_text(parts: &[&str]) -> String {
    parts.join("\n").to_lowercase()
}

/// A `like` pattern that matches texts containing `search`, its wildcards taken literally.
fn contains_pattern(search: &str) -> String {
    let mut pattern = String::from("%");
    for character in search.to_lowercase().chars().take(MAX_SEARCH_LENGTH) {
        if matches!(character, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern.push('%');
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_in_a_search_are_taken_literally() {
        assert_eq!(contains_pattern(r"50%_\x"), r"%50\%\_\\x%");
        assert_eq!(contains_pattern(&"É".repeat(1_000)).chars().count(), MAX_SEARCH_LENGTH + 2);
    }

    #[test]
    fn arguments_are_numbered_over_all_conditions() {
        let mut conditions = Conditions::default();
        conditions.add("a = ?", ["x".into()]);
        conditions.add("exists (select 1 from l where n = ? and v = ?)", ["y".into(), "z".into()]);
        assert_eq!(conditions.where_clause(), " where a = $1 and exists (select 1 from l where n = $2 and v = $3)");
        assert_eq!(conditions.placeholder(5_i64), "$4");
    }
}
