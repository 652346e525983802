//! Memory of a process that idles, and of one that works.
//!
//! Starting plans every flow and registers every function of SQL, which touches most of a large program
//! once. Large pages make a busy node a third faster and an idle one twice as large. So a node that
//! idles gives back what it does not use, and takes large pages only while it works.

use std::time::{Duration, Instant};

/// Of one core, what a node may use and still count as idle.
const IDLE_LOAD_MAX: f64 = 0.05;
/// Of one core, what a node uses that works for its living.
const BUSY_LOAD_MIN: f64 = 0.25;
/// Growth since the last time below which giving back is not worth it.
const GROWTH_BYTES_MIN: usize = 4 << 20;
/// How often [`Keeper::look`] wants to be called.
pub const EVERY: Duration = Duration::from_secs(1);

unsafe extern "C" {
    /// mimalloc's: frees what this thread keeps for later and gives free pages back to the system.
    fn mi_collect(force: bool);
    /// mimalloc's: changes a setting.
    fn mi_option_set(option: libc::c_int, value: libc::c_long);
}

/// mimalloc's setting for how many milliseconds free pages are kept for later.
const PURGE_DELAY: libc::c_int = 15;
/// What mimalloc takes for it by itself.
const PURGE_DELAY_MS: libc::c_long = 1000;

/// Watches how much the process works.
#[derive(Debug)]
pub struct Keeper {
    looked: Instant,
    used: Duration,
    /// Resident bytes after memory was given back the last time; none before the first time.
    kept: Option<usize>,
    large_pages: bool,
}

impl Keeper {
    /// Begins with small pages: what starting takes is small and scattered.
    pub fn new() -> Keeper {
        work(false);
        Keeper {
            looked: Instant::now(),
            used: processor_time(),
            kept: None,
            large_pages: false,
        }
    }

    /// Takes large pages when the process works, gives memory back when it does not.
    pub fn look(&mut self) {
        let (now, used) = (Instant::now(), processor_time());
        let passed = now.duration_since(self.looked).as_secs_f64().max(1e-3);
        let load = used.saturating_sub(self.used).as_secs_f64() / passed;
        (self.looked, self.used) = (now, used);
        let large_pages = match load {
            load if load >= BUSY_LOAD_MIN => true,
            load if load <= IDLE_LOAD_MAX => false,
            _ => self.large_pages,
        };
        if large_pages != self.large_pages {
            self.large_pages = large_pages;
            work(large_pages);
        }
        if load > IDLE_LOAD_MAX {
            return;
        }
        let Some(resident) = resident_bytes() else {
            return;
        };
        if self
            .kept
            .is_none_or(|kept| resident > kept + GROWTH_BYTES_MIN)
        {
            give_back();
            self.kept = resident_bytes();
        }
    }
}

/// Gives back memory that is free, and the pages of the program itself: those that are needed again come
/// back from the file, most often without a look at the disk.
fn give_back() {
    // SAFETY: mi_collect may be called at any time from any thread; mimalloc is this program's allocator.
    unsafe { mi_collect(true) };
    // SAFETY: the callback reads the headers it is given and discards clean file pages, see below.
    unsafe { libc::dl_iterate_phdr(Some(discard_program), std::ptr::null_mut()) };
}

/// Discards the pages of the segments that the linker made read-only. Nothing was ever written to
/// them, not even by relocation, so the file has all that they hold.
///
/// # Safety
/// `info` must be as `dl_iterate_phdr` gives it.
unsafe extern "C" fn discard_program(
    info: *mut libc::dl_phdr_info,
    _: libc::size_t,
    _: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: dl_iterate_phdr calls with a valid pointer.
    let info = unsafe { &*info };
    if info.dlpi_phdr.is_null() {
        return 1;
    }
    // SAFETY: the loader keeps as many headers there as it says, for as long as the program runs.
    let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
    // SAFETY: sysconf has no preconditions.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let Some(page) = u64::try_from(page)
        .ok()
        .filter(|page| page.is_power_of_two())
    else {
        return 1;
    };
    for header in headers {
        if header.p_type != libc::PT_LOAD || header.p_flags & libc::PF_W != 0 {
            continue;
        }
        let begin = info.dlpi_addr + header.p_vaddr;
        // Whole pages only: the first and the last one may be shared with a segment that is written.
        let from = begin.next_multiple_of(page);
        let to = (begin + header.p_filesz) & !(page - 1);
        if from < to {
            // SAFETY: the range lies within a read-only mapping of the program's file that nobody wrote
            // to; a page that is discarded is read from the file again when it is touched. A refusal
            // leaves everything as it was.
            unsafe {
                libc::madvise(
                    from as *mut libc::c_void,
                    (to - from) as usize,
                    libc::MADV_DONTNEED,
                );
            }
        }
    }
    // The program itself comes first; the libraries after it are small and shared.
    1
}

/// Lets a process that works have large pages and keep what it frees for a while; one that idles has
/// small ones and keeps nothing. A kernel that cannot stays as it is.
fn work(on: bool) {
    let delay = if on { PURGE_DELAY_MS } else { 0 };
    // SAFETY: settings of mimalloc may be changed at any time; this one is a number read when pages are freed.
    unsafe { mi_option_set(PURGE_DELAY, delay) };
    // SAFETY: this option of prctl reads its arguments as numbers and changes nothing in memory.
    unsafe {
        libc::prctl(libc::PR_SET_THP_DISABLE, libc::c_ulong::from(!on), 0, 0, 0);
    }
}

fn processor_time() -> Duration {
    // SAFETY: rusage is plain data for which all zeros are valid; getrusage fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    [usage.ru_utime, usage.ru_stime]
        .iter()
        .map(|time| {
            Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0))
                + Duration::from_micros(u64::try_from(time.tv_usec).unwrap_or(0))
        })
        .sum()
}

fn resident_bytes() -> Option<usize> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: usize = statm.split(' ').nth(1)?.parse().ok()?;
    // SAFETY: sysconf has no preconditions.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    Some(pages * usize::try_from(page).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Constants with addresses in them live in a segment that is written by relocation: they must
    /// survive, or everything after this would crash.
    static WORDS: [&str; 3] = ["one", "two", "three"];

    #[test]
    fn a_process_goes_on_after_it_gave_memory_back() {
        let before: BTreeMap<usize, String> = (0..20_000).map(|i| (i, format!("{i}"))).collect();
        for _ in 0..3 {
            give_back();
            assert_eq!(before[&12_345], "12345");
            assert_eq!(WORDS.concat(), "onetwothree");
            assert!(format!("{:?}", std::time::SystemTime::UNIX_EPOCH).contains("SystemTime"));
        }
        let load: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|n| scope.spawn(move || (0..10_000_u64).map(|i| i * n).sum::<u64>()))
                .collect();
            give_back();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert_eq!(load[1] * 3, load[3]);
    }

    #[test]
    fn the_setting_is_the_one_meant() {
        unsafe extern "C" {
            fn mi_option_get(option: libc::c_int) -> libc::c_long;
        }
        // Its neighbours have other defaults, so a new order of settings would show here.
        // SAFETY: mi_option_get only reads.
        let delay = || unsafe { mi_option_get(PURGE_DELAY) };
        assert!([0, PURGE_DELAY_MS].contains(&delay()), "{}", delay());
    }

    #[test]
    fn what_was_freed_is_given_back() {
        let mut keeper = Keeper::new();
        let large: Vec<Vec<u8>> = (0..64).map(|_| vec![1; 1 << 20]).collect();
        let full = resident_bytes().unwrap();
        assert!(large.iter().all(|block| block[4096] == 1));
        drop(large);
        // Other tests of this process may work meanwhile, so this does not ask whether it idles.
        give_back();
        let after = resident_bytes().unwrap();
        assert!(after + (32 << 20) < full, "{full} bytes became {after}");
        keeper.look();
    }
}
