//! Begins to write fjall's files to the disk while they grow.
//!
//! fjall calls fsync for a file when it is complete. Then tens of megabytes are in the disk's queue at once, and the requests of
//! commits and reads wait behind them. So the folders of tables are watched here, and what was appended to a file is
//! handed to the disk in small pieces. Nothing depends on it: fjall still waits until the file is on the disk, and learns of
//! errors through its own handle.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use fjall::Keyspace;
use hashbrown::HashMap;
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::fs::inotify;
use rustix::io::Errno;

use crate::limits::{
    WIDE_WRITEBACK_BYTES, WIDE_WRITEBACK_EVERY, WIDE_WRITEBACK_FILES_MAX, WIDE_WRITEBACK_WATCH,
};

/// The files of a database that grow. Dropped, it ends its thread.
pub(super) struct Writeback {
    watched: Option<(Arc<WatchedFolders>, JoinHandle<()>)>,
}

struct WatchedFolders {
    /// Tells of files that were made.
    notices: OwnedFd,
    /// Written to when the thread must end.
    end: OwnedFd,
    /// By their numbers in notices.
    folders: Mutex<HashMap<i32, PathBuf>>,
    /// Bytes handed to the disk so far.
    begun: AtomicU64,
}

struct GrowingFile {
    file: File,
    /// So many bytes of it were handed to the disk.
    begun: u64,
    grew_at: Instant,
}

impl Writeback {
    /// Starts the thread. Where the system refuses it, files are written when they are complete.
    pub fn start() -> Self {
        let started = WatchedFolders::new().and_then(|watched| {
            let watched = Arc::new(watched);
            let run = Arc::clone(&watched);
            let thread = std::thread::Builder::new()
                .name("busbar-wide-writeback".to_owned())
                .spawn(move || {
                    if let Err(error) = run.run() {
                        tracing::debug!(%error, "files of wide tables are written when they are complete");
                    }
                })?;
            Ok((watched, thread))
        });
        if let Err(error) = &started {
            tracing::debug!(%error, "files of wide tables are written when they are complete");
        }
        Self {
            watched: started.ok(),
        }
    }

    /// Watches the files of this table too.
    pub fn add(&self, table: &Keyspace) {
        if let Some((watched, _)) = &self.watched {
            for folder in ["tables", "blobs"] {
                watched.add(&table.path().join(folder));
            }
        }
    }
}

impl Drop for Writeback {
    fn drop(&mut self) {
        if let Some((watched, thread)) = self.watched.take() {
            // It cannot be full: it is written to once.
            if rustix::io::write(&watched.end, &1_u64.to_ne_bytes()).is_ok() {
                // It ends only where it panics, which is told elsewhere.
                let _ = thread.join();
            }
        }
    }
}

impl WatchedFolders {
    fn new() -> io::Result<Self> {
        Ok(Self {
            notices: inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?,
            end: rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?,
            folders: Mutex::default(),
            begun: AtomicU64::new(0),
        })
    }

    fn add(&self, folder: &Path) {
        // Held until the folder's number is known: its first notice may come at once.
        let mut folders = self.folders.lock();
        match inotify::add_watch(&self.notices, folder, inotify::WatchFlags::CREATE) {
            Ok(number) => {
                folders.insert(number, folder.to_owned());
            }
            // A table without large values has no folder for them.
            Err(Errno::NOENT) => {}
            Err(error) => tracing::debug!(%error, ?folder, "the folder is not watched"),
        }
    }

    fn run(&self) -> io::Result<()> {
        let mut growing: Vec<GrowingFile> = Vec::new();
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let every = Timespec::try_from(WIDE_WRITEBACK_EVERY).map_err(io::Error::other)?;
        loop {
            let mut waited = [
                PollFd::new(&self.notices, PollFlags::IN),
                PollFd::new(&self.end, PollFlags::IN),
            ];
            let longest = (!growing.is_empty()).then_some(&every);
            match rustix::event::poll(&mut waited, longest) {
                Err(Errno::INTR) => continue,
                polled => polled?,
            };
            if !waited[1].revents().is_empty() {
                return Ok(());
            }
            if !waited[0].revents().is_empty() {
                self.take_notices(&mut buffer, &mut growing)?;
            }
            growing.retain_mut(|file| match file.write_back() {
                Ok(begun) => {
                    self.begun.fetch_add(begun, Ordering::Relaxed);
                    file.may_grow()
                }
                Err(error) => {
                    tracing::debug!(%error, "a file is written when it is complete");
                    false
                }
            });
        }
    }

    fn take_notices(
        &self,
        buffer: &mut [MaybeUninit<u8>],
        growing: &mut Vec<GrowingFile>,
    ) -> io::Result<()> {
        let mut notices = inotify::Reader::new(&self.notices, buffer);
        loop {
            let notice = match notices.next() {
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => continue,
                notice => notice?,
            };
            let Some(name) = notice.file_name() else {
                continue;
            };
            let folder = self.folders.lock().get(&notice.wd()).cloned();
            let path = folder.map(|it| it.join(OsStr::from_bytes(name.to_bytes())));
            // It may have been removed since.
            let file = path.and_then(|it| File::open(it).ok());
            if let Some(file) = file
                && growing.len() < WIDE_WRITEBACK_FILES_MAX
            {
                growing.push(GrowingFile {
                    file,
                    begun: 0,
                    grew_at: Instant::now(),
                });
            }
        }
    }
}

impl GrowingFile {
    /// Hands the whole pieces that were appended to the disk, without waiting for it; how many bytes these are. What is left
    /// at the end of a file is little, and is written by whoever completes it.
    fn write_back(&mut self) -> io::Result<u64> {
        let about = self.file.metadata()?;
        let end = about.len() / WIDE_WRITEBACK_BYTES * WIDE_WRITEBACK_BYTES;
        let begun = end.saturating_sub(self.begun);
        if begun == 0 || about.nlink() == 0 {
            return Ok(0);
        }
        let offset = i64::try_from(self.begun).map_err(io::Error::other)?;
        let count = i64::try_from(begun).map_err(io::Error::other)?;
        // SAFETY: the call takes no pointers, and the file is open.
        let done = unsafe {
            libc::sync_file_range(
                self.file.as_raw_fd(),
                offset,
                count,
                libc::SYNC_FILE_RANGE_WRITE,
            )
        };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
        self.begun = end;
        self.grew_at = Instant::now();
        Ok(begun)
    }

    fn may_grow(&self) -> bool {
        self.grew_at.elapsed() < WIDE_WRITEBACK_WATCH
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::time::Duration;

    use fjall::Database;

    use super::*;

    #[test]
    fn whole_pieces_of_a_file_are_handed_to_the_disk_once() {
        let mut written = tempfile::tempfile().unwrap();
        let mut growing = GrowingFile {
            file: written.try_clone().unwrap(),
            begun: 0,
            grew_at: Instant::now(),
        };
        let piece = usize::try_from(WIDE_WRITEBACK_BYTES).unwrap();
        // A file that has no name is not worth it: it is about to go.
        written.write_all(&vec![1; piece]).unwrap();
        assert_eq!(growing.write_back().unwrap(), 0);

        let mut written = tempfile::NamedTempFile::new().unwrap();
        growing.file = written.reopen().unwrap();
        for (bytes, begun) in [(piece - 1, 0), (1, 1), (0, 0), (3 * piece + 7, 3), (7, 0)] {
            written.write_all(&vec![1; bytes]).unwrap();
            let found = growing.write_back().unwrap();
            assert_eq!(found, begun * WIDE_WRITEBACK_BYTES, "after {bytes} more");
        }
        assert!(growing.may_grow());
        growing.grew_at -= WIDE_WRITEBACK_WATCH;
        assert!(!growing.may_grow());
    }

    #[test]
    fn files_that_fjall_makes_are_handed_to_the_disk_while_they_grow() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::builder(folder.path()).open().unwrap();
        let table = database
            .keyspace("t", super::super::store::cells_options)
            .unwrap();
        let writeback = Writeback::start();
        writeback.add(&table);
        let watched = &writeback.watched.as_ref().unwrap().0;
        assert_eq!(watched.folders.lock().len(), 2, "tree and large values");
        let until = Instant::now() + Duration::from_secs(60);
        let mut round = 0_u64;
        // One file may be complete before it is looked at.
        while watched.begun.load(Ordering::Relaxed) < 4 * WIDE_WRITEBACK_BYTES {
            assert!(Instant::now() < until, "{:?}", watched.begun);
            for row in 0..2000_u64 {
                let mut value = [0; 4096];
                for (at, byte) in value.iter_mut().enumerate() {
                    *byte = (((at as u64 + row) * 0x9E37_79B9) >> 13) as u8;
                }
                table
                    .insert((round << 32 | row).to_be_bytes(), value)
                    .unwrap();
            }
            table.rotate_memtable_and_wait().unwrap();
            round += 1;
        }
    }
}
