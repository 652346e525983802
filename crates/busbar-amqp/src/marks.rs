//! Positions in all partitions at once.

/// An offset for each partition, by its number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks(Vec<u64>);

impl Marks {
    /// The offset in a partition; zero where none was set, as in partitions that came later.
    #[inline]
    pub fn get(&self, partition: u32) -> u64 {
        self.0.get(partition as usize).copied().unwrap_or(0)
    }

    /// Sets the offset in a partition.
    pub fn set(&mut self, partition: u32, offset: u64) {
        let at = partition as usize;
        if self.0.len() <= at {
            self.0.resize(at + 1, 0);
        }
        self.0[at] = offset;
    }

    /// Takes the larger offset of the two in every partition.
    pub fn raise(&mut self, other: &Marks) {
        for (at, offset) in other.0.iter().enumerate() {
            if *offset > self.get(at as u32) {
                self.set(at as u32, *offset);
            }
        }
    }

    /// Partitions and offsets that are not zero.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u64)> {
        let all = self
            .0
            .iter()
            .enumerate()
            .map(|(at, offset)| (at as u32, *offset));
        all.filter(|(_, offset)| *offset > 0)
    }

    /// Whether every offset is at most that of `other`.
    pub fn is_before(&self, other: impl Fn(u32) -> u64) -> bool {
        self.iter()
            .all(|(partition, offset)| offset <= other(partition))
    }
}
