//! Decoded pictures. Decoding is ffmpeg's: where it is not installed, the answer says so. Its input is a small file that
//! ends with the frame that was asked for.

use std::process::Stdio;
use std::time::Duration;

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
    let mut filter = format!("select=eq(n\\,{place})");
    if let Some(width) = width {
        filter += &format!(",scale={width}:-2");
    }
    let mut child = Command::new("ffmpeg")
        .args(["-v", "error", "-i", "pipe:0", "-an", "-vf", &filter, "-frames:v", "1", "-c:v", codec])
        .args(["-q:v", "3", "-f", "image2pipe", "pipe:1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| unavailable(&format!("pictures need ffmpeg on the store's machine: {error}")))?;
    let mut input = child.stdin.take();
    let feed = async move {
        if let Some(input) = &mut input {
            // It may have seen enough before the end.
            let _ = input.write_all(&file).await;
        }
        drop(input);
    };
    let (output, ()) = tokio::join!(child.wait_with_output(), feed);
    let output = output.map_err(|error| unavailable(&error.to_string()))?;
    if output.stdout.is_empty() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().next().unwrap_or("it gave no picture");
        return Err(failure(StatusCode::UNPROCESSABLE_ENTITY, format!("the frame can't be decoded: {said}")));
    }
    Ok(output.stdout)
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
