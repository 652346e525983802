//! The disk as a parameter: what the log asks of an operating system.
//!
//! [`OsDisk`] is the real one, [`crate::sim::SimDisk`] one that loses power on demand.

use std::any::Any;
use std::fs;
use std::io::{self, IoSlice};
use std::os::unix::fs::{DirBuilderExt as _, FileExt, OpenOptionsExt as _};
use std::os::unix::io::AsRawFd;
use std::path::Path;
use std::sync::Arc;

use crate::limits::WRITE_PARTS_MAX;

/// A file system, as far as the log needs one.
pub trait Disk: Send + Sync + 'static {
    /// Opens a file that exists for reading (and writing, if `write`).
    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn File>>;
    /// Makes a file that must not exist yet, for reading and writing.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Makes a folder and those above it.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// What is in a folder, in order of names.
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>>;
    /// Renames a file or folder, replacing a file of the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty folder.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes names in a folder durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Room on the disk that holds `dir`.
    fn space(&self, dir: &Path) -> io::Result<Space>;
    /// Takes an exclusive lock that ends when the guard is dropped or the process ends; the file
    /// is made if needed. `WouldBlock` if another holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Any + Send + Sync>>;
    /// A number that is not easily guessed.
    fn random(&self) -> u64;
}

/// An open file. Positions are absolute; nothing moves a cursor.
pub trait File: Send + Sync {
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether it has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Writes some of `parts` at `position`, and says how many bytes.
    fn write_at(&self, position: u64, parts: &[IoSlice<'_>]) -> io::Result<usize>;
    /// Reads some bytes at `position`; 0 is the end of the file.
    fn read_at(&self, position: u64, into: &mut [u8]) -> io::Result<usize>;
    /// Makes what has been written durable, with the length needed to read it. After an error
    /// nothing is known about what was written since the last success.
    fn sync(&self) -> io::Result<()>;
    /// Cuts or extends (with zeros) to `len` bytes.
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// Reserves room up to `len` without changing the file's length.
    fn reserve(&self, len: u64) -> io::Result<()>;
    /// Says that what lies in `from..to` is durable and will hardly be read soon, so that the
    /// operating system may use the memory it is cached in for what is written next. Advice only.
    fn forget(&self, from: u64, to: u64) {
        let _ = (from, to);
    }
}

/// A name in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name, without the folder.
    pub name: String,
    /// Length of a file.
    pub len: u64,
    /// Whether it is a folder.
    pub is_dir: bool,
}

/// Room on a disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes this process may still write.
    pub free: u64,
    /// Bytes the disk has.
    pub total: u64,
}

/// Files are for the user of the node alone.
const FILE_MODE: u32 = 0o600;
/// And so are folders.
const DIR_MODE: u32 = 0o700;

/// Writes all parts, however few bytes each call takes.
pub(crate) fn write_all(
    file: &dyn File,
    position: u64,
    parts: &mut [IoSlice<'_>],
) -> io::Result<()> {
    let mut parts = parts;
    let mut position = position;
    IoSlice::advance_slices(&mut parts, 0);
    while !parts.is_empty() {
        let some = parts.len().min(WRITE_PARTS_MAX);
        match file.write_at(position, &parts[..some]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                position += n as u64;
                IoSlice::advance_slices(&mut parts, n);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// The operating system's disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsDisk;

impl Disk for OsDisk {
    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn File>> {
        let file = fs::OpenOptions::new().read(true).write(write).open(path)?;
        Ok(Arc::new(OsFile(file)))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(FILE_MODE)
            .open(path)?;
        Ok(Arc::new(OsFile(file)))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(DIR_MODE).create(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            // A name that is not UTF-8 is not ours.
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let meta = match entry.metadata() {
                Ok(meta) => meta,
                Err(gone) if gone.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            entries.push(Entry {
                name,
                len: meta.len(),
                is_dir: meta.is_dir(),
            });
        }
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn space(&self, dir: &Path) -> io::Result<Space> {
        use std::os::unix::ffi::OsStrExt;
        let path = std::ffi::CString::new(dir.as_os_str().as_bytes())
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        // SAFETY: `statvfs` is plain integers, for which all zeros is a valid value.
        let mut out: libc::statvfs = unsafe { std::mem::zeroed() };
        // SAFETY: `path` ends with a zero byte and `out` is valid for writes; both outlive the call.
        if unsafe { libc::statvfs(path.as_ptr(), &mut out) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let unit = out.f_frsize;
        Ok(Space {
            free: out.f_bavail.saturating_mul(unit),
            total: out.f_blocks.saturating_mul(unit),
        })
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Any + Send + Sync>> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(file)),
            Err(fs::TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(fs::TryLockError::Error(e)) => Err(e),
        }
    }

    fn random(&self) -> u64 {
        use std::hash::{BuildHasher, Hasher};
        // The standard library seeds this from the operating system's randomness.
        std::collections::hash_map::RandomState::new()
            .build_hasher()
            .finish()
    }
}

struct OsFile(fs::File);

impl File for OsFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn write_at(&self, position: u64, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let offset = libc::off_t::try_from(position)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let count = parts.len().min(WRITE_PARTS_MAX) as libc::c_int;
        // SAFETY: `IoSlice` has the layout of `iovec`, `count` is at most the slice's length, and
        // the buffers are borrowed for the call.
        let wrote = unsafe {
            libc::pwritev(
                self.0.as_raw_fd(),
                parts.as_ptr().cast::<libc::iovec>(),
                count,
                offset,
            )
        };
        usize::try_from(wrote).map_err(|_| io::Error::last_os_error())
    }

    fn read_at(&self, position: u64, into: &mut [u8]) -> io::Result<usize> {
        FileExt::read_at(&self.0, into, position)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        let len =
            libc::off_t::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        // SAFETY: a plain system call on a descriptor that `self` owns.
        if unsafe { libc::fallocate(self.0.as_raw_fd(), libc::FALLOC_FL_KEEP_SIZE, 0, len) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    fn forget(&self, from: u64, to: u64) {
        let (Ok(offset), Ok(len)) = (
            libc::off_t::try_from(from),
            libc::off_t::try_from(to.saturating_sub(from)),
        ) else {
            return;
        };
        // A length of 0 would mean all that follows.
        if len > 0 {
            // SAFETY: a plain system call on a descriptor that `self` owns. It is advice: what it
            // answers changes nothing here.
            unsafe {
                libc::posix_fadvise(self.0.as_raw_fd(), offset, len, libc::POSIX_FADV_DONTNEED);
            }
        }
    }
}
