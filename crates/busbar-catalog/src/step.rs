//! The steps of a flow: what a flow file says of each.

use busbar_bus::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{JoinSpec, PathItem};

mod call;
mod integration;
mod map;
mod route;
mod xml;

pub use call::{CallRows, CallSpec, TestAnswer};
pub use integration::{
    AggregateSpec, DelaySpec, MemberCount, OverRate, ResequenceSpec, SplitSpec, ThrottleSpec,
};
pub use map::{MapConstant, MapField, MapFields, MapSpec};
pub use route::{
    ANY, RouteCase, RouteCondition, RouteDefault, RouteMatch, RouteSpec, RouteTests, RouteValues,
    RouteWay,
};
pub use xml::{ValidateSpec, XmlPaths, XmlSpec, XsltSpec};

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StepSpec {
    /// Keep the events for which this SQL condition is true.
    Where(String),
    /// Compute these columns, a list as after SQL's `SELECT`.
    Select(String),
    /// Run a query: `select … from input …` over each batch, or, with `group by tumble(interval '1 minute')`, `hop(…)` or
    /// `session(…)`, over windows of time.
    Sql(String),
    /// Aggregate the events of windows of time, by keys.
    Window(WindowSpec),
    /// Drop events that repeat one of the same key.
    Dedupe(DedupeSpec),
    /// Add columns of the event before, of the same key.
    Previous(PreviousSpec),
    /// Drop events that are older than one of the same key.
    Latest(LatestSpec),
    /// Tell when a condition has held for some time, or nothing has come for some time, and when that ends.
    Alarm(AlarmSpec),
    /// Pass the first rows of each window in an order.
    Top(TopSpec),
    /// Find events of one key that follow each other.
    Pattern(PatternSpec),
    /// Add columns of a table or of another stream.
    Join(JoinSpec),
    /// Make fields of columns: names, constants, types, code tables, dates, parts and joined texts.
    Map(MapSpec),
    /// Send each event on by cases: to steps and outputs of the case's own.
    Route(RouteSpec),
    /// Have the plug-in of this name work on each event: it makes none, one or many of it.
    Script(String),
    /// Ask a remote service about each event, over REST, SOAP or gRPC, and add its answer as columns.
    Call(Box<CallSpec>),
    /// Gather the events of a key into one result.
    Aggregate(AggregateSpec),
    /// Make one row of each element of a list.
    Split(SplitSpec),
    /// Bring the events of each key into the order of their numbers.
    Resequence(ResequenceSpec),
    /// Hold events back for a time, or until the time in a column.
    Delay(DelaySpec),
    /// Let at most so many events of each key through in a time.
    Throttle(ThrottleSpec),
    /// Write columns as an XML document.
    Xml(XmlSpec),
    /// Transform a document with a style sheet.
    Xslt(XsltSpec),
    /// Check a document by an XML Schema.
    Validate(ValidateSpec),
}

impl StepSpec {
    /// The key in the file.
    pub fn kind(&self) -> &'static str {
        match self {
            StepSpec::Where(_) => "where",
            StepSpec::Select(_) => "select",
            StepSpec::Sql(_) => "sql",
            StepSpec::Window(_) => "window",
            StepSpec::Dedupe(_) => "dedupe",
            StepSpec::Previous(_) => "previous",
            StepSpec::Latest(_) => "latest",
            StepSpec::Alarm(_) => "alarm",
            StepSpec::Top(_) => "top",
            StepSpec::Pattern(_) => "pattern",
            StepSpec::Join(_) => "join",
            StepSpec::Map(_) => "map",
            StepSpec::Route(_) => "route",
            StepSpec::Script(_) => "script",
            StepSpec::Call(_) => "call",
            StepSpec::Aggregate(_) => "aggregate",
            StepSpec::Split(_) => "split",
            StepSpec::Resequence(_) => "resequence",
            StepSpec::Delay(_) => "delay",
            StepSpec::Throttle(_) => "throttle",
            StepSpec::Xml(_) => "xml",
            StepSpec::Xslt(_) => "xslt",
            StepSpec::Validate(_) => "validate",
        }
    }

    /// The plug-in that it runs, if it runs one.
    pub fn plugin(&self) -> Option<&str> {
        match self {
            StepSpec::Script(plugin) => Some(plugin),
            StepSpec::Xslt(spec) => Some(&spec.plugin),
            StepSpec::Validate(spec) => Some(&spec.plugin),
            _ => None,
        }
    }

    /// The SQL in it, each text with its place below the step's kind.
    pub fn texts(&self) -> Vec<(Vec<PathItem<'static>>, &str)> {
        fn list<'a>(
            key: &'static str,
            texts: &'a [String],
        ) -> impl Iterator<Item = (Vec<PathItem<'static>>, &'a str)> {
            let each = texts.iter().enumerate();
            each.map(move |(i, text)| (vec![key.into(), i.into()], text.as_str()))
        }
        fn one<'a>(
            key: &'static str,
            text: &'a Option<String>,
        ) -> impl Iterator<Item = (Vec<PathItem<'static>>, &'a str)> {
            text.iter()
                .map(move |text| (vec![key.into()], text.as_str()))
        }
        match self {
            StepSpec::Where(text) | StepSpec::Select(text) | StepSpec::Sql(text) => {
                vec![(Vec::new(), text)]
            }
            StepSpec::Window(spec) => list("by", &spec.by)
                .chain([(vec!["select".into()], spec.select.as_str())])
                .chain(one("having", &spec.having))
                .collect(),
            StepSpec::Route(spec) => spec.texts(),
            StepSpec::Dedupe(spec) => list("by", &spec.by).collect(),
            StepSpec::Previous(spec) => list("by", &spec.by).collect(),
            StepSpec::Latest(spec) => list("by", &spec.by).collect(),
            StepSpec::Alarm(spec) => list("by", &spec.by)
                .chain(one("when", &spec.when))
                .chain(one("clear", &spec.clear))
                .collect(),
            StepSpec::Top(spec) => list("order", &spec.order)
                .chain(list("by", &spec.by))
                .collect(),
            StepSpec::Script(_) | StepSpec::Map(_) => Vec::new(),
            StepSpec::Call(spec) => one("send", &spec.send).collect(),
            StepSpec::Aggregate(spec) => list("by", &spec.by)
                .chain(
                    spec.count
                        .iter()
                        .map(|count| (vec!["count".into()], &*count.0)),
                )
                .chain(one("when", &spec.when))
                .chain(one("select", &spec.select))
                .collect(),
            StepSpec::Split(spec) => vec![(vec!["list".into()], &*spec.list)],
            StepSpec::Resequence(spec) => list("by", &spec.by)
                .chain([(vec!["order".into()], spec.order.as_str())])
                .collect(),
            StepSpec::Delay(spec) => list("by", &spec.by)
                .chain(one("until", &spec.until))
                .collect(),
            StepSpec::Throttle(spec) => list("by", &spec.by).collect(),
            // What it names are columns, not expressions.
            StepSpec::Join(_) | StepSpec::Xml(_) | StepSpec::Xslt(_) | StepSpec::Validate(_) => {
                Vec::new()
            }
            StepSpec::Pattern(spec) => {
                let events = spec.sequence.iter().enumerate().map(|(i, event)| {
                    let path = vec!["sequence".into(), i.into(), "when".into()];
                    (path, event.when.as_str())
                });
                list("by", &spec.by)
                    .chain(events)
                    .chain(one("without", &spec.without))
                    .collect()
            }
        }
    }

    /// Lets cases that lead to some outputs lead to all of them.
    pub(crate) fn lead_everywhere(&mut self) {
        if let StepSpec::Route(route) = self {
            route.lead_everywhere();
        }
    }

    /// The step in one line, for people.
    pub fn summary(&self) -> String {
        let by = |by: &[String]| match by.is_empty() {
            true => String::new(),
            false => format!(" by {}", by.join(", ")),
        };
        match self {
            StepSpec::Aggregate(spec) => {
                let whole = match (&spec.count, &spec.when) {
                    (Some(count), None) => format!("{} ", count.0),
                    (None, Some(when)) => format!("until {} ", when.trim()),
                    (Some(count), Some(when)) => format!("{} or {} ", count.0, when.trim()),
                    (None, None) => String::new(),
                };
                format!("{whole}within {}{}", spec.within, by(&spec.by))
            }
            StepSpec::Split(spec) => spec.list.trim().to_owned(),
            StepSpec::Resequence(spec) => {
                format!(
                    "{} within {}{}",
                    spec.order.trim(),
                    spec.within,
                    by(&spec.by)
                )
            }
            StepSpec::Delay(spec) => match (&spec.held_for, &spec.until) {
                (Some(span), _) => format!("for {span}"),
                (None, until) => format!("until {}", until.as_deref().unwrap_or("").trim()),
            },
            StepSpec::Throttle(spec) => {
                let over = spec.over.as_str();
                format!(
                    "{} every {}{}, {over}",
                    spec.events,
                    spec.every,
                    by(&spec.by)
                )
            }
            StepSpec::Xml(spec) => spec.root.clone(),
            StepSpec::Xslt(spec) => spec.plugin.clone(),
            StepSpec::Validate(spec) => spec.plugin.clone(),
            StepSpec::Script(plugin) => plugin.clone(),
            StepSpec::Map(spec) => spec.summary(),
            StepSpec::Call(spec) => {
                let what = [&spec.method, &spec.path, &spec.action];
                let what = what.into_iter().flatten().map(String::as_str);
                let words: Vec<&str> = [spec.connection.as_str()].into_iter().chain(what).collect();
                words.join(" ")
            }
            StepSpec::Where(text) | StepSpec::Select(text) | StepSpec::Sql(text) => {
                text.trim().to_owned()
            }
            StepSpec::Window(spec) => {
                let windows = match (&spec.tumble, &spec.hop, &spec.session) {
                    (Some(size), ..) => format!("tumble {size}"),
                    (_, Some(hop), _) => format!("hop {} every {}", hop.size, hop.every),
                    (_, _, Some(gap)) => format!("session {gap}"),
                    _ => String::new(),
                };
                format!("{windows}{}: {}", by(&spec.by), spec.select.trim())
            }
            StepSpec::Dedupe(spec) => format!("within {}{}", spec.within, by(&spec.by)),
            StepSpec::Previous(spec) => format!("{}{}", spec.columns.join(", "), by(&spec.by)),
            StepSpec::Latest(spec) => by(&spec.by).trim_start().to_owned(),
            StepSpec::Alarm(spec) => {
                let rule = match (&spec.when, &spec.silent) {
                    (Some(when), _) => when.trim().to_owned(),
                    (None, Some(silent)) => format!("silent for {silent}"),
                    (None, None) => String::new(),
                };
                format!("{rule}{}", by(&spec.by))
            }
            StepSpec::Route(spec) => {
                let names = (0..spec.cases.len()).map(|case| spec.case_name(case));
                let shown: Vec<String> = names.take(SUMMARY_CASES).collect();
                let more = match spec.cases.len() > SUMMARY_CASES {
                    true => format!(", … ({})", spec.cases.len()),
                    false => String::new(),
                };
                format!("{}{more}", shown.join(", "))
            }
            StepSpec::Top(spec) => {
                format!(
                    "{} by {} of {}{}",
                    spec.n,
                    spec.order.join(", "),
                    spec.tumble,
                    by(&spec.by)
                )
            }
            StepSpec::Join(spec) => {
                let how = match (&spec.within, spec.as_of) {
                    (Some(within), _) => format!(" within {within}"),
                    (None, true) => " as of event time".to_owned(),
                    (None, false) => String::new(),
                };
                format!("{} on {}{how}", spec.other(), spec.on.join(", "))
            }
            StepSpec::Pattern(spec) => {
                let names: Vec<&str> = spec
                    .sequence
                    .iter()
                    .map(|event| event.name.as_str())
                    .collect();
                format!(
                    "{} within {}{}",
                    names.join(", "),
                    spec.within,
                    by(&spec.by)
                )
            }
        }
    }
}

/// Names of cases in a summary.
const SUMMARY_CASES: usize = 4;

/// A step of a flow at its place: a top one, or one of a case of a `route`.
#[derive(Clone, Debug)]
pub struct StepAt<'a> {
    /// The step.
    pub spec: &'a StepSpec,
    /// The way to the value of its kind in the file.
    pub path: Vec<PathItem<'static>>,
    /// For a step of a case: the number of the route among all steps, and the case.
    pub case: Option<(usize, usize)>,
}

/// All steps below a list of steps, each before those of its cases.
pub(crate) fn collect_steps<'a>(
    steps: &'a [StepSpec],
    path: &[PathItem<'static>],
    case: Option<(usize, usize)>,
    all: &mut Vec<StepAt<'a>>,
) {
    for (i, spec) in steps.iter().enumerate() {
        let mut own = path.to_vec();
        own.extend([PathItem::Key("steps"), i.into(), spec.kind().into()]);
        let number = all.len();
        let at = StepAt {
            spec,
            path: own.clone(),
            case,
        };
        all.push(at);
        if let StepSpec::Route(route) = spec {
            for (case, way) in route.ways().enumerate() {
                let below = [&own[..], &way.path[..]].concat();
                collect_steps(way.steps, &below, Some((number, case)), all);
            }
        }
    }
}

/// Aggregates the events of windows of time, by keys. One of `tumble`, `hop` and `session` says which windows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WindowSpec {
    /// The name under which the state is kept. Give one, and the state stays when other steps are added or moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Windows of this length, one behind the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tumble: Option<Span>,
    /// Windows that overlap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hop: Option<HopSpec>,
    /// Windows that last as long as the events of a key follow each other within this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Span>,
    /// How far windows begin behind whole multiples of their length since 1970-01-01T00:00Z. With `tumble: 1d` and
    /// `offset: 16h`, days begin at midnight in China.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<Span>,
    /// Expressions whose equal values make a group; none: all events of a window are one group.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by: Vec<String>,
    /// The columns of the results, as after SQL's `SELECT`: keys, aggregates, `window_start` and `window_end`.
    pub select: String,
    /// Keep the results for which this condition is true; it may use aggregates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub having: Option<String>,
    /// Also give results of windows that are still open, this often by event time. They have `early` true where
    /// `select` names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emit: Option<Span>,
}

/// Windows that overlap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HopSpec {
    /// The length of a window.
    pub size: Span,
    /// The time from the beginning of one window to the beginning of the next.
    pub every: Span,
}

/// Passes the first event of each key and drops those of the same key that are less than `within` away from it. An event with
/// a null in its key repeats nothing, and passes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DedupeSpec {
    /// The name under which the state is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Expressions whose equal values make events the same.
    pub by: Vec<String>,
    /// For how long, by event time.
    pub within: Span,
}

/// Adds columns of the event before, of the same key: for rates of change, counter resets and differences. The column
/// `kwh` of the event before is `previous_kwh`; without an event before it is null.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PreviousSpec {
    /// The name under which the state is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Expressions whose equal values make a key.
    pub by: Vec<String>,
    /// Columns to remember.
    pub columns: Vec<String>,
    /// Forget the event before when it is older than this by event time; without it, never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<Span>,
}

/// Passes an event only if no later one of its key has been seen. An event with a null in its key passes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LatestSpec {
    /// The name under which the state is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Expressions whose equal values make a key.
    pub by: Vec<String>,
}

/// Tells when something begins and when it ends, for each key: a condition that holds for some time, or silence. Results
/// are the columns of the last event, `alarm` (true when it begins, false when it ends) and `since`, the
/// time of the change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AlarmSpec {
    /// The name under which the state is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Expressions whose equal values make a key.
    pub by: Vec<String>,
    /// The condition. Null counts as false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// How long the condition must hold before the alarm begins, by event time.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub holds: Option<Span>,
    /// The condition that ends the alarm; without it, that `when` is not true. `when: temp > 90` with `clear: temp < 80`
    /// does not chatter around 90.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clear: Option<String>,
    /// In place of `when`: the alarm begins when no event of the key has come for so long, and ends with the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent: Option<Span>,
}

/// Passes the first `n` rows of each key and window in an order, when the window closes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TopSpec {
    /// The name under which the state is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How many rows.
    #[schemars(range(min = 1))]
    pub n: u32,
    /// Also pass the rows that are equal in the order to the last of them; equal rows have the same `rank`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ties: bool,
    /// Expressions to order by, each with `desc` behind it for the greatest first, such as `price desc`.
    pub order: Vec<String>,
    /// Expressions whose equal values make a group; none: all rows of a window are one group.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by: Vec<String>,
    /// The length of the windows. Behind a `window` step of the same length, its results of one window.
    pub tumble: Span,
}

/// Finds events of one key that follow each other, each with a condition of its own. A result has the columns of the
/// last of them and the time of each, such as `opened_time`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PatternSpec {
    /// The name under which the state is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Expressions whose equal values make a key.
    pub by: Vec<String>,
    /// The events, in order. Others may come in between.
    pub sequence: Vec<PatternEvent>,
    /// A condition for events that must not come in between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub without: Option<String>,
    /// The time from the first event to the last at most, by event time.
    pub within: Span,
}

/// One event of a pattern.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PatternEvent {
    /// What it is called in the result's columns.
    pub name: String,
    /// Its condition. Null counts as false.
    pub when: String,
}
