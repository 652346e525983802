//! A port before Redis where a transaction or its answer gets lost.

use std::io::{Read, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

/// What of the next transaction or script gets lost.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// The server makes it, and its answer reaches nobody.
    Answer,
    /// It does not reach the server, and nothing does any more until [`LosingPort::revive`].
    Transaction,
}

/// A port whose connections are those of a server, but for what gets lost.
pub struct LosingPort {
    pub port: u16,
    state: Arc<LosingState>,
}

#[derive(Default)]
struct LosingState {
    next: Mutex<Option<Lost>>,
    is_dead: AtomicBool,
}

impl LosingPort {
    pub fn before(server: u16) -> LosingPort {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let state = Arc::new(LosingState::default());
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.is_dead.load(Ordering::SeqCst) {
                    continue;
                }
                let server = TcpStream::connect(("127.0.0.1", server)).expect("Redis");
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || pass(client, server, &shared));
            }
        });
        LosingPort { port, state }
    }

    /// Of the next transaction this gets lost.
    pub fn lose(&self, lost: Lost) {
        *self.state.next.lock() = Some(lost);
    }

    /// Whether a transaction got lost, and all that came after it.
    pub fn is_dead(&self) -> bool {
        self.state.is_dead.load(Ordering::SeqCst)
    }

    /// Connections are let through again.
    pub fn revive(&self) {
        self.state.is_dead.store(false, Ordering::SeqCst);
    }
}

fn pass(client: TcpStream, server: TcpStream, state: &LosingState) {
    let (mut from_server, mut to_client) = (
        server.try_clone().expect("a socket"),
        client.try_clone().expect("a socket"),
    );
    let is_lost = Arc::new(AtomicBool::new(false));
    let lost = Arc::clone(&is_lost);
    std::thread::spawn(move || {
        let mut bytes = vec![0; 64 << 10];
        while let Ok(read @ 1..) = from_server.read(&mut bytes) {
            // The server has answered: what it was asked is done.
            if lost.load(Ordering::SeqCst) || to_client.write_all(&bytes[..read]).is_err() {
                break;
            }
        }
        let _ = to_client.shutdown(Shutdown::Both);
    });
    let (mut from_client, mut to_server) = (client, server);
    let (mut bytes, mut tail) = (vec![0; 64 << 10], Vec::new());
    while let Ok(read @ 1..) = from_client.read(&mut bytes) {
        tail.extend_from_slice(&bytes[..read]);
        let is_change = |word: &[u8]| word == b"EXEC" || word == b"EVAL";
        let next = match tail.windows(4).any(is_change) {
            true => state.next.lock().take(),
            false => None,
        };
        match next {
            Some(Lost::Answer) => is_lost.store(true, Ordering::SeqCst),
            Some(Lost::Transaction) => state.is_dead.store(true, Ordering::SeqCst),
            None => {}
        }
        tail.drain(..tail.len().saturating_sub(3));
        if state.is_dead.load(Ordering::SeqCst) || to_server.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    let _ = to_server.shutdown(Shutdown::Both);
}
