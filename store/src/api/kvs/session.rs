//! Sessions of players: addresses that work for a while without a key. The playlists themselves are those of `/v1/video`.

use hyper::Response;
use serde_json::json;

use super::archive::Span;
use super::{Body, Call, Result, as_json, invalid, refusal};

/// Seconds.
const EXPIRES: (i64, i64, i64) = (300, 300, 43_200);
/// Fragments of one playlist.
const FRAGMENTS_MAX: i64 = 5000;

impl Call {
    pub(super) async fn hls_session(&self) -> Result<Response<Body>> {
        let stream = self.find()?.name;
        let expires_s = self.number("Expires", EXPIRES.1, EXPIRES.2)?.unwrap_or(EXPIRES.0) as u64;
        let count = self.number("MaxMediaPlaylistFragmentResults", 1, FRAGMENTS_MAX)?;
        let mode = self.text("PlaybackMode").unwrap_or("LIVE");
        let span = Span::read(self.body.get("HLSFragmentSelector"), mode != "LIVE")
            .or_else(|error| if mode == "LIVE_REPLAY" { self.open_span() } else { Err(error) })?;
        let (all, _) = self.within_span(&stream, &span, None, 1).await?;
        let Some(first) = all.first() else {
            return Err(refusal(
                "ResourceNotFoundException",
                "No fragments were found in the stream for the request.",
            ));
        };
        let query = match mode {
            "LIVE" => format!("live.m3u8?window={}&", count.unwrap_or(5).max(2)),
            "LIVE_REPLAY" | "ON_DEMAND" => {
                let clock = if span.by_server { "server" } else { "producer" };
                let to = span.to.map(|to| format!("&to={clock}:{}", to.0 + 1)).unwrap_or_default();
                format!("vod.m3u8?from={}{to}&count={}&", first.number, count.unwrap_or(1000))
            }
            other => {
                return Err(invalid(format!(
                    "PlaybackMode is {other}: LIVE, LIVE_REPLAY and ON_DEMAND are valid"
                )));
            }
        };
        let token = crate::api::video::token(&self.shared, &self.caller.access_key, &stream, expires_s);
        let token = token.ok_or_else(|| refusal("NotAuthorizedException", "the access key is gone"))?;
        let url = format!("{}/v1/video/{stream}/{query}token={token}", self.endpoint);
        Ok(as_json(&json!({ "HLSStreamingSessionURL": url })))
    }

    /// A replay that goes on to what is live has a start only.
    fn open_span(&self) -> Result<Span> {
        Span::read(self.body.get("HLSFragmentSelector"), false)
    }
}
