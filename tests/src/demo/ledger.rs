//! The ledger: what was made against what is stored. Reads the store as any consumer does, every shard from its
//! beginning, children after their parents.

use std::collections::{BTreeMap, HashMap};

use protocol::batch::Batch;
use protocol::frame::Frame;
use protocol::name::StreamName;
use protocol::sequence::ShardId;
use protocol::stream::{ShardInfo, StartingPosition};
use store::service::Service;

use super::{Error, admin, stream_names};
use crate::harness::broker::Stats;
use crate::harness::corpus::counter_of;

/// A read asks for this many bytes.
const READ_BYTES: usize = 4 << 20;

/// Records of one truck, in order: how many, and a checksum over all their bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Series {
    /// How many.
    pub count: u64,
    /// FNV-1a over each record and a line feed.
    pub checksum: u64,
}

impl Series {
    /// One record more.
    pub fn add(&mut self, record: &[u8]) {
        let mut hash = if self.count == 0 { 0xcbf2_9ce4_8422_2325 } else { self.checksum };
        for byte in record.iter().chain(b"\n") {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.checksum = hash;
        self.count += 1;
    }
}

/// What all trucks made.
#[derive(Debug, Default)]
pub struct Made {
    /// Messages, by truck.
    pub messages: BTreeMap<String, Series>,
    /// Lines, by truck.
    pub lines: BTreeMap<String, Series>,
}

impl Made {
    /// Messages and lines of all trucks.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.messages.values().chain(self.lines.values()).map(|series| series.count).sum()
    }
}

/// What a store has of one truck, in the order in which it is stored.
#[derive(Debug, Clone, Default)]
pub struct Stored {
    /// The numbers that the records carry.
    pub numbers: Vec<u64>,
    /// How many, and their checksum.
    pub series: Series,
}

/// What a store has: by stream, by truck.
pub type Found = HashMap<String, BTreeMap<String, Stored>>;

/// Reads everything.
///
/// # Errors
/// When a shard can't be read.
pub async fn read(service: &Service) -> Result<Found, Error> {
    let mut found = Found::new();
    for (name, _) in stream_names() {
        let info = service.describe_stream(&admin(), &name)?;
        let mut shards: Vec<&ShardInfo> = info.shards.iter().collect();
        // A child's number is above its parents'.
        shards.sort_by_key(|shard| shard.id);
        let trucks = found.entry(name.to_string()).or_default();
        for shard in shards {
            read_shard(service, &name, shard.id, trucks).await?;
        }
    }
    Ok(found)
}

async fn read_shard(
    service: &Service,
    name: &StreamName,
    shard: ShardId,
    trucks: &mut BTreeMap<String, Stored>,
) -> Result<(), Error> {
    let (mut from, mut batch) = (StartingPosition::TrimHorizon, Batch::new());
    loop {
        let read = service.read(&admin(), name, shard, from, READ_BYTES, 0).await?;
        let mut rest = read.frames.as_slice();
        while !rest.is_empty() {
            let (frame, after) = Frame::parse_first(rest)?;
            batch.open(&frame.header, frame.payload)?;
            for record in batch.records() {
                let stored = trucks.entry(record.partition_key.to_owned()).or_default();
                stored.series.add(record.data);
                stored.numbers.push(number_of(record.data).unwrap_or(u64::MAX));
            }
            rest = after;
        }
        if read.next >= read.tail {
            return Ok(());
        }
        from = StartingPosition::At(read.next);
    }
}

/// The number that a truck gave to a record: `"n":N` in a message, a counter in a line.
#[must_use]
pub fn number_of(record: &[u8]) -> Option<u64> {
    if let Some(number) = counter_of(record) {
        return Some(number);
    }
    let text = std::str::from_utf8(record).ok()?;
    let (_, after) = text.split_once("\"n\":")?;
    let digits: String = after.trim_start().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// What the comparison came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Messages that the trucks published.
    pub messages: u64,
    /// Lines that the trucks wrote.
    pub lines: u64,
    /// Records in the store.
    pub stored: u64,
    /// Made and not stored.
    pub lost: u64,
    /// Stored more than once.
    pub duplicated: u64,
    /// Stored after a later one of the same truck.
    pub out_of_order: u64,
    /// Stored with other bytes than were made, counted by truck.
    pub changed: u64,
    /// Which trucks, where anything is wrong.
    pub details: Vec<String>,
}

/// Compares.
#[must_use]
pub fn compare(made: &Made, found: &Found) -> Verdict {
    let mut verdict = Verdict {
        messages: made.messages.values().map(|series| series.count).sum(),
        lines: made.lines.values().map(|series| series.count).sum(),
        ..Verdict::default()
    };
    let nothing = BTreeMap::new();
    for (stream, series) in [("telemetry", &made.messages), ("logs", &made.lines)] {
        let trucks = found.get(stream).unwrap_or(&nothing);
        for (truck, made) in series {
            let stored = trucks.get(truck).cloned().unwrap_or_default();
            verdict.add(stream, truck, made, &stored);
        }
    }
    verdict
}

impl Verdict {
    fn add(&mut self, stream: &str, truck: &str, made: &Series, stored: &Stored) {
        let mut times = vec![0u32; usize::try_from(made.count).unwrap_or_default()];
        let (mut out_of_order, mut strange, mut highest) = (0, 0, None);
        for number in &stored.numbers {
            match usize::try_from(*number).ok().and_then(|number| times.get_mut(number)) {
                Some(times) => *times += 1,
                None => strange += 1,
            }
            if highest.is_some_and(|highest| *number < highest) {
                out_of_order += 1;
            }
            highest = highest.max(Some(*number));
        }
        let lost = times.iter().filter(|times| **times == 0).count() as u64;
        let duplicated = times.iter().map(|times| u64::from(times.saturating_sub(1))).sum::<u64>();
        let changed =
            u64::from(lost + duplicated + out_of_order + strange == 0 && stored.series != *made) + strange;
        self.stored += stored.series.count;
        self.lost += lost;
        self.duplicated += duplicated;
        self.out_of_order += out_of_order;
        self.changed += changed;
        if lost + duplicated + out_of_order + changed > 0 {
            let first = times.iter().position(|times| *times != 1);
            self.details.push(format!(
                "{stream} of {truck}: {} made, {} stored, {lost} lost, {duplicated} duplicated, {out_of_order} out of order, {changed} changed; first at {first:?}",
                made.count, stored.series.count
            ));
        }
    }

    /// Everything is there, once, in order, byte for byte.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.lost + self.duplicated + self.out_of_order + self.changed == 0
            && self.messages + self.lines == self.stored
            && self.stored > 0
    }

    /// For people.
    #[must_use]
    pub fn text(&self, broker: &Stats, store: &BTreeMap<String, f64>) -> String {
        let status = |name: &str| store.get(name).copied().unwrap_or_default();
        let mut out = format!(
            "\nLedger\n\
             \x20 messages published   {:>10}\n\
             \x20 lines written        {:>10}\n\
             \x20 records stored       {:>10}\n\
             \x20 lost                 {:>10}\n\
             \x20 duplicated           {:>10}\n\
             \x20 out of order         {:>10}\n\
             \x20 changed              {:>10}\n\n\
             \x20 on the way: {} batches sent again and recognised, {} throttled, {} commits; broker dropped {}\n",
            self.messages,
            self.lines,
            self.stored,
            self.lost,
            self.duplicated,
            self.out_of_order,
            self.changed,
            status("batches_duplicate_total"),
            status("batches_throttled_total"),
            status("commits_total"),
            broker.dropped,
        );
        for detail in &self.details {
            out.push_str(&format!("  {detail}\n"));
        }
        out.push_str(if self.is_clean() {
            "\nThe ledger is clean.\n"
        } else {
            "\nTHE LEDGER IS NOT CLEAN.\n"
        });
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(records: &[&str]) -> (Series, Stored) {
        let (mut series, mut stored) = (Series::default(), Stored::default());
        for record in records {
            series.add(record.as_bytes());
            stored.numbers.push(number_of(record.as_bytes()).unwrap());
        }
        stored.series = series.clone();
        (series, stored)
    }

    fn verdict(made: &[&str], stored: &[&str]) -> Verdict {
        let (made, stored) = (series(made).0, series(stored).1);
        let mut all = Made::default();
        all.messages.insert("t".to_owned(), made);
        let found = Found::from([("telemetry".to_owned(), BTreeMap::from([("t".to_owned(), stored)]))]);
        compare(&all, &found)
    }

    #[test]
    fn the_ledger_is_clean_only_if_every_record_is_there_once_in_order_and_unchanged() {
        let made = [r#"{"n":0}"#, r#"{"n":1}"#, r#"{"n":2}"#];
        assert!(verdict(&made, &made).is_clean());
        let lost = verdict(&made, &[made[0], made[2]]);
        assert_eq!((lost.lost, lost.is_clean()), (1, false));
        let twice = verdict(&made, &[made[0], made[1], made[1], made[2]]);
        assert_eq!((twice.duplicated, twice.is_clean()), (1, false));
        let turned = verdict(&made, &[made[0], made[2], made[1]]);
        assert_eq!((turned.out_of_order, turned.is_clean()), (1, false));
        let changed = verdict(&made, &[made[0], r#"{"n":1,"x":1}"#, made[2]]);
        assert_eq!((changed.changed, changed.is_clean()), (1, false));
        assert!(!verdict(&[], &[]).is_clean(), "nothing at all is no success");
    }
}
