//! `kinesin picture`: decodes one picture of H.264, from a small file on standard input to a JPEG or PNG file on standard output.
//! The store starts it for itself, so that whatever a film does to a decoder is done to a process that is thrown away. Never:
//! which picture is wanted, other codecs (exit code 3 says so).

use std::io::{Read, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, ValueEnum};
use jpeg_encoder::{ColorType, Encoder};
use openh264::OpenH264API;
use openh264::decoder::{DecodedYUV, Decoder, DecoderConfig, Flush};
use openh264::formats::YUVSource;
use protocol::time::UnixMs;
use video::codec::{Track, tracks};
use video::cut::{Cut, Cutter};
use video::demux::Demuxer;
use video::fragment::Clock;

/// What could not be decoded here may be decoded elsewhere.
pub(crate) const NOT_HERE: u8 = 3;

/// As ffmpeg's `-q:v 3`, about.
const QUALITY: u8 = 90;

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Jpeg,
    Png,
}

/// Words that only the store says.
#[derive(Debug, Args)]
pub(super) struct PictureArgs {
    /// Which picture, in the order in which they are shown, from 0.
    #[arg(long)]
    place: usize,
    #[arg(long, value_enum)]
    format: Format,
    /// Pixels across; the height follows.
    #[arg(long)]
    width: Option<usize>,
}

/// A picture: three bytes a pixel.
struct Picture {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

pub(super) fn run(args: &PictureArgs) -> ExitCode {
    let mut film = Vec::new();
    let done = std::io::stdin().read_to_end(&mut film).map_err(anyhow::Error::from);
    let done = done.and_then(|_| decoded(&film, args.place)).and_then(|picture| {
        let picture =
            args.width.map_or_else(|| scaled(&picture, picture.width), |width| scaled(&picture, width));
        Ok(std::io::stdout().write_all(&encoded(&picture, args.format)?)?)
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kinesin picture: {error:#}");
            ExitCode::from(NOT_HERE)
        }
    }
}

/// The frames of the first track, as the decoder wants them.
fn access_units(film: &[u8]) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut demuxer = Demuxer::new(Cutter::new(1, UnixMs(0), Clock::Producer));
    let mut cuts = Vec::new();
    demuxer.push(film, &mut cuts)?;
    demuxer.finish(&mut cuts)?;
    let mut all = Vec::new();
    for Cut { fragment, data } in &cuts {
        let track: Track = tracks(&fragment.config)?.into_iter().next().context("it has no track")?;
        anyhow::ensure!(track.codec.starts_with("avc"), "{} is not decoded here", track.codec);
        let bytes = data.pieces().concat();
        let mut rest = bytes.as_slice();
        for frame in &fragment.frames {
            let (unit, after) = rest.split_at_checked(frame.size as usize).context("a frame is cut off")?;
            rest = after;
            if frame.track == 0 {
                all.push(track.annexb(unit, frame.key));
            }
        }
    }
    Ok(all)
}

fn decoded(film: &[u8], place: usize) -> anyhow::Result<Picture> {
    // Pictures come in the order in which they are shown, once it is known.
    let config = DecoderConfig::new().flush_after_decode(Flush::NoFlush);
    let mut decoder = Decoder::with_api_config(OpenH264API::from_source(), config)?;
    let mut shown = 0;
    for unit in access_units(film)? {
        if let Some(picture) = decoder.decode(&unit)? {
            if shown == place {
                return Ok(picture_of(&picture));
            }
            shown += 1;
        }
    }
    let rest = decoder.flush_remaining()?;
    let picture = place.checked_sub(shown).and_then(|place| rest.get(place));
    Ok(picture_of(picture.with_context(|| format!("it has {} pictures", shown + rest.len()))?))
}

fn picture_of(decoded: &DecodedYUV<'_>) -> Picture {
    let (width, height) = decoded.dimensions();
    let mut rgb = vec![0; width * height * 3];
    decoded.write_rgb8(&mut rgb);
    Picture { width, height, rgb }
}

/// Each pixel is the mean of those that it covers; the height is even, as ffmpeg's is.
fn scaled(from: &Picture, width: usize) -> Picture {
    let height = (from.height * width / from.width.max(1)).next_multiple_of(2).max(2);
    if width == from.width {
        return Picture { rgb: from.rgb.clone(), ..*from };
    }
    let covers = |place: usize, of: usize, to: usize| {
        let begin = place * of / to;
        begin..((place + 1) * of).div_ceil(to).clamp(begin + 1, of)
    };
    let mut rgb = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        for x in 0..width {
            let (rows, columns) = (covers(y, from.height, height), covers(x, from.width, width));
            let count = rows.len() * columns.len();
            let mut sums = [0; 3];
            for row in rows {
                let line =
                    &from.rgb[(row * from.width + columns.start) * 3..(row * from.width + columns.end) * 3];
                line.chunks_exact(3).for_each(|pixel| (0..3).for_each(|c| sums[c] += usize::from(pixel[c])));
            }
            rgb.extend(sums.map(|sum| (sum / count) as u8));
        }
    }
    Picture { width, height, rgb }
}

fn encoded(picture: &Picture, format: Format) -> anyhow::Result<Vec<u8>> {
    let Picture { width, height, rgb } = picture;
    let mut out = Vec::new();
    match format {
        Format::Jpeg => {
            let (width, height) = (u16::try_from(*width)?, u16::try_from(*height)?);
            Encoder::new(&mut out, QUALITY).encode(rgb, width, height, ColorType::Rgb)?;
        }
        Format::Png => {
            let mut encoder = png::Encoder::new(&mut out, u32::try_from(*width)?, u32::try_from(*height)?);
            encoder.set_color(png::ColorType::Rgb);
            encoder.set_depth(png::BitDepth::Eight);
            encoder.write_header()?.write_image_data(rgb)?;
        }
    }
    Ok(out)
}
