//! `explain` and `explain analyze`.

use std::sync::Arc;

use datafusion_common::Result;
use datafusion_common::display::{PlanType, StringifiedPlan, ToStringifiedPlan};
use datafusion_common::format::{ExplainAnalyzeCategories, ExplainFormat};
use datafusion_expr::{Analyze, Explain};
use datafusion_physical_plan::analyze::AnalyzeExec;
use datafusion_physical_plan::explain::ExplainExec;
use datafusion_physical_plan::{ExecutionPlan, displayable};

use super::{PlanSession, lower, optimize};

/// A plan whose rows are the text of the plan that `explain` asks about; `explain verbose` adds what
/// each rule made of it.
pub(super) fn explain(
    session: &dyn PlanSession,
    explain: &Explain,
) -> Result<Arc<dyn ExecutionPlan>> {
    let options = &session.config_options().explain;
    let show_statistics = explain.show_statistics.unwrap_or(options.show_statistics);
    let mut texts = explain.stringified_plans.clone();
    let logical = explain.plan.as_ref().clone();
    let analyzed =
        session
            .analyzer()
            .execute_and_check(logical, session.config_options(), |plan, rule| {
                let analyzer_name = rule.name().to_owned();
                texts.push(plan.to_stringified(PlanType::AnalyzedLogicalPlan { analyzer_name }));
            })?;
    texts.push(analyzed.to_stringified(PlanType::FinalAnalyzedLogicalPlan));
    let optimized = session
        .optimizer()
        .optimize(analyzed, session, |plan, rule| {
            let optimizer_name = rule.name().to_owned();
            texts.push(plan.to_stringified(PlanType::OptimizedLogicalPlan { optimizer_name }));
        })?;
    let initial = lower::lower(session, &optimized)?;
    let indented = |plan: &dyn ExecutionPlan| {
        displayable(plan)
            .set_show_statistics(show_statistics)
            .set_show_schema(options.show_schema)
            .indent(explain.verbose)
            .to_string()
    };
    let last = |plan_type, text: String| vec![StringifiedPlan::new(plan_type, text)];
    let texts = match explain.explain_format {
        ExplainFormat::Indent => {
            texts.push(optimized.to_stringified(PlanType::FinalLogicalPlan));
            let text = indented(initial.as_ref());
            texts.push(StringifiedPlan::new(PlanType::InitialPhysicalPlan, text));
            let physical = optimize::physical(session, initial, |plan, rule| {
                let optimizer_name = rule.name().to_owned();
                let kind = PlanType::OptimizedPhysicalPlan { optimizer_name };
                texts.push(StringifiedPlan::new(kind, indented(plan)));
            })?;
            let text = indented(physical.as_ref());
            texts.push(StringifiedPlan::new(PlanType::FinalPhysicalPlan, text));
            texts
        }
        ExplainFormat::Tree => {
            let physical = optimize::physical(session, initial, |_, _| {})?;
            let tree = displayable(physical.as_ref())
                .set_tree_maximum_render_width(options.tree_maximum_render_width)
                .tree_render()
                .to_string();
            last(PlanType::FinalPhysicalPlan, tree)
        }
        ExplainFormat::PostgresJSON => {
            let text = optimized.display_pg_json().to_string();
            last(PlanType::FinalLogicalPlan, text)
        }
        ExplainFormat::Graphviz => {
            let text = optimized.display_graphviz().to_string();
            last(PlanType::FinalLogicalPlan, text)
        }
    };
    let schema = Arc::clone(explain.schema.inner());
    Ok(Arc::new(ExplainExec::new(schema, texts, explain.verbose)))
}

/// A plan that runs what `explain analyze` asks about, and whose rows are its text with what was measured.
pub(super) fn analyze(
    session: &dyn PlanSession,
    analyze: &Analyze,
) -> Result<Arc<dyn ExecutionPlan>> {
    let options = &session.config_options().explain;
    let input = super::plan(session, &analyze.input)?;
    let level = analyze.analyze_level.unwrap_or(options.analyze_level);
    let categories = analyze.analyze_categories.as_ref();
    let categories = match categories.unwrap_or(&options.analyze_categories) {
        ExplainAnalyzeCategories::All => None,
        ExplainAnalyzeCategories::Only(categories) => Some(categories.clone()),
    };
    let schema = Arc::clone(analyze.schema.inner());
    let statistics = options.show_statistics;
    let plan = AnalyzeExec::builder(analyze.verbose, statistics, input, schema)
        .with_metric_types(level.included_types())
        .with_metric_categories(categories)
        .with_format(analyze.format.clone())
        .build();
    Ok(Arc::new(plan))
}
