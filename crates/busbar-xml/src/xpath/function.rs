//! The functions that there are.

use super::expression::XPathType;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Last,
    Position,
    Count,
    Id,
    LocalName,
    NamespaceUri,
    Name,
    Text,
    Concat,
    StartsWith,
    Contains,
    SubstringBefore,
    SubstringAfter,
    Substring,
    StringLength,
    NormalizeSpace,
    Translate,
    Truth,
    Not,
    True,
    False,
    Lang,
    Number,
    Sum,
    Floor,
    Ceiling,
    Round,
}

/// A function's name, and how it is used.
struct FunctionEntry {
    function: Function,
    name: &'static str,
    usage: &'static str,
    least: usize,
    most: usize,
    /// Its first argument must be nodes.
    of_nodes: bool,
    returns: XPathType,
}

const fn entry(
    function: Function,
    name: &'static str,
    usage: &'static str,
    (least, most): (usize, usize),
    of_nodes: bool,
    returns: XPathType,
) -> FunctionEntry {
    FunctionEntry {
        function,
        name,
        usage,
        least,
        most,
        of_nodes,
        returns,
    }
}

const MANY: usize = usize::MAX;

use Function as F;
use XPathType::{Nodes, Number, Text, Truth};

const FUNCTIONS: &[FunctionEntry] = &[
    entry(F::Last, "last", "last()", (0, 0), false, Number),
    entry(F::Position, "position", "position()", (0, 0), false, Number),
    entry(F::Count, "count", "count(nodes)", (1, 1), true, Number),
    entry(F::Id, "id", "id('name')", (1, 1), false, Nodes),
    entry(
        F::LocalName,
        "local-name",
        "local-name() or local-name(nodes)",
        (0, 1),
        true,
        Text,
    ),
    entry(
        F::NamespaceUri,
        "namespace-uri",
        "namespace-uri() or namespace-uri(nodes)",
        (0, 1),
        true,
        Text,
    ),
    entry(F::Name, "name", "name() or name(nodes)", (0, 1), true, Text),
    entry(
        F::Text,
        "string",
        "string() or string(value)",
        (0, 1),
        false,
        Text,
    ),
    entry(
        F::Concat,
        "concat",
        "concat(text, text, …)",
        (2, MANY),
        false,
        Text,
    ),
    entry(
        F::StartsWith,
        "starts-with",
        "starts-with(text, beginning)",
        (2, 2),
        false,
        Truth,
    ),
    entry(
        F::Contains,
        "contains",
        "contains(text, part)",
        (2, 2),
        false,
        Truth,
    ),
    entry(
        F::SubstringBefore,
        "substring-before",
        "substring-before(text, part)",
        (2, 2),
        false,
        Text,
    ),
    entry(
        F::SubstringAfter,
        "substring-after",
        "substring-after(text, part)",
        (2, 2),
        false,
        Text,
    ),
    entry(
        F::Substring,
        "substring",
        "substring(text, from) or substring(text, from, length)",
        (2, 3),
        false,
        Text,
    ),
    entry(
        F::StringLength,
        "string-length",
        "string-length() or string-length(text)",
        (0, 1),
        false,
        Number,
    ),
    entry(
        F::NormalizeSpace,
        "normalize-space",
        "normalize-space() or normalize-space(text)",
        (0, 1),
        false,
        Text,
    ),
    entry(
        F::Translate,
        "translate",
        "translate(text, 'abc', 'ABC')",
        (3, 3),
        false,
        Text,
    ),
    entry(F::Truth, "boolean", "boolean(value)", (1, 1), false, Truth),
    entry(F::Not, "not", "not(condition)", (1, 1), false, Truth),
    entry(F::True, "true", "true()", (0, 0), false, Truth),
    entry(F::False, "false", "false()", (0, 0), false, Truth),
    entry(F::Lang, "lang", "lang('en')", (1, 1), false, Truth),
    entry(
        F::Number,
        "number",
        "number() or number(value)",
        (0, 1),
        false,
        Number,
    ),
    entry(F::Sum, "sum", "sum(nodes)", (1, 1), true, Number),
    entry(F::Floor, "floor", "floor(number)", (1, 1), false, Number),
    entry(
        F::Ceiling,
        "ceiling",
        "ceiling(number)",
        (1, 1),
        false,
        Number,
    ),
    entry(F::Round, "round", "round(number)", (1, 1), false, Number),
];

impl Function {
    pub fn of(name: &str) -> Option<Function> {
        let entry = FUNCTIONS.iter().find(|entry| entry.name == name)?;
        Some(entry.function)
    }

    fn entry(self) -> &'static FunctionEntry {
        // The table is in the order of the functions.
        &FUNCTIONS[self as usize]
    }

    pub fn usage(self) -> &'static str {
        self.entry().usage
    }

    pub fn takes(self, arguments: usize) -> bool {
        (self.entry().least..=self.entry().most).contains(&arguments)
    }

    pub fn is_of_nodes(self) -> bool {
        self.entry().of_nodes
    }

    pub fn returns(self) -> XPathType {
        self.entry().returns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_functions() {
        for entry in FUNCTIONS {
            assert_eq!(entry.function.entry().name, entry.name);
            assert!(entry.usage.starts_with(entry.name));
        }
    }
}
