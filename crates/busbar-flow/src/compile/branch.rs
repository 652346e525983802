//! The way of rows through the steps of one stage, as far as it is compiled.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use busbar_bus::EventTimes;

use super::{EndPlan, InputPlan, Shape, SourcePlan, StepPlan, StreamInfo};
use crate::chain::{Itself, StepPart};
use crate::exchange::ExchangePlan;
use crate::operator::Step;
use crate::reader::Input;

/// Steps on the way from one stream, as far as they are compiled.
pub(super) struct Branch {
    pub stream: String,
    pub stage: usize,
    pub node: Option<usize>,
    pub from: BranchFrom,
    /// Places of the columns that must be read.
    pub needed: BTreeSet<usize>,
    pub steps: Vec<StepPlan>,
    pub columns: BranchColumns,
    /// The ways that the next step takes rows from, and the number of all ways.
    pub current: Vec<usize>,
    pub ways: usize,
    pub itself: Option<Itself>,
    /// Where rows leave; none as long as they go on.
    pub ends: Vec<BranchEnd>,
    /// Rows of ways with state have been put together.
    pub mixed: bool,
    pub timed: bool,
    /// A step must not work on the same rows for each cursor anew.
    pub once: bool,
    /// Outputs to streams of results.
    pub results_to: Vec<usize>,
    pub lateness: i64,
    /// Events before a range of time count for rows within it.
    pub versions: bool,
    /// The delays of the steps of the stages before, and of its own.
    pub delays: (i64, i64),
    pub times: Option<EventTimes>,
    pub partitions: u16,
}

/// What rows look like at a place.
#[derive(Clone)]
pub(super) struct BranchColumns {
    /// The columns that the next step sees.
    pub schema: SchemaRef,
    /// A step made columns of its own.
    pub projected: bool,
    /// Rows stand for no single event.
    pub derived: bool,
}

/// Rows that leave with the same columns.
#[derive(Clone)]
pub(super) struct BranchEnd {
    pub name: String,
    /// Each way with the outputs of its rows, a bit for each.
    pub ways: Vec<(usize, u32)>,
    pub plain: Vec<usize>,
    pub columns: BranchColumns,
}

#[derive(Clone)]
pub(super) enum BranchFrom {
    Stream(Input),
    Rows(SchemaRef),
    Events(Input),
}

/// Which rows meet in one task.
pub(super) enum Located {
    /// All.
    One,
    /// Those with equal values of these columns.
    By(Vec<String>),
    /// Nobody knows which.
    Anyhow,
}

impl BranchEnd {
    /// The outputs that any of its rows go to.
    pub fn outputs(&self) -> u32 {
        self.ways.iter().fold(0, |all, (_, outputs)| all | outputs)
    }

    /// Whether all rows go to the same outputs.
    pub fn is_even(&self) -> bool {
        self.ways.len() == 1 && self.plain.is_empty()
    }
}

impl BranchColumns {
    /// Whether rows of both are written alike.
    pub fn same(&self, other: &BranchColumns) -> bool {
        let alike = || {
            let fields = self.schema.fields().iter().zip(other.schema.fields());
            self.schema.fields().len() == other.schema.fields().len()
                && fields
                    .into_iter()
                    .all(|(a, b)| a.name() == b.name() && a.data_type() == b.data_type())
        };
        self.projected == other.projected
            && self.derived == other.derived
            && (!self.projected || alike())
    }
}

impl Branch {
    pub fn of_stream(node: usize, stream: &str, input: &Input, info: &StreamInfo) -> Branch {
        Branch {
            stream: stream.to_owned(),
            stage: 0,
            node: Some(node),
            from: BranchFrom::Stream(input.clone()),
            needed: BTreeSet::new(),
            steps: Vec::new(),
            columns: BranchColumns {
                schema: input.relation(),
                projected: false,
                derived: false,
            },
            current: vec![0],
            ways: 1,
            itself: None,
            ends: Vec::new(),
            mixed: false,
            timed: false,
            once: false,
            results_to: Vec::new(),
            lateness: info.lateness_micros,
            versions: false,
            delays: (0, 0),
            times: info.times.clone(),
            partitions: info.partitions,
        }
    }

    /// The branch that reads what this one has written to a stream of the flow's own.
    pub fn behind(&self, stream: String, columns: BranchColumns) -> Branch {
        let from = match (&self.from, columns.projected) {
            (BranchFrom::Stream(input) | BranchFrom::Events(input), false) => {
                BranchFrom::Events(input.clone())
            }
            _ => BranchFrom::Rows(self.read_of(&columns)),
        };
        Branch {
            stream,
            stage: self.stage + 1,
            node: None,
            from,
            needed: BTreeSet::new(),
            steps: Vec::new(),
            columns,
            current: vec![0],
            ways: 1,
            itself: None,
            ends: Vec::new(),
            mixed: self.mixed,
            timed: true,
            once: false,
            results_to: Vec::new(),
            lateness: 0,
            versions: false,
            delays: (self.delays.0 + self.delays.1, 0),
            times: None,
            partitions: self.partitions,
        }
    }

    pub fn push(&mut self, index: usize, step: Arc<dyn Step>, part: StepPart) {
        let own = self.columns.projected;
        if !own {
            self.needed.extend(step.columns());
            if step.payloads() {
                // Its place is behind those of the columns.
                self.needed.insert(self.columns.schema.fields().len());
            }
        }
        self.columns.derived |= !step.row_by_row();
        self.once |= step.computes_once();
        self.delays.1 += step.delay();
        let sees = Arc::clone(&self.columns.schema);
        if let Some(columns) = step.schema() {
            (self.columns.projected, self.columns.schema) = (true, columns);
        }
        let gather = self.current.split_off(1);
        self.steps.push(StepPlan {
            step,
            sees,
            own,
            way: self.current[0],
            gather,
            opens: Vec::new(),
            index,
            part,
            state: None,
        });
    }

    /// Adds what the events of the stream go through as the other side of a join with itself; what comes out joins the
    /// rows that there are.
    pub fn push_itself(&mut self, index: usize, step: Arc<dyn Step>, sees: SchemaRef) {
        let way = self.new_way();
        self.needed.extend(step.columns());
        self.steps.push(StepPlan {
            step,
            sees,
            own: false,
            way,
            gather: Vec::new(),
            opens: Vec::new(),
            index,
            part: StepPart::BeforeOther,
            state: None,
        });
        self.current.push(way);
        self.itself = Some(Itself { way, step: index });
    }

    /// Whether a step of its stage keeps state.
    pub fn keeps_state(&self) -> bool {
        self.steps.iter().any(|step| step.state.is_some())
    }

    /// A way that no rows take yet.
    pub fn new_way(&mut self) -> usize {
        self.ways += 1;
        self.ways - 1
    }

    /// Lets the rows of the present ways, as they are now, leave to these outputs.
    pub fn end(&mut self, name: &str, outputs: u32, plain: bool) {
        let ways: Vec<(usize, u32)> = self.current.drain(..).map(|way| (way, outputs)).collect();
        let plain = match plain {
            true => ways.iter().map(|(way, _)| *way).collect(),
            false => Vec::new(),
        };
        let columns = &self.columns;
        if let Some(end) = self.ends.iter_mut().find(|end| end.columns.same(columns)) {
            end.ways.extend(ways);
            end.plain.extend(plain);
            return;
        }
        self.ends.push(BranchEnd {
            name: name.to_owned(),
            ways,
            plain,
            columns: columns.clone(),
        });
    }

    /// Whether the rows still are events, so that their own payloads can be read.
    pub fn has_payloads(&self) -> bool {
        !self.columns.projected && !matches!(self.from, BranchFrom::Rows(_))
    }

    /// The columns of the results now: all that steps have made, or those that are read.
    pub fn results(&self) -> SchemaRef {
        self.read_of(&self.columns)
    }

    /// All columns that steps have made, or those that are read.
    pub fn read_of(&self, columns: &BranchColumns) -> SchemaRef {
        match columns.projected {
            true => Arc::clone(&columns.schema),
            false => {
                let columns_end = columns.schema.fields().len();
                let needed = self.needed.iter().copied();
                let places: Vec<usize> = needed.filter(|place| *place < columns_end).collect();
                // They are places of this schema.
                let read = columns.schema.project(&places).map(Arc::new);
                read.unwrap_or_else(|_| Arc::clone(&columns.schema))
            }
        }
    }

    /// The plan of the stage. `shapes` are those of each end.
    pub fn plan(
        mut self,
        exchange: Option<(usize, ExchangePlan)>,
        mut shapes: Vec<Vec<Option<Shape>>>,
    ) -> InputPlan {
        if self.ends.is_empty() {
            self.end("", u32::MAX, false);
        }
        shapes.resize(self.ends.len(), Vec::new());
        let several = self.ends.len() > 1;
        let ends = self.ends.iter().zip(shapes).map(|(end, shapes)| EndPlan {
            name: several.then(|| end.name.as_str().into()),
            ways: end.ways.clone(),
            plain: end.plain.clone(),
            schema: self.read_of(&end.columns),
            shapes,
            projected: end.columns.projected,
        });
        let ends = ends.collect();
        let places = self.needed.into_iter().collect();
        InputPlan {
            stream: self.stream,
            stage: self.stage,
            node: self.node,
            source: match self.from {
                BranchFrom::Stream(input) => SourcePlan::Stream { input, places },
                BranchFrom::Events(input) => SourcePlan::Events { input, places },
                BranchFrom::Rows(schema) => SourcePlan::Rows(schema),
            },
            steps: self.steps,
            ways: self.ways,
            itself: self.itself,
            ends,
            exchange,
            results_to: self.results_to,
            timed: self.timed,
            lateness: self.lateness,
            versions: self.versions,
            delay: self.delays.0,
            times: self.times,
        }
    }
}
