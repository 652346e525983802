//! Bounds how often a condition that clients can cause is logged.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

use busbar_event::Micros;

use crate::limits::{LOG_LINES_PER_WINDOW, LOG_WINDOW_US};

/// Admits a few log lines in each window of time and counts the others.
#[derive(Debug, Default)]
pub struct Throttle {
    window: AtomicI64,
    lines: AtomicU32,
    left_out: AtomicU64,
}

impl Throttle {
    /// Whether to log a line now: if so, the number of lines left out since the last one.
    pub fn admit(&self, now: Micros) -> Option<u64> {
        let window = now.div_euclid(LOG_WINDOW_US);
        if self.window.swap(window, Ordering::AcqRel) != window {
            self.lines.store(0, Ordering::Release);
        }
        if self.lines.fetch_add(1, Ordering::AcqRel) < LOG_LINES_PER_WINDOW {
            return Some(self.left_out.swap(0, Ordering::AcqRel));
        }
        self.left_out.fetch_add(1, Ordering::AcqRel);
        None
    }

    /// Warns that a connection ended beneath its protocol, such as in its TLS handshake. One that the other side just left
    /// is no news.
    pub fn log_broken(
        &self,
        now: Micros,
        gateway: &str,
        peer: Option<SocketAddr>,
        error: &io::Error,
        message: &'static str,
    ) {
        use io::ErrorKind as Kind;
        let peer = peer.map(tracing::field::display);
        let left = [
            Kind::UnexpectedEof,
            Kind::ConnectionReset,
            Kind::ConnectionAborted,
            Kind::BrokenPipe,
        ];
        if left.contains(&error.kind()) {
            tracing::debug!(gateway, peer, %error, "{message}");
        } else if let Some(left_out) = self.admit(now) {
            tracing::warn!(gateway, peer, %error, left_out, "{message}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_a_few_lines_that_say_how_many_were_left_out() {
        let throttle = Throttle::default();
        let admitted = |at: Micros| {
            (0..100)
                .filter_map(|_| throttle.admit(at))
                .collect::<Vec<_>>()
        };
        assert_eq!(admitted(1), vec![0; LOG_LINES_PER_WINDOW as usize]);
        let next = admitted(LOG_WINDOW_US);
        assert_eq!(next.len(), LOG_LINES_PER_WINDOW as usize);
        assert_eq!(next[0], 100 - u64::from(LOG_LINES_PER_WINDOW));
    }
}
