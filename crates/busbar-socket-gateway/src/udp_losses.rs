//! Datagrams that the system dropped before they could be read.

use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;

/// Finds the count of one socket in the tables of Linux.
#[derive(Debug)]
pub(crate) struct UdpLosses {
    inode: Option<String>,
}

impl UdpLosses {
    /// Of this socket.
    pub fn of(socket: &UdpSocket) -> UdpLosses {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).ok();
        let name = link.as_ref().and_then(|link| link.to_str());
        let inode = name.and_then(|name| name.strip_prefix("socket:[")?.strip_suffix(']'));
        UdpLosses {
            inode: inode.map(str::to_owned),
        }
    }

    /// Datagrams dropped since the socket was opened; zero where the system does not say.
    pub fn count(&self) -> u64 {
        let Some(inode) = &self.inode else { return 0 };
        let tables = ["/proc/self/net/udp", "/proc/self/net/udp6"];
        let found = tables
            .iter()
            .filter_map(|table| std::fs::read_to_string(table).ok())
            .find_map(|table| drops(&table, inode));
        found.unwrap_or(0)
    }
}

/// The last column of the row with this inode, which is the tenth.
fn drops(table: &str, inode: &str) -> Option<u64> {
    let row = table
        .lines()
        .map(|line| line.split_whitespace())
        .find(|row| row.clone().nth(9) == Some(inode))?;
    row.last()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_row_of_the_socket_is_found() {
        let table = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
             \x20 100: 0100007F:2328 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 00000000 17\n";
        assert_eq!(drops(table, "4711"), Some(17));
        assert_eq!(drops(table, "471"), None);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(UdpLosses::of(&socket).count(), 0);
    }
}
