//! Files that are written: cut, moved away, adopted, with other columns.

use std::fs;
use std::path::Path;

use busbar_connector::{Delivery, Sink};
use busbar_event::{Class, Error};
use tokio::runtime::Runtime;

use crate::sink_context;
use crate::sinks::{by, delivery};
use crate::subjects::numbered;
use crate::world::spec;

struct Place {
    folder: tempfile::TempDir,
    runtime: Runtime,
    connection: &'static str,
}

impl Place {
    fn new(connection: &'static str) -> Place {
        Place {
            folder: tempfile::tempdir().expect("a folder"),
            runtime: Runtime::new().expect("a runtime"),
            connection,
        }
    }
    fn try_open(&self) -> Result<Box<dyn Sink>, Error> {
        let registry = busbar_connect::registry();
        let connector = registry.get("file").expect("it is registered");
        let context = sink_context(self.folder.path());
        self.runtime
            .block_on(connector.sink(&spec(self.connection), context))
    }
    fn open(&self) -> Box<dyn Sink> {
        self.try_open().expect("it opens")
    }
    fn write(&self, sink: &mut Box<dyn Sink>, delivery: &Delivery) {
        let written = self
            .runtime
            .block_on(sink.write(delivery))
            .expect("written");
        assert!(written.rejected.is_empty(), "{written:?}");
    }
    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).expect("it is there")
    }
    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }
}

const NDJSON: &str = "file: { write: a.ndjson }\n";
const CSV: &str = "file: { write: a.csv, format: csv }\n";

#[test]
fn what_a_crash_left_is_cut_off() {
    let place = Place::new(NDJSON);
    let mut sink = place.open();
    place.write(&mut sink, &delivery("t", &numbered(0..2), 2));
    drop(sink);
    // The file is let go of where it was written.
    crate::world::rest(50);
    let torn = format!("{}{{\"n\":2}}\n{{\"n\"", place.text("a.ndjson"));
    fs::write(place.path("a.ndjson"), torn).expect("written");
    let mut sink = place.open();
    assert_eq!(
        place.text("a.ndjson").lines().count(),
        2,
        "the note says two"
    );
    place.write(&mut sink, &delivery("t", &numbered(2..4), 4));
    assert_eq!(place.text("a.ndjson"), numbered(0..4).join("\n") + "\n");
}

#[test]
fn a_file_that_was_there_is_appended_to_on_a_line_of_its_own() {
    let place = Place::new(NDJSON);
    fs::write(place.path("a.ndjson"), "{\"old\":1}\n{\"old\":2}").expect("written");
    let mut sink = place.open();
    place.write(&mut sink, &delivery("t", &numbered(0..1), 1));
    assert_eq!(
        place.text("a.ndjson"),
        "{\"old\":1}\n{\"old\":2}\n{\"n\":0}\n"
    );
    // Killed at once after opening for the first time, nothing is repeated or lost.
    drop(sink);
    // The file is let go of where it was written.
    crate::world::rest(50);
    let mut sink = place.open();
    place.write(&mut sink, &delivery("t", &numbered(0..1), 1));
    assert_eq!(place.text("a.ndjson").lines().count(), 3);
}

#[test]
fn a_file_that_is_moved_away_or_removed_is_begun_anew() {
    let place = Place::new(CSV);
    let mut sink = place.open();
    place.write(&mut sink, &delivery("t", &["x"], 1));
    fs::rename(place.path("a.csv"), place.path("a.csv.1")).expect("moved");
    place.write(&mut sink, &delivery("t", &["y"], 2));
    assert_eq!(place.text("a.csv.1"), "n,note\n0,x\n");
    assert_eq!(place.text("a.csv"), "n,note\n0,y\n");
    for position in 3..6 {
        drop(sink);
        // The file is let go of where it was written.
        crate::world::rest(50);
        fs::remove_file(place.path("a.csv")).expect("removed");
        sink = place.open();
        // What was written before it was removed is still known.
        place.write(&mut sink, &delivery("t", &["z"], position - 1));
        place.write(&mut sink, &delivery("t", &["z"], position));
        assert_eq!(place.text("a.csv"), "n,note\n0,z\n");
    }
}

#[test]
fn a_file_that_was_cut_short_is_refused() {
    let place = Place::new(NDJSON);
    let mut sink = place.open();
    place.write(&mut sink, &delivery("t", &numbered(0..10), 10));
    drop(sink);
    // The file is let go of where it was written.
    crate::world::rest(50);
    fs::write(place.path("a.ndjson"), "{\"n\":0}\n").expect("written");
    // Written in place: the inode stays.
    let refused = place.try_open().err().expect("refused");
    assert_eq!(
        (refused.class(), refused.code()),
        (Class::Configuration, "connect.file-shrunk")
    );
}

#[test]
fn csv_has_one_header_and_quotes_what_needs_it() {
    let place = Place::new(CSV);
    for position in 1..3 {
        let mut sink = place.open();
        place.write(
            &mut sink,
            &delivery("t", &["plain", "a,\"b\"", "two\nlines"], position),
        );
    }
    let rows = "0,plain\n1,\"a,\"\"b\"\"\"\n2,\"two\nlines\"\n";
    assert_eq!(place.text("a.csv"), format!("n,note\n{rows}{rows}"));
}

#[test]
fn csv_with_other_columns_is_refused() {
    let place = Place::new(CSV);
    fs::write(place.path("a.csv"), "site,kw\nnorth,1\n").expect("written");
    let refused = place.try_open().err().expect("refused");
    assert_eq!(
        (refused.class(), refused.code()),
        (Class::Configuration, "connect.file-columns")
    );
    assert_eq!(place.text("a.csv"), "site,kw\nnorth,1\n");
}

#[test]
fn text_that_is_no_json_becomes_a_string_on_one_line() {
    let place = Place::new(NDJSON);
    let mut sink = place.open();
    place.write(
        &mut sink,
        &delivery("t", &["{\n\"a\": 1\n}", "two\nlines", ""], 1),
    );
    assert_eq!(
        place.text("a.ndjson"),
        "{ \"a\": 1 }\n\"two\\nlines\"\n\"\"\n"
    );
}

#[test]
fn another_process_that_writes_is_waited_for() {
    let place = Place::new(NDJSON);
    let other = fs::File::create(place.path("a.ndjson")).expect("a file");
    other.lock().expect("locked");
    let refused = place.try_open().err().expect("in use");
    assert_eq!(
        (refused.class(), refused.code()),
        (Class::Transient, "connect.file-in-use")
    );
    drop(other);
    drop(place.open());
}

#[test]
fn what_is_no_file_is_refused_without_waiting() {
    let place = Place::new(NDJSON);
    let made = std::process::Command::new("mkfifo")
        .arg(place.path("a.ndjson"))
        .status();
    assert!(made.expect("mkfifo").success());
    let refused = place.try_open().err().expect("refused");
    assert_eq!(
        (refused.class(), refused.code()),
        (Class::Configuration, "connect.file-not-plain")
    );
}

#[test]
fn a_broken_note_is_said_and_not_guessed() {
    let place = Place::new(NDJSON);
    drop(place.open());
    fs::write(place.path(".a.ndjson.position"), "{").expect("written");
    let refused = place.try_open().err().expect("refused");
    assert_eq!(
        (refused.class(), refused.code()),
        (Class::Configuration, "connect.file-note")
    );
    assert!(
        Path::new(&refused.args()[0].1).ends_with(".a.ndjson.position"),
        "{refused:?}"
    );
}

#[test]
fn each_writer_has_its_own_position() {
    let place = Place::new(NDJSON);
    let mut sinks = [place.open(), place.open()];
    place.write(&mut sinks[0], &by(delivery("t", &numbered(0..1), 100), "a"));
    place.write(&mut sinks[1], &by(delivery("t", &numbered(1..2), 5), "b"));
    place.write(&mut sinks[0], &by(delivery("t", &numbered(0..1), 100), "a"));
    let [mut first, _] = sinks;
    let position = |sink: &mut Box<dyn Sink>, who: &str| {
        place
            .runtime
            .block_on(sink.position(who))
            .expect("an answer")
    };
    assert_eq!(position(&mut first, "a"), Some(100));
    assert_eq!(position(&mut first, "b"), Some(5));
    assert_eq!(position(&mut first, "c"), None);
    assert_eq!(place.text("a.ndjson"), numbered(0..2).join("\n") + "\n");
}

/// As `copytruncate` of logrotate does, while the sink has the file open.
#[test]
fn a_file_that_is_truncated_while_it_is_open_is_begun_anew() {
    for (connection, name, header) in [(NDJSON, "a.ndjson", ""), (CSV, "a.csv", "n,note\n")] {
        let place = Place::new(connection);
        let mut sink = place.open();
        let rows = |n: u64| numbered(n..n + 1);
        place.write(&mut sink, &delivery("t", &rows(0), 1));
        let whole = place.text(name);
        for position in 2..5 {
            fs::copy(place.path(name), place.path("copy")).expect("copied");
            fs::File::options()
                .write(true)
                .open(place.path(name))
                .and_then(|file| file.set_len(0))
                .expect("truncated");
            place.write(&mut sink, &delivery("t", &rows(position - 1), position));
            let text = place.text(name);
            assert!(!text.contains('\0'), "{text:?}");
            assert!(text.starts_with(header), "{text:?}");
            assert_eq!(text.lines().count(), whole.lines().count(), "{text:?}");
            assert_eq!(place.text("copy").lines().count(), whole.lines().count());
        }
    }
}

#[test]
fn a_file_that_is_removed_or_replaced_while_it_is_open_is_written_where_its_name_is() {
    let place = Place::new(NDJSON);
    let mut sink = place.open();
    place.write(&mut sink, &delivery("t", &numbered(0..1), 1));
    fs::remove_file(place.path("a.ndjson")).expect("removed");
    place.write(&mut sink, &delivery("t", &numbered(1..2), 2));
    assert_eq!(place.text("a.ndjson"), numbered(1..2).join("\n") + "\n");
    // Replaced by a file that ends in the middle of a line.
    fs::write(place.path("other"), "{\"other\":1}").expect("written");
    fs::rename(place.path("other"), place.path("a.ndjson")).expect("replaced");
    place.write(&mut sink, &delivery("t", &numbered(2..3), 3));
    let rest = numbered(2..3).join("\n");
    assert_eq!(place.text("a.ndjson"), format!("{{\"other\":1}}\n{rest}\n"));
}

#[test]
fn what_another_program_appends_stays_whole() {
    use std::io::Write as _;
    let place = Place::new(NDJSON);
    let mut sink = place.open();
    place.write(&mut sink, &delivery("t", &numbered(0..1), 1));
    let mut other = fs::File::options()
        .append(true)
        .open(place.path("a.ndjson"))
        .expect("opened");
    other.write_all(b"{\"other\":1}").expect("appended");
    place.write(&mut sink, &delivery("t", &numbered(1..2), 2));
    let (first, second) = (numbered(0..1).join(""), numbered(1..2).join(""));
    let expected = format!("{first}\n{{\"other\":1}}\n{second}\n");
    assert_eq!(place.text("a.ndjson"), expected);
}

#[test]
fn a_file_that_is_shortened_while_it_is_open_is_told() {
    let place = Place::new(NDJSON);
    let mut sink = place.open();
    place.write(&mut sink, &delivery("t", &numbered(0..10), 10));
    fs::write(place.path("a.ndjson"), "{\"n\":0}\n").expect("shortened");
    let refused = place
        .runtime
        .block_on(sink.write(&delivery("t", &numbered(10..11), 11)))
        .expect_err("refused");
    assert_eq!(refused.code(), "connect.file-shrunk");
    assert_eq!(place.text("a.ndjson"), "{\"n\":0}\n");
}

/// The limit on the size of files stands in for a full disk: the system writes a part, then fails.
#[test]
fn a_disk_that_fills_up_leaves_whole_lines() {
    const INNER: &str = "BUSBAR_TEST_FULL_DISK";
    let name = "file_sink::a_disk_that_fills_up_leaves_whole_lines";
    if std::env::var_os(INNER).is_none() {
        let program = std::env::current_exe().expect("this program");
        // In blocks of 512 or 1024 bytes; a file beyond it is an error, not the signal.
        let script = "trap '' XFSZ; ulimit -f 8; exec \"$0\" \"$@\"";
        let inner = std::process::Command::new("sh")
            .args(["-c", script])
            .arg(program)
            .args(["--exact", name])
            .env(INNER, "1")
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&inner.stdout).into_owned();
        assert!(
            inner.status.success() && said.contains("1 passed"),
            "{said}"
        );
        return;
    }
    let place = Place::new(NDJSON);
    let mut sink = place.open();
    let mut rows = 0;
    let failed = loop {
        // Each batch takes some hundred bytes.
        let batch = delivery("t", &numbered(rows..rows + 30), rows + 30);
        match place.runtime.block_on(sink.write(&batch)) {
            Ok(_) => rows += 30,
            Err(error) => break error,
        }
        assert!(rows < 1_000_000, "it never fills up");
    };
    assert_eq!(failed.class(), Class::Transient);
    assert_eq!(place.text("a.ndjson"), numbered(0..rows).join("\n") + "\n");
}

#[test]
fn links_and_paths_that_lead_outside_are_refused_and_allowed_folders_are_not() {
    let outside = tempfile::tempdir().expect("a folder");
    let outside = outside.path().canonicalize().expect("its path");
    let place = Place::new("file: { write: out/a.ndjson }\n");
    std::os::unix::fs::symlink(&outside, place.path("out")).expect("a link");
    let refused = place.try_open().err().expect("refused");
    assert_eq!(
        (refused.class(), refused.code()),
        (Class::Configuration, "connect.file-link")
    );
    assert_eq!(fs::read_dir(&outside).expect("a folder").count(), 0);

    let places = busbar_connect::Places::new([outside.clone()]);
    let registry = busbar_connect::registry_with(&places);
    let connector = registry.get("file").expect("it is registered");
    let absolute = format!("file: {{ write: {}/b.ndjson }}\n", outside.display());
    for (connection, written) in [(place.connection, "a.ndjson"), (&absolute, "b.ndjson")] {
        let context = sink_context(place.folder.path());
        let opened = place
            .runtime
            .block_on(connector.sink(&spec(connection), context));
        let mut sink = opened.expect("it opens");
        place.write(&mut sink, &delivery("t", &numbered(0..1), 1));
        let text = fs::read_to_string(outside.join(written)).expect("it is there");
        assert_eq!(text, numbered(0..1).join("\n") + "\n");
    }
    let refused = busbar_connect::registry()
        .check(&spec(&absolute))
        .unwrap_err();
    assert_eq!(refused.error().code(), "connect.file-outside");
}
