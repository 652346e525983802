//! Conversations as data: each file in `tests/transcripts` is played against a node in memory, and
//! what the server says is compared with what the file says it said. A new case is a new file of
//! actions; `UPDATE_TRANSCRIPTS=1 cargo test -p busbar-mqtt-gateway --test transcripts` writes the
//! answers, which are then to be read.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use busbar_gateway::{Credentials, Denied, Identity, Open};
use busbar_mqtt::ack::encode_ack;
use busbar_mqtt::client::{
    MessageProperties, ServerPacket, decode, encode_connect, encode_disconnect, encode_pingreq,
    encode_subscribe, encode_unsubscribe, write_message_properties,
};
use busbar_mqtt::control::{Connect, RetainHandling, SubscribeOptions, Will};
use busbar_mqtt::property::{Writer, id, read_one};
use busbar_mqtt::wire::Reader;
use busbar_mqtt::{Ack, AckKind, PublishOut, Reason, Split, Version, split};
use busbar_mqtt_gateway::Limits;
use busbar_mqtt_gateway::sim::{Narrow, SimConn, SimNode, UserWithAllRights};

#[test]
fn every_transcript_holds() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let update = std::env::var_os("UPDATE_TRANSCRIPTS").is_some();
    let mut wrong = Vec::new();
    let mut files: Vec<_> = std::fs::read_dir(&dir)
        .expect("the folder")
        .map(|e| e.expect("an entry").path())
        .collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let script = std::fs::read_to_string(&file).expect("a transcript");
        let played = play(&script);
        if played == script {
            continue;
        }
        if update {
            std::fs::write(&file, played).expect("writing a transcript");
        } else {
            let line = script.lines().zip(played.lines()).position(|(a, b)| a != b);
            let line = line.unwrap_or(script.lines().count().min(played.lines().count()));
            wrong.push(format!(
                "{}:{}\n  file:   {}\n  server: {}",
                file.display(),
                line + 1,
                script.lines().nth(line).unwrap_or("(end)"),
                played.lines().nth(line).unwrap_or("(end)"),
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn authority(credentials: &Credentials) -> Result<Arc<dyn Identity>, Denied> {
    match credentials.username.as_deref() {
        Some("bad") => Err(Denied::BadCredentials),
        Some("hasty") => Err(Denied::TryLater),
        Some("nobody") => Err(Denied::NoCredentials),
        Some("narrow") => Ok(Arc::new(Narrow)),
        Some(name @ ("ann" | "bob")) => Ok(Arc::new(UserWithAllRights(name.into()))),
        _ => Ok(Arc::new(Open)),
    }
}

struct Client {
    conn: SimConn,
    version: Version,
    closed: bool,
    input: Vec<u8>,
}

struct Stage {
    limits: Limits,
    cores: usize,
    node: Option<SimNode>,
    clients: BTreeMap<String, Client>,
}

fn play(script: &str) -> String {
    let limits = Limits {
        packet_bytes_max: 4096,
        session_expiry_s_max: 1000,
        topic_alias_maximum: 4,
        ..Limits::default()
    };
    let mut stage = Stage {
        limits,
        cores: 1,
        node: None,
        clients: BTreeMap::new(),
    };
    let mut out = String::new();
    // Lines of two blanks are answers; a line that begins with `#` is a comment.
    for line in script.lines().filter(|l| !l.starts_with("  ")) {
        let _ = writeln!(out, "{line}");
        let words: Vec<&str> = line.split_whitespace().collect();
        if !words.is_empty() && !line.starts_with('#') {
            stage.line(&words, &mut out);
        }
    }
    out
}

impl Stage {
    fn line(&mut self, words: &[&str], out: &mut String) {
        if words[0] == "limit" {
            words[1..].iter().for_each(|word| self.limit(word));
            return;
        }
        let (cores, limits) = (self.cores, &self.limits);
        let node = self.node.get_or_insert_with(|| {
            let mut node = SimNode::new(cores, limits.clone());
            node.authority = authority;
            node
        });
        match words[0] {
            "advance" => node.advance(micros(words[1])),
            "jump" => node.jump(micros(words[1])),
            "hold" => node.durable_at_once = false,
            "let-go" => {
                node.durable_at_once = true;
                node.commit();
            }
            "step" => node.step(),
            "broken" => node.log.borrow_mut().broken = true,
            "mended" => node.log.borrow_mut().broken = false,
            "full" => node.log.borrow_mut().full = true,
            "space" => node.log.borrow_mut().full = false,
            "overload" => node.log.borrow_mut().refuse = Some(busbar_bus::Refused::Overloaded),
            "relief" => node.log.borrow_mut().refuse = None,
            "cold" => node.forget_cache(),
            "unreadable" => node.log.borrow_mut().unreadable = true,
            "readable" => node.read_again(),
            "trim" => node.trim(),
            "crash" => {
                node.crash_for(words.get(1).map_or(0, |time| micros(time)));
                self.clients.clear();
            }
            "restart" => {
                node.restart();
                self.clients.clear();
            }
            name if words[1] == "close" => {
                if let Some(client) = self.clients.remove(name) {
                    node.close(client.conn);
                }
            }
            name => act(node, &mut self.clients, name, &words[1..]),
        }
        for (name, client) in &mut self.clients {
            listen(node, name, client, out);
        }
    }

    fn limit(&mut self, word: &str) {
        let (name, value) = word.split_once('=').expect("name=value");
        let n: i64 = value.parse().expect("a number");
        match name {
            "cores" => self.cores = n as usize,
            "connections" => self.limits.connections_max = n as usize,
            "rate" => self.limits.connections_per_second_max = n as u32,
            "sessions" => self.limits.sessions_max = n as usize,
            "subscriptions" => self.limits.subscriptions_per_session_max = n as usize,
            "receive" => self.limits.receive_maximum = n as u16,
            "keepalive" => self.limits.keep_alive_s_max = n as u16,
            "sys" => self.limits.sys_interval_us = n * 1_000_000,
            other => panic!("no limit {other}"),
        }
    }
}

fn micros(seconds: &str) -> i64 {
    let s: f64 = seconds.trim_end_matches('s').parse().expect("seconds");
    (s * 1e6) as i64
}

fn listen(node: &mut SimNode, name: &str, client: &mut Client, out: &mut String) {
    if client.closed {
        return;
    }
    let bytes = node.output(client.conn);
    client.input.extend(bytes);
    let input = std::mem::take(&mut client.input);
    let mut at = 0;
    while let Ok(Split::Whole(frame)) = split(&input[at..], u32::MAX) {
        let text = match decode(frame, client.version) {
            Ok(packet) => describe(packet),
            Err(refusal) => format!("undecodable: {refusal}"),
        };
        let _ = writeln!(out, "  {name} < {text}");
        at += frame.len;
    }
    client.input = input[at..].to_vec();
    if node.is_closed(client.conn) {
        node.close(client.conn);
        client.closed = true;
        let _ = writeln!(out, "  {name} closed");
    }
}

fn describe(packet: ServerPacket<'_>) -> String {
    let codes = |list: &[Reason]| {
        list.iter()
            .map(|r| format!(" {:02x}", r.0))
            .collect::<String>()
    };
    let mut text = String::new();
    match packet {
        ServerPacket::ConnAck(c) => {
            let _ = write!(
                text,
                "connack {} present={}",
                c.reason,
                u8::from(c.session_present)
            );
            let mut number = |name: &str, n: Option<u32>| {
                n.map(|n| write!(text, " {name}={n}").ok());
            };
            number("expiry", c.session_expiry_s);
            number(
                "receive",
                Some(c.receive_maximum.into()).filter(|n| *n != 65_535),
            );
            number("packet", c.maximum_packet_size);
            number(
                "aliases",
                Some(c.topic_alias_maximum.into()).filter(|n| *n > 0),
            );
            number("keepalive", c.server_keep_alive_s.map(u32::from));
            if c.assigned_client_id.is_some() {
                text.push_str(" assigned");
            }
            if let Some(t) = c.reason_string {
                let _ = write!(text, " \"{t}\"");
            }
        }
        ServerPacket::Publish(p) => {
            let _ = write!(
                text,
                "publish {} qos={}",
                String::from_utf8_lossy(p.topic),
                p.qos
            );
            if p.packet_id > 0 {
                let _ = write!(text, " id={}", p.packet_id);
            }
            text.push_str(if p.dup { " dup" } else { "" });
            text.push_str(if p.retain { " retain" } else { "" });
            let mut r = Reader::new(p.properties);
            while !r.is_empty() {
                let (key, value) = read_one(&mut r).expect("properties that are well formed");
                let _ = write!(text, " {key}:{value:?}");
            }
            let _ = write!(text, " {:?}", String::from_utf8_lossy(p.payload));
        }
        ServerPacket::Ack(a) => {
            let kind = format!("{:?}", a.kind).to_lowercase();
            let _ = write!(text, "{kind} {} {}", a.packet_id, a.reason);
        }
        ServerPacket::SubAck(id, list) => {
            let _ = write!(text, "suback {id}{}", codes(&list));
        }
        ServerPacket::UnsubAck(id, list) => {
            let _ = write!(text, "unsuback {id}{}", codes(&list));
        }
        ServerPacket::PingResponse => text.push_str("pingresp"),
        ServerPacket::Disconnect(reason, why) => {
            let _ = write!(text, "disconnect {reason} {:?}", why.unwrap_or_default());
        }
        ServerPacket::Auth(reason) => {
            let _ = write!(text, "auth {reason}");
        }
    }
    text
}

/// The words `name=value` and bare words of an action.
struct Args<'a>(&'a [&'a str]);

impl<'a> Args<'a> {
    fn get(&self, name: &str) -> Option<&'a str> {
        self.0
            .iter()
            .find_map(|w| w.strip_prefix(name)?.strip_prefix('='))
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.get(name).and_then(|v| v.parse().ok())
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains(&name)
    }

    fn bare(&self) -> impl Iterator<Item = &'a str> {
        self.0.iter().copied().filter(|w| !w.contains('='))
    }
}

fn hex(word: &str) -> u8 {
    u8::from_str_radix(word, 16).expect("hex")
}

fn act(node: &mut SimNode, clients: &mut BTreeMap<String, Client>, name: &str, words: &[&str]) {
    let args = Args(&words[1..]);
    if !clients.contains_key(name) || words[0] == "connect" && clients[name].closed {
        let conn = node.open();
        let version = Version::V5;
        clients.insert(
            name.into(),
            Client {
                conn,
                version,
                closed: false,
                input: Vec::new(),
            },
        );
    }
    let Some(client) = clients.get_mut(name) else {
        return;
    };
    let version = client.version;
    let mut bytes = Vec::new();
    let id = args.number("id").unwrap_or(1);
    match words[0] {
        "connect" => {
            let connect = connect(&args);
            client.version = connect.version;
            encode_connect(&connect, &mut bytes);
        }
        "publish" => publish(version, &args, &mut bytes),
        "subscribe" => {
            let filters: Vec<_> = args.bare().map(filter).collect();
            encode_subscribe(version, id, args.number("sid"), &filters, &mut bytes);
        }
        "unsubscribe" => {
            let filters: Vec<_> = args.bare().collect();
            encode_unsubscribe(version, id, &filters, &mut bytes);
        }
        "puback" | "pubrec" | "pubrel" | "pubcomp" => {
            let kind = match words[0] {
                "puback" => AckKind::Puback,
                "pubrec" => AckKind::Pubrec,
                "pubrel" => AckKind::Pubrel,
                _ => AckKind::Pubcomp,
            };
            let reason = Reason(words.get(2).map_or(0, |w| hex(w)));
            let packet_id = words[1].parse().expect("a packet identifier");
            encode_ack(
                version,
                Ack {
                    kind,
                    packet_id,
                    reason,
                },
                None,
                &mut bytes,
            );
        }
        "speak" => client.version = Version::V311,
        "ping" => encode_pingreq(&mut bytes),
        "disconnect" => {
            let reason = Reason(args.get("reason").map_or(0, hex));
            encode_disconnect(version, reason, args.number("expiry"), &mut bytes);
        }
        "raw" => {
            for word in &words[1..] {
                match word.strip_prefix('\'') {
                    Some(text) => bytes.extend_from_slice(text.as_bytes()),
                    None => bytes.push(hex(word)),
                }
            }
        }
        other => panic!("no action {other}"),
    }
    node.input(client.conn, &bytes);
}

fn connect(args: &Args<'_>) -> Connect {
    let version = if args.has("v3") {
        Version::V311
    } else {
        Version::V5
    };
    let will = args
        .get("will")
        .and_then(|w| w.split_once(':'))
        .map(|(topic, payload)| Will {
            topic: topic.into(),
            payload: payload.into(),
            qos: args.number("wqos").unwrap_or(0),
            retain: args.has("wretain"),
            delay_s: args.number("wdelay").unwrap_or(0),
            text_payload: false,
            expiry_s: args.number("wexpiry"),
            content_type: None,
            response_topic: None,
            correlation: None,
            user: Vec::new(),
        });
    Connect {
        version,
        clean_start: !args.has("keep"),
        keep_alive_s: args.number("keepalive").unwrap_or(0),
        client_id: args.get("id").unwrap_or("").into(),
        username: args.get("user").map(Into::into),
        password: args.get("pass").map(Into::into),
        will,
        session_expiry_s: args.number("expiry").unwrap_or(0),
        receive_maximum: args.number("receive").unwrap_or(u16::MAX),
        maximum_packet_size: args.number("packet"),
        topic_alias_maximum: args.number("aliases").unwrap_or(0),
        request_response_info: false,
        request_problem_info: !args.has("terse"),
        auth_method: args.get("method").map(Into::into),
    }
}

fn publish(version: Version, args: &Args<'_>, bytes: &mut Vec<u8>) {
    let mut properties = Vec::new();
    let mut w = Writer(&mut properties);
    let message = MessageProperties {
        text_payload: args.has("text"),
        expiry_s: args.number("expiry"),
        content_type: args.get("type"),
        response_topic: args.get("reply"),
        correlation: args.get("corr").map(str::as_bytes),
    };
    write_message_properties(&mut w, &message);
    if let Some(alias) = args.number("alias") {
        w.two(id::TOPIC_ALIAS, alias);
    }
    if let Some(n) = args.number("sid") {
        w.variable(id::SUBSCRIPTION_ID, n);
    }
    for word in args.0 {
        if let Some((name, value)) = word.strip_prefix("user=").and_then(|w| w.split_once(':')) {
            w.pair(name, value);
        }
    }
    let payload = match (args.get("payload"), args.number::<usize>("size")) {
        (_, Some(n)) => vec![b'x'; n],
        (Some("ff"), _) => vec![0xff],
        (text, _) => text.unwrap_or("").into(),
    };
    let packet = PublishOut {
        dup: args.has("dup"),
        qos: args.number("qos").unwrap_or(0),
        retain: args.has("retain"),
        topic: args.get("topic").unwrap_or("").as_bytes(),
        packet_id: args.number("id").unwrap_or(0),
        properties: &properties,
        payload: &payload,
    };
    packet.encode(version, bytes);
}

/// `filter`, then `:` and options: a digit for the QoS, `nl`, `rap`, `rh0` to `rh2`.
fn filter(word: &str) -> (&str, SubscribeOptions) {
    let mut parts = word.split(':');
    let text = parts.next().unwrap_or("");
    let mut o = SubscribeOptions::default();
    for option in parts {
        match option {
            "nl" => o.no_local = true,
            "rap" => o.retain_as_published = true,
            "rh1" => o.retain_handling = RetainHandling::SendIfNew,
            "rh2" => o.retain_handling = RetainHandling::DoNotSend,
            qos => o.qos = qos.parse().expect("a QoS"),
        }
    }
    (text, o)
}
