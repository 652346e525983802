//! `aggregate`: gathers the events of a key into one result.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, TimestampMicrosecondArray,
    UInt32Array,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, SchemaRef, TimeUnit};
use busbar_catalog::AggregateSpec;
use busbar_event::{Class, Error};
use busbar_sql::{Aggregation, AggregationPart, AggregationText, Failed, GroupResults, Projection};

use super::keyed::{
    KeyedOperator, KeyedState, KeyedStep, Keys, RowBytes, StateBytes, Stored, flat, write_bytes,
};
use super::rows::misfit;
use super::window::{stops, tell_failed};
use super::{Operator, Output, Rows, Stateful, Step, StepContext, Wrong, misses_times};
use crate::limits::{
    AGGREGATE_GROUP_BYTES_MAX, AGGREGATE_MEMBERS_MAX, AGGREGATE_WHEN_MEMBERS_MAX, PIECE_ROWS_MAX,
};
use crate::reader::ENVELOPE;

/// Compiles keys, conditions and the columns of the result.
pub(super) fn compile(
    spec: &AggregateSpec,
    context: &StepContext<'_>,
) -> Result<Arc<dyn Step>, Wrong> {
    let schema = context.schema;
    let refuse = |code| Wrong::new(Error::new(Class::Configuration, code));
    if spec.within.as_micros() <= 0 {
        return Err(refuse("flow.span-positive").at("within"));
    }
    let most = match spec.when {
        Some(_) => AGGREGATE_WHEN_MEMBERS_MAX,
        None => AGGREGATE_MEMBERS_MAX,
    };
    let members = spec.members.unwrap_or(most);
    if members == 0 || members > most {
        let error = Error::new(Class::Configuration, "flow.aggregate-members").with("most", most);
        return Err(Wrong::new(error).at("members"));
    }
    let count = match &spec.count {
        Some(count) => Some(count_of(schema, &count.0, members)?),
        None => None,
    };
    let select = match &spec.select {
        Some(select) => select.clone(),
        None => members_as_list(schema, &spec.by),
    };
    let select = Aggregation::compile(
        schema,
        &AggregationText {
            select: &select,
            by: &spec.by,
            having: None,
            group_columns: &group_columns(),
        },
    )
    .map_err(|(part, wrong)| placed("select", part, wrong.into()))?;
    let when = match &spec.when {
        Some(when) => Some(condition(schema, when, &spec.by)?),
        None => None,
    };
    let keyed = KeyedStep::compile(schema, &spec.by, spec.name.as_ref())?;
    let mut kept = select.columns();
    kept.extend(when.iter().flat_map(Aggregation::columns));
    kept.sort_unstable();
    kept.dedup();
    if kept.is_empty() && !schema.fields().is_empty() {
        kept.push(0);
    }
    let member = Arc::new(schema.project(&kept).map_err(|e| Wrong::new(misfit(e)))?);
    let meaning = AggregateSpec {
        name: None,
        ..spec.clone()
    };
    Ok(Arc::new(AggregateStep {
        meaning: format!(
            "{} {:?}",
            serde_json::to_string(&meaning).unwrap_or_default(),
            member.fields()
        ),
        keyed,
        count,
        when,
        select,
        within: spec.within.as_micros(),
        reopen: spec.reopen,
        members: members as usize,
        kept,
        member,
    }))
}

/// The columns that every group has besides its keys.
fn group_columns() -> [Field; 4] {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    [
        Field::new("complete", DataType::Boolean, false),
        Field::new("member_count", DataType::Int64, false),
        Field::new("first_time", time.clone(), false),
        Field::new("last_time", time, false),
    ]
}

/// What a result has where the file does not say: the keys, the members as a list, whether they are all.
fn members_as_list(schema: &SchemaRef, by: &[String]) -> String {
    let own = schema.fields().iter().map(|field| field.name().as_str());
    let own = own.filter(|name| {
        let in_envelope = ENVELOPE.contains(name) && *name != "time";
        !in_envelope && !by.iter().any(|key| key.trim().eq_ignore_ascii_case(name))
    });
    let pairs: Vec<String> = own
        .map(|name| {
            let text = name.replace('\'', "''");
            format!("'{text}', \"{}\"", name.replace('"', "\"\""))
        })
        .collect();
    let list = match pairs.is_empty() {
        true => "member_count".to_owned(),
        false => format!("array_agg(named_struct({})) as members", pairs.join(", ")),
    };
    let keys: Vec<&str> = by.iter().map(String::as_str).collect();
    [&keys[..], &[list.as_str(), "complete"]]
        .concat()
        .join(", ")
}

/// The expression for how many members make a group complete.
fn count_of(schema: &SchemaRef, text: &str, members: u32) -> Result<Projection, Wrong> {
    let wrong = |code| {
        let error = Error::new(Class::Configuration, code).with("most", members);
        Wrong::new(error).at("count")
    };
    let count = Projection::compile(schema, text).map_err(|w| Wrong::from(w).at("count"))?;
    let one = count.schema();
    let is_whole = |field: &Field| flat(field.data_type()).is_integer();
    if one.fields().len() != 1 || !is_whole(one.field(0)) {
        return Err(wrong("flow.aggregate-count"));
    }
    match text.trim().parse::<i64>() {
        Ok(number) if number < 1 || number > i64::from(members) => {
            Err(wrong("flow.aggregate-count-range"))
        }
        _ => Ok(count),
    }
}

/// The condition over a group.
fn condition(schema: &SchemaRef, text: &str, by: &[String]) -> Result<Aggregation, Wrong> {
    let compiled = Aggregation::compile(
        schema,
        &AggregationText {
            select: text,
            by,
            having: None,
            group_columns: &[],
        },
    )
    .map_err(|(part, wrong)| placed("when", part, wrong.into()))?;
    let is_condition = {
        let schema = compiled.schema();
        schema.fields().len() == 1 && *schema.field(0).data_type() == DataType::Boolean
    };
    match is_condition {
        // The groups of a look at many keys are told apart by their number.
        true => Ok(compiled.by_fragment()),
        false => {
            let error = Error::new(Class::Configuration, "flow.aggregate-when");
            Err(Wrong::new(error).at("when"))
        }
    }
}

fn placed(text: &'static str, part: AggregationPart, wrong: Wrong) -> Wrong {
    match part {
        AggregationPart::By(i) => wrong.at(i).at("by"),
        AggregationPart::Select | AggregationPart::Having => wrong.at(text),
    }
}

struct AggregateStep {
    keyed: KeyedStep,
    count: Option<Projection>,
    when: Option<Aggregation>,
    select: Aggregation,
    /// In microseconds.
    within: i64,
    reopen: bool,
    /// The most members of a group.
    members: usize,
    /// Places of the columns that are kept of each member.
    kept: Vec<usize>,
    /// These columns.
    member: SchemaRef,
    meaning: String,
}

impl Step for AggregateStep {
    fn schema(&self) -> Option<SchemaRef> {
        Some(self.select.schema())
    }

    fn columns(&self) -> Vec<usize> {
        let mut columns = self.keyed.columns();
        columns.extend(&self.kept);
        columns.extend(self.count.iter().flat_map(Projection::columns));
        columns.sort_unstable();
        columns.dedup();
        columns
    }

    fn row_by_row(&self) -> bool {
        false
    }

    fn stateful(&self) -> Option<Stateful> {
        Some(self.keyed.stateful(self.meaning.clone()))
    }

    fn operator(&self, schema: &SchemaRef) -> Result<Box<dyn Operator>, Error> {
        let place = |field: &Arc<Field>| schema.index_of(field.name()).map_err(misfit);
        let kept: Vec<usize> = self
            .member
            .fields()
            .iter()
            .map(place)
            .collect::<Result<_, _>>()?;
        let member = Arc::new(schema.project(&kept).map_err(misfit)?);
        let when = self.when.as_ref();
        let gathering = Gathering {
            count: self.count.as_ref().map(|c| c.bind(schema)).transpose()?,
            when: when.map(|when| when.bind(&member)).transpose()?,
            select: self.select.clone().by_fragment().bind(&member)?,
            within: self.within,
            by_time: self.count.is_none() && self.when.is_none(),
            reopen: self.reopen,
            members: self.members,
            rows: RowBytes::new(&member)?,
            kept,
            member,
        };
        self.keyed.operator(schema, gathering)
    }
}

struct Gathering {
    count: Option<Projection>,
    when: Option<Aggregation>,
    select: Aggregation,
    within: i64,
    /// A group is complete when its time is over.
    by_time: bool,
    reopen: bool,
    members: usize,
    rows: RowBytes,
    kept: Vec<usize>,
    member: SchemaRef,
}

/// What is remembered of a key.
enum MemberGroup {
    Open(OpenGroup),
    /// A group was closed; the key is forgotten at this watermark.
    Closed(i64),
}

/// The members of a group so far.
struct OpenGroup {
    /// The watermark at which its time is over.
    deadline: i64,
    /// The event times of the first and the last member.
    first: i64,
    last: i64,
    /// How many members make it complete; 0 where no member has said so.
    wanted: i64,
    members: Vec<Box<[u8]>>,
    /// Bytes of the members.
    bytes: usize,
}

/// A group that is closed, on its way to a result.
struct ClosedGroup {
    members: Vec<Box<[u8]>>,
    first: i64,
    last: i64,
    complete: bool,
    /// The event time of the result.
    time: i64,
}

impl Stored for MemberGroup {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            MemberGroup::Closed(forget) => {
                out.push(0);
                out.extend_from_slice(&forget.to_le_bytes());
            }
            MemberGroup::Open(open) => {
                out.push(1);
                for number in [open.deadline, open.first, open.last, open.wanted] {
                    out.extend_from_slice(&number.to_le_bytes());
                }
                for member in &open.members {
                    write_bytes(out, member);
                }
            }
        }
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = StateBytes(bytes);
        match reader.u8()? {
            0 => Some(MemberGroup::Closed(reader.i64()?)),
            1 => {
                let mut open = OpenGroup {
                    deadline: reader.i64()?,
                    first: reader.i64()?,
                    last: reader.i64()?,
                    wanted: reader.i64()?,
                    members: Vec::new(),
                    bytes: 0,
                };
                while !reader.0.is_empty() {
                    let member: Box<[u8]> = reader.bytes()?.into();
                    open.bytes += member.len();
                    open.members.push(member);
                }
                Some(MemberGroup::Open(open))
            }
            _ => None,
        }
    }

    fn heap_bytes(&self) -> usize {
        match self {
            MemberGroup::Open(open) => open.bytes + open.members.len() * size_of::<Box<[u8]>>(),
            MemberGroup::Closed(_) => 0,
        }
    }

    fn due(&self) -> Option<i64> {
        Some(match self {
            MemberGroup::Open(open) => open.deadline,
            MemberGroup::Closed(forget) => *forget,
        })
    }

    fn rows_held(&self) -> u64 {
        match self {
            MemberGroup::Open(open) => open.members.len() as u64,
            MemberGroup::Closed(_) => 0,
        }
    }
}

impl OpenGroup {
    fn close(self, complete: bool, time: i64) -> ClosedGroup {
        ClosedGroup {
            members: self.members,
            first: self.first,
            last: self.last,
            complete,
            time,
        }
    }
}

/// A row on its way into its group.
struct GroupMember<'a> {
    bytes: &'a [u8],
    time: i64,
    /// The watermark that it found.
    mark: i64,
    /// How many members it says are wanted.
    wanted: Option<i64>,
}

/// What became of a row.
enum Gathered {
    Taken,
    Late,
    Dead(Error),
}

impl Gathering {
    /// The columns that are kept of each row.
    fn members_of(&self, batch: &RecordBatch) -> Result<RecordBatch, Error> {
        let columns = batch.project(&self.kept).map_err(misfit)?;
        RecordBatch::try_new(Arc::clone(&self.member), columns.columns().to_vec()).map_err(misfit)
    }

    /// Closes a group; what is remembered of its key from now on.
    fn after(&self, deadline: i64, watermark: i64) -> Option<MemberGroup> {
        let forget = deadline.saturating_add(self.within);
        (!self.reopen && forget > watermark).then_some(MemberGroup::Closed(forget))
    }

    /// Takes a row into its group.
    fn take_in(
        &self,
        known: &mut Option<MemberGroup>,
        member: &GroupMember<'_>,
        closed: &mut Vec<ClosedGroup>,
    ) -> Gathered {
        // What the time had ended before this row came.
        if let Some(MemberGroup::Open(open)) = known
            && open.deadline <= member.mark
        {
            let deadline = open.deadline;
            if let Some(MemberGroup::Open(open)) = known.take() {
                closed.push(open.close(self.by_time, deadline));
            }
            *known = self.after(deadline, member.mark);
        }
        match known {
            Some(MemberGroup::Closed(forget)) if *forget > member.mark => return Gathered::Late,
            Some(MemberGroup::Closed(_)) => *known = None,
            _ => {}
        }
        if known.is_none() && member.time.saturating_add(self.within) <= member.mark {
            return Gathered::Late;
        }
        let opened = || OpenGroup {
            deadline: member.time.saturating_add(self.within),
            first: member.time,
            last: member.time,
            wanted: 0,
            members: Vec::new(),
            bytes: 0,
        };
        let mut open = match known.take() {
            Some(MemberGroup::Open(open)) => open,
            _ => opened(),
        };
        let full = open.members.len() >= self.members;
        if full || open.bytes + member.bytes.len() > AGGREGATE_GROUP_BYTES_MAX {
            let error = match full {
                true => {
                    Error::new(Class::Permanent, "flow.aggregate-full").with("most", self.members)
                }
                false => Error::new(Class::Permanent, "flow.aggregate-large")
                    .with("most", AGGREGATE_GROUP_BYTES_MAX >> 20),
            };
            if !open.members.is_empty() {
                *known = Some(MemberGroup::Open(open));
            }
            return Gathered::Dead(error);
        }
        open.members.push(member.bytes.into());
        let is_whole = match &self.when {
            Some(when) => self.holds(when, &open.members),
            None => Ok(false),
        };
        let by_condition = match is_whole {
            Ok(whole) => whole,
            Err(error) => {
                open.members.pop();
                if !open.members.is_empty() {
                    *known = Some(MemberGroup::Open(open));
                }
                return Gathered::Dead(error);
            }
        };
        open.bytes += member.bytes.len();
        open.first = open.first.min(member.time);
        open.last = open.last.max(member.time);
        if let Some(wanted) = member.wanted.filter(|wanted| *wanted > 0) {
            open.wanted = wanted;
        }
        let by_count = open.wanted > 0 && open.members.len() as i64 >= open.wanted;
        if by_count || by_condition {
            let deadline = open.deadline;
            // Never before the watermark, which what comes behind has seen.
            closed.push(open.close(true, member.time.max(member.mark)));
            *known = self.after(deadline, member.mark);
        } else {
            *known = Some(MemberGroup::Open(open));
        }
        Gathered::Taken
    }

    /// Whether the condition is true for a group of these members.
    fn holds(&self, when: &Aggregation, members: &[Box<[u8]>]) -> Result<bool, Error> {
        let batch = self.decoded(members)?;
        let inputs = when.inputs(&batch)?;
        let mut groups = when.groups()?;
        groups.update(&inputs.with_fragments(Int64Array::from(vec![0; members.len()])))?;
        let result = groups.finish(&[])?;
        let failed = result
            .failed
            .and_then(|failed| failed.groups.into_iter().next());
        if let Some(failed) = failed {
            return Err(failed.cause);
        }
        let holds = result.rows.column(0).as_boolean_opt().cloned();
        Ok(holds.is_some_and(|holds| holds.len() == 1 && holds.is_valid(0) && holds.value(0)))
    }

    fn decoded(&self, members: &[Box<[u8]>]) -> Result<RecordBatch, Error> {
        let columns = self.rows.decode(members)?;
        RecordBatch::try_new(Arc::clone(&self.member), columns).map_err(misfit)
    }

    /// Writes the results of closed groups.
    fn tell(&self, closed: Vec<ClosedGroup>, out: &mut Output) -> Result<(), Error> {
        let mut piece: Vec<ClosedGroup> = Vec::new();
        let mut members = 0;
        for group in closed {
            if members > 0 && members + group.members.len() > PIECE_ROWS_MAX {
                self.tell_piece(std::mem::take(&mut piece), out)?;
                members = 0;
            }
            members += group.members.len();
            piece.push(group);
        }
        match piece.is_empty() {
            true => Ok(()),
            false => self.tell_piece(piece, out),
        }
    }

    fn tell_piece(&self, closed: Vec<ClosedGroup>, out: &mut Output) -> Result<(), Error> {
        let (mut members, mut numbers) = (Vec::new(), Vec::new());
        let (mut complete, mut counts) = (Vec::new(), Vec::new());
        let (mut firsts, mut lasts, mut times) = (Vec::new(), Vec::new(), Vec::new());
        for (number, group) in closed.into_iter().enumerate() {
            numbers.extend(std::iter::repeat_n(number as i64, group.members.len()));
            counts.push(group.members.len() as i64);
            members.extend(group.members);
            complete.push(group.complete);
            firsts.push(group.first);
            lasts.push(group.last);
            times.push(group.time);
        }
        let time = |times: Vec<i64>| -> ArrayRef {
            Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC"))
        };
        let group_columns: [ArrayRef; 4] = [
            Arc::new(BooleanArray::from(complete)),
            Arc::new(Int64Array::from(counts)),
            time(firsts),
            time(lasts),
        ];
        let result = || -> Result<GroupResults, Error> {
            let inputs = self.select.inputs(&self.decoded(&members)?)?;
            let mut groups = self.select.groups()?;
            groups.update(&inputs.with_fragments(Int64Array::from(numbers)))?;
            groups.finish(&group_columns)
        };
        let results = result().map_err(stops)?;
        let groups = results.groups.iter();
        let of_results = groups.map(|group| times[*group as usize]).collect();
        out.push(Rows::results(results.rows, of_results));
        if let Some(failed) = results.failed {
            tell_failed(failed, |group| times[group], out);
        }
        Ok(())
    }
}

impl KeyedOperator for Gathering {
    type Kept = MemberGroup;

    fn take(
        &mut self,
        keys: &Keys,
        rows: Rows,
        kept: &mut KeyedState<MemberGroup>,
        out: &mut Output,
    ) -> Result<(), Error> {
        let times = rows.times.as_ref().ok_or_else(misses_times)?;
        let wanted = match &self.count {
            Some(count) => {
                let counts = Arc::clone(count.evaluate(&rows.batch)?.column(0));
                Some(cast(&counts, &DataType::Int64).map_err(misfit)?)
            }
            None => None,
        };
        let wanted = wanted
            .as_ref()
            .map(|counts| counts.as_primitive::<Int64Type>());
        let members = self.members_of(&rows.batch)?;
        // What cannot be computed of a member is found while nothing has changed yet.
        self.select.inputs(&members)?;
        if let Some(when) = &self.when {
            when.inputs(&members)?;
        }
        let encoded = self.rows.encode(&members)?;
        let mut closed = Vec::new();
        let mut late: Vec<u32> = Vec::new();
        let mut dead = 0;
        for row in 0..rows.len() {
            let member = GroupMember {
                bytes: encoded.row(row).data(),
                time: times.times[row],
                mark: times.marks[row],
                wanted: wanted
                    .filter(|wanted| wanted.is_valid(row))
                    .map(|wanted| wanted.value(row)),
            };
            let gathered = kept.visit(keys.at(row), |slot| {
                if let Some(MemberGroup::Closed(forget)) = slot.get()
                    && *forget > member.mark
                {
                    return Gathered::Late;
                }
                self.take_in(slot.change(), &member, &mut closed)
            })?;
            match gathered {
                Gathered::Taken => {}
                Gathered::Late => late.push(row as u32),
                Gathered::Dead(error) => {
                    dead += 1;
                    out.fail(&rows, row, error);
                }
            }
        }
        out.taken += rows.len() - late.len() - dead;
        if !late.is_empty() {
            out.late.push(rows.take(&UInt32Array::from(late))?);
        }
        self.tell(closed, out)
    }

    fn failing(&self, rows: &Rows) -> Vec<Failed> {
        let mut failed = Vec::new();
        if let Some(count) = &self.count {
            failed.extend(count.failing(&rows.batch));
        }
        if let Ok(members) = self.members_of(&rows.batch) {
            failed.extend(self.select.failing(&members));
            failed.extend(self.when.iter().flat_map(|when| when.failing(&members)));
        }
        failed.sort_by_key(|failed| failed.row);
        failed.dedup_by_key(|failed| failed.row);
        failed
    }

    fn on_time(
        &mut self,
        watermark: i64,
        kept: &mut KeyedState<MemberGroup>,
        out: &mut Output,
    ) -> Result<(), Error> {
        let mut closed = Vec::new();
        for key in kept.due(watermark)? {
            let is_over = kept.visit(&key, |slot| {
                let known = slot.change();
                match known.take() {
                    Some(MemberGroup::Open(open)) => {
                        let deadline = open.deadline;
                        closed.push(open.close(self.by_time, deadline));
                        *known = self.after(deadline, watermark);
                    }
                    // Only what is over is due.
                    Some(MemberGroup::Closed(_)) | None => {}
                }
                known.is_none()
            })?;
            if is_over {
                kept.remove(&key);
            }
        }
        self.tell(closed, out)
    }

    fn tells_when_due(&self) -> bool {
        true
    }

    fn ends_with_input(&self) -> bool {
        true
    }
}
