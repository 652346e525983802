//! The kinds of steps: one line each.

use std::sync::Arc;

use busbar_catalog::{PathItem, StepSpec};
use busbar_event::{Class, Error};

use super::{
    Step, StepContext, Wrong, aggregate, alarm, call, dedupe, delay, filter, join, latest, map,
    pattern, previous, resequence, script, select, split, sql, throttle, top, window, xml,
    xml_plugin,
};

/// Compiles a step of a flow file.
///
/// # Errors
/// What is wrong with it, and where.
pub(crate) fn compile(spec: &StepSpec, context: &StepContext<'_>) -> Result<Arc<dyn Step>, Wrong> {
    match spec {
        StepSpec::Aggregate(spec) => aggregate::compile(spec, context),
        StepSpec::Alarm(spec) => alarm::compile(spec, context),
        StepSpec::Call(spec) => call::compile(spec, context),
        StepSpec::Dedupe(spec) => dedupe::compile(spec, context),
        StepSpec::Delay(spec) => delay::compile(spec, context),
        StepSpec::Join(spec) => join::compile(spec, context),
        StepSpec::Latest(spec) => latest::compile(spec, context),
        StepSpec::Map(spec) => map::compile(spec, context),
        StepSpec::Pattern(spec) => pattern::compile(spec, context),
        StepSpec::Previous(spec) => previous::compile(spec, context),
        StepSpec::Resequence(spec) => resequence::compile(spec, context),
        // Its cases lead to steps of their own: the plan compiles it, see `compile::route`.
        StepSpec::Route(_) => Err(Wrong::new(Error::new(
            Class::Configuration,
            "flow.route-empty",
        ))),
        StepSpec::Script(plugin) => script::compile(plugin, context),
        StepSpec::Select(columns) => select::compile(columns, context),
        StepSpec::Split(spec) => split::compile(spec, context),
        StepSpec::Sql(query) => sql::compile(query, context),
        StepSpec::Throttle(spec) => throttle::compile(spec, context),
        StepSpec::Top(spec) => top::compile(spec, context),
        StepSpec::Where(condition) => filter::compile(condition, context),
        StepSpec::Window(spec) => window::compile(spec, context),
        StepSpec::Validate(spec) => xml_plugin::validate(spec, context),
        StepSpec::Xml(spec) => xml::compile(spec, context),
        StepSpec::Xslt(spec) => xml_plugin::xslt(spec, context),
    }
}

/// Checks a step whose columns are not known yet: syntax and names of functions.
///
/// # Errors
/// What is wrong with it, and where.
pub(crate) fn check_text(spec: &StepSpec) -> Result<(), Wrong> {
    for (path, text) in spec.texts() {
        let checked = match (spec, path.first()) {
            (StepSpec::Sql(_), _) => busbar_sql::check_query(text),
            (StepSpec::Where(_) | StepSpec::Route(_), _) => busbar_sql::check_condition(text),
            // A direction may stand behind an expression.
            (_, Some(PathItem::Key("order"))) => continue,
            _ => busbar_sql::check_columns(text),
        };
        checked.map_err(|wrong| Wrong {
            path,
            ..Wrong::from(wrong)
        })?;
    }
    Ok(())
}
