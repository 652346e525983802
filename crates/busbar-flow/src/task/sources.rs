//! Dead letters of results that one task has computed and another one delivers: they tell of the events that the results were
//! made from, so that these can be sent through the flow again.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::UInt32Array;
use busbar_bus::{Bus, Cursor, Item, StreamPartition};
use busbar_event::{Batch, Error};

use crate::blocking::blocking;
use crate::chain::Dead;
use crate::compile::{InputPlan, Plan, Target};
use crate::dead::Spot;
use crate::limits::READ_BYTES;
use crate::received::SourceOffsets;

/// Dead letters about events that were read anew.
pub(super) struct SourceLetters {
    pub events: Batch,
    pub dead: Vec<Dead>,
    /// Where each of the events lies.
    pub spots: Vec<Spot>,
}

/// The letters about events of one partition, by offset.
type LettersByOffset = BTreeMap<u64, Vec<Dead>>;

/// Takes those letters out of `dead` whose rows were made from events that are still in the log, and answers them as letters
/// about these events. The rows came by way of the stream of results `results`.
///
/// # Errors
/// What the disk says.
pub(super) async fn source_letters(
    (plan, bus, results): (&Plan, &Bus, &str),
    sources: &SourceOffsets,
    dead: &mut Vec<Dead>,
) -> Result<Vec<SourceLetters>, Error> {
    let is_it = |target: &Target| matches!(target, Target::Results(name) if **name == *results);
    let writes = |input: &&InputPlan| {
        let mut outputs = input.results_to.iter();
        outputs.any(|output| is_it(&plan.outputs[*output].target))
    };
    let stream = plan.inputs.iter().find(writes);
    let stream = stream.and_then(|input| bus.stream(&input.stream));
    let Some(stream) = stream.filter(|_| !dead.is_empty()) else {
        return Ok(Vec::new());
    };
    let mut by_partition: BTreeMap<u16, LettersByOffset> = BTreeMap::new();
    for letter in std::mem::take(dead) {
        let (partition, offset) = sources.of(letter.event);
        let letters = by_partition.entry(partition).or_default();
        letters.entry(offset).or_default().push(letter);
    }
    let mut all = Vec::new();
    for (number, letters) in by_partition {
        let partitions = stream.partitions();
        let Some(partition) = partitions.get(usize::from(number)).cloned() else {
            dead.extend(letters.into_values().flatten());
            continue;
        };
        let name: Arc<str> = stream.name().into();
        let (read, gone) = blocking(move || read(&partition, &name, letters)).await?;
        all.extend(read);
        dead.extend(gone);
    }
    dead.sort_by_key(|letter| letter.event);
    Ok(all)
}

/// Reads the events of letters; those that are gone come back as they are. Blocks on the disk.
fn read(
    partition: &Arc<StreamPartition>,
    stream: &Arc<str>,
    mut letters: LettersByOffset,
) -> Result<(Vec<SourceLetters>, Vec<Dead>), Error> {
    let (mut all, mut gone) = (Vec::new(), Vec::new());
    while let Some(first) = letters.first_key_value().map(|(offset, _)| *offset) {
        let mut cursor = Cursor::new(Arc::clone(partition), first).with_read_bytes(READ_BYTES);
        let chunk = match cursor.try_next()? {
            Some(Item::Chunk(chunk)) if chunk.end() > first => chunk,
            Some(Item::Gap(gap)) if gap.resume > first => {
                let behind = letters.split_off(&gap.resume);
                gone.extend(
                    std::mem::replace(&mut letters, behind)
                        .into_values()
                        .flatten(),
                );
                continue;
            }
            _ => break,
        };
        let begin = chunk.end() - chunk.batch.rows() as u64;
        let behind = letters.split_off(&chunk.end());
        let (mut places, mut dead, mut spots) = (Vec::new(), Vec::new(), Vec::new());
        for (offset, its) in std::mem::replace(&mut letters, behind) {
            let Some(place) = offset.checked_sub(begin) else {
                gone.extend(its);
                continue;
            };
            let event = places.len();
            places.push(place as u32);
            dead.extend(its.into_iter().map(|letter| Dead { event, ..letter }));
            spots.push(Spot {
                stream: Arc::clone(stream),
                partition: partition.number(),
                offset,
                is_result: false,
            });
        }
        all.push(SourceLetters {
            events: chunk.batch.take(&UInt32Array::from(places)),
            dead,
            spots,
        });
    }
    gone.extend(letters.into_values().flatten());
    Ok((all, gone))
}
