//! Ports for what a test starts.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::ops::Range;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::Mutex;

/// Below the ports that Linux gives to outgoing connections and to whoever asks for port 0, 32768 and up; above those
/// that browsers refuse.
const PORTS: Range<u16> = 12_000..32_000;
const TRIES_MAX: usize = 1_000;
/// The state of a socket of TCP that listens.
const LISTENS: &str = "0A";

/// A port on loopback where nothing listens, for TCP and UDP. It stays this process's until the process ends: the
/// kernel gives it to nobody by itself, and the other tests, also those in Python, see it claimed.
pub fn free_port() -> u16 {
    free_ports(1)
}

/// The first of as many ports as asked for, one behind the other.
pub fn free_ports(count: u16) -> u16 {
    static CLAIMED: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());
    for _ in 0..TRIES_MAX {
        let random = RandomState::new().hash_one(());
        let first = PORTS.start + (random % PORTS.len() as u64) as u16;
        let claims: Option<Vec<_>> = (first..first + count).map(claim).collect();
        if let Some(claims) = claims {
            CLAIMED
                .lock()
                .expect("nothing panics with it")
                .extend(claims);
            return first;
        }
    }
    panic!("no {count} free ports in {PORTS:?}")
}

fn claim(port: u16) -> Option<UnixListener> {
    let name = SocketAddr::from_abstract_name(format!("busbar-test-port-{port}"));
    let claim = UnixListener::bind_addr(&name.expect("a short name")).ok()?;
    let used = ["tcp", "tcp6", "udp", "udp6"]
        .iter()
        .any(|kind| is_used(kind, port));
    (!used).then_some(claim)
}

/// Whether a socket listens at a port of this machine. Nothing is bound to find out: a process that another thread starts at
/// that moment would have the socket, too, until it runs its own program.
fn is_used(kind: &str, port: u16) -> bool {
    // Without that protocol there is no such file.
    let sockets = std::fs::read_to_string(format!("/proc/net/{kind}")).unwrap_or_default();
    sockets.lines().skip(1).any(|socket| {
        let mut fields = socket.split_whitespace().skip(1);
        let (local, state) = (fields.next().unwrap_or_default(), fields.nth(1));
        let its = local.rsplit_once(':').map(|(_, port)| port);
        let its = its.and_then(|its| u16::from_str_radix(its, 16).ok());
        its == Some(port) && (kind.starts_with("udp") || state == Some(LISTENS))
    })
}
