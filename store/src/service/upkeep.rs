//! What happens by the clock: retention, and looking at how full the disk is.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Open, Service, locked};
use crate::retain;

/// At most this many segments of a stream are looked at in one round.
const SEGMENTS_PER_ROUND: usize = 64;

impl Service {
    pub(super) fn start_upkeep(&self) {
        let service = self.clone();
        let every = Duration::from_millis(self.inner.settings.upkeep_ms.max(10));
        // The task must not keep the store open.
        let weak = std::sync::Arc::downgrade(&service.inner);
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(every).await;
                let Some(inner) = weak.upgrade() else { return };
                let service = Service { inner };
                let round = tokio::task::spawn_blocking(move || service.upkeep_round()).await;
                if round.is_err() {
                    return;
                }
            }
        });
        locked(&self.inner.upkeep).push(task);
    }

    /// Looks after everything once. Blocking.
    pub fn upkeep_round(&self) {
        self.look_at_disk();
        let open = self.open_streams_now();
        self.look_at_clock(&open);
        for open in open {
            self.retain_stream(&open);
        }
    }

    pub(super) fn look_at_disk(&self) {
        // Where the file system can't say, errors of writes alone decide.
        if let Ok(free) = self.inner.disk.free_bytes() {
            self.inner.gate.set_free(free, self.inner.settings.free_bytes_min);
        }
    }

    fn look_at_clock(&self, open: &[Open]) {
        let (mono, wall) = (self.inner.clock.mono(), self.inner.clock.wall());
        let newest = open.iter().map(|open| open.stream.reader().active().begun).max();
        locked(&self.inner.clock_watch).look(mono, wall, newest);
    }

    fn retain_stream(&self, open: &Open) {
        let config =
            locked(&self.inner.catalog).state().streams.get(&open.name).map(|entry| entry.config.clone());
        let Some(mut config) = config else { return };
        if locked(&self.inner.clock_watch).is_in_doubt() {
            config.retention_ms = u64::MAX;
        }
        let reader = open.stream.reader();
        // A segment whose age can't be read stays.
        let Ok(ages) = reader.segments(SEGMENTS_PER_ROUND) else { return };
        let active = reader.active();
        let plan = retain::plan(
            &config,
            &ages,
            reader.stored_bytes(),
            active.begun,
            active.used,
            self.inner.clock.wall(),
        );
        open.stream.retain(plan.trim_below, plan.roll, config.retention_ms);
    }
}

/// CPU seconds and memory of this process, where the system tells.
pub(super) fn process_status() -> BTreeMap<String, f64> {
    let mut status = BTreeMap::new();
    if let Some((cpu_seconds, rss_bytes)) = read_proc() {
        status.insert("process_cpu_seconds".to_owned(), cpu_seconds);
        status.insert("process_rss_bytes".to_owned(), rss_bytes);
    }
    status
}

fn read_proc() -> Option<(f64, f64)> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // Fields after the command, which is in parentheses and may hold anything: proc(5).
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field)?.parse::<f64>().ok();
    let ticks_per_second = rustix::param::clock_ticks_per_second() as f64;
    let page_bytes = rustix::param::page_size() as f64;
    Some(((number(11)? + number(12)?) / ticks_per_second, number(21)? * page_bytes))
}
