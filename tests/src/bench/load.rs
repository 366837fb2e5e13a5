//! A producer for benchmarks: one connection that sends the same batch again and again, with so many in flight, and notes
//! how long each answer takes. What is measured with it is in `engine`.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use protocol::batch::BatchBuilder;
use protocol::compress::{Codec, Compressor};
use protocol::frame::{Header, patch_header};
use protocol::hash::HashKey;
use protocol::name::StreamName;
use protocol::native::call::{Hello, Producer};
use protocol::native::message::{Ack, Outcome, Type};
use protocol::time::UnixMs;
use store::client::{Link, Target};

use crate::clock;
use crate::harness::corpus::Corpus;
use crate::harness::process::StoreProcess;

/// A batch, made once.
#[derive(Debug, Clone)]
pub(super) struct Made {
    header: Header,
    frame: Vec<u8>,
}

impl Made {
    /// Of so many bytes of log lines.
    pub(super) fn of_lines(raw_bytes: usize, codec: Codec) -> Made {
        let (mut builder, mut raw) = (BatchBuilder::new(), 0);
        let mut lines = Corpus::access(1).lines();
        let mut line = Vec::new();
        while raw < raw_bytes {
            line.clear();
            lines.next_into(&mut line);
            raw += line.len();
            if let Ok(key) = builder.key("log", None) {
                builder.push(key, UnixMs(1), &line);
            }
        }
        Made::sealed(builder, codec)
    }

    /// Of records whose keys are spread evenly over all shards that there may be.
    pub(super) fn spread(records: u32, record_bytes: usize) -> Made {
        let mut builder = BatchBuilder::new();
        let step = u128::MAX / u128::from(records);
        for n in 0..u128::from(records) {
            if let Ok(key) = builder.key(&format!("key-{n}"), Some(HashKey(n * step + step / 2))) {
                builder.push(key, UnixMs(1), &vec![n as u8; record_bytes]);
            }
        }
        Made::sealed(builder, Codec::None)
    }

    fn sealed(mut builder: BatchBuilder, codec: Codec) -> Made {
        let mut frame = Vec::new();
        let header = Header { producer_epoch: 1, ..Header::default() };
        let header = builder.seal(header, &mut Compressor::new(codec), &mut frame);
        Made { header, frame }
    }

    /// Bytes before they were compressed.
    pub(super) fn raw_bytes(&self) -> u64 {
        u64::from(self.header.raw_len)
    }

    /// Bytes as they are sent and kept.
    pub(super) fn frame_bytes(&self) -> u64 {
        self.frame.len() as u64
    }
}

/// The producer.
pub(super) struct Load {
    link: Link,
    made: Made,
    next: u64,
    flying: VecDeque<Instant>,
    /// How long each answer took.
    pub(super) delays: Vec<Duration>,
}

impl Load {
    /// Connects as a producer of its own.
    pub(super) async fn connect(
        store: &StoreProcess,
        name: &StreamName,
        id: u128,
        made: &Made,
    ) -> io::Result<Load> {
        let target = Target::of_data_dir(&store.data).map_err(io::Error::other)?;
        let producer = Some(Producer { id, epoch: 1 });
        let hello = Hello { client: "bench".to_owned(), producer, streams: Vec::new() };
        let link = Link::connect(&target, &hello).await.map_err(io::Error::other)?;
        let mut made = made.clone();
        made.header.producer_id = id;
        made.header.stream = name.key();
        Ok(Load { link, made, next: 0, flying: VecDeque::new(), delays: Vec::new() })
    }

    /// Sends while `more` says so, asked with how many were sent, and waits for all answers.
    pub(super) async fn run(
        &mut self,
        in_flight: usize,
        mut more: impl FnMut(u64) -> bool,
    ) -> io::Result<()> {
        let begin = self.next;
        let mut is_over = false;
        loop {
            while !is_over && self.flying.len() < in_flight {
                is_over = !more(self.next - begin);
                if !is_over {
                    self.send();
                }
            }
            if self.flying.is_empty() {
                return Ok(());
            }
            self.link.flush().await.map_err(io::Error::other)?;
            self.answer().await?;
        }
    }

    /// The same at a pace: one after the other, each when it is due.
    pub(super) async fn run_paced(&mut self, every: Duration, until: Instant) -> io::Result<()> {
        let mut due = clock::now();
        while clock::now() < until {
            tokio::time::sleep(due.saturating_duration_since(clock::now())).await;
            self.send();
            self.link.flush().await.map_err(io::Error::other)?;
            self.answer().await?;
            due += every;
        }
        Ok(())
    }

    fn send(&mut self) {
        self.made.header.producer_sequence = self.next;
        patch_header(&mut self.made.frame, &self.made.header);
        self.link.put_append(&self.made.frame);
        self.flying.push_back(clock::now());
        self.next += 1;
    }

    async fn answer(&mut self) -> io::Result<()> {
        let received = self.link.next().await.map_err(io::Error::other)?;
        if received.kind != Type::Ack {
            return Ok(());
        }
        let ack = Ack::parse(&received.body).map_err(io::Error::other)?;
        if !matches!(&ack.outcome, Outcome::Stored { refused, .. } if refused.is_empty()) {
            return Err(io::Error::other(format!("{:?}", ack.outcome)));
        }
        if let Some(sent) = self.flying.pop_front() {
            self.delays.push(clock::now().duration_since(sent));
        }
        Ok(())
    }
}

/// The delay that half of them are below, in milliseconds.
pub(super) fn median_ms(delays: &[Duration]) -> f64 {
    let mut sorted = delays.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).map_or(0.0, Duration::as_secs_f64) * 1e3
}
