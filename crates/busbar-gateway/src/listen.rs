//! Opening the sockets that a gateway listens on.

use std::net::{SocketAddr, TcpListener, UdpSocket};

use busbar_event::{Class, Error, Result};
use socket2::{Domain, Socket, Type};

use crate::limits::{LISTEN_BACKLOG, UDP_RECEIVE_BUFFER_BYTES};

/// Listens on a TCP address, the value of a setting. Returns the listener, which does not block, and its address with
/// the port that the system chose.
///
/// # Errors
/// *Configuration*: the port is taken, or the address cannot be used.
pub fn bind_tcp(address: SocketAddr, setting: &str) -> Result<(TcpListener, SocketAddr)> {
    let open = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(LISTEN_BACKLOG)?;
        let listener: TcpListener = socket.into();
        let local = listener.local_addr()?;
        Ok((listener, local))
    };
    open().map_err(|cause| unusable(address, setting, cause))
}

/// Opens a UDP socket that receives at an address, the value of a setting. Returns the socket, which does not block,
/// and its address with the port that the system chose.
///
/// # Errors
/// *Configuration*: the port is taken, or the address cannot be used.
pub fn bind_udp(address: SocketAddr, setting: &str) -> Result<(UdpSocket, SocketAddr)> {
    let open = || {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
        socket.set_nonblocking(true)?;
        // As much as the system grants: datagrams that find no room are lost.
        let _ = socket.set_recv_buffer_size(UDP_RECEIVE_BUFFER_BYTES);
        socket.bind(&address.into())?;
        let socket: UdpSocket = socket.into();
        let local = socket.local_addr()?;
        Ok((socket, local))
    };
    open().map_err(|cause| unusable(address, setting, cause))
}

fn unusable(address: SocketAddr, setting: &str, cause: std::io::Error) -> Error {
    let code = match cause.kind() {
        std::io::ErrorKind::AddrInUse => "gateway.port-in-use",
        std::io::ErrorKind::PermissionDenied => "gateway.port-denied",
        _ => "gateway.listen",
    };
    Error::new(Class::Configuration, code)
        .with("address", address)
        .with("setting", setting)
        .caused_by(cause)
}
