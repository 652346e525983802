//! Memory of a process that idles, and of one that works.
//!
//! Starting plans every flow and registers every function of SQL, which touches most of a large program
//! once, so a node that idles gives back what it does not use. One that works keeps what it frees for a
//! while: to give it back and take it again costs a page fault for each page.
//!
//! A fault on a large page is one on 512 small ones at once: the thread that meets it waits until 2 MB
//! are zeroed, up to 2 ms where a virtual machine has to find them too, and holds up who waits for it. At
//! half load that was most of what operations on tables were late by. Large pages make flows with much
//! state up to a quarter faster, which counts where processors lack: only then a node takes them.

use std::time::{Duration, Instant};

/// Of one core, what a node may use and still count as idle.
const IDLE_LOAD_MAX: f64 = 0.05;
/// Of one core, what a node uses that works for its living.
const WORK_LOAD_MIN: f64 = 0.25;
/// Of all cores, what a node uses that lacks processors.
const FULL_LOAD_MIN: f64 = 0.9;
/// Of all cores, what it uses that has enough of them again.
const FULL_LOAD_END: f64 = 0.75;
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
/// That setting in a process that works: memory that is freed is often needed again within this time.
const PURGE_DELAY_MS: libc::c_long = 10_000;

/// Watches how much the process works.
#[derive(Debug)]
pub struct Keeper {
    looked: Instant,
    used: Duration,
    /// Resident bytes after memory was given back the last time; none before the first time.
    kept: Option<usize>,
    work: Workload,
    cores: f64,
}

/// How much of the processors a process uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Workload {
    Idle,
    Part,
    /// All of them.
    Full,
}

impl Workload {
    /// What follows when the process has used so much of one core, of so many.
    fn after(self, load: f64, cores: f64) -> Workload {
        match self {
            _ if load <= IDLE_LOAD_MAX => Workload::Idle,
            _ if load >= cores * FULL_LOAD_MIN => Workload::Full,
            Workload::Full if load > cores * FULL_LOAD_END => Workload::Full,
            Workload::Idle if load < WORK_LOAD_MIN => Workload::Idle,
            _ => Workload::Part,
        }
    }

    /// Sets how long the allocator keeps what is freed, and whether the system gives large pages. A kernel that cannot do so
    /// gives them as before.
    fn apply(self) {
        let delay = if self == Workload::Idle {
            0
        } else {
            PURGE_DELAY_MS
        };
        // SAFETY: settings of mimalloc may be changed at any time; this one is a number read when pages are freed.
        unsafe { mi_option_set(PURGE_DELAY, delay) };
        let is_small = libc::c_ulong::from(self != Workload::Full);
        // SAFETY: this option of prctl reads its arguments as numbers and changes nothing in memory.
        unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, is_small, 0, 0, 0) };
    }
}

impl Keeper {
    /// Begins with small pages: what starting takes is small and scattered.
    pub fn new() -> Keeper {
        Workload::Idle.apply();
        let cores = std::thread::available_parallelism();
        Keeper {
            looked: Instant::now(),
            used: processor_time(),
            kept: None,
            work: Workload::Idle,
            cores: cores.map_or(1.0, |cores| cores.get() as f64),
        }
    }

    /// Keeps what is freed when the process works, and gives memory back when it does not.
    pub fn look(&mut self) {
        let (now, used) = (Instant::now(), processor_time());
        let passed = now.duration_since(self.looked).as_secs_f64().max(1e-3);
        let load = used.saturating_sub(self.used).as_secs_f64() / passed;
        (self.looked, self.used) = (now, used);
        let work = self.work.after(load, self.cores);
        if work != self.work {
            self.work = work;
            work.apply();
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
        // Its neighbours have other defaults than this one, 1,000, so a new order of settings would show here. Tests of this
        // process may have set it.
        // SAFETY: mi_option_get only reads.
        let delay = unsafe { mi_option_get(PURGE_DELAY) };
        assert!([0, 1_000, PURGE_DELAY_MS].contains(&delay), "{delay}");
    }

    #[test]
    fn large_pages_are_for_who_lacks_processors() {
        let went = |work: Workload, loads: &[f64]| {
            let mut work = work;
            let next = loads.iter().map(|load| {
                work = work.after(*load, 4.0);
                work
            });
            next.collect::<Vec<_>>()
        };
        use Workload::{Full, Idle, Part};
        assert_eq!(
            went(Idle, &[0.01, 0.1, 0.3, 0.1, 0.05]),
            [Idle, Idle, Part, Part, Idle]
        );
        // Not to and fro about a limit.
        assert_eq!(
            went(Part, &[3.5, 3.6, 3.1, 3.0, 3.5]),
            [Part, Full, Full, Part, Part]
        );
        assert_eq!(went(Full, &[0.04, 4.0]), [Idle, Full]);
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
