//! Playlists of HTTP Live Streaming (RFC 8216, version 7: fragmented MP4), live and of what was, and a page that plays.

use std::fmt::Write as _;

use hyper::{Response, StatusCode, header};
use protocol::sequence::SequenceNumber;
use video::codec::tracks;
use video::fragment::Follows;

use super::frames::{FRAGMENTS_MAX, duration_ms};
use super::{Body, Call, Result, not_found, set, whole};
use crate::service::video::{At, Stored};

const WINDOW_DEFAULT: u64 = 6;
const KIND: &str = "application/vnd.apple.mpegurl";

fn time(ms: u64) -> String {
    let time = jiff::Timestamp::from_millisecond(i64::try_from(ms).unwrap_or(i64::MAX)).unwrap_or_default();
    time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

impl Call {
    /// The newest fragments.
    pub(super) async fn live_playlist(&self) -> Result<Response<Body>> {
        let window = self.query.number("window", 2, FRAGMENTS_MAX as u64)?.unwrap_or(WINDOW_DEFAULT) as usize;
        let mut all: Vec<Stored> = Vec::new();
        let mut end = self.place("to", At::Newest).await?;
        while all.len() < window {
            let Some(last) = end.0.checked_sub(1) else { break };
            let (some, _) = self.some_fragments(SequenceNumber(last), 1).await?;
            let Some(stored) = some.into_iter().next().filter(|stored| stored.number.0 <= last) else {
                break;
            };
            end = stored.number;
            all.insert(0, stored);
        }
        self.playlist(&all, false)
    }

    /// From one place to another, and an end.
    pub(super) async fn vod_playlist(&self) -> Result<Response<Body>> {
        let all = self.fragments_between().await?;
        self.playlist(&all, true)
    }

    fn playlist(&self, all: &[Stored], ends: bool) -> Result<Response<Body>> {
        let Some(first) = all.first() else {
            return Err(not_found(format!("stream {} has no video there", self.stream)));
        };
        let token = self.query.get("token").map(|token| format!("?token={token}")).unwrap_or_default();
        let mut durations = Vec::with_capacity(all.len());
        for stored in all {
            durations.push(duration_ms(stored, &tracks(&stored.fragment.config)?));
        }
        let longest = durations.iter().copied().max().unwrap_or(1000);
        let mut text = format!(
            "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:{}\n#EXT-X-MEDIA-SEQUENCE:{}\n",
            longest.div_ceil(1000).max(1),
            first.ordinal
        );
        if all.iter().all(|stored| stored.fragment.starts_with_key()) {
            text += "#EXT-X-INDEPENDENT-SEGMENTS\n";
        }
        if ends {
            text += "#EXT-X-PLAYLIST-TYPE:VOD\n";
        }
        let mut config = None;
        for (place, (stored, ms)) in all.iter().zip(durations).enumerate() {
            let fragment = &stored.fragment;
            if place > 0 && (fragment.follows != Follows::Previous || config != Some(&fragment.config)) {
                text += "#EXT-X-DISCONTINUITY\n";
            }
            if config != Some(&fragment.config) {
                let _ = writeln!(text, "#EXT-X-MAP:URI=\"init/{}.mp4{token}\"", stored.number);
                config = Some(&fragment.config);
            }
            let _ = writeln!(text, "#EXT-X-PROGRAM-DATE-TIME:{}", time(fragment.producer_time.0));
            let _ = writeln!(text, "#EXTINF:{}.{:03},", ms / 1000, ms % 1000);
            let _ = writeln!(text, "fragments/{}.m4s{token}", stored.number);
        }
        if ends {
            text += "#EXT-X-ENDLIST\n";
        }
        let mut response = whole(StatusCode::OK, KIND, text.into_bytes());
        set(&mut response, header::CACHE_CONTROL, "no-store");
        Ok(response)
    }

    /// A page that plays what is live, and says so where the browser can't.
    pub(super) fn player(&self) -> Response<Body> {
        let token = self.query.get("token").map(|token| format!("?token={token}")).unwrap_or_default();
        let page =
            include_str!("player.html").replace("{stream}", self.stream.as_str()).replace("{token}", &token);
        let mut response = whole(StatusCode::OK, "text/html; charset=utf-8", page.into_bytes());
        let policy = "default-src 'none'; media-src 'self' blob:; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'";
        set(&mut response, header::CONTENT_SECURITY_POLICY, policy);
        response
    }
}
