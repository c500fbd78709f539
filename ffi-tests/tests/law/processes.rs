//! What processes hold, as the kernel counts it.

use std::fs;

/// What a process holds, in MB.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// Its resident memory, divided by the number of processes that share a page.
    pub pss_mb: f64,
    /// Its resident memory.
    pub rss_mb: f64,
}

/// What a process holds, by `smaps_rollup`. `None` when it is just ending.
pub fn held_mb(process: u32) -> Option<Held> {
    let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).ok()?;
    let mb = |name: &str| -> Option<f64> {
        let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kb: f64 = rest.split_whitespace().next()?.parse().ok()?;
        Some(kb / 1024.0)
    };
    Some(Held { pss_mb: mb("Pss:")?, rss_mb: mb("Rss:")? })
}

/// A process and all that it started.
pub fn processes(first: u32) -> Vec<u32> {
    let mut all = vec![first];
    let mut next = 0;
    while next < all.len() {
        let threads = fs::read_dir(format!("/proc/{}/task", all[next])).into_iter().flatten();
        for thread in threads.flatten() {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
        next += 1;
    }
    all
}
