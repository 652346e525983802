//! The connections of a worker thread, by slot.

use crate::connection_id::ConnId;

/// Values under [`ConnId`]s: slots are reused, and a stale identifier finds nothing.
#[derive(Debug)]
pub struct Slots<C> {
    slots: Vec<(u32, Option<C>)>,
    free: Vec<u32>,
}

impl<C> Default for Slots<C> {
    fn default() -> Slots<C> {
        Slots {
            slots: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<C> Slots<C> {
    /// Puts a value into a slot, under a generation that its predecessors there did not have.
    pub fn add(&mut self, value: C) -> ConnId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            (self.slots.len() - 1) as u32
        });
        let (generation, place) = &mut self.slots[slot as usize];
        *generation = generation.wrapping_add(1);
        *place = Some(value);
        ConnId {
            slot,
            generation: *generation,
        }
    }

    /// A value, unless it was removed.
    #[inline]
    pub fn get(&self, id: ConnId) -> Option<&C> {
        match self.slots.get(id.slot as usize) {
            Some((generation, value)) if *generation == id.generation => value.as_ref(),
            _ => None,
        }
    }

    /// A value, unless it was removed.
    #[inline]
    pub fn get_mut(&mut self, id: ConnId) -> Option<&mut C> {
        match self.slots.get_mut(id.slot as usize) {
            Some((generation, value)) if *generation == id.generation => value.as_mut(),
            _ => None,
        }
    }

    /// Takes a value out; its slot is free again.
    pub fn remove(&mut self, id: ConnId) -> Option<C> {
        let (generation, value) = self.slots.get_mut(id.slot as usize)?;
        if *generation != id.generation {
            return None;
        }
        let value = value.take()?;
        self.free.push(id.slot);
        Some(value)
    }

    /// All values.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (ConnId, &mut C)> {
        let slots = self.slots.iter_mut().enumerate();
        slots.filter_map(|(slot, (generation, value))| {
            let id = ConnId {
                slot: slot as u32,
                generation: *generation,
            };
            Some((id, value.as_mut()?))
        })
    }

    /// How many values there are.
    pub fn count(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_identifier_does_not_find_the_successor() {
        let mut slots = Slots::default();
        let first = slots.add("a");
        assert_eq!(slots.remove(first), Some("a"));
        let second = slots.add("b");
        assert_eq!((second.slot, slots.count()), (first.slot, 1));
        assert_eq!(slots.get(first), None);
        assert_eq!(slots.remove(first), None);
        assert_eq!(
            slots.iter_mut().map(|(id, v)| (id, *v)).collect::<Vec<_>>(),
            [(second, "b")]
        );
    }
}
