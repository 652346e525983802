//! Events on their way to the topics that their tags name.

use arrow::array::{
    Array, MapArray, MapBuilder, StringArray, StringBuilder, UInt8Array, UInt32Array,
};
use arrow::datatypes::DataType;
use busbar_event::limits::HOPS_MAX;
use busbar_event::tags::{HOPS, RELAY_TO};
use busbar_event::{Batch, Class, Envelope, Error, dictionary, topic};

use super::{Outgoing, Prepared, Shaped, event_of, misfit, taken_body};
use crate::chain::{Computed, Dead, Place};
use crate::compile::OutputPlan;
use crate::operator::Made;
use crate::reader::text;

/// Prepares rows for the topics that their tags name: each as often as it has such tags, without them, and with one hop
/// more. A row that names something that is no topic, or that was relayed too often, is dead as a whole.
pub(super) fn relay(
    computed: &Computed,
    shaped: &Shaped,
    plan: &OutputPlan,
) -> Result<Prepared, Error> {
    let rows = computed.rows.num_rows();
    let origin = computed.letters_origin();
    let mut dead = Vec::new();
    let (mut places, mut topics, mut hops) = (Vec::new(), Vec::new(), Vec::new());
    if let Some(tags) = &shaped.tags {
        let (names, values) = (text(tags.keys())?, text(tags.values())?);
        for row in 0..rows {
            let entries = entries(tags, row);
            let before = entries
                .clone()
                .find(|at| names.value(*at) == HOPS)
                .and_then(|at| values.value(at).parse::<u32>().ok())
                .unwrap_or(0);
            let named: Vec<&str> = entries
                .filter_map(|at| names.value(at).strip_prefix(RELAY_TO))
                .collect();
            let wrong = match before >= HOPS_MAX && !named.is_empty() {
                true => {
                    Some(Error::new(Class::Permanent, "flow.relay-circle").with("hops", before))
                }
                false => named.iter().find_map(|name| topic::check(name).err()),
            };
            if let Some(cause) = wrong {
                dead.push(Dead {
                    event: event_of(&origin, row),
                    place: Place::Output(plan.of),
                    cause,
                });
                continue;
            }
            for name in named {
                places.push(row as u32);
                topics.push(name.to_owned());
                hops.push(before + 1);
            }
        }
    }
    let places = UInt32Array::from(places);
    let events = match &shaped.tags {
        Some(tags) if !places.is_empty() => relayed(shaped, tags, &places, &topics, &hops)?,
        _ => busbar_event::BatchBuilder::new().finish(),
    };
    let made = match &origin {
        Made::Many => Made::Many,
        origin => {
            let events = places.values().iter();
            Made::From(
                events
                    .map(|row| event_of(origin, *row as usize) as u32)
                    .collect(),
            )
        }
    };
    Ok(Prepared {
        outgoing: Outgoing::Events(events),
        made,
        rows,
        dead,
    })
}

fn entries(tags: &MapArray, row: usize) -> std::ops::Range<usize> {
    match tags.is_null(row) {
        true => 0..0,
        false => tags.value_offsets()[row] as usize..tags.value_offsets()[row + 1] as usize,
    }
}

fn relayed(
    shaped: &Shaped,
    tags: &MapArray,
    places: &UInt32Array,
    topics: &[String],
    hops: &[u32],
) -> Result<Batch, Error> {
    let own = Envelope {
        topic: dictionary(&StringArray::from_iter_values(
            (0..shaped.flags.len()).map(|_| "x"),
        )),
        key: shaped.key.clone(),
        time: shaped.time.clone(),
        tags: None,
        client: None,
        flags: UInt8Array::from(shaped.flags.clone()),
    };
    let mut envelope = super::taken(&own, places)?;
    envelope.topic = dictionary(&StringArray::from_iter_values(topics));
    envelope.tags = Some(counted(tags, places, hops)?);
    let body = taken_body(&shaped.body, &Made::From(places.clone()))?;
    Batch::from_columns(envelope, body)
}

/// The tags of these rows without those that name topics, and with the hops.
fn counted(tags: &MapArray, places: &UInt32Array, hops: &[u32]) -> Result<MapArray, Error> {
    let (names, values) = (text(tags.keys())?, text(tags.values())?);
    let DataType::Map(entry, _) = tags.data_type() else {
        return Ok(tags.clone());
    };
    let DataType::Struct(fields) = entry.data_type() else {
        return Ok(tags.clone());
    };
    let mut builder = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new())
        .with_keys_field(fields[0].clone())
        .with_values_field(fields[1].clone());
    for (row, hops) in places.values().iter().zip(hops) {
        for at in entries(tags, *row as usize) {
            let name = names.value(at);
            if name != HOPS && !name.starts_with(RELAY_TO) {
                builder.keys().append_value(name);
                let value = values.is_valid(at).then(|| values.value(at));
                builder.values().append_option(value);
            }
        }
        builder.keys().append_value(HOPS);
        builder.values().append_value(hops.to_string());
        builder.append(true).map_err(misfit)?;
    }
    Ok(builder.finish())
}
