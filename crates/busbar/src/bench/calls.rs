//! A flow that asks a REST service about each event. The service is an echo within this process.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::node::{self, Process};
use super::report::{Report, Row};
use super::{BenchArgs, fill, flows, note};

const CALL: &str = "REST call, 64 in flight";
/// Events that are stored for each second asked for.
const EVENTS_PER_SECOND: u64 = 40_000;
/// Bytes of a request that the echo takes.
const REQUEST_BYTES_MAX: usize = 64 << 10;

const READINGS: &str = "topics: meter/+/reading\nformat: json\nschema:\n  site: text\n  kw: float\n  volt: float\n  phase: int\n  status: text\n  serial: text\n  note: text\n";
const FLOW: &str = "from: readings\nsteps:\n  - call: { connection: echo, path: '/echo/${site}', send: '*', answer: { back: { type: float, path: kw } } }\n  - select: site, back\nto:\n  - topic: back/${site}\n";

/// Measures the row if it is wanted.
pub fn rows(args: &BenchArgs, report: &mut Report, failed: &mut Vec<String>) {
    if args.wants(CALL) {
        note(row(args), report, failed);
    }
}

fn row(args: &BenchArgs) -> Result<Row, String> {
    let echo = Echo::start().map_err(|why| format!("the echo does not start: {why}"))?;
    let connection = format!("http: {{ url: 'http://{}' }}\n", echo.address);
    let files = [
        ("streams/readings.yaml", READINGS),
        ("streams/back.yaml", "topics: back/#\nformat: json\n"),
        ("connections/echo.yaml", &connection),
    ];
    let node = Process::busbar(&node::project(&files)?)?;
    let http = node.http.ok_or("the node has no HTTP address")?;
    let events = args.seconds * EVENTS_PER_SECOND;
    fill::readings(node.mqtt, events).map_err(|why| format!("filling the stream: {why}"))?;
    eprintln!("busbar: {CALL} ...");
    let with_flow = files.into_iter().chain([("flows/ask.yaml", FLOW)]);
    flows::apply(http, &mut with_flow.into_iter())?;
    let rate = flows::worked_off(http, &["ask".to_owned()], events)?;
    Ok(Row {
        job: CALL,
        who: "busbar".to_owned(),
        connections: 0,
        events_per_second: Some(rate),
        latency_ms: None,
        events,
        lost: 0,
        note: Some("one task; the echo shares the machine".to_owned()),
    })
}

/// Answers each request with its body.
pub(super) struct Echo {
    pub address: SocketAddr,
    /// Ends with this.
    _runtime: tokio::runtime::Runtime,
}

impl Echo {
    pub fn start() -> io::Result<Echo> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_io()
            .build()?;
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let address = listener.local_addr()?;
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // Those that break off are the node's affair.
                tokio::spawn(async move { drop(answer(stream).await) });
            }
        });
        Ok(Echo {
            address,
            _runtime: runtime,
        })
    }
}

async fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut came, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let (head, length) = loop {
            if let Some(found) = request(&came) {
                break found;
            }
            let read = stream.read(&mut piece).await?;
            if read == 0 || came.len() > REQUEST_BYTES_MAX {
                return Ok(());
            }
            came.extend_from_slice(&piece[..read]);
        };
        let mut said = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").into_bytes();
        said.extend_from_slice(&came[head..head + length]);
        stream.write_all(&said).await?;
        came.drain(..head + length);
    }
}

/// The length of the head and of the body of a request that is there whole.
fn request(came: &[u8]) -> Option<(usize, usize)> {
    let head = came.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&came[..head])
        .ok()?
        .to_ascii_lowercase();
    let length = text.split("content-length:").nth(1)?.split("\r\n").next()?;
    let length: usize = length.trim().parse().ok()?;
    (came.len() >= head + length).then_some((head, length))
}
