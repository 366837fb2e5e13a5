//! What days of video cost whoever wants one frame of them, or starts the store: as many fragments in as many segments as a
//! camera makes in that time, of tiny frames, so that months fit on any disk. It prints figures and judges nothing.

use std::io;
use std::sync::Arc;

use protocol::frame::Header;
use protocol::name::StreamName;
use protocol::native::call::{Call, Hello, Producer};
use protocol::native::message::{Ack, Outcome, Type};
use protocol::time::UnixMs;
use store::client::{Link, Target};
use video::fragment::{Clock, Config, Follows, Fragment, Frame, PARTITION_KEY};

use super::{Camera, FRAGMENT_FRAMES, FRAMES_PER_S, START_MS};
use crate::clock;
use crate::harness::process::StoreProcess;

/// Segments as the store makes them hold so many bytes ...
const SEGMENT_BYTES: u64 = 64 << 20;
/// ... and these are about so many, with as many fragments.
const TINY_FRAGMENT_BYTES: u64 = 1000;
/// Fragments that are sent and not answered.
const IN_FLIGHT: u64 = 64;

/// How long segments have to be for as many fragments to lie in each as of a camera of this many bits.
pub(super) fn segment_bytes(bits_per_s: u64) -> u64 {
    let fragment_bytes = bits_per_s / 8 * FRAGMENT_FRAMES / FRAMES_PER_S;
    SEGMENT_BYTES / fragment_bytes.max(1) * TINY_FRAGMENT_BYTES
}

fn tiny(camera: &Camera, config: &Arc<Config>, n: u64, parts: u64) -> (Fragment, Vec<u8>) {
    let start = START_MS * u64::from(camera.timescale) / 1000;
    let frame = |place: u64| Frame {
        track: 0,
        key: place == 0,
        dts: start + (n * FRAGMENT_FRAMES + place) * u64::from(camera.frame_ticks),
        duration: camera.frame_ticks,
        offset: 0,
        size: 1,
    };
    let frames: Vec<Frame> = (0..FRAGMENT_FRAMES).map(frame).collect();
    let fragment = Fragment {
        follows: match n {
            0 => Follows::Run,
            _ if !n.is_multiple_of(parts) => Follows::Within,
            _ => Follows::Previous,
        },
        run: 1,
        place: n,
        within: 0,
        clock: Clock::Producer,
        producer_time: UnixMs(frames[0].dts * 1000 / u64::from(camera.timescale)),
        config: Arc::clone(config),
        frames,
    };
    (fragment, vec![n as u8; FRAGMENT_FRAMES as usize])
}

/// Makes a stream with so many fragments of a second, through the native protocol, many in flight; each so many are the parts of one
/// segment.
///
/// # Errors
/// When the store does not take one.
pub async fn fill(store: &StoreProcess, name: &str, fragments: u64, parts: u64) -> io::Result<()> {
    let camera = &Camera::new()?;
    let name = StreamName::new(name).map_err(io::Error::other)?;
    let config = store::service::video::config();
    let client = store.client().await?;
    let create = Call::CreateStream { name: name.clone(), shards: 1, config };
    client.call(create).await.map_err(io::Error::other)?;
    let target = Target::of_data_dir(&store.data).map_err(io::Error::other)?;
    let id = 1 + u128::from(clock::unix_ms());
    let producer = Some(Producer { id, epoch: 1 });
    let hello = Hello { client: "video bench".to_owned(), producer, streams: Vec::new() };
    let mut link = Link::connect(&target, &hello).await.map_err(io::Error::other)?;
    let (mut sent, mut answered, mut frame) = (0, 0, Vec::new());
    while answered < fragments {
        while sent < fragments && sent - answered < IN_FLIGHT {
            let (fragment, data) = tiny(camera, &camera.config, sent, parts);
            let header = Header {
                stream: name.key(),
                producer_id: id,
                producer_epoch: 1,
                producer_sequence: 1 + sent,
                ..Header::default()
            };
            frame.clear();
            fragment.seal(PARTITION_KEY, &data, header, &mut frame).map_err(io::Error::other)?;
            link.put_append(&frame);
            sent += 1;
        }
        link.flush().await.map_err(io::Error::other)?;
        let received = link.next().await.map_err(io::Error::other)?;
        if received.kind == Type::Ack {
            let ack = Ack::parse(&received.body).map_err(io::Error::other)?;
            if !matches!(ack.outcome, Outcome::Stored { .. }) {
                return Err(io::Error::other(format!("{:?}", ack.outcome)));
            }
            answered += 1;
        }
    }
    Ok(())
}
