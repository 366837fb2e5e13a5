//! What an agent sends first, keeps back, or gives up: policies, as somebody writes them who pays for each byte on the road.
//! What is kept back is lost as little as anything else.

use protocol::frame::Frame;
use protocol::name::StreamName;
use protocol::sequence::ShardId;
use protocol::stream::StartingPosition;
use protocol::time::UnixMs;
use serde_json::Value;

use crate::cameras::fragments;
use crate::common::{FILES, Rig, wait_until};
use crate::video::{lines, rig, tool};

fn frames(rig: &Rig, stream: &str) -> Vec<Value> {
    let words = ["video", "frames", stream, "--count", "100000", "--json"];
    rig.store.command(&words).map_or_else(|_| Vec::new(), |text| lines(&text))
}

#[tokio::test(flavor = "multi_thread")]
async fn video_around_an_event_is_sent_at_once_and_the_rest_at_the_depot() {
    let Some(rig) = rig().await else { return };
    let camera = "[\"ffmpeg\", \"-v\", \"error\", \"-re\", \"-f\", \"lavfi\", \"-i\", \"testsrc2=size=320x180:rate=30\", \
                  \"-c:v\", \"libx264\", \"-preset\", \"ultrafast\", \"-tune\", \"zerolatency\", \"-g\", \"15\", \
                  \"-f\", \"mp4\", \"-movflags\", \"+frag_keyframe+empty_moov+default_base_moof\", \"-\"]";
    let (depot, event) = (rig.path("depot"), rig.path("event"));
    let sources = format!(
        "{FILES}[[policy]]\nstreams = \"cam\"\nhold_until = \"{}\"\n\
         [[source.video]]\nstream = \"cam\"\ncommand = {camera}\nevent = \"{}\"\nevent_stream = \"events\"\n\
         event_before_s = 2\nevent_after_s = 2\n",
        depot.display(),
        event.display()
    );
    let mut agent = rig.agent("truck", &sources);
    wait_until("frames in the spool", || agent.status().records_in > 150);
    // Whatever else there is goes on.
    std::fs::write(rig.path("logs/a.log"), "one\ntwo\n").unwrap();
    rig.wait_for("logs", 2).await;
    assert!(fragments(&rig, "cam").is_empty() && fragments(&rig, "events").is_empty());
    std::fs::write(&event, "").unwrap();
    // Of four seconds; fragments are half a second long, and are taken when they are whole.
    wait_until("what was before and after", || frames(&rig, "events").len() >= 90);
    let before_end = agent.status().records_in;
    wait_until("what is not wanted any more", || agent.status().records_in > before_end + 60);
    let first = frames(&rig, "events").len();
    assert!((90..=150).contains(&first), "{first} frames of four seconds");
    assert!(fragments(&rig, "cam").is_empty());
    // An event that nobody saw, since the agent was away.
    agent.process.take().unwrap().kill().unwrap();
    std::fs::write(&event, "again").unwrap();
    agent.up().unwrap();
    wait_until("the other event", || frames(&rig, "events").len() > first + 15);
    assert!(fragments(&rig, "cam").is_empty());
    std::fs::write(&depot, "").unwrap();
    wait_until("all of it", || frames(&rig, "cam").len() > 300);
    let (all, around) = (frames(&rig, "cam"), frames(&rig, "events"));
    let place = |frame: &Value| (frame["pts"].as_i64().unwrap(), frame["size"].as_u64().unwrap());
    let there: std::collections::BTreeSet<_> = all.iter().map(place).collect();
    assert!(around.iter().all(|frame| there.contains(&place(frame))), "events are a part of all");
    let places: Vec<_> = all.iter().map(place).collect();
    assert!(places.windows(2).all(|pair| pair[0].0 < pair[1].0), "once and in order");
    for fragment in fragments(&rig, "cam").iter().skip(1) {
        assert!(["previous", "run"].contains(&fragment["follows"].as_str().unwrap()), "{fragment}");
    }
    let (mut gaps, events) = (0, fragments(&rig, "events"));
    assert_eq!(events[0]["follows"], "run");
    for fragment in &events[1..] {
        gaps += u32::from(fragment["follows"] != "previous");
    }
    assert!((1..=3).contains(&gaps), "one gap between events, or two with the agent's own: {events:?}");
    let clip = rig.path("clip.mp4").display().to_string();
    rig.kinesin(&format!("video clip events -o {clip}"));
    tool("ffmpeg", &["-xerror", "-i", &clip, "-f", "null", "-"]);
    assert_eq!(rig.lost("").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waited_for_longer_than_it_is_worth_is_told_as_lost_and_what_is_new_is_stored() {
    let Some(mut rig) = rig().await else { return };
    let sources = format!("{FILES}[[policy]]\nstreams = \"logs\"\nttl_s = 3\n");
    let agent = rig.agent("truck", &sources);
    std::fs::write(rig.path("logs/a.log"), "first\n").unwrap();
    rig.wait_for("logs", 1).await;
    rig.store.kill().unwrap();
    std::fs::write(rig.path("logs/b.log"), "old\n".repeat(100)).unwrap();
    wait_until("them in the spool", || agent.status().records_in == 101);
    let begin = tests::clock::now();
    wait_until("them to be old", || tests::clock::now().duration_since(begin).as_secs() >= 4);
    rig.up().await;
    wait_until("a word of them", || agent.status().lost_records == 100);
    std::fs::write(rig.path("logs/c.log"), "new\n").unwrap();
    rig.wait_for("logs", 2).await;
    let stored = rig.stored("logs").await;
    assert_eq!(stored.keys().map(String::as_str).collect::<Vec<_>>(), ["a.log", "c.log"]);
    tests::eventually!("the ledger", rig.lost("expired").await == 100);
}

/// When the newest batch of a stream of one shard came.
async fn newest_arrival(rig: &Rig, stream: &str) -> UnixMs {
    let name = StreamName::new(stream).unwrap();
    let (mut from, mut newest) = (StartingPosition::TrimHorizon, UnixMs(0));
    loop {
        let read = rig.client.read(&name, ShardId(0), from, 1 << 20, 0).await.unwrap();
        let mut rest = read.frames();
        while let Ok((frame, after)) = Frame::parse_first(rest) {
            (newest, rest) = (newest.max(frame.header.arrival), after);
        }
        if read.head.next >= read.head.tail {
            return newest;
        }
        from = StartingPosition::At(read.head.next);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_outage_what_is_urgent_overtakes_the_rest_and_all_of_it_keeps_to_its_budget() {
    const BYTES_PER_SECOND: u64 = 100 << 10;
    let Some(mut rig) = Rig::start(&[]).await else { return };
    let file = |name: &str| {
        format!(
            "[[source.file]]\npaths = [\"{name}/*.log\"]\nstream = \"{name}\"\npartition_key = \"{{file_name}}\"\npoll_ms = 100\nbatch = {{ codec = \"none\" }}\n"
        )
    };
    let sources = format!(
        "bytes_per_second_max = \"100 KiB\"\n{}{}[[policy]]\nstreams = \"alarms\"\npriority = 9\n",
        file("bulk"),
        file("alarms")
    );
    for name in ["bulk", "alarms"] {
        std::fs::create_dir(rig.path(name)).unwrap();
    }
    let mut agent = rig.agent("truck", &sources);
    std::fs::write(rig.path("alarms/first.log"), "first\n").unwrap();
    rig.wait_for("alarms", 1).await;
    rig.store.kill().unwrap();
    // Five seconds' worth first, and then what is urgent.
    let (lines, line) = (5 * BYTES_PER_SECOND / 512, "x".repeat(511) + "\n");
    std::fs::write(rig.path("bulk/a.log"), line.repeat(lines as usize)).unwrap();
    wait_until("all of it in the spool", || agent.status().records_in == 1 + lines);
    std::fs::write(rig.path("alarms/second.log"), "second\n".repeat(50)).unwrap();
    wait_until("the alarms too", || agent.status().records_in == 51 + lines);
    // Also of an agent that starts again in between.
    agent.process.take().unwrap().kill().unwrap();
    rig.up().await;
    let begin = tests::clock::now();
    agent.up().unwrap();
    rig.wait_for("alarms", 51).await;
    rig.wait_for("bulk", lines).await;
    let took = tests::clock::now().duration_since(begin).as_secs_f64();
    // A second's worth goes at once, and the last batch is not waited for.
    assert!(took > 3.0, "{lines} lines of 512 bytes in {took:.1} s");
    let (alarms, bulk) = (newest_arrival(&rig, "alarms").await, newest_arrival(&rig, "bulk").await);
    assert!(bulk.millis_since(alarms) > 2000, "the alarms waited: {alarms:?}, {bulk:?}");
    assert_eq!(rig.lost("").await, 0);
}
