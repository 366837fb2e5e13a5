//! What the store promises through its own nouns, on a real disk: kept, in order, once, and readable.

use std::sync::Arc;

use protocol::batch::{Batch, BatchBuilder};
use protocol::compress::{Codec, Compressor};
use protocol::frame::{Frame, Header};
use protocol::limit;
use protocol::name::StreamName;
use protocol::native::call::{Call, Reply};
use protocol::outcome::{Ack, Outcome, RefuseCode};
use protocol::sequence::{SequenceNumber, ShardId};
use protocol::stream::{Producer, StartingPosition, StreamConfig, StreamInfo};
use protocol::time::UnixMs;
use store::api::calls::answer;
use store::clock::Clock;
use store::principal::{Principal, Role};
use store::service::video::Kept;
use store::service::{Service, Session, Settings};
use store::shard::driver::CommitOn;
use tokio::sync::mpsc;
use video::cut::Cut;
use video::fragment::{Clock as WhoseClock, Config, Follows, Fragment, Frame as Picture};

const PRODUCER: Producer = Producer { id: 77, epoch: 1 };

struct Rig {
    service: Service,
    session: Session,
    acks: (mpsc::UnboundedSender<Ack>, mpsc::UnboundedReceiver<Ack>),
    name: StreamName,
}

fn admin() -> Principal {
    Principal { name: "root".to_owned(), role: Role::Admin }
}

impl Rig {
    fn open(dir: &std::path::Path) -> Rig {
        let settings =
            Settings { segment_bytes_max: 4096, free_bytes_min: 0, ..Settings::new(dir.to_owned()) };
        let service = Service::open(settings, Clock::start()).unwrap();
        let session = service.begin_session(&admin(), Some(PRODUCER)).unwrap();
        Rig { service, session, acks: mpsc::unbounded_channel(), name: StreamName::new("logs").unwrap() }
    }

    async fn create(&self, shards: u32, config: StreamConfig) -> StreamInfo {
        match answer(&self.service, &admin(), Call::CreateStream { name: self.name.clone(), shards, config })
            .await
        {
            Reply::Stream(info) => info,
            other => panic!("{other:?}"),
        }
    }

    fn frame(&self, producer_sequence: u64, records: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = BatchBuilder::new();
        for (key, data) in records {
            let key = builder.key(key, None).unwrap();
            builder.push(key, UnixMs(5), data.as_bytes());
        }
        let header = Header {
            stream: self.name.key(),
            producer_id: PRODUCER.id,
            producer_sequence,
            ..Header::default()
        };
        let mut out = Vec::new();
        builder.seal(header, &mut Compressor::new(Codec::Lz4), &mut out);
        out
    }

    async fn append(&mut self, producer_sequence: u64, records: &[(&str, &str)]) -> Outcome {
        let frame = self.frame(producer_sequence, records);
        self.service.append(&self.session, &frame, &self.acks.0, CommitOn::Pool).unwrap();
        self.acks.1.recv().await.unwrap().outcome
    }

    async fn read_all(&self, shard: u32) -> Vec<String> {
        let mut from = StartingPosition::TrimHorizon;
        let mut all = Vec::new();
        loop {
            let read = self.service.read(&admin(), &self.name, ShardId(shard), from, 300, 0).await.unwrap();
            let mut rest = read.frames.as_slice();
            while !rest.is_empty() {
                let (frame, after) = Frame::parse_first(rest).unwrap();
                let mut batch = Batch::new();
                batch.open(&frame.header, frame.payload).unwrap();
                for record in batch.records() {
                    all.push(String::from_utf8(record.data.to_vec()).unwrap());
                }
                rest = after;
            }
            if read.next >= read.tail {
                return all;
            }
            from = StartingPosition::At(read.next);
        }
    }
}

fn unlimited() -> StreamConfig {
    StreamConfig { shard_rate: None, ..StreamConfig::default() }
}

fn stored(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Stored { parts, .. } => parts.iter().map(|part| part.record_count as usize).sum(),
        other => panic!("not stored: {other:?}"),
    }
}

#[tokio::test]
async fn acknowledged_records_are_there_after_reopening_and_over_many_segments() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    rig.create(1, unlimited()).await;
    let mut want = Vec::new();
    for i in 1..=300u64 {
        let text = format!("record {i}");
        assert_eq!(stored(&rig.append(i, &[("k", &text)]).await), 1);
        want.push(text);
        if i % 100 == 0 {
            rig.service.close().await;
            drop(rig);
            rig = Rig::open(dir.path());
            assert_eq!(rig.service.problems(), Vec::<String>::new());
            assert_eq!(rig.read_all(0).await, want);
        }
    }
    assert!(dir.path().join("streams/000000").read_dir().unwrap().count() > 4, "several segments");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lone_writer_is_answered_where_its_batch_came_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    rig.create(1, unlimited()).await;
    let (mut want, mut at_once) = (Vec::new(), 0);
    for i in 1..=500u64 {
        want.push(format!("record {i}"));
        let frame = rig.frame(i, &[("k", &want[want.len() - 1])]);
        rig.service.append(&rig.session, &frame, &rig.acks.0, CommitOn::Caller).unwrap();
        let ack = rig.acks.1.try_recv().inspect(|_| at_once += 1);
        let ack = if let Ok(ack) = ack { ack } else { rig.acks.1.recv().await.unwrap() };
        assert_eq!(stored(&ack.outcome), 1);
    }
    // How many is the disk's matter; of one that always takes long, none.
    println!("{at_once} of 500 were answered before the call came back");
    rig.service.close().await;
    drop(rig);
    let rig = Rig::open(dir.path());
    assert_eq!(rig.service.problems(), Vec::<String>::new());
    assert_eq!(rig.read_all(0).await, want);
}

#[tokio::test]
async fn a_batch_sent_again_is_recognised_even_after_a_restart_and_a_later_one_has_to_wait() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    rig.create(2, unlimited()).await;
    assert_eq!(stored(&rig.append(1, &[("a", "1"), ("b", "2"), ("c", "3")]).await), 3);
    assert_eq!(rig.append(1, &[("a", "1"), ("b", "2"), ("c", "3")]).await, Outcome::Duplicate);
    assert_eq!(rig.append(3, &[("a", "x")]).await, Outcome::OutOfSequence { expected: 2 });
    rig.service.close().await;
    drop(rig);
    let mut rig = Rig::open(dir.path());
    assert_eq!(rig.append(1, &[("a", "1")]).await, Outcome::Duplicate);
    assert_eq!(stored(&rig.append(2, &[("a", "4")]).await), 1);
    let mut all = rig.read_all(0).await;
    all.extend(rig.read_all(1).await);
    all.sort();
    assert_eq!(all, ["1", "2", "3", "4"]);
}

#[tokio::test]
async fn a_split_closes_the_parent_and_its_children_go_on_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    rig.create(1, unlimited()).await;
    let keys: Vec<String> = (0..40).map(|i| format!("key-{i}")).collect();
    let records: Vec<(&str, &str)> = keys.iter().map(|key| (key.as_str(), key.as_str())).collect();
    rig.append(1, &records).await;
    let split = Call::SplitShard { name: rig.name.clone(), shard: ShardId(0), at: None };
    let Reply::Stream(info) = answer(&rig.service, &admin(), split).await else { panic!("no split") };
    assert_eq!(info.shards.len(), 3);
    assert_eq!(stored(&rig.append(2, &records).await), 40);
    let read =
        rig.service.read(&admin(), &rig.name, ShardId(0), StartingPosition::Latest, 1000, 0).await.unwrap();
    assert!(read.at_end);
    assert_eq!(rig.read_all(1).await.len() + rig.read_all(2).await.len(), 40);
    assert!(info.shards.iter().skip(1).all(|s| s.tail == SequenceNumber(40) && s.parents == [ShardId(0)]));
    let merge = Call::MergeShards { name: rig.name.clone(), shard: ShardId(2), adjacent: ShardId(1) };
    let Reply::Stream(info) = answer(&rig.service, &admin(), merge).await else { panic!("no merge") };
    assert_eq!(info.shards.iter().filter(|s| !s.closed).count(), 1);
    assert_eq!(stored(&rig.append(3, &records).await), 40);
    rig.service.close().await;
    drop(rig);
    let rig = Rig::open(dir.path());
    assert_eq!(rig.read_all(3).await.len(), 40);
    assert_eq!(rig.read_all(0).await.len(), 40);
}

#[tokio::test]
async fn a_shard_over_its_rate_says_when_to_come_back_and_then_takes_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    let rate = protocol::bucket::ShardRate { bytes_per_second: 1000, records_per_second: 1000 };
    rig.create(1, StreamConfig { shard_rate: Some(rate), ..unlimited() }).await;
    let text = "x".repeat(900);
    assert_eq!(stored(&rig.append(1, &[("k", &text)]).await), 1);
    let Outcome::Throttled { retry_after_ms, .. } = rig.append(2, &[("k", &text)]).await else {
        panic!("not throttled");
    };
    assert!((500..=900).contains(&retry_after_ms), "{retry_after_ms}");
    tokio::time::sleep(std::time::Duration::from_millis(u64::from(retry_after_ms))).await;
    assert_eq!(stored(&rig.append(2, &[("k", &text)]).await), 1);
}

#[tokio::test]
async fn a_record_over_the_size_is_refused_and_the_rest_of_its_batch_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    rig.create(1, StreamConfig { record_bytes_max: 10, ..unlimited() }).await;
    let outcome = rig.append(1, &[("k", "short"), ("k", "much too long a record"), ("k", "fine")]).await;
    let Outcome::Stored { refused, .. } = &outcome else { panic!("{outcome:?}") };
    assert_eq!(refused, &[(1, RefuseCode::RecordTooLarge)]);
    assert_eq!(
        rig.append(2, &[("k", "again much too long")]).await,
        Outcome::Refused(RefuseCode::RecordTooLarge)
    );
    assert_eq!(stored(&rig.append(3, &[("k", "ok")]).await), 1);
    rig.service.close().await;
    drop(rig);
    let mut rig = Rig::open(dir.path());
    assert_eq!(rig.append(2, &[("k", "again much too long")]).await, Outcome::Duplicate);
    assert_eq!(rig.read_all(0).await, ["short", "fine", "ok"]);
}

#[tokio::test]
async fn an_empty_batch_takes_its_place_in_its_lane_for_records_that_a_producer_has_lost() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    rig.create(1, unlimited()).await;
    assert_eq!(stored(&rig.append(1, &[("k", "one")]).await), 1);
    assert_eq!(stored(&rig.append(2, &[]).await), 0);
    rig.service.close().await;
    drop(rig);
    let mut rig = Rig::open(dir.path());
    assert_eq!(rig.append(2, &[]).await, Outcome::Duplicate);
    assert_eq!(stored(&rig.append(3, &[("k", "three")]).await), 1);
    assert_eq!(rig.read_all(0).await, ["one", "three"]);
}

#[tokio::test]
async fn a_reader_that_waits_sees_a_record_as_soon_as_it_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    rig.create(1, unlimited()).await;
    let (service, name) = (rig.service.clone(), rig.name.clone());
    let reader = tokio::spawn(async move {
        service.read(&admin(), &name, ShardId(0), StartingPosition::Latest, 1000, 20_000).await
    });
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    rig.append(1, &[("k", "now")]).await;
    let read = reader.await.unwrap().unwrap();
    assert_eq!((read.next, read.at_end), (SequenceNumber(1), false));
}

#[tokio::test]
async fn an_older_epoch_of_a_producer_is_turned_away() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    rig.create(1, unlimited()).await;
    rig.append(1, &[("k", "1")]).await;
    rig.service.begin_session(&admin(), Some(Producer { epoch: 2, ..PRODUCER })).unwrap();
    assert_eq!(rig.append(2, &[("k", "2")]).await, Outcome::Refused(RefuseCode::Denied));
    assert!(rig.service.begin_session(&admin(), Some(PRODUCER)).is_err());
}

#[tokio::test]
async fn reading_by_time_starts_at_the_first_record_that_arrived_then() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    rig.create(1, unlimited()).await;
    let mut middle = UnixMs(0);
    for i in 1..=60u64 {
        if i == 31 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            middle = Clock::start().wall();
        }
        rig.append(i, &[("k", &format!("{} {i}", "x".repeat(200)))]).await;
    }
    let from = StartingPosition::AtTime(middle);
    let read = rig.service.read(&admin(), &rig.name, ShardId(0), from, 1, 0).await.unwrap();
    assert_eq!(Header::parse(&read.frames).unwrap().first_sequence, SequenceNumber(30));
    let late = StartingPosition::AtTime(UnixMs(u64::MAX));
    let read = rig.service.read(&admin(), &rig.name, ShardId(0), late, 1, 0).await.unwrap();
    assert_eq!((read.next, read.frames.len()), (SequenceNumber(60), 0));
}

#[tokio::test]
async fn retention_removes_whole_segments_and_reading_goes_on_at_the_trim_horizon() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    rig.create(1, StreamConfig { retention_bytes: Some(10_000), ..unlimited() }).await;
    for i in 1..=200u64 {
        rig.append(i, &[("k", &format!("{i} {}", "y".repeat(300)))]).await;
    }
    rig.service.upkeep_round();
    rig.append(201, &[("k", "last")]).await;
    // Trimming follows the answers of the commit that does it.
    let describe = || Call::DescribeStream { name: rig.name.clone() };
    let mut info = None;
    for _ in 0..2000 {
        let Reply::Stream(now) = answer(&rig.service, &admin(), describe()).await else {
            panic!("no description")
        };
        if now.stored_bytes < 20_000 {
            info = Some(now);
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let before = info.expect("what is over the bytes goes").shards[0].first;
    let all = rig.read_all(0).await;
    assert!(all.len() < 150, "{} records", all.len());
    assert_eq!(all.last().map(String::as_str), Some("last"));
    // More may go while it is read.
    let Reply::Stream(now) = answer(&rig.service, &admin(), describe()).await else {
        panic!("no description")
    };
    assert!((before..=now.shards[0].first).contains(&SequenceNumber(201 - all.len() as u64)));
}

#[tokio::test]
async fn a_deleted_stream_is_gone_with_its_files_and_its_name_is_free_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    rig.create(1, unlimited()).await;
    rig.append(1, &[("k", "1")]).await;
    assert_eq!(
        answer(&rig.service, &admin(), Call::DeleteStream { name: rig.name.clone() }).await,
        Reply::Done {}
    );
    assert!(!dir.path().join("streams/000000").exists());
    rig.create(1, unlimited()).await;
    assert_eq!(rig.read_all(0).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_token_works_as_often_as_it_says_and_not_after_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open(dir.path());
    rig.service.put_token("truck-1", [1; 32], UnixMs(u64::MAX), 2).await.unwrap();
    rig.service.put_token("truck-2", [2; 32], UnixMs(1), 2).await.unwrap();
    assert_eq!(rig.service.redeem_token([1; 32]).await.as_deref(), Ok("truck-1"));
    rig.service.close().await;
    drop(rig);
    let rig = Rig::open(dir.path());
    assert_eq!(rig.service.redeem_token([1; 32]).await.as_deref(), Ok("truck-1"));
    assert!(rig.service.redeem_token([1; 32]).await.is_err());
    assert!(rig.service.redeem_token([2; 32]).await.is_err());
    assert!(rig.service.redeem_token([3; 32]).await.is_err());
}

#[tokio::test]
async fn a_data_folder_opens_once_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let _rig = Rig::open(dir.path());
    let error = Service::open(Settings::new(dir.path().to_owned()), Clock::start()).unwrap_err();
    assert!(error.to_string().contains(&dir.path().display().to_string()), "{error}");
}

#[tokio::test]
async fn only_an_administrator_reads_and_commands() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open(dir.path());
    let agent = Principal { name: "truck-1".to_owned(), role: Role::Agent };
    let opened = rig.service.open_streams(&agent, std::slice::from_ref(&rig.name)).await;
    assert_eq!(opened.len(), 1, "an agent's stream is made for it");
    assert!(matches!(answer(&rig.service, &agent, Call::ListStreams {}).await, Reply::Error(_)));
    let read = rig.service.read(&agent, &rig.name, ShardId(0), StartingPosition::Latest, 1, 0).await;
    assert!(read.is_err());
    let nobody = Principal::anonymous();
    assert!(rig.service.open_streams(&nobody, &[StreamName::new("x").unwrap()]).await.is_empty());
}

#[tokio::test]
async fn streams_of_other_accounts_are_not_made_by_writing_to_them() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open(dir.path());
    let theirs = StreamName::within("123456789012", "eu-west-1", "logs").unwrap();
    let opened = rig.service.open_streams(&admin(), &[theirs.clone(), rig.name.clone()]).await;
    assert_eq!(opened.iter().map(|info| &info.name).collect::<Vec<_>>(), [&rig.name]);
    // Once its owner has made it, it is a stream like any other.
    rig.service.create_stream(&admin(), &theirs, 1, StreamConfig::default()).await.unwrap();
    assert_eq!(rig.service.open_streams(&admin(), std::slice::from_ref(&theirs)).await.len(), 1);
    rig.service.close().await;
}

#[tokio::test]
async fn a_store_on_a_full_disk_refuses_what_grows_for_now_and_serves_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    rig.create(1, unlimited()).await;
    stored(&rig.append(1, &[("k", "one")]).await);
    rig.service.close().await;
    drop(rig);
    // More must stay free than any disk has.
    let settings = Settings { free_bytes_min: u64::MAX / 2, ..Settings::new(dir.path().to_owned()) };
    let service = Service::open(settings, Clock::start()).unwrap();
    let session = service.begin_session(&admin(), Some(PRODUCER)).unwrap();
    let mut rig =
        Rig { service, session, acks: mpsc::unbounded_channel(), name: StreamName::new("logs").unwrap() };
    assert!(matches!(rig.append(2, &[("k", "two")]).await, Outcome::Busy { .. }));
    let busy = |reply: Reply| match reply {
        Reply::Error(error) => error.code == protocol::stream::CallErrorCode::Busy,
        _ => false,
    };
    let more = StreamName::new("more").unwrap();
    let create = Call::CreateStream { name: more, shards: 1, config: unlimited() };
    assert!(busy(answer(&rig.service, &admin(), create).await));
    let split = Call::SplitShard { name: rig.name.clone(), shard: ShardId(0), at: None };
    assert!(busy(answer(&rig.service, &admin(), split).await));
    assert_eq!(rig.read_all(0).await, ["one"]);
    rig.service.delete_stream(&admin(), &rig.name).await.unwrap();
}

/// Reaches `EPOCHS_MAX` of store/src/service/mod.rs.
#[tokio::test]
async fn more_producers_than_are_kept_at_hand_are_let_in_and_an_older_epoch_still_stores_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    rig.create(1, unlimited()).await;
    stored(&rig.append(1, &[("k", "one")]).await);
    rig.service.begin_session(&admin(), Some(Producer { epoch: 2, ..PRODUCER })).unwrap();
    let newer = rig.service.begin_session(&admin(), Some(Producer { epoch: 2, ..PRODUCER })).unwrap();
    let frame = rig.frame(2, &[("k", "two")]);
    rig.service.append(&newer, &frame, &rig.acks.0, CommitOn::Pool).unwrap();
    stored(&rig.acks.1.recv().await.unwrap().outcome);
    // The memory of epochs is full and begins anew.
    for id in 0..100_001u128 {
        rig.service.begin_session(&admin(), Some(Producer { id: 1_000_000 + id, epoch: 1 })).unwrap();
    }
    // What it has forgotten, the log has not.
    let old = rig.service.begin_session(&admin(), Some(PRODUCER)).unwrap();
    let frame = rig.frame(3, &[("k", "three")]);
    rig.service.append(&old, &frame, &rig.acks.0, CommitOn::Pool).unwrap();
    let outcome = rig.acks.1.recv().await.unwrap().outcome;
    assert!(!matches!(outcome, Outcome::Stored { .. }), "{outcome:?}");
}

/// Reaches `RECORD_BYTES_MAX`, `STREAM_SHARDS_MAX` of protocol/src/limit.rs.
#[tokio::test]
async fn a_stream_is_made_for_records_as_long_and_shards_as_many_as_there_may_be_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open(dir.path());
    let create = async |name: &str, shards: usize, bytes: usize| {
        let config = StreamConfig { record_bytes_max: bytes as u32, ..unlimited() };
        let name = StreamName::new(name).unwrap();
        let call = Call::CreateStream { name, shards: shards as u32, config };
        matches!(answer(&rig.service, &admin(), call).await, Reply::Stream(_))
    };
    assert!(create("long", 1, limit::RECORD_BYTES_MAX).await);
    assert!(!create("longer", 1, limit::RECORD_BYTES_MAX + 1).await);
    assert!(create("wide", limit::STREAM_SHARDS_MAX, 1).await);
    assert!(!create("wider", limit::STREAM_SHARDS_MAX + 1, 1).await);
}

/// Reaches `RECORD_BYTES_MAX_DEFAULT` of protocol/src/limit.rs.
#[tokio::test]
async fn a_stream_that_says_nothing_takes_records_of_a_mebibyte_and_none_that_are_longer() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    rig.create(1, unlimited()).await;
    let data = "x".repeat(limit::RECORD_BYTES_MAX_DEFAULT + 1);
    assert_eq!(stored(&rig.append(1, &[("k", &data[1..])]).await), 1);
    let outcome = rig.append(2, &[("k", &data)]).await;
    assert_eq!(outcome, Outcome::Refused(RefuseCode::RecordTooLarge));
}

/// Fragments of a picture each, a second after the other, as a cutter gives them: every third one begins a group, the
/// others are within it.
fn parts(run: u64, count: u64) -> Vec<Cut> {
    let config = Arc::new(Config::new(b"some moov".to_vec()));
    let part = |n: u64| {
        let producer_time = UnixMs(1_700_000_000_000 + run * 1_000_000 + n * 1000);
        let frame = Picture { track: 0, key: n.is_multiple_of(3), dts: n, duration: 1, offset: 0, size: 7 };
        let follows = if n.is_multiple_of(3) { Follows::Previous } else { Follows::Within };
        let (clock, config) = (WhoseClock::Producer, config.clone());
        let frames = vec![frame];
        let fragment = Fragment { follows, run, place: n, within: 0, clock, producer_time, config, frames };
        Cut { fragment, data: b"picture".to_vec().into() }
    };
    (0..count).map(part).collect()
}

/// How many were within others, as the fragments say, and as it is.
async fn counts(rig: &Rig) -> (Vec<u64>, Vec<u64>) {
    let (mut said, mut is, mut from) = (Vec::new(), Vec::new(), SequenceNumber(0));
    loop {
        let (stored, next) = rig.service.fragments(&admin(), &rig.name, from, 100).await.unwrap();
        if stored.is_empty() {
            return (said, is);
        }
        for stored in stored {
            let before = is.last().copied().unwrap_or(0);
            is.push(before + u64::from(stored.fragment.follows == Follows::Within));
            said.push(stored.fragment.within);
        }
        from = next;
    }
}

#[tokio::test]
async fn parts_are_counted_through_restarts_and_whoever_else_writes() {
    let dir = tempfile::tempdir().unwrap();
    for start in 0..3 {
        let rig = Rig::open(dir.path());
        rig.service.open_video(&admin(), &rig.name).await.unwrap();
        let put = async |cut: &Cut| rig.service.put_fragment(&admin(), &rig.name, cut).await.unwrap();
        // One writer alone, then two in turn.
        for cut in parts(start * 10, 20) {
            put(&cut).await;
        }
        for (one, other) in parts(start * 10 + 1, 20).iter().zip(&parts(start * 10 + 2, 20)) {
            put(one).await;
            put(other).await;
        }
        // What is there already does not count again.
        assert!(matches!(put(&parts(start * 10 + 2, 20)[19]).await, Kept::Again(_)));
        let (said, is) = counts(&rig).await;
        assert_eq!(said, is, "after {start} restarts");
        assert_eq!(said.len() as u64, (start + 1) * 60);
        rig.service.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_writers_at_the_same_time_count_no_part_twice_for_long() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open(dir.path());
    rig.service.open_video(&admin(), &rig.name).await.unwrap();
    let writer = |run: u64| {
        let (service, name) = (rig.service.clone(), rig.name.clone());
        tokio::spawn(async move {
            for cut in parts(run, 60) {
                service.put_fragment(&admin(), &name, &cut).await.unwrap();
            }
        })
    };
    let (one, other) = (writer(1), writer(2));
    one.await.unwrap();
    other.await.unwrap();
    let (said, is) = counts(&rig).await;
    assert_eq!(said.len(), 120);
    // Two that were put at the same moment took the same place; never does the count run ahead.
    assert!(said.iter().zip(&is).all(|(said, is)| said <= is), "{said:?}");
    // Whoever comes next goes on from what the newest says.
    let newest = *said.last().unwrap();
    for cut in parts(3, 3) {
        rig.service.put_fragment(&admin(), &rig.name, &cut).await.unwrap();
    }
    assert_eq!(counts(&rig).await.0[120..], [newest, newest + 1, newest + 2]);
}
