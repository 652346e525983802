//! How a flow runs: its stages, what is between them, its state, and what each output promises and why.

use std::time::Duration;

use busbar_catalog::StepSpec;
use busbar_event::{Class, Error, Language, messages};
use serde::Serialize;

use super::{Flow, Runtime};
use crate::compile::{InputPlan, Plan, Target};
use crate::limits::BATCH_BYTES_MAX;
use crate::task::{StateCost, lanes};
use busbar_connector::Guarantee;

/// How a flow runs.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The flow.
    pub flow: String,
    /// Its stages, in order. A stage reads streams of the file or the rows of the stage before.
    pub stages: Vec<ExplainedStage>,
    /// Its outputs, as in the file.
    pub outputs: Vec<ExplainedOutput>,
    /// Most bytes of memory for its state; beyond it operators leave on disk what they do not need at once.
    pub state_bytes_max: usize,
    /// Most bytes of memory for batches under way, for all its tasks.
    pub batches_bytes_max: usize,
}

/// What reads one stream.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainedStage {
    /// Its number, from 0.
    pub stage: usize,
    /// The stream it reads.
    pub reads: String,
    /// Number of its tasks: one for each partition and cursor.
    pub tasks: usize,
    /// Partitions of the stream.
    pub partitions: usize,
    /// Its steps.
    pub steps: Vec<ExplainedStep>,
    /// How its rows are regrouped for the next stage; none where they go to outputs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regroup: Option<ExplainedRegroup>,
    /// Streams of the flow's own that its results go to, computed once for all outputs with cursors of their own.
    pub results_to: Vec<String>,
    /// It only delivers results that the stage before has computed.
    pub delivers: bool,
    /// Rows carry event time, and ticks move it on where there are no events.
    pub event_time: bool,
    /// What its state costs; none for a stage that keeps none, or does not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoints: Option<ExplainedCheckpoints>,
}

/// What the state of a stage costs, in the task where it costs most, since its tasks began.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainedCheckpoints {
    /// How long reading the state took when the task began, in milliseconds.
    pub restored_ms: f64,
    /// Keys that the last snapshot has changed.
    pub changes: usize,
    /// The longest time for which a snapshot has held the task up, in milliseconds.
    pub longest_stall_ms: f64,
    /// How long the last commit took, in milliseconds.
    pub commit_ms: f64,
    /// Commits that have ended.
    pub commits: u64,
}

/// A step, or a part of one.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainedStep {
    /// Which step of the file it is, from 0.
    pub step: usize,
    /// `where`, `select`, `window` and so on.
    pub kind: &'static str,
    /// For a step in two parts: `before` or `after` the regrouping; `other` before it, for the other side of a join of a
    /// stream with itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part: Option<&'static str>,
    /// The name of the case, for a step of a route's case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub case: Option<String>,
    /// The table that it looks rows up in, for a join with one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// It joins as of event time.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub as_of: bool,
    /// The name under which its state is kept, if it keeps any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Bytes of that state in memory now, in all tasks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_memory_bytes: Option<usize>,
}

/// How rows are regrouped.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainedRegroup {
    /// Columns whose equal values meet in one task; none: all rows do.
    pub keys: Vec<String>,
    /// The stream in between.
    pub stream: String,
    /// Its partitions.
    pub partitions: u16,
}

/// An output and its promise.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainedOutput {
    /// `stream`, `topic`, `table` or `connection`.
    pub kind: &'static str,
    /// Where it goes.
    pub name: String,
    /// What is promised across a crash.
    pub guarantee: Guarantee,
    /// Why.
    pub why: String,
    /// The same in Chinese.
    pub why_zh: String,
    /// It has a cursor of its own, so that it holds nobody else up.
    pub own_cursor: bool,
}

impl Runtime {
    /// How a flow runs, or would run if it could.
    ///
    /// # Errors
    /// `flow.unknown`; what is wrong with the flow; `flow.waiting` while the columns of an input are not known.
    pub async fn explain(&self, name: &str) -> Result<Explanation, Error> {
        let flow = self.flow(name)?;
        let running = flow.shared.as_ref().map(|shared| shared.plan.clone());
        let plan = match running {
            Some(plan) => Some(plan),
            None => {
                let project = self.project().await;
                self.plan(&project, name, &flow.parsed).await?
            }
        };
        let plan = plan.ok_or_else(|| {
            let streams = flow.parsed.spec.reads();
            Error::new(Class::Transient, "flow.waiting").with("streams", streams)
        })?;
        let inputs = 0..plan.inputs.len();
        let stages: Vec<ExplainedStage> = inputs.map(|i| self.stage(&flow, &plan, i)).collect();
        let tasks: usize = stages.iter().map(|stage| stage.tasks).sum();
        Ok(Explanation {
            flow: name.to_owned(),
            outputs: self.promises(&plan),
            stages,
            state_bytes_max: match plan.timed {
                true => self.inner.options.state_bytes_max,
                false => 0,
            },
            // One batch is written while the next is computed, and each is there as input and as result.
            batches_bytes_max: tasks * 4 * BATCH_BYTES_MAX,
        })
    }

    fn stage(&self, flow: &Flow, plan: &Plan, input: usize) -> ExplainedStage {
        let cursors = lanes(plan, input).len();
        let input = &plan.inputs[input];
        let stream = self.inner.options.bus.stream(&input.stream);
        let partitions = stream.map_or(0, |stream| stream.partitions().len());
        let regroup = input
            .exchange
            .as_ref()
            .map(|(_, exchange)| ExplainedRegroup {
                keys: exchange
                    .keys
                    .iter()
                    .map(|key| input.ends[0].schema.field(*key).name().clone())
                    .collect(),
                stream: exchange.stream.to_string(),
                partitions: exchange.partitions,
            });
        ExplainedStage {
            stage: input.stage,
            reads: input.stream.clone(),
            tasks: partitions * cursors,
            partitions,
            steps: steps(flow, plan, input),
            regroup,
            results_to: results_to(plan, input),
            delivers: input.delivers(),
            event_time: input.timed,
            checkpoints: checkpoints(flow, input),
        }
    }

    fn promises(&self, plan: &Plan) -> Vec<ExplainedOutput> {
        let outputs = plan.spec.to.iter().zip(&plan.outputs);
        outputs
            .map(|(spec, output)| {
                let (guarantee, why) = match &output.target {
                    Target::Connection(name) => {
                        let guarantee = self.guarantee(name);
                        let why = match guarantee {
                            Guarantee::ExactlyOnce => "flow.why-connection-once",
                            Guarantee::AtLeastOnce => "flow.why-connection-twice",
                        };
                        (guarantee, why)
                    }
                    Target::Table(_) if output.apart => {
                        (Guarantee::ExactlyOnce, "flow.why-relational")
                    }
                    Target::Table(_) => (Guarantee::ExactlyOnce, "flow.why-hot"),
                    _ => (Guarantee::ExactlyOnce, "flow.why-log"),
                };
                let looked_up = |as_of: bool| {
                    let joins = plan.spec.joins().map(|(.., join)| join);
                    let tables = joins.filter(|join| join.as_of == as_of);
                    let tables: Vec<&str> = tables.filter_map(|j| j.table.as_deref()).collect();
                    tables.join(", ")
                };
                let reasons = [
                    ("flow.why-look-up", looked_up(false)),
                    ("flow.why-look-up-as-of", looked_up(true)),
                ];
                let why = |language| {
                    let reasons = reasons.iter().filter(|(_, tables)| !tables.is_empty());
                    reasons.fold(said(language, why), |why, (code, tables)| {
                        let args = [("tables", tables), ("why", &why)];
                        messages::text(language, code, &args)
                    })
                };
                ExplainedOutput {
                    kind: spec.kind(),
                    name: spec.target_name().to_owned(),
                    guarantee,
                    why: why(Language::En),
                    why_zh: why(Language::Zh),
                    own_cursor: output.apart,
                }
            })
            .collect()
    }
}

/// The streams of results that a stage writes.
fn results_to(plan: &Plan, input: &InputPlan) -> Vec<String> {
    let targets = input
        .results_to
        .iter()
        .map(|output| &plan.outputs[*output].target);
    let names = targets.filter_map(|target| match target {
        Target::Results(name) => Some(name.to_string()),
        _ => None,
    });
    names.collect()
}

/// What the state of a stage costs.
fn checkpoints(flow: &Flow, input: &InputPlan) -> Option<ExplainedCheckpoints> {
    let costs = flow.shared.as_ref()?.costs.lock();
    let of_stage = costs
        .iter()
        .filter(|(task, _)| task.stream == input.stream)
        .map(|(_, cost)| cost);
    let milliseconds = |of: fn(&StateCost) -> Duration| {
        let longest = of_stage.clone().map(of).max();
        longest.map(|longest| longest.as_secs_f64() * 1e3)
    };
    Some(ExplainedCheckpoints {
        restored_ms: milliseconds(|cost| cost.restored)?,
        changes: of_stage.clone().map(|cost| cost.changes).max()?,
        longest_stall_ms: milliseconds(|cost| cost.longest_stall)?,
        commit_ms: milliseconds(|cost| cost.commit)?,
        commits: of_stage.clone().map(|cost| cost.commits).sum(),
    })
}

fn said(language: Language, code: &str) -> String {
    messages::text::<&str, &str>(language, code, &[])
}

fn steps(flow: &Flow, plan: &Plan, input: &InputPlan) -> Vec<ExplainedStep> {
    let clocks = flow
        .shared
        .as_ref()
        .map(|shared| shared.clocks.lock().clone());
    let memory = |name: &str| -> Option<usize> {
        let clocks = clocks.as_ref()?;
        let held = clocks.values().flat_map(|clock| clock.memory.iter());
        Some(
            held.filter(|(held, _)| **held == *name)
                .map(|(_, bytes)| bytes)
                .sum(),
        )
    };
    let all = plan.spec.all_steps();
    let steps = input.steps.iter();
    steps
        .map(|step| {
            let state = step.state.as_ref().map(|(name, _)| name.to_string());
            let mut joins = plan.spec.joins();
            let join = joins.find(|(index, ..)| *index == step.index);
            ExplainedStep {
                as_of: join.as_ref().is_some_and(|(.., join)| join.as_of),
                table: join.and_then(|(.., join)| join.table.clone()),
                step: step.index,
                kind: all[step.index].spec.kind(),
                part: step.part_name(),
                case: all[step.index]
                    .case
                    .and_then(|(route, case)| match all[route].spec {
                        StepSpec::Route(route) => Some(route.case_name(case)),
                        _ => None,
                    }),
                state_memory_bytes: state.as_deref().and_then(memory),
                state,
            }
        })
        .collect()
}
