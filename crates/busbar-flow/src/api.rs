//! Checks the queries of APIs, as far as that is possible without the node: syntax, functions, parameters, and the streams and
//! tables that they name.

use busbar_catalog::{ApiWork, Diagnostic, INBOX, Project};
use busbar_sql::{BoundParameter, check_query_with, check_relations};

/// What is wrong with the queries of a project's APIs.
pub(crate) fn check_apis(project: &Project) -> Vec<Diagnostic> {
    let mut bad = Vec::new();
    let names = project.streams.keys().chain(project.tables.keys());
    let mut known: Vec<String> = names.cloned().collect();
    known.push(INBOX.to_owned());
    for parsed in project.apis.values() {
        let Some(ApiWork::Query(text)) = parsed.spec.work() else {
            continue;
        };
        let fields = parsed.spec.parameters.0.iter();
        let parameters = fields.map(|field| BoundParameter {
            name: field.name.clone(),
            field_type: field.field_type,
            value: None,
        });
        let parameters: Vec<BoundParameter> = parameters.collect();
        let checked =
            check_query_with(text, &parameters).and_then(|()| check_relations(text, &known));
        if let Err(wrong) = checked {
            let span = Some(wrong.span());
            let path = ["query".into()];
            bad.push(parsed.source.diagnostic(&path, span, wrong.into_error()));
        }
    }
    bad
}
