//! Decoded pictures. Decoding is another process's: this program's own for H.264 where it is built with `openh264`, and ffmpeg's;
//! where neither can, the answer says so. Its input is a small file that ends with the frame that was asked for.

use std::process::{Output, Stdio};
use std::time::Duration;

use bytes::Bytes;
use hyper::{Response, StatusCode, header};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::query::Query;
use super::{Body, Result, bad, failure, set, whole};

/// One picture takes at most this long.
const TIME_MAX: Duration = Duration::from_secs(20);
/// Pixels across: an ultra HD picture as it is.
const WIDTH_MAX: u64 = 3840;
/// Pictures that are made at the same time: each is a process.
static AT_ONCE: Semaphore = Semaphore::const_new(2);

/// Decodes a file and gives the picture that is shown in this place, from 0.
pub(super) async fn make(query: &Query, file: Vec<u8>, place: usize) -> Result<Response<Body>> {
    let (codec, kind) = match query.get("image") {
        Some("jpeg" | "jpg") => ("mjpeg", "image/jpeg"),
        Some("png") => ("png", "image/png"),
        other => return Err(bad(format!("image={}: jpeg or png was expected", other.unwrap_or_default()))),
    };
    let width = query.number("width", 16, WIDTH_MAX)?;
    let Ok(_turn) = AT_ONCE.acquire().await else { return Err(unavailable("the store is stopping")) };
    let picture = timeout(TIME_MAX, decode(file, place, codec, width)).await;
    let picture = picture.map_err(|_| unavailable("decoding took too long"))??;
    let mut response = whole(StatusCode::OK, kind, picture);
    set(&mut response, header::CACHE_CONTROL, "private, max-age=31536000, immutable");
    Ok(response)
}

fn unavailable(why: &str) -> super::Failure {
    failure(StatusCode::NOT_IMPLEMENTED, why)
}

async fn decode(file: Vec<u8>, place: usize, codec: &str, width: Option<u64>) -> Result<Vec<u8>> {
    let file = Bytes::from(file);
    if let Some(picture) = decode_here(&file, place, codec, width).await {
        return Ok(picture);
    }
    let mut filter = format!("select=eq(n\\,{place})");
    if let Some(width) = width {
        filter += &format!(",scale={width}:-2");
    }
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg
        .args(["-v", "error", "-i", "pipe:0", "-an", "-vf", &filter, "-frames:v", "1", "-c:v", codec])
        .args(["-q:v", "3", "-f", "image2pipe", "pipe:1"]);
    let output = output_of(ffmpeg, file).await;
    let output = output.map_err(|error| {
        unavailable(&format!("pictures of this codec need ffmpeg on the store's machine: {error}"))
    })?;
    if output.stdout.is_empty() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().next().unwrap_or("it gave no picture");
        return Err(failure(StatusCode::UNPROCESSABLE_ENTITY, format!("the frame can't be decoded: {said}")));
    }
    Ok(output.stdout)
}

/// The same by this program itself, in another process; nothing where it is built without a decoder, or that can't.
async fn decode_here(file: &Bytes, place: usize, codec: &str, width: Option<u64>) -> Option<Vec<u8>> {
    if cfg!(not(feature = "openh264")) {
        return None;
    }
    let format = if codec == "png" { "png" } else { "jpeg" };
    let mut words = vec!["picture".to_owned(), format!("--place={place}"), format!("--format={format}")];
    words.extend(width.map(|width| format!("--width={width}")));
    let mut own = Command::new(std::env::current_exe().ok()?);
    own.args(words);
    let output = output_of(own, file.clone()).await.ok()?;
    (output.status.success() && !output.stdout.is_empty()).then_some(output.stdout)
}

/// What a program makes of a file. It is ended when nobody waits for it any more.
async fn output_of(mut program: Command, file: Bytes) -> std::io::Result<Output> {
    let mut child = program
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut input = child.stdin.take();
    let feed = async move {
        if let Some(input) = &mut input {
            // It may have seen enough before the end.
            let _ = input.write_all(&file).await;
        }
        drop(input);
    };
    let (output, ()) = tokio::join!(child.wait_with_output(), feed);
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reaches `WIDTH_MAX`.
    #[tokio::test]
    async fn a_picture_is_as_wide_as_it_may_be_and_no_wider() {
        let refused = async |width: u64| {
            let query = Query::parse(&format!("image=jpeg&width={width}")).unwrap();
            // There is nothing to decode, whatever is asked for.
            make(&query, Vec::new(), 0).await.err().is_some_and(|error| error.message.contains("width"))
        };
        assert!(!refused(WIDTH_MAX).await && refused(WIDTH_MAX + 1).await);
    }
}
