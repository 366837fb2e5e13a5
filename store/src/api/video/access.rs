//! Who asks for video: with an access key (Basic, as `curl -u` and browsers send it), with the operator's certificate (as
//! `kinesin video` does), or with a session token that was made for one stream and some hours, for players that can't
//! send a key.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use hyper::http::request::Parts;
use hyper::{Response, StatusCode, header};
use protocol::name::StreamName;
use protocol::time::UnixMs;
use serde_json::json;
use sha2::Sha256;

use super::listing::base_s;
use super::{Call, Failure, Query, Result, as_json, failure};
use crate::api::Shared;
use crate::api::kinesis::http::Body;
use crate::auth::keys::AccessKey;
use crate::principal::{Principal, Role};
use crate::service::segments::Segment;

/// Seconds that a session lasts: at least, if nothing is said, and at most (as sessions of Kinesis Video Streams).
const TTL_S: (u64, u64, u64) = (60, 3600, 43_200);

/// What a request may do.
pub(super) struct Access {
    principal: Principal,
    /// What sessions are signed with; only for those that have it, or the operator's certificate.
    key: Option<(String, String)>,
}

fn denied(message: &str) -> Failure {
    failure(StatusCode::UNAUTHORIZED, message)
}

/// Takes as long for a wrong guess as for a right one.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

fn signature(secret: &str, id: &str, stream: &str, expires_s: u64) -> String {
    // Any length of key will do.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else { return String::new() };
    mac.update(format!("kinesin video session\n{id}\n{stream}\n{expires_s}").as_bytes());
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Access {
    pub(super) fn of(
        shared: &Arc<Shared>,
        parts: &Parts,
        query: &Query,
        stream: Option<&StreamName>,
        shown: Option<Principal>,
    ) -> Result<Access> {
        if let (Some(token), Some(stream)) = (query.get("token"), stream) {
            let key = check_token(shared, token, stream, shared.clock.wall())?;
            return Ok(Access { principal: key.principal.clone(), key: None });
        }
        let text = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let Some(text) = text else {
            if let (Some(principal), Some((id, key))) =
                (shown.filter(|shown| shown.role == Role::Admin), shared.auth.keys().first())
            {
                return Ok(Access { principal, key: Some((id.to_owned(), key.secret.clone())) });
            }
            return Err(denied(
                "who is asking? Send the access key of admin.credentials (curl -u KEY:SECRET), or a ?token= of a session",
            ));
        };
        let wrong = || denied("the access key or its secret is wrong");
        let (scheme, value) = text.split_once(' ').ok_or_else(wrong)?;
        let pair = match scheme.to_ascii_lowercase().as_str() {
            "basic" => {
                String::from_utf8(STANDARD.decode(value.trim()).map_err(|_| wrong())?).map_err(|_| wrong())?
            }
            "bearer" => value.trim().to_owned(),
            _ => return Err(denied("the authorization must be Basic, with an access key and its secret")),
        };
        let (id, secret) = pair.split_once(':').ok_or_else(wrong)?;
        let key = shared.auth.keys().find(id).filter(|key| is_same(key.secret.as_bytes(), secret.as_bytes()));
        let key = key.ok_or_else(wrong)?;
        Ok(Access { principal: key.principal.clone(), key: Some((id.to_owned(), key.secret.clone())) })
    }

    pub(super) fn principal(&self) -> &Principal {
        &self.principal
    }

    pub(super) fn may_write(&self) -> bool {
        self.key.is_some()
    }

    /// A token for one stream, and the addresses that players want.
    pub(super) async fn session(&self, call: &Call) -> Result<Response<Body>> {
        let ttl_s = call.query.number("ttl", TTL_S.0, TTL_S.2)?.unwrap_or(TTL_S.1);
        let Some((id, secret)) = &self.key else { return Err(denied("a session makes no other session")) };
        let expires_s = call.shared.clock.wall().0 / 1000 + ttl_s;
        let token = token(id, secret, call.stream.as_str(), expires_s);
        let at = |path: &str| format!("{}/{}/{path}?token={token}", super::PREFIX, call.stream);
        // A list that goes on has one base for as long as it is played, also where it has not begun yet.
        let live = call.live().await.ok();
        let earliest = live.iter().flat_map(|live| live.all()).map(Segment::producer_time).min();
        let base_s = base_s(earliest.unwrap_or_else(|| call.shared.clock.wall()));
        Ok(as_json(&json!({
            "token": token, "expires_ms": expires_s * 1000,
            "live": format!("{}&base={base_s}", at("live.m3u8")), "vod": at("vod.m3u8"), "dash": at("manifest.mpd"), "file": at("range.mp4"),
            "player": at("player"),
        })))
    }
}

/// A token for one stream and so many seconds, in the name of an access key; `None` where there is no such key.
pub(in crate::api) fn token_for(
    shared: &Shared,
    id: &str,
    stream: &StreamName,
    seconds: u64,
) -> Option<String> {
    let key = shared.auth.keys().find(id)?;
    Some(token(id, &key.secret, stream.as_str(), shared.clock.wall().0 / 1000 + seconds))
}

fn token(id: &str, secret: &str, stream: &str, expires_s: u64) -> String {
    format!("{id}.{expires_s}.{}", signature(secret, id, stream, expires_s))
}

fn check_token<'s>(
    shared: &'s Arc<Shared>,
    token: &str,
    stream: &StreamName,
    now: UnixMs,
) -> Result<&'s AccessKey> {
    let wrong = || denied("the session token is wrong, or of another stream");
    let mut parts = token.split('.');
    let (Some(id), Some(expires), Some(signed), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(wrong());
    };
    let expires_s: u64 = expires.parse().map_err(|_| wrong())?;
    let key = shared.auth.keys().find(id).ok_or_else(wrong)?;
    if !is_same(signature(&key.secret, id, stream.as_str(), expires_s).as_bytes(), signed.as_bytes()) {
        return Err(wrong());
    }
    if now.0 / 1000 >= expires_s {
        return Err(denied("the session is over: make another one"));
    }
    Ok(key)
}
