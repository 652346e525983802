//! Reading many datagrams with one call of the system.

use std::io::{self, IoSliceMut};
use std::net::IpAddr;

use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSockRef, UdpSocketState};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::limits::DATAGRAM_BYTES_MAX;

/// Datagrams as they came out of a socket. The system may put several of one sender, all of one length but the last,
/// into one buffer.
pub(crate) struct DatagramBatch {
    state: UdpSocketState,
    buffer: Vec<u8>,
    filled: [RecvMeta; BATCH_SIZE],
    count: usize,
}

impl DatagramBatch {
    /// For this socket, with memory for as many of the largest datagrams as one call reads.
    ///
    /// # Errors
    /// Those of the system, when it does not set what is asked for on the socket.
    pub fn new(socket: &UdpSocket) -> io::Result<DatagramBatch> {
        Ok(DatagramBatch {
            state: UdpSocketState::new(UdpSockRef::from(socket))?,
            buffer: vec![0; BATCH_SIZE * DATAGRAM_BYTES_MAX],
            filled: [RecvMeta::default(); BATCH_SIZE],
            count: 0,
        })
    }

    /// Reads what the socket holds, up to the memory there is.
    ///
    /// # Errors
    /// `WouldBlock` when it holds nothing; else those of the system.
    pub fn read(&mut self, socket: &UdpSocket) -> io::Result<()> {
        self.count = 0;
        let mut parts = self.buffer.chunks_exact_mut(DATAGRAM_BYTES_MAX);
        let mut slices: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(parts.next().unwrap_or_default()));
        self.count = socket.try_io(Interest::READABLE, || {
            let socket = UdpSockRef::from(socket);
            self.state.recv(socket, &mut slices, &mut self.filled)
        })?;
        Ok(())
    }

    /// What was read: the address of each sender and its datagram.
    pub fn datagrams(&self) -> impl Iterator<Item = (IpAddr, &[u8])> {
        let parts = self.buffer.chunks_exact(DATAGRAM_BYTES_MAX);
        let filled = self.filled[..self.count].iter().zip(parts);
        filled.flat_map(|(meta, part)| {
            let address = meta.addr.ip().to_canonical();
            let empty = (meta.len == 0).then_some(&part[..0]);
            let several = part[..meta.len].chunks(meta.stride.max(1));
            empty
                .into_iter()
                .chain(several)
                .map(move |one| (address, one))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads until so many datagrams have come.
    async fn read(socket: &UdpSocket, batch: &mut DatagramBatch, count: usize) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        while all.len() < count {
            socket.readable().await.unwrap();
            if batch.read(socket).is_ok() {
                all.extend(batch.datagrams().map(|(_, one)| one.to_vec()));
            }
        }
        all
    }

    #[tokio::test]
    async fn datagrams_stay_apart_however_the_system_hands_them_over() {
        let receiver = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut batch = DatagramBatch::new(&receiver).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        sender
            .connect(receiver.local_addr().unwrap())
            .await
            .unwrap();
        let sent: Vec<Vec<u8>> = [0, 1, 7, 0, 1400, 60_000, 3]
            .map(|bytes| vec![b'x'; bytes])
            .to_vec();
        for datagram in &sent {
            sender.send(datagram).await.unwrap();
        }
        assert_eq!(read(&receiver, &mut batch, sent.len()).await, sent);

        // Sent as one and cut by the system, where it does so.
        let state = UdpSocketState::new(UdpSockRef::from(&sender)).unwrap();
        let contents: Vec<u8> = (0..250).collect();
        let segment = (state.max_gso_segments() >= 3).then_some(100);
        let transmit = quinn_udp::Transmit {
            destination: receiver.local_addr().unwrap(),
            ecn: None,
            contents: &contents,
            segment_size: segment,
            src_ip: None,
        };
        state
            .try_send(UdpSockRef::from(&sender), &transmit)
            .unwrap();
        let parts: Vec<Vec<u8>> = contents
            .chunks(segment.unwrap_or(contents.len()))
            .map(<[u8]>::to_vec)
            .collect();
        assert_eq!(read(&receiver, &mut batch, parts.len()).await, parts);
    }
}
