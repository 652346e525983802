//! The connections of a core, by slot, and which of them are to be looked at.

use crate::conn::Conn;
use busbar_gateway::ConnId;

/// The connections of a core. A connection is in each of the lists at most once.
pub(super) struct ConnectionTable<T> {
    /// By slot.
    pub slots: Vec<Option<Conn<T>>>,
    generations: Vec<u32>,
    free: Vec<u32>,
    /// Connections whose sockets have something to do.
    pub awake: Vec<ConnId>,
    /// Connections with acknowledgements that wait for a commit.
    pub acking: Vec<ConnId>,
    /// Connections with a SUBSCRIBE that waits for a commit.
    pub subscribing: Vec<ConnId>,
    /// Connections that can take more.
    pub pumping: Vec<ConnId>,
}

impl<T> Default for ConnectionTable<T> {
    fn default() -> ConnectionTable<T> {
        ConnectionTable {
            slots: Vec::new(),
            generations: Vec::new(),
            free: Vec::new(),
            awake: Vec::new(),
            acking: Vec::new(),
            subscribing: Vec::new(),
            pumping: Vec::new(),
        }
    }
}

impl<T> ConnectionTable<T> {
    /// Gives a connection a slot, and a generation that its predecessors there did not have.
    pub fn add(&mut self, open: impl FnOnce(ConnId) -> Conn<T>) -> ConnId {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.slots.push(None);
                self.generations.push(0);
                (self.slots.len() - 1) as u32
            }
        };
        let generation = &mut self.generations[slot as usize];
        *generation = generation.wrapping_add(1);
        let id = ConnId {
            slot,
            generation: *generation,
        };
        self.slots[slot as usize] = Some(open(id));
        id
    }

    /// A connection, unless it is gone.
    #[inline]
    pub fn get(&mut self, id: ConnId) -> Option<&mut Conn<T>> {
        match self.slots.get_mut(id.slot as usize) {
            Some(Some(conn)) if conn.id == id => Some(conn),
            _ => None,
        }
    }

    /// Takes a connection out; its slot is free again.
    pub fn remove(&mut self, id: ConnId) -> Option<Conn<T>> {
        let slot = self.slots.get_mut(id.slot as usize)?;
        let conn = slot.take_if(|conn| conn.id == id)?;
        self.free.push(id.slot);
        Some(conn)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Has the socket of a connection look at it.
    #[inline]
    pub fn wake(&mut self, id: ConnId) {
        if let Some(Some(conn)) = self.slots.get_mut(id.slot as usize)
            && !conn.awake
        {
            conn.awake = true;
            self.awake.push(id);
        }
    }

    /// Has a connection be given more in the next turn.
    pub fn pump(&mut self, id: ConnId) {
        if let Some(Some(conn)) = self.slots.get_mut(id.slot as usize)
            && !conn.pumping
        {
            conn.pumping = true;
            self.pumping.push(id);
        }
    }

    /// Takes the list of those whose sockets have something to do.
    pub fn take_awake(&mut self) -> Vec<ConnId> {
        let awake = std::mem::take(&mut self.awake);
        for id in &awake {
            if let Some(conn) = self.get(*id) {
                conn.awake = false;
            }
        }
        awake
    }
}
