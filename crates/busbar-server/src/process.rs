//! What the system says of this process.

/// Resident memory of this process.
pub(crate) fn memory_bytes() -> u64 {
    // Pages, the second of which is what is resident; not there on other systems.
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = text
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .unwrap_or(0);
    pages * 4096
}

/// Processor time of this process so far.
pub(crate) fn process_seconds() -> f64 {
    // The name, in parentheses, may hold spaces; user and system time are the 12th and 13th after it.
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = rest
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|ticks| ticks.parse::<u64>().ok())
        .sum();
    ticks as f64 / 100.0
}
