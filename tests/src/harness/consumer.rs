//! A consumer of a real store: reads streams from their beginning, record by record, and compares them with what
//! was made. Knows nothing of how either is kept.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use protocol::batch::Batch;
use protocol::compress::Codec;
use protocol::frame::Frame;
use protocol::name::StreamName;
use protocol::native::call::{Call, Reply};
use protocol::stream::{ShardInfo, StartingPosition};
use store::client::Client;

use crate::clock;

const READ_BYTES: u32 = 4 << 20;

/// A record as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its shard's number.
    pub shard: u32,
    /// Its number there.
    pub sequence: u64,
    /// Its partition key.
    pub key: String,
    /// What it holds.
    pub data: Vec<u8>,
    /// How its batch is compressed.
    pub codec: Codec,
}

/// Records, by partition key, in order.
pub type ByKey = BTreeMap<String, Vec<Vec<u8>>>;

fn name(text: &str) -> io::Result<StreamName> {
    StreamName::new(text).map_err(io::Error::other)
}

/// A stream from its beginning: shard by shard, parents before children.
///
/// # Errors
/// When the store can't be read, or a part of the stream is damaged.
pub async fn read_stream(client: &Client, stream: &str) -> io::Result<Vec<Record>> {
    let (records, damage) = read_damaged(client, stream).await?;
    if damage.is_empty() { Ok(records) } else { Err(io::Error::other(damage.join("; "))) }
}

/// The same of a stream that may be damaged: what can be read, and a sentence for every part that can't.
///
/// # Errors
/// When the store can't be read.
pub async fn read_damaged(client: &Client, stream: &str) -> io::Result<(Vec<Record>, Vec<String>)> {
    let name = name(stream)?;
    let describe = Call::DescribeStream { name: name.clone() };
    let info = client.stream(describe).await.map_err(io::Error::other)?;
    let mut shards: Vec<ShardInfo> = info.shards;
    // A child's number is above its parents'.
    shards.sort_by_key(|shard| shard.id);
    let (mut records, mut damage) = (Vec::new(), Vec::new());
    for shard in shards {
        read_shard(client, &name, &shard, &mut records, &mut damage).await?;
    }
    Ok((records, damage))
}

async fn read_shard(
    client: &Client,
    name: &StreamName,
    shard: &ShardInfo,
    records: &mut Vec<Record>,
    damage: &mut Vec<String>,
) -> io::Result<()> {
    let (mut from, mut batch) = (StartingPosition::TrimHorizon, Batch::new());
    loop {
        let read = client.read(name, shard.id, from, READ_BYTES, 0).await.map_err(io::Error::other)?;
        let mut rest = read.frames();
        while !rest.is_empty() {
            let (frame, after) = Frame::parse_first(rest).map_err(io::Error::other)?;
            batch.open(&frame.header, frame.payload).map_err(io::Error::other)?;
            for record in batch.records() {
                records.push(Record {
                    shard: shard.id.0,
                    sequence: frame.header.first_sequence.0 + u64::from(record.index),
                    key: record.partition_key.to_owned(),
                    data: record.data.to_vec(),
                    codec: frame.header.codec,
                });
            }
            rest = after;
        }
        if read.head.damaged {
            damage.push(format!("{name}: {} is damaged before {}", shard.id, read.head.next));
        } else if read.head.next >= read.head.tail {
            return Ok(());
        }
        from = StartingPosition::At(read.head.next);
    }
}

/// How many records a stream has had; 0 while there is none of this name.
pub async fn count(client: &Client, stream: &str) -> u64 {
    let Ok(name) = name(stream) else { return 0 };
    match client.stream(Call::DescribeStream { name }).await {
        // A child goes on counting where its parents ended.
        Ok(info) => {
            let born = |shard: &ShardInfo| {
                let parents = info.shards.iter().filter(|other| shard.parents.contains(&other.id));
                parents.map(|parent| parent.tail.0).max().unwrap_or(0)
            };
            info.shards.iter().map(|shard| shard.tail.0 - born(shard)).sum()
        }
        Err(_) => 0,
    }
}

/// Waits until a stream has had so many records.
///
/// # Errors
/// When it has fewer after `patience`; with how many.
pub async fn wait_for(client: &Client, stream: &str, records: u64, patience: Duration) -> io::Result<()> {
    let begin = clock::now();
    loop {
        let now = count(client, stream).await;
        if now >= records {
            return Ok(());
        }
        if clock::now().duration_since(begin) > patience {
            return Err(io::Error::other(format!(
                "{now} of {records} records in {stream} after {patience:?}"
            )));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// One of the store's counters.
pub async fn status(client: &Client, counter: &str) -> f64 {
    match client.call(Call::Status {}).await {
        Ok(Reply::Status(status)) => status.get(counter).copied().unwrap_or_default(),
        _ => 0.0,
    }
}

/// Sorts records by their keys.
#[must_use]
pub fn by_key(records: &[Record]) -> ByKey {
    let mut keys = ByKey::new();
    for record in records {
        keys.entry(record.key.clone()).or_default().push(record.data.clone());
    }
    keys
}

/// What is wrong with the numbers of records that were read from their beginning: they grow by one, in every shard.
#[must_use]
pub fn gaps(records: &[Record]) -> Vec<String> {
    let follows =
        |pair: &&[Record]| pair[0].shard == pair[1].shard && pair[0].sequence + 1 != pair[1].sequence;
    let text =
        |pair: &[Record]| format!("shard {}: {} after {}", pair[1].shard, pair[1].sequence, pair[0].sequence);
    records.windows(2).filter(follows).map(text).collect()
}

/// What is stored against what was made: empty if every record is there, once, in the order of its key, byte for
/// byte, and nothing else is.
#[must_use]
pub fn differences(made: &ByKey, stored: &ByKey) -> Vec<String> {
    let none = Vec::new();
    let keys = made.keys().chain(stored.keys().filter(|key| !made.contains_key(*key)));
    let compare = |key: &String| {
        let (made, stored) = (made.get(key).unwrap_or(&none), stored.get(key).unwrap_or(&none));
        (made != stored).then(|| difference(key, made, stored))
    };
    keys.filter_map(compare).collect()
}

fn difference(key: &str, made: &[Vec<u8>], stored: &[Vec<u8>]) -> String {
    let mut times: BTreeMap<&[u8], (u64, u64)> = BTreeMap::new();
    made.iter().for_each(|data| times.entry(data).or_default().0 += 1);
    stored.iter().for_each(|data| times.entry(data).or_default().1 += 1);
    let sum = |count: fn(&(u64, u64)) -> u64| times.values().map(count).sum::<u64>();
    let lost = sum(|(made, stored)| made.saturating_sub(*stored));
    let more = sum(|(made, stored)| if *made > 0 { stored.saturating_sub(*made) } else { 0 });
    let strange = sum(|(made, stored)| if *made == 0 { *stored } else { 0 });
    let first = made.iter().zip(stored).position(|(made, stored)| made != stored);
    let first = first.unwrap_or(made.len().min(stored.len()));
    let show = |data: Option<&Vec<u8>>| {
        data.map_or_else(
            || "nothing".to_owned(),
            |d| String::from_utf8_lossy(&d[..d.len().min(60)]).into_owned(),
        )
    };
    format!(
        "{key}: {} made, {} stored, {lost} lost, {more} doubled, {strange} never made; at {first}: {} made, {} stored",
        made.len(),
        stored.len(),
        show(made.get(first)),
        show(stored.get(first)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(records: &[&str]) -> ByKey {
        let data = records.iter().map(|text| text.as_bytes().to_vec()).collect();
        ByKey::from([("k".to_owned(), data)])
    }

    #[test]
    fn every_way_to_be_wrong_is_a_difference_and_nothing_else_is() {
        let made = of(&["a", "b", "c"]);
        assert!(differences(&made, &made).is_empty());
        for (stored, say) in [
            (of(&["a", "c"]), "1 lost, 0 doubled, 0 never made; at 1: b made, c stored"),
            (of(&["a", "b", "b", "c"]), "0 lost, 1 doubled"),
            (of(&["a", "c", "b"]), "0 lost, 0 doubled, 0 never made; at 1"),
            (of(&["a", "b", "c", "x"]), "1 never made; at 3: nothing made, x stored"),
            (ByKey::new(), "3 lost"),
        ] {
            let said = differences(&made, &stored).join("; ");
            assert!(said.contains(say), "{said}");
        }
        assert_eq!(differences(&ByKey::new(), &made).len(), 1);
    }

    #[test]
    fn a_number_that_is_left_out_is_a_gap_and_another_shard_is_none() {
        let record = |shard, sequence| Record {
            shard,
            sequence,
            key: String::new(),
            data: Vec::new(),
            codec: Codec::None,
        };
        assert!(gaps(&[record(0, 5), record(0, 6), record(1, 0)]).is_empty());
        assert_eq!(gaps(&[record(0, 5), record(0, 7)]).len(), 1);
        assert_eq!(gaps(&[record(0, 5), record(0, 5)]).len(), 1);
    }
}
