//! Notices when the files of a project's folder change.
//!
//! The folder is looked at several times a second instead of asking the operating system for events: events miss
//! folders that are moved or linked into place and network file systems, while the names and times of a project's few
//! files are read in well under a millisecond.

use std::path::PathBuf;
use std::time::Duration;

use busbar_catalog::{Bundle, FolderStamp};
use busbar_server::FolderRead;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::commands::check;

/// Between two looks at the folder.
const EVERY: Duration = Duration::from_millis(400);
/// Editors and `git` write in several steps: the files are read when they have not changed for this long. Longer than
/// the resolution of a file system's times, so that a later change cannot hide behind an equal time.
const SETTLE: Duration = Duration::from_millis(150);
/// Files that change all the time are read after this long at the latest.
const SETTLE_MAX: Duration = Duration::from_millis(900);

/// Sends the files of a folder each time they have changed since `last`; ends when nobody receives them any more.
pub async fn watch(dir: PathBuf, mut last: FolderStamp, readings: mpsc::Sender<FolderRead>) {
    loop {
        sleep(EVERY).await;
        let mut now = stamp(&dir).await;
        if now == last {
            if readings.is_closed() {
                return;
            }
            continue;
        }
        let until = Instant::now() + SETTLE_MAX;
        while Instant::now() < until {
            sleep(SETTLE).await;
            let later = stamp(&dir).await;
            if later == now {
                break;
            }
            now = later;
        }
        let from = dir.clone();
        let Ok(read) = tokio::task::spawn_blocking(move || self::read(from)).await else {
            return;
        };
        last = now;
        if readings.send(read).await.is_err() {
            return;
        }
    }
}

/// The files of the project's folder, after a warning about each that is ignored. Blocks on the disk.
pub fn read(dir: PathBuf) -> FolderRead {
    let (bundle, ignored) = Bundle::read(&dir)?;
    check::tell(&ignored, false);
    Ok(bundle)
}

async fn stamp(dir: &std::path::Path) -> FolderStamp {
    let dir = dir.to_path_buf();
    // A stamp that cannot be taken equals none, so that the folder is read.
    let none = PathBuf::new();
    tokio::task::spawn_blocking(move || FolderStamp::take(&dir))
        .await
        .unwrap_or_else(|_| FolderStamp::take(&none))
}

#[cfg(test)]
mod tests {
    use std::fs::{create_dir_all, rename, write};
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    /// What the next reading holds that equals `expected`; other readings on the way are those of half a change.
    fn reads(
        runtime: &tokio::runtime::Runtime,
        readings: &mut mpsc::Receiver<FolderRead>,
        expected: &[(&str, &str)],
    ) {
        let wanted: Vec<(String, String)> = expected
            .iter()
            .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()))
            .collect();
        runtime.block_on(async {
            let found = async {
                while let Some(read) = readings.recv().await {
                    let files: Vec<_> =
                        read.map_or_else(|_| Vec::new(), |b| b.files.into_iter().collect());
                    if files == wanted {
                        return;
                    }
                }
                panic!("the watcher ended");
            };
            let limit = Duration::from_secs(30);
            tokio::time::timeout(limit, found)
                .await
                .unwrap_or_else(|_| panic!("never read {wanted:?}"));
        });
    }

    #[test]
    fn whatever_happens_to_the_folder_is_read() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        let file = |path: &str, text: &str| {
            create_dir_all(Path::new(&at(path)).parent().unwrap()).unwrap();
            write(at(path), text).unwrap();
        };
        file("one/flows/a.yaml", "1");
        file("two/flows/b.yaml", "2");
        symlink(at("one"), at("current")).unwrap();
        let (sender, mut readings) = mpsc::channel(1);
        let dir = at("current");
        let stamp = FolderStamp::take(&dir);
        runtime.spawn(watch(dir, stamp, sender));

        file("one/flows/a.yaml", "12");
        reads(&runtime, &mut readings, &[("flows/a.yaml", "12")]);
        // The same length, in place.
        file("one/flows/a.yaml", "13");
        reads(&runtime, &mut readings, &[("flows/a.yaml", "13")]);
        rename(at("one/flows"), at("away")).unwrap();
        reads(&runtime, &mut readings, &[]);
        rename(at("away"), at("one/flows")).unwrap();
        reads(&runtime, &mut readings, &[("flows/a.yaml", "13")]);
        // A copy of a whole folder, made elsewhere and moved in.
        file("new/streams/s.yaml", "s");
        rename(at("new/streams"), at("one/streams")).unwrap();
        let both = [("flows/a.yaml", "13"), ("streams/s.yaml", "s")];
        reads(&runtime, &mut readings, &both);
        // A release that is switched by a link.
        symlink(at("two"), at("next")).unwrap();
        rename(at("next"), at("current")).unwrap();
        reads(&runtime, &mut readings, &[("flows/b.yaml", "2")]);
        rename(at("two/flows/b.yaml"), at("two/flows/c.yaml")).unwrap();
        reads(&runtime, &mut readings, &[("flows/c.yaml", "2")]);
    }
}
