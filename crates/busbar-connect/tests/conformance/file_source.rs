//! Files as they are in the wild: rotated, cut, half written, quoted, broken.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::world::{Event, World, eventually, rest};

const STREAM: (&str, &str) = ("streams/in.yaml", "topics: in/#\n");
const LINE_BYTES_MAX: usize = busbar_connect::limits::FILE_LINE_BYTES_MAX;

struct Folder {
    world: Option<World>,
    stopped: Option<(busbar_log::sim::SimDisk, Arc<tempfile::TempDir>)>,
    path: PathBuf,
    connection: String,
}

impl Folder {
    fn new(options: &str) -> Folder {
        let world = World::new(Arc::new(tempfile::tempdir().expect("a folder")));
        let path = world.folder.path().join("in");
        fs::create_dir(&path).expect("a folder");
        let connection = format!("file: {options}\ntopic: in/${{file}}\n");
        let folder = Folder {
            world: Some(world),
            stopped: None,
            path,
            connection,
        };
        folder.apply();
        folder
    }
    fn apply(&self) {
        self.world()
            .apply(&[STREAM, ("connections/c.yaml", &self.connection)]);
    }
    fn world(&self) -> &World {
        self.world.as_ref().expect("a world")
    }
    fn restart(&mut self) {
        self.world = self.world.take().map(World::restart);
        self.apply();
    }
    /// Stops everything; the files stay.
    fn stop(&mut self) {
        let world = self.world.take().expect("a world");
        self.stopped = Some(world.kill());
    }
    /// Starts what was stopped.
    fn begin(&mut self) {
        let (disk, folder) = self.stopped.take().expect("a world that was stopped");
        self.world = Some(World::open(disk, folder));
        self.apply();
    }
    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
    fn append(&self, name: &str, bytes: impl AsRef<[u8]>) {
        append(&self.file(name), bytes.as_ref());
    }
    /// Waits for so many events, and a moment longer for one too many.
    fn events(&self, count: usize) -> Vec<Event> {
        eventually("the events", || {
            let events = self.world().events("in");
            match events.len() >= count {
                true => Ok(()),
                false => Err(format!("{events:?} {:?}", self.world().source("c"))),
            }
        });
        rest(600);
        let events = self.world().events("in");
        assert_eq!(events.len(), count, "{events:?}");
        events
    }
    fn texts(&self, count: usize) -> Vec<String> {
        self.events(count).iter().map(Event::text).collect()
    }
}

fn append(path: &Path, bytes: &[u8]) {
    let mut file = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .expect("a file");
    file.write_all(bytes).expect("written");
}

#[test]
fn a_line_counts_when_its_break_is_there() {
    let folder = Folder::new("{ read: in/a.log, format: lines }");
    folder.append("a.log", "one\r\n\ntwo\nthr");
    assert_eq!(folder.texts(2), ["one", "two"]);
    folder.append("a.log", "ee");
    assert_eq!(folder.texts(2).len(), 2);
    folder.append("a.log", "\nfour\n");
    assert_eq!(folder.texts(4)[2..], ["three", "four"]);
}

#[test]
fn a_file_that_is_rotated_is_read_to_its_end_and_the_new_one_from_its_beginning() {
    let mut folder = Folder::new("{ read: 'in/app.log*', format: lines }");
    folder.append("app.log", "1\n2\n");
    folder.events(2);
    // Moved while its writer still has it open.
    fs::rename(folder.file("app.log"), folder.file("app.log.1")).expect("moved");
    folder.append("app.log.1", "3\n");
    folder.append("app.log", "4 begins another\n");
    let mut there = folder.texts(4);
    there.sort();
    assert_eq!(there, ["1", "2", "3", "4 begins another"]);
    folder.restart();
    fs::rename(folder.file("app.log.1"), folder.file("app.log.2")).expect("moved");
    fs::rename(folder.file("app.log"), folder.file("app.log.1")).expect("moved");
    folder.append("app.log", "5 and another\n");
    assert_eq!(folder.texts(5)[4], "5 and another");
}

#[test]
fn a_file_that_is_cut_and_written_anew_is_read_anew() {
    let mut folder = Folder::new("{ read: in/a.log, format: lines }");
    folder.append("a.log", "head\n1\n2\n3\n");
    folder.events(4);
    // As `copytruncate` does: the same inode, and even the same first line.
    fs::File::create(folder.file("a.log")).expect("cut");
    rest(600);
    folder.append("a.log", "head\n4\n");
    assert_eq!(folder.texts(6)[4..], ["head", "4"]);
    folder.restart();
    folder.append("a.log", "5\n");
    assert_eq!(
        folder.texts(7)[6],
        "5",
        "its second life goes on after a restart"
    );
    // Cut while nobody looks, with another first line, and longer than before.
    folder.world().apply(&[STREAM]);
    fs::write(folder.file("a.log"), "another head\n6\n7\n8\n9\n10\n").expect("written");
    folder.apply();
    assert_eq!(folder.texts(13)[7..9], ["another head", "6"]);
}

#[test]
fn an_inode_that_comes_back_is_another_file() {
    let folder = Folder::new("{ read: 'in/*.log', format: lines }");
    for round in 0..5 {
        let name = format!("{round}.log");
        folder.append(&name, format!("file {round}\nlast\n"));
        folder.events(2 * round + 2);
        fs::remove_file(folder.file(&name)).expect("removed");
    }
}

#[test]
fn a_line_that_is_too_long_is_cut_off_and_its_rest_is_no_other_line() {
    let mut folder = Folder::new("{ read: in/a.log, format: lines }");
    folder.append("a.log", "before\n");
    folder.append("a.log", vec![b'x'; 3 * LINE_BYTES_MAX]);
    let events = folder.events(2);
    assert_eq!(events[1].payload.len(), LINE_BYTES_MAX);
    let tags = [
        ("cut-off", "line too long"),
        ("file", "a.log"),
        ("line", "2"),
    ];
    let tags = tags.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(events[1].tags, tags);
    folder.restart();
    folder.append("a.log", vec![b'y'; LINE_BYTES_MAX / 2]);
    folder.append("a.log", "\nafter\n");
    let events = folder.events(3);
    assert_eq!(
        (events[2].text().as_str(), events[2].tags.len()),
        ("after", 0)
    );
}

#[test]
fn rows_of_csv_are_objects() {
    let mut folder = Folder::new("{ read: in/a.csv, format: csv }");
    folder.append("a.csv", "\u{feff}site,kw,note\nnorth,3.2,\"a \"\"b\"\",\n");
    rest(600);
    assert_eq!(folder.world().events("in").len(), 0, "the row is not whole");
    folder.append("a.csv", "two lines\"\nsouth,007,\n");
    let rows = folder.events(2);
    let note = "a \"b\",\ntwo lines";
    assert_eq!(
        rows[0].json(),
        serde_json::json!({"site":"north","kw":3.2,"note":note})
    );
    assert_eq!(
        rows[1].json(),
        serde_json::json!({"site":"south","kw":"007","note":null})
    );
    folder.restart();
    folder.append("a.csv", b"too,few\nbad \xff,1,2\nwest,1,ok\n");
    let rows = folder.events(5);
    assert_eq!(
        rows[2].payload, b"too,few",
        "as it is, for a dead letter to keep"
    );
    let said = |row: usize| -> Vec<&str> {
        let tags = rows[row].tags.iter();
        tags.flat_map(|(name, value)| [name.as_str(), value.as_str()])
            .collect()
    };
    let (file, line) = ("a.csv", "line");
    // Counted in the file's lines, of which two are one row.
    assert_eq!(
        said(2),
        ["csv-error", "2 values, 3 columns", "file", file, line, "5"]
    );
    assert_eq!(said(3), ["csv-error", "not UTF-8", "file", file, line, "6"]);
    assert_eq!(said(4), [""; 0]);
    assert_eq!(rows[3].payload, b"bad \xff,1,2");
    assert_eq!(rows[4].json()["site"], "west");
}

#[test]
fn batches_of_hl7_are_split_into_messages_and_counted() {
    let mut folder = Folder::new("{ read: 'in/*', format: hl7 }");
    let batch = |count: usize| {
        format!(
            "FHS|^~\\&|HIS\rBHS|^~\\&|HIS\rMSH|^~\\&|1\rPID|1\rMSH|^~\\&|2\rBTS|{count}\rFTS|1\r"
        )
    };
    folder.append("a.hl7", batch(2));
    assert_eq!(folder.texts(2), ["MSH|^~\\&|1\rPID|1", "MSH|^~\\&|2"]);
    folder.append("a.hl7", batch(3));
    let events = folder.events(5);
    assert_eq!(
        events[4].text(),
        "BTS|3",
        "as it is, for a dead letter to keep"
    );
    let tags = events[4].tags.iter().map(|(_, value)| value.as_str());
    assert_eq!(
        tags.take(2).collect::<Vec<_>>(),
        ["BTS counts 3, found 2", "a.hl7"]
    );
    folder.restart();
    // A message alone, whose end only time tells.
    folder.append("b.hl7", "MSH|^~\\&|3\nPID|3");
    assert_eq!(folder.texts(6)[5], "MSH|^~\\&|3\nPID|3");
}

/// It is waited for as long as somebody may still write the rest; then the row is told apart from its
/// neighbours, and nothing is left out.
#[test]
fn an_open_quote_at_the_end_of_a_file_holds_nothing_back_for_ever() {
    let mut folder = Folder::new("{ read: 'in/*.csv', format: csv }");
    folder.append("a.csv", "n,note\n1,ok\n2,\"open\n3,fine\n");
    assert_eq!(folder.events(1)[0].json()["n"], 1);
    // Another file does not wait.
    folder.append("b.csv", "n\n7\n");
    folder.events(2);
    let wait = busbar_connect::limits::FILE_OPEN_QUOTE_MAX.as_millis() as u64;
    rest(wait + 500);
    let events = folder.events(4);
    assert_eq!(events[2].payload, b"2,\"open");
    let tags: Vec<_> = events[2]
        .tags
        .iter()
        .map(|(_, value)| value.as_str())
        .collect();
    assert_eq!(tags, ["quote never closed", "a.csv", "3"]);
    assert_eq!(
        events[3].json(),
        serde_json::json!({"n": 3, "note": "fine"})
    );
    folder.restart();
    folder.append("a.csv", "4,\"closed\nlater\"\n");
    assert_eq!(
        folder.events(5)[4].json()["note"],
        "closed\nlater",
        "the next one is waited for again"
    );
}

/// Files of one kind begin alike, and a file system gives a freed inode to the next file.
#[test]
fn a_file_in_the_place_of_one_that_was_removed_is_read_whole() {
    let folder = Folder::new("{ read: 'in/*.csv', format: csv }");
    let mut count = 0;
    for round in 1..5usize {
        let name = format!("{round}.csv");
        let rows: String = (0..round * 10).map(|n| format!("{n}\n")).collect();
        folder.append(&name, format!("n\n{rows}"));
        count += round * 10;
        let events = folder.events(count);
        assert_eq!(events[count - round * 10].json()["n"], 0);
        fs::remove_file(folder.file(&name)).expect("removed");
    }
}

/// As an export that is made anew every hour: in place, each time longer, with the same first line.
#[test]
fn a_file_that_is_overwritten_in_place_is_read_anew() {
    let folder = Folder::new("{ read: in/a.csv, format: csv }");
    let mut count = 0;
    for round in 1..4usize {
        let rows: String = (0..round * 10).map(|n| format!("{round}{n}\n")).collect();
        fs::write(folder.file("a.csv"), format!("n\n{rows}")).expect("written");
        count += round * 10;
        let events = folder.events(count);
        let first = events[count - round * 10].json();
        assert_eq!(first["n"], round * 10, "{events:?}");
    }
}

#[test]
fn links_that_lead_in_circles_and_files_that_may_not_be_read_hold_no_other_up() {
    let folder = Folder::new("{ read: 'in/*.log', format: lines }");
    std::os::unix::fs::symlink("b.log", folder.file("a.log")).expect("a link");
    std::os::unix::fs::symlink("a.log", folder.file("b.log")).expect("a link");
    std::os::unix::fs::symlink("nowhere", folder.file("c.log")).expect("a link");
    fs::create_dir(folder.file("d.log")).expect("a folder");
    let made = std::process::Command::new("mkfifo")
        .arg(folder.file("e.log"))
        .status();
    assert!(made.expect("mkfifo").success());
    folder.append("f.log", "there\n");
    assert_eq!(folder.texts(1), ["there"]);
    let status = folder.world().source("c");
    assert!(status.error.is_none(), "{status:?}");
}

#[test]
fn what_is_no_text_is_published_as_it_is() {
    let folder = Folder::new("{ read: in/a.ndjson }");
    folder.append("a.ndjson", b"\xef\xbb\xbf{\"a\":1}\n\xff\xfe\nnot json\n");
    let events = folder.events(3);
    assert_eq!(
        events[0].payload, b"{\"a\":1}",
        "without the byte order mark"
    );
    assert_eq!(events[1].payload, b"\xff\xfe");
    assert_eq!(events[2].payload, b"not json");
}

#[test]
fn many_lines_of_many_files_come_once_each() {
    let mut folder = Folder::new("{ read: 'in/*.log', format: lines }");
    let count = 40_000;
    for file in 0..3 {
        let text: String = (0..count).map(|n| format!("{file}-{n}\n")).collect();
        folder.append(&format!("{file}.log"), text);
        if file < 2 {
            rest(20);
            folder.restart();
        }
    }
    let texts = folder.texts(3 * count);
    for file in 0..3 {
        let prefix = format!("{file}-");
        let own = texts.iter().filter_map(|text| text.strip_prefix(&prefix));
        assert!(own.eq((0..count).map(|n| n.to_string()).collect::<Vec<_>>().iter()));
    }
}

#[test]
fn a_file_that_cannot_be_read_holds_no_other_up() {
    let folder = Folder::new("{ read: 'in/*.csv', format: csv }");
    // A header without end cannot be one, whoever asks; rights do not stop root.
    folder.append("a.csv", vec![b'h'; 2 * LINE_BYTES_MAX]);
    let shown = eventually("the complaint", || {
        let status = folder.world().source("c");
        status.error.clone().ok_or_else(|| format!("{status:?}"))
    });
    assert!(
        shown
            .args()
            .iter()
            .any(|(_, value)| value.ends_with("a.csv")),
        "{shown:?}"
    );
    folder.append("b.csv", "n\n1\n2\n");
    assert_eq!(folder.events(2)[1].json()["n"], 2);
}

/// As an export that is made anew while the node is down: in place, with the same first line, and longer.
#[test]
fn a_file_that_is_rewritten_in_place_while_the_node_is_down_is_read_anew() {
    let mut folder = Folder::new("{ read: in/a.csv, format: csv }");
    let write = |folder: &Folder, from: u32, to: u32| {
        let rows: String = (from..to).map(|n| format!("{n}\n")).collect();
        fs::write(folder.file("a.csv"), format!("n\n{rows}")).expect("written");
    };
    write(&folder, 10, 20);
    assert_eq!(folder.events(10)[9].json()["n"], 19);
    folder.stop();
    write(&folder, 30, 60);
    folder.begin();
    let events = folder.events(40);
    assert_eq!(events[10].json()["n"], 30);
    assert_eq!(events[39].json()["n"], 59);
    // Only appended to, it goes on where it was.
    folder.stop();
    folder.append("a.csv", "60\n61\n");
    folder.begin();
    assert_eq!(folder.events(42)[41].json()["n"], 61);
    // The first rows are others; the last ones that were read stand where they stood.
    folder.stop();
    let rows: String = (70..102).chain(62..64).map(|n| format!("{n}\n")).collect();
    fs::write(folder.file("a.csv"), format!("n\n{rows}")).expect("written");
    folder.begin();
    assert_eq!(folder.events(76)[42].json()["n"], 70);
}

#[test]
fn a_link_that_leads_outside_is_told_and_holds_no_other_file_up() {
    let outside = tempfile::tempdir().expect("a folder");
    fs::write(outside.path().join("secret"), "secret\n").expect("written");
    let folder = Folder::new("{ read: 'in/*.log', format: lines }");
    std::os::unix::fs::symlink(outside.path().join("secret"), folder.file("a.log"))
        .expect("a link");
    folder.append("b.log", "there\n");
    assert_eq!(folder.texts(1), ["there"]);
    let shown = eventually("the complaint", || {
        let status = folder.world().source("c");
        status.error.clone().ok_or_else(|| format!("{status:?}"))
    });
    assert_eq!(shown.code(), "connect.file-link");
}
