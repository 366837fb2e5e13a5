//! A page that plays what is live with as little delay as it is stored with, and says so where the browser can't. It loads
//! nothing from anywhere else. Never: playlists, segments.

use hyper::{Response, StatusCode, header};

use super::{Body, Call, set, whole};

impl Call {
    /// The page.
    pub(super) fn player(&self) -> Response<Body> {
        let page = include_str!("player.html")
            .replace("{stream}", self.stream.as_str())
            .replace("{token}", &self.token());
        let mut response = whole(StatusCode::OK, "text/html; charset=utf-8", page.into_bytes());
        let policy = "default-src 'none'; media-src 'self' blob:; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'";
        set(&mut response, header::CONTENT_SECURITY_POLICY, policy);
        response
    }
}
