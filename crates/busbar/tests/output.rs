//! Output that cannot be written and an environment that is not text end no command with a panic.

#![allow(missing_docs)]

mod support;

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStringExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::node::Node;

const PANIC: i32 = 101;
const IO: i32 = 74;

fn full() -> File {
    File::options()
        .write(true)
        .open("/dev/full")
        .expect("a full device")
}

#[test]
fn a_full_output_is_an_error_and_no_panic() {
    let node = Node::new(&[("streams/a.yaml", "topics: a/#\n")]);
    let project = node.project();
    let project = project.to_str().expect("text");
    let commands: [&[&str]; 6] = [
        &["--json", "check", project],
        &["check", project],
        &["test", project],
        &["schema", "flow"],
        &["completions", "bash"],
        // It fails, and cannot even say so.
        &["--json", "check", "/nowhere"],
    ];
    for command in commands {
        let ended = node
            .command()
            .args(command)
            .stdout(full())
            .stderr(Stdio::null())
            .status();
        let code = ended.expect("it runs").code();
        assert!(
            code.is_some_and(|code| code != PANIC && code != 0),
            "{command:?}: {code:?}"
        );
        let both = node
            .command()
            .args(command)
            .stdout(full())
            .stderr(full())
            .status();
        assert_ne!(both.expect("it runs").code(), Some(PANIC), "{command:?}");
    }
    let ended = node
        .command()
        .args(["schema", "flow"])
        .stdout(full())
        .output();
    let ended = ended.expect("it runs");
    assert_eq!(ended.status.code(), Some(IO));
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(said.contains("the output cannot be written"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn a_node_that_cannot_print_goes_on() {
    let node = Node::new(&[("streams/a.yaml", "topics: a/#\n")]);
    let mut command = node.command();
    command.arg("run").arg(node.project());
    let mut child = command
        .stdout(full())
        .stderr(full())
        .spawn()
        .expect("it starts");
    let begun = Instant::now();
    let mut ready = false;
    while !ready && begun.elapsed() < Duration::from_secs(60) {
        assert_eq!(child.try_wait().expect("a child"), None, "it ended");
        ready = node.get("/readyz").is_ok();
        std::thread::park_timeout(Duration::from_millis(20));
    }
    assert!(ready);
    // What is saved is told, to nobody.
    node.write("streams/b.yaml", "topics: b/#\n");
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(60) {
        assert_eq!(child.try_wait().expect("a child"), None, "it ended");
        if node
            .get("/api/v1/project")
            .is_ok_and(|text| text.contains("streams/b.yaml"))
        {
            break;
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    assert!(node.get_json("/api/v1/project")["files"]["streams/b.yaml"].is_string());
    child.kill().expect("killed");
    child.wait().expect("ended");
}

#[test]
fn an_environment_that_is_not_text_is_read_or_refused_by_name() {
    let node = Node::new(&[("streams/a.yaml", "topics: a/#\n")]);
    let strange = OsString::from_vec(vec![b'a', 0xff]);
    let run = |command: &mut Command| {
        let ended = command.stdin(Stdio::null()).output().expect("it runs");
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        (ended.status.code(), said)
    };
    // Somebody else's variable, by value and by name.
    let mut command = node.command();
    command.arg("check").arg(node.project());
    command.env("SOMETHING", &strange).env(&strange, "x");
    assert_eq!(run(&mut command).0, Some(0));
    // A setting: refused by its name.
    let mut command = node.command();
    command
        .arg("run")
        .arg(node.project())
        .env("BUSBAR_LOG_LEVEL", &strange);
    command.env("SOMETHING", &strange).env(&strange, "x");
    let (code, said) = run(&mut command);
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("BUSBAR_LOG_LEVEL"), "{said}");
    // Variables of the command line.
    for name in [
        "BUSBAR_LANG",
        "BUSBAR_NODE",
        "BUSBAR_TOKEN",
        "BUSBAR_CA",
        "LANG",
    ] {
        let mut command = node.command();
        command.arg("top").arg("--once").env(name, &strange);
        let (code, said) = run(&mut command);
        assert_ne!(code, Some(PANIC), "{name}: {said}");
        assert!(!said.contains("panicked"), "{name}: {said}");
    }
}
