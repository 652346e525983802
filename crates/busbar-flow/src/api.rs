//! Checks the queries of APIs, as far as that is possible without the node: syntax, functions and parameters.

use busbar_catalog::{ApiWork, Diagnostic, Project};
use busbar_sql::{BoundParameter, check_query_with};

/// What is wrong with the queries of a project's APIs.
pub(crate) fn check_apis(project: &Project) -> Vec<Diagnostic> {
    let mut bad = Vec::new();
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
        if let Err(wrong) = check_query_with(text, &parameters) {
            let span = Some(wrong.span());
            let path = ["query".into()];
            bad.push(parsed.source.diagnostic(&path, span, wrong.into_error()));
        }
    }
    bad
}
