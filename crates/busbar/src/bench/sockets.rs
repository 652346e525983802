//! Lines over TCP and HL7 messages over MLLP that are acknowledged after their commit, and datagrams over UDP whose losses are counted.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use quinn_udp::{Transmit, UdpSockRef, UdpSocketState};

use super::load::{Acks, SILENCE_MAX};
use super::node::{self, Process};
use super::percentiles::Latencies;
use super::report::{Report, Row};
use super::{BenchArgs, note};

const TCP: &str = "TCP lines in, acknowledged";
const MLLP: &str = "HL7 ADT over MLLP in, parsed, acknowledged";
const UDP: &str = "UDP datagrams in";
const UDP_CUT: &str = "UDP datagrams in, cut by the sender's system";
const UDP_LINES: &str = "UDP lines in, several in a datagram";

/// Bytes of the frame `ok`.
const OK_BYTES: usize = 3;
/// The byte behind an acknowledgement over MLLP.
const BLOCK_END: u8 = 0x1c;
const MLLP_FILE: &str = "frame: mllp\ntopic: bench/mllp/${MSH.9.2}/${PID.3.1}\n";
/// Writes in which a window of lines is sent.
const WRITES_PER_WINDOW: usize = 16;
/// Bytes that a sender hands to its system at once, to be cut into datagrams.
const SEND_BYTES_MAX: usize = 60_000;
/// Bytes of a datagram that one Ethernet frame holds.
const DATAGRAM_BYTES: usize = 1472;
/// A node that takes no event for so long has no more datagrams to read.
const QUIET: Duration = Duration::from_secs(1);

/// A node with a gateway for each row.
struct SocketNode {
    process: Process,
    tcp: SocketAddr,
    mllp: SocketAddr,
    udp: SocketAddr,
    udp_lines: SocketAddr,
}

/// Measures the rows that are wanted.
pub fn rows(args: &BenchArgs, report: &mut Report, failed: &mut Vec<String>) {
    if ![TCP, MLLP, UDP, UDP_CUT, UDP_LINES]
        .iter()
        .any(|row| args.wants(row))
    {
        return;
    }
    let node = match SocketNode::start() {
        Ok(node) => node,
        Err(why) => return failed.push(why),
    };
    for connections in [args.connections as usize, 1] {
        for job in [TCP, MLLP].into_iter().filter(|job| args.wants(job)) {
            note(node.tcp_row(job, args, connections), report, failed);
        }
    }
    let lines = (DATAGRAM_BYTES / (args.payload as usize + 1)).max(1);
    for (row, address, lines, cut) in [
        (UDP, node.udp, 1, false),
        (UDP_CUT, node.udp, 1, true),
        (UDP_LINES, node.udp_lines, lines, false),
    ] {
        if args.wants(row) {
            note(node.udp_row(row, address, args, lines, cut), report, failed);
        }
    }
}

impl SocketNode {
    fn start() -> Result<SocketNode, String> {
        let addresses = [
            node::free_address()?,
            node::free_address()?,
            node::free_address()?,
            node::free_address()?,
        ];
        let [tcp, mllp, udp, udp_lines] = addresses;
        let file = |protocol: &str, listen: SocketAddr, rest: &str| {
            format!(
                "protocol: {protocol}\nlisten: {listen}\ntopic: bench/{protocol}/reading\n{rest}"
            )
        };
        let project = node::project(&[
            ("busbar.toml", ""),
            (
                "gateways/tcp.yaml",
                &file("tcp", tcp, "acknowledge: true\n"),
            ),
            (
                "gateways/mllp.yaml",
                &format!("protocol: tcp\nlisten: {mllp}\n{MLLP_FILE}"),
            ),
            ("gateways/udp.yaml", &file("udp", udp, "")),
            (
                "gateways/udp-lines.yaml",
                &file("udp", udp_lines, "frame: line\n"),
            ),
        ])?;
        Ok(SocketNode {
            process: Process::busbar(&project)?,
            tcp,
            mllp,
            udp,
            udp_lines,
        })
    }

    fn tcp_row(
        &self,
        job: &'static str,
        args: &BenchArgs,
        connections: usize,
    ) -> Result<Row, String> {
        eprintln!(
            "busbar: {job}, {connections} connection(s), {} s ...",
            args.seconds
        );
        let start = Arc::new(Barrier::new(connections + 1));
        let window = args.window as usize;
        let (address, frame) = match job {
            MLLP => (self.mllp, admission()),
            _ => (self.tcp, line(args.payload as usize)),
        };
        let duration = Duration::from_secs(args.seconds);
        let failed = |why: io::Error| format!("busbar: {job}: {why}");
        let mut senders = Vec::new();
        for _ in 0..connections {
            let socket = TcpStream::connect(address).map_err(failed)?;
            let (start, frame) = (Arc::clone(&start), frame.clone());
            let acks = match job {
                MLLP => Acks::ending_with(BLOCK_END),
                _ => Acks::of(OK_BYTES),
            };
            senders.push(std::thread::spawn(move || {
                start.wait();
                send_frames(socket, window, &frame, acks, duration)
            }));
        }
        start.wait();
        let begun = Instant::now();
        let (mut events, mut latencies) = (0, Latencies::default());
        for sender in senders {
            let sent = sender.join().expect("a sender panicked").map_err(failed)?;
            events += sent.0;
            latencies.merge(sent.1);
        }
        Ok(Row {
            job,
            who: "busbar".to_owned(),
            connections,
            events_per_second: Some(events as f64 / begun.elapsed().as_secs_f64()),
            latency_ms: latencies.percentiles(),
            events,
            lost: 0,
            note: None,
        })
    }

    fn udp_row(
        &self,
        job: &'static str,
        address: SocketAddr,
        args: &BenchArgs,
        lines: usize,
        cut: bool,
    ) -> Result<Row, String> {
        eprintln!("busbar: {job}, {} s ...", args.seconds);
        let failed = |why: io::Error| format!("busbar: {job}: {why}");
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
        let state = UdpSocketState::new(UdpSockRef::from(&socket)).map_err(failed)?;
        socket.set_nonblocking(false).map_err(failed)?;
        let datagram = line(args.payload as usize).repeat(lines);
        let at_once = match cut {
            true => (SEND_BYTES_MAX / datagram.len()).clamp(1, state.max_gso_segments()),
            false => 1,
        };
        let contents = datagram.repeat(at_once);
        let transmit = Transmit {
            destination: address,
            ecn: None,
            contents: &contents,
            segment_size: (at_once > 1).then_some(datagram.len()),
            src_ip: None,
        };
        let before = self.taken()?;
        let begun = Instant::now();
        let mut sent = 0;
        while begun.elapsed() < Duration::from_secs(args.seconds) {
            for _ in 0..64 {
                let socket = UdpSockRef::from(&socket);
                state.try_send(socket, &transmit).map_err(failed)?;
            }
            sent += 64 * (at_once * lines) as u64;
        }
        let (mut events, mut last) = (0, begun.elapsed());
        while events < sent && begun.elapsed() < last + QUIET {
            let taken = self.taken()? - before;
            if taken > events {
                (events, last) = (taken, begun.elapsed());
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        Ok(Row {
            job,
            who: "busbar".to_owned(),
            connections: 1,
            events_per_second: Some(events as f64 / last.as_secs_f64()),
            latency_ms: None,
            events,
            lost: sent - events,
            note: match (lines, at_once) {
                (1, 1) => None,
                (1, _) => Some(format!("{at_once} datagrams a call")),
                _ => Some(format!("{lines} lines a datagram")),
            },
        })
    }

    /// Events that the UDP gateways have taken.
    fn taken(&self) -> Result<u64, String> {
        let http = self.process.http.ok_or("the node has no HTTP")?;
        let text = ureq::get(format!("http://{http}/metrics"))
            .call()
            .and_then(|mut answer| answer.body_mut().read_to_string())
            .map_err(|why| format!("the metrics could not be read: {why}"))?;
        let of_udp = |line: &&str| line.starts_with("busbar_gateway_events_in_total{gateway=\"udp");
        let counts = text.lines().filter(of_udp);
        let counts = counts.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        Ok(counts.sum())
    }
}

/// A line of this many bytes, and its end.
fn line(bytes: usize) -> Vec<u8> {
    let mut line: Vec<u8> = (0..bytes).map(|at| b'a' + (at * 7 % 26) as u8).collect();
    line.push(b'\n');
    line
}

/// An admission as a hospital's system sends it, as a block of MLLP.
fn admission() -> Vec<u8> {
    const MESSAGE: &str = "\x0bMSH|^~\\&|HIS|WARD 3|BUS|HOSP|20261122030405+0800||ADT^A01^ADT_A01|M000000001|P|2.5|||||CHN|UNICODE UTF-8\r\
        EVN|A01|20261122030405+0800\r\
        PID|1||1234567^^^HOSP^MR~320102197001021234^^^CN^NNCHN||Smith^John^^^Mr.||19700102|M|||12 Long Street^^Nanjing^^210000^CN||+86-25-5555-1234\r\
        PV1|1|I|W3^301^2^HOSP||||1001^Miller^Anna|||MED||||1|||1001^Miller^Anna|IN|V0000017\r\
        OBX|1|NM|8302-2^Body height^LN||178|cm|||||F\r\
        OBX|2|NM|3141-9^Body weight^LN||81.5|kg|||||F\r\
        \x1c\r";
    MESSAGE.as_bytes().to_vec()
}

/// Sends frames, never more ahead of their acknowledgements than a window.
fn send_frames(
    mut socket: TcpStream,
    window: usize,
    frame: &[u8],
    mut acks: Acks,
    duration: Duration,
) -> io::Result<(u64, Latencies)> {
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(SILENCE_MAX))?;
    let per_write = (window / WRITES_PER_WINDOW).max(1) as u64;
    let frames = frame.repeat(per_write as usize);
    let mut latencies = Latencies::default();
    let mut writes: VecDeque<(u64, Instant)> = VecDeque::new();
    let (begun, mut sent) = (Instant::now(), 0);
    while begun.elapsed() < duration {
        if sent - acks.count + per_write <= window as u64 {
            socket.write_all(&frames)?;
            sent += per_write;
            writes.push_back((sent, Instant::now()));
        } else {
            acks.read(&mut socket, &mut writes, &mut latencies, false)?;
        }
    }
    while acks.count < sent {
        acks.read(&mut socket, &mut writes, &mut latencies, false)?;
    }
    Ok((sent, latencies))
}
