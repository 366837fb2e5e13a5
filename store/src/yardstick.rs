//! What the machine under a measurement can do: its disk and one of its cores, in the same minute, so that figures of one
//! machine say something about another. Never in here: anything of the store's.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use protocol::compress::{Codec, Compressor};
use protocol::rng::Rng;
use protocol::time::Mono;
use serde::Serialize;

use crate::clock::Clock;

const SYNCS: u32 = 200;
const PAGE: usize = 4096;
const PIECE: usize = 1 << 20;
const PIECES: u32 = 256;

/// What was measured.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Yardstick {
    /// The median of appending 4 KiB to a file and one fdatasync.
    pub fdatasync_ms: f64,
    /// 256 MiB appended to a file in pieces of 1 MiB, and one fdatasync.
    pub disk_megabytes_per_second: f64,
    /// Checksums (CRC-32C) on one core.
    pub crc_megabytes_per_second: f64,
    /// Compression (lz4) on one core, of bytes as raw as those of `kinesin bench`.
    pub lz4_megabytes_per_second: f64,
}

impl Yardstick {
    /// Measures in a folder; about a second.
    ///
    /// # Errors
    /// When nothing can be written there.
    pub fn measure(dir: &Path) -> io::Result<Yardstick> {
        let (clock, path) = (Clock::start(), dir.join("yardstick"));
        let measured = disk(&path, clock);
        let _ = std::fs::remove_file(&path);
        let (fdatasync_ms, disk_megabytes_per_second) = measured?;
        let bytes = half_random();
        Ok(Yardstick {
            fdatasync_ms,
            disk_megabytes_per_second,
            crc_megabytes_per_second: rate(clock, || crc32c::crc32c(&bytes) as usize),
            lz4_megabytes_per_second: rate(clock, || {
                let mut out = Vec::with_capacity(PIECE * 2);
                Compressor::new(Codec::Lz4).compress(&bytes, &mut out);
                out.len()
            }),
        })
    }

    /// In a line.
    #[must_use]
    pub fn text(&self) -> String {
        format!(
            "fdatasync {:.2} ms, disk {:.0} MB/s, one core: CRC-32C {:.0} MB/s, lz4 {:.0} MB/s",
            self.fdatasync_ms,
            self.disk_megabytes_per_second,
            self.crc_megabytes_per_second,
            self.lz4_megabytes_per_second
        )
    }
}

fn disk(path: &Path, clock: Clock) -> io::Result<(f64, f64)> {
    let mut file = File::options().create(true).append(true).open(path)?;
    let mut times = Vec::new();
    for _ in 0..SYNCS {
        let begin = clock.mono();
        file.write_all(&[7; PAGE])?;
        file.sync_data()?;
        times.push(clock.mono().since(begin));
    }
    times.sort_unstable();
    let (bytes, begin) = (half_random(), clock.mono());
    for _ in 0..PIECES {
        file.write_all(&bytes)?;
    }
    file.sync_data()?;
    let whole = f64::from(PIECES) * PIECE as f64;
    Ok((times[times.len() / 2].as_secs_f64() * 1e3, megabytes_per_second(whole, clock, begin)))
}

fn megabytes_per_second(bytes: f64, clock: Clock, begin: Mono) -> f64 {
    bytes / 1e6 / clock.mono().since(begin).max(Duration::from_micros(1)).as_secs_f64()
}

fn rate(clock: Clock, mut work: impl FnMut() -> usize) -> f64 {
    let (begin, mut rounds, mut sum) = (clock.mono(), 0u32, 0usize);
    while clock.mono().since(begin) < Duration::from_millis(100) {
        sum = sum.wrapping_add(work());
        rounds += 1;
    }
    std::hint::black_box(sum);
    megabytes_per_second(f64::from(rounds) * PIECE as f64, clock, begin)
}

fn half_random() -> Vec<u8> {
    let mut rng = Rng::new(1);
    (0..PIECE).map(|at| if at / 32 % 2 == 0 { rng.next_u64() as u8 } else { b'.' }).collect()
}
