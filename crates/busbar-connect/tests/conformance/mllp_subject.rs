//! The row of `mllp`, and a receiver of HL7 messages.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;

use busbar_event::format::{Hl7Path, Hl7Reader, Hl7Value};
use parking_lot::Mutex;

use crate::ports::free_port;
use crate::subjects::{Subject, Taker};
use crate::world::PATIENCE;

pub fn subject() -> Subject {
    Subject {
        kind: "mllp",
        good: vec![
            "mllp: { address: '127.0.0.1:1' }\n",
            "mllp: { address: '127.0.0.1:1', tls: { ca: ca.pem }, timeout: 5s, charset: GB18030, zone: '+08:00', message: { MSH.9.1: ADT, 'OBX[*].5': '${values}', PID.5: 'a ${b}' } }\n",
        ],
        wrong: vec![
            ("mllp: {}\n", "address"),
            ("mllp: { address: here }\n", "here"),
            ("mllp: { address: 'a:1', timeout: 0s }\n", "0s"),
            ("mllp: { address: 'a:1', charset: EBCDIC }\n", "EBCDIC"),
            ("mllp: { address: 'a:1', zone: Mars }\n", "Mars"),
            ("mllp: { address: 'a:1', message: { PID: 5, x: y } }\n", "x"),
            ("mllp: { address: 'a:1', message: { PID.3: '${' } }\n", "${"),
            ("mllp: { address: 'a:1', tls: { ca: /etc/x } }\n", "/etc/x"),
        ],
        secret: vec![],
        supply: None,
        taker: Some(|| Box::new(Received::new())),
    }
}

/// What a receiver answers to a message: the code and what follows the answer's MSA segment up to MSA-2.
type Answering = Box<dyn FnMut(&str) -> Option<(&'static str, String)> + Send>;

/// A receiver whose answers a test decides; without one it closes the connection.
pub struct Receiver {
    pub port: u16,
    state: Arc<State>,
}

struct State {
    /// Messages that were taken.
    taken: Mutex<Vec<String>>,
    answer: Mutex<Answering>,
    connections: Mutex<Vec<TcpStream>>,
    is_over: Mutex<bool>,
}

impl Receiver {
    pub fn on(port: u16) -> Receiver {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
        let state = Arc::new(State {
            taken: Mutex::default(),
            answer: Mutex::new(Box::new(|_| Some(("AA", String::new())))),
            connections: Mutex::default(),
            is_over: Mutex::default(),
        });
        let serving = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let is_over = serving.is_over.lock();
                if *is_over {
                    return;
                }
                let kept = stream.try_clone().expect("a socket");
                serving.connections.lock().push(kept);
                drop(is_over);
                let state = Arc::clone(&serving);
                std::thread::spawn(move || {
                    let kept = stream.try_clone();
                    state.serve(stream);
                    let _ = kept.map(|stream| stream.shutdown(Shutdown::Both));
                });
            }
        });
        Receiver { port, state }
    }

    pub fn answer(
        &self,
        answer: impl FnMut(&str) -> Option<(&'static str, String)> + Send + 'static,
    ) {
        *self.state.answer.lock() = Box::new(answer);
    }

    pub fn taken(&self) -> Vec<String> {
        self.state.taken.lock().clone()
    }

    /// How often somebody connected.
    pub fn connections(&self) -> usize {
        self.state.connections.lock().len()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        *self.state.is_over.lock() = true;
        for connection in self.state.connections.lock().iter() {
            let _ = connection.shutdown(Shutdown::Both);
        }
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl State {
    fn serve(&self, mut stream: TcpStream) -> Option<()> {
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let mut buffer = Vec::new();
        loop {
            let end = loop {
                let end = buffer.windows(2).position(|two| two == b"\x1c\r");
                if let Some(end) = end {
                    break end;
                }
                let mut piece = [0; 4096];
                let came = stream.read(&mut piece).ok().filter(|came| *came > 0)?;
                buffer.extend_from_slice(&piece[..came]);
            };
            assert_eq!(buffer[0], 0x0b);
            let message = String::from_utf8(buffer[1..end].to_vec()).expect("UTF-8");
            buffer.drain(..end + 2);
            let (code, more) = (self.answer.lock())(&message)?;
            let id = value(&message, "MSH.10");
            if *self.is_over.lock() {
                return None;
            }
            if matches!(code, "AA" | "CA") {
                self.taken.lock().push(message);
            }
            let id = match more.strip_prefix('=') {
                Some(other) => other.to_owned(),
                None => format!("{id}{more}"),
            };
            let answer = format!("\x0bMSH|^~\\&|||||||ACK|1|P|2.5\rMSA|{code}|{id}\r\x1c\r");
            stream.write_all(answer.as_bytes()).ok()?;
        }
    }
}

/// A value of a message.
pub fn value(message: &str, path: &str) -> String {
    let mut reader = Hl7Reader::of_any_bytes();
    let message = reader.read(message.as_bytes()).expect("a message");
    let mut text = Vec::new();
    match message.value(&Hl7Path::parse(path).expect("a path"), &mut text) {
        Hl7Value::Text => String::from_utf8(text).expect("UTF-8"),
        _ => String::new(),
    }
}

struct Received {
    port: u16,
    receiver: Option<Receiver>,
    /// What was taken by receivers that are gone.
    before: Vec<String>,
}

impl Received {
    fn new() -> Received {
        let port = free_port();
        Received {
            port,
            receiver: Some(Receiver::on(port)),
            before: Vec::new(),
        }
    }
}

impl Taker for Received {
    fn connection(&self, _: &std::path::Path) -> String {
        let port = self.port;
        format!("mllp: {{ address: '127.0.0.1:{port}', message: {{ NTE.3: '${{note}}' }} }}\n")
    }
    fn rows(&mut self) -> Vec<String> {
        let now = self.receiver.iter().flat_map(Receiver::taken);
        let all = self.before.iter().cloned().chain(now);
        all.map(|message| value(&message, "NTE.3")).collect()
    }
    fn go_away(&mut self) {
        if let Some(receiver) = self.receiver.take() {
            self.before.extend(receiver.taken());
        }
        crate::world::eventually("the end of the receiver", || {
            match TcpListener::bind(("127.0.0.1", self.port)) {
                Ok(_) => Ok(()),
                Err(why) => Err(why.to_string()),
            }
        });
    }
    fn come_back(&mut self) {
        self.receiver = Some(Receiver::on(self.port));
    }
    fn refuse(&mut self, word: &'static str) -> Vec<u8> {
        let receiver = self.receiver.as_ref().expect("a receiver");
        receiver.answer(move |message| match message.contains(word) {
            true => Some(("AE", "\rERR|||102|E||||no such thing".to_owned())),
            false => Some(("AA", String::new())),
        });
        format!("{{\"bad\":\"{word}\"}}").into_bytes()
    }
}
