//! Live connections: what resumes, what ends, and how.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame, FrameHeader};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::support::{PATIENCE, Socket, World};

fn close_code(socket: &mut Socket) -> CloseCode {
    loop {
        match socket.0.read() {
            Ok(Message::Close(Some(frame))) => return frame.code,
            Ok(_) => {}
            Err(why) => panic!("closed without a word: {why}"),
        }
    }
}

#[test]
fn a_reader_that_is_cut_off_before_its_first_event_misses_none() {
    let world = World::new(&[]);
    world.publish("a/x", json!("before"));
    let mut sse = world.listen("/api/v1/events?filter=a/%2B", &[]);
    let id = sse.greeting();
    drop(sse);
    world.publish("a/x", json!("meanwhile"));
    let mut again = world.listen("/api/v1/events?filter=a/%2B", &[("last-event-id", &id)]);
    assert_eq!(again.next().unwrap().json()["payload"], "meanwhile");
}

#[test]
fn a_reader_resumes_to_the_event_over_many_streams() {
    let names = ["aa", "alarm", "a", "b", "c", "d", "e", "f"];
    let files: Vec<(String, String)> = names
        .iter()
        .map(|name| {
            (
                format!("streams/{name}.yaml"),
                format!("topics: {name}/#\n"),
            )
        })
        .collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(a, b)| (&**a, &**b)).collect();
    let world = World::new(&files);
    let mut last = world.listen("/api/v1/events", &[]).greeting();
    // One request is one batch, which readers get as one group.
    let events: Vec<_> = (0..20)
        .map(|n| json!({"topic":"a/x","payload":n}))
        .collect();
    assert_eq!(world.post("/api/v1/events", &json!(events)).status, 200);
    for n in 0..20 {
        let mut sse = world.listen("/api/v1/events", &[("last-event-id", &last)]);
        let message = sse.next().unwrap();
        assert_eq!(message.json()["payload"], n);
        last = message.id;
    }
    let wrong = world.request("GET", "/api/v1/events", &[("last-event-id", "é")], b"");
    assert_eq!(
        (wrong.status, wrong.code()),
        (400, "server.bad-from".into())
    );
}

#[test]
fn a_quiet_reader_gets_signs_of_life_from_a_busy_node() {
    let world = World::new(&[]);
    let mut sse = world.listen("/api/v1/events?filter=quiet/%23", &[]);
    let first = sse.greeting();
    let mut socket = Socket::open(&world, &[]).unwrap();
    socket.send(json!({"op":"subscribe","id":1,"filter":"quiet/#"}));
    assert_eq!(socket.next()["op"], "ack");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (done, world) = (&done, &world);
        scope.spawn(move || {
            let begun = Instant::now();
            while !done.load(Ordering::Relaxed) && begun.elapsed() < PATIENCE {
                world.publish("busy/x", json!(1));
                std::thread::park_timeout(Duration::from_millis(100));
            }
        });
        // The sign also says how far the reader has come, though nothing was for it.
        assert_ne!(sse.greeting(), first);
        assert!(matches!(socket.0.read(), Ok(Message::Ping(_))));
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_socket_that_breaks_the_rules_is_told_which() {
    let world = World::new(&[]);
    let broken = |frame: Frame| {
        let mut socket = Socket::open(&world, &[]).unwrap();
        socket.0.send(Message::Frame(frame)).unwrap();
        close_code(&mut socket)
    };
    let frame =
        |header: FrameHeader, bytes: &[u8]| Frame::from_payload(header, bytes.to_vec().into());
    let text = || FrameHeader {
        opcode: OpCode::Data(Data::Text),
        mask: Some([1, 2, 3, 4]),
        ..FrameHeader::default()
    };
    let large = vec![b'x'; busbar_server::limits::SOCKET_FRAME_BYTES_MAX + 1];
    assert_eq!(broken(frame(text(), &large)), CloseCode::Size);
    assert_eq!(broken(frame(text(), b"\xff\xfe")), CloseCode::Invalid);
    let reserved = FrameHeader {
        rsv1: true,
        ..text()
    };
    assert_eq!(broken(frame(reserved, b"x")), CloseCode::Protocol);
    // Fragments that are too large together.
    let mut socket = Socket::open(&world, &[]).unwrap();
    let half = &large[..large.len() / 2 + 1];
    let first = FrameHeader {
        is_final: false,
        ..text()
    };
    let rest = FrameHeader {
        opcode: OpCode::Data(Data::Continue),
        ..text()
    };
    socket.0.send(Message::Frame(frame(first, half))).unwrap();
    socket.0.send(Message::Frame(frame(rest, half))).unwrap();
    assert_eq!(close_code(&mut socket), CloseCode::Size);
}

#[test]
fn fragments_pings_and_farewells_are_answered() {
    let world = World::new(&[]);
    let mut socket = Socket::open(&world, &[]).unwrap();
    let whole = br#"{"op":"publish","id":1,"topic":"a","payload":"in three parts"}"#;
    for (at, part) in [&whole[..10], &whole[10..11], &whole[11..]]
        .into_iter()
        .enumerate()
    {
        let header = FrameHeader {
            is_final: at == 2,
            opcode: OpCode::Data(if at == 0 { Data::Text } else { Data::Continue }),
            mask: Some([9, 8, 7, 6]),
            ..FrameHeader::default()
        };
        let frame = Frame::from_payload(header, part.to_vec().into());
        socket.0.send(Message::Frame(frame)).unwrap();
        if at == 1 {
            // Control frames may come between fragments.
            socket
                .0
                .send(Message::Ping(b"there?".as_slice().into()))
                .unwrap();
            assert_eq!(
                socket.0.read().unwrap(),
                Message::Pong(b"there?".as_slice().into())
            );
        }
    }
    assert_eq!(socket.next()["accepted"], 1);
    let farewell = CloseFrame {
        code: CloseCode::Normal,
        reason: "".into(),
    };
    socket.0.close(Some(farewell.clone())).unwrap();
    assert_eq!(socket.0.read().unwrap(), Message::Close(Some(farewell)));
    assert!(matches!(socket.0.read(), Err(Error::ConnectionClosed)));
}

#[test]
fn a_stopping_node_answers_what_was_published_and_says_that_it_goes() {
    let mut world = World::new(&[]);
    let mut socket = Socket::open(&world, &[]).unwrap();
    let mut idle = Socket::open(&world, &[]).unwrap();
    for n in 0..50 {
        socket.send(json!({"op":"publish","id":n,"topic":"a","payload":n}));
    }
    assert_eq!(socket.next()["id"], 0);
    let reader = std::thread::spawn(move || {
        let mut acks = 1;
        loop {
            match socket.0.read().unwrap() {
                Message::Text(_) => acks += 1,
                Message::Close(frame) => return (acks, frame.unwrap().code),
                _ => {}
            }
        }
    });
    let idle = std::thread::spawn(move || close_code(&mut idle));
    world.stop();
    let (acks, code) = reader.join().unwrap();
    assert_eq!(
        (code, idle.join().unwrap()),
        (CloseCode::Away, CloseCode::Away)
    );
    world.restart();
    // What was taken was answered; nothing was answered that is not there.
    assert_eq!(world.sql("select count(*) from inbox"), json!([[acks]]));
}
