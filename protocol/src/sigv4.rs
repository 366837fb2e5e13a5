//! AWS Signature Version 4: reads what a request claims about who signed it, and checks the signature. In the header
//! or in the query. Pure: secrets and `now` are values; whose secret it is, is the caller's business.

use std::fmt::Write as _;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::name::is_region;
use crate::time::UnixMs;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// Clocks may differ by this much.
const SKEW_S: u64 = 300;
/// A signed query is usable this long at most.
const EXPIRES_S_MAX: u64 = 7 * 24 * 3600;

/// A request, as far as it is signed.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// `POST`.
    pub method: &'a str,
    /// As it was sent, still escaped.
    pub path: &'a str,
    /// As it was sent, without `?`.
    pub query: &'a str,
    /// Names in lower case; `host` among them, and over HTTP/2 `:authority`, which some clients sign in its place.
    pub headers: &'a [(&'a str, &'a str)],
    /// The body.
    pub body: &'a [u8],
}

/// Why a signature is none, in the service's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {message}")]
pub struct SignatureError {
    /// Name of the exception.
    pub kind: &'static str,
    /// For people.
    pub message: String,
}

fn invalid(message: impl Into<String>) -> SignatureError {
    SignatureError { kind: "InvalidSignatureException", message: message.into() }
}

fn incomplete(message: impl Into<String>) -> SignatureError {
    SignatureError { kind: "IncompleteSignatureException", message: message.into() }
}

/// What a request says about its signer. Nothing of it is proved before [`Claim::verify`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Whose key.
    pub access_key: String,
    /// For which region.
    pub region: String,
    date: String,
    service: String,
    signed_headers: String,
    signature: String,
    time: String,
    time_s: u64,
    expires_s: Option<u64>,
}

impl Claim {
    /// Reads the header or the query.
    ///
    /// # Errors
    /// When there is no signature, or two, or parts of it are missing.
    pub fn read(request: &Request<'_>) -> Result<Claim, SignatureError> {
        let header = request.header("authorization");
        let in_query = request.parameter("X-Amz-Algorithm").is_some();
        match (header, in_query) {
            (Some(_), true) => Err(invalid(
                "Found both 'X-Amz-Algorithm' as a query-string param and 'Authorization' as HTTP header.",
            )),
            (None, false) => Err(SignatureError {
                kind: "MissingAuthenticationTokenException",
                message: "Missing Authentication Token".to_owned(),
            }),
            (Some(header), false) => Claim::from_header(request, header),
            (None, true) => Claim::from_query(request),
        }
    }

    fn from_header(request: &Request<'_>, header: &str) -> Result<Claim, SignatureError> {
        let (algorithm, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        let part = |name: &str| {
            let mut parts = rest.split([',', ' ']).filter_map(|part| part.trim().split_once('='));
            parts.find(|(is, value)| *is == name && !value.is_empty()).map(|(_, value)| value.to_owned())
        };
        let mut missing = String::new();
        for name in ["Credential", "Signature", "SignedHeaders"] {
            if part(name).is_none() {
                let _ = write!(missing, "Authorization header requires '{name}' parameter. ");
            }
        }
        let time = request.header("x-amz-date").or_else(|| request.header("date"));
        if time.is_none() {
            missing.push_str(
                "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header. ",
            );
        }
        if !missing.is_empty() {
            return Err(incomplete(format!("{missing}Authorization={header}")));
        }
        if algorithm != ALGORITHM {
            return Err(incomplete(format!("Unsupported AWS 'algorithm': '{algorithm}'. ")));
        }
        let text = |name: &str| part(name).unwrap_or_default();
        Claim::new(
            &text("Credential"),
            text("SignedHeaders"),
            text("Signature"),
            time.unwrap_or_default(),
            None,
        )
    }

    fn from_query(request: &Request<'_>) -> Result<Claim, SignatureError> {
        let mut missing = String::new();
        for name in
            ["X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Signature", "X-Amz-SignedHeaders", "X-Amz-Date"]
        {
            if request.parameter(name).is_none_or(|value| value.is_empty()) {
                let _ = write!(missing, "AWS query-string parameters must include '{name}'. ");
            }
        }
        if !missing.is_empty() {
            return Err(incomplete(format!("{missing}Re-examine the query-string parameters.")));
        }
        let text = |name: &str| request.parameter(name).unwrap_or_default();
        if text("X-Amz-Algorithm") != ALGORITHM {
            return Err(incomplete(format!("Unsupported AWS 'algorithm': '{}'. ", text("X-Amz-Algorithm"))));
        }
        let expires = match request.parameter("X-Amz-Expires") {
            None => SKEW_S,
            Some(text) => text
                .parse()
                .ok()
                .filter(|seconds| (1..=EXPIRES_S_MAX).contains(seconds))
                .ok_or_else(|| invalid("X-Amz-Expires must be a number of seconds from 1 to 604800."))?,
        };
        Claim::new(
            &text("X-Amz-Credential"),
            text("X-Amz-SignedHeaders"),
            text("X-Amz-Signature"),
            &text("X-Amz-Date"),
            Some(expires),
        )
    }

    fn new(
        credential: &str,
        signed_headers: String,
        signature: String,
        time: &str,
        expires_s: Option<u64>,
    ) -> Result<Claim, SignatureError> {
        let time_s = seconds_of(time).ok_or_else(|| {
            incomplete(format!(
                "Date must be in ISO-8601 'basic format'. Got '{time}'. \
                 See http://en.wikipedia.org/wiki/ISO_8601"
            ))
        })?;
        let time = basic(time_s);
        let mut parts = credential.rsplitn(5, '/').collect::<Vec<_>>();
        parts.reverse();
        let [access_key, date, region, service, end] = parts.as_slice() else {
            return Err(incomplete(format!(
                "Credential must have exactly 5 slash-delimited elements, \
                 e.g. keyid/date/region/service/term, got '{credential}'"
            )));
        };
        if !is_region(region) {
            return Err(invalid(format!("Credential should be scoped to a valid region, not '{region}'. ")));
        }
        if *end != "aws4_request" {
            return Err(invalid(format!(
                "Credential should be scoped with a valid terminator: 'aws4_request', not '{end}'. "
            )));
        }
        if time.get(..8) != Some(*date) {
            return Err(invalid(format!(
                "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: \
                 '{date}' != '{}', from '{time}'.",
                &time[..8]
            )));
        }
        Ok(Claim {
            access_key: (*access_key).to_owned(),
            region: (*region).to_owned(),
            date: (*date).to_owned(),
            service: (*service).to_owned(),
            signed_headers,
            signature,
            time,
            time_s,
            expires_s,
        })
    }

    /// Whether the request was signed with this secret, for this service, and lately.
    ///
    /// # Errors
    /// When it was not.
    pub fn verify(
        &self,
        request: &Request<'_>,
        secret: &str,
        service: &str,
        now: UnixMs,
    ) -> Result<(), SignatureError> {
        self.check_time(now.0 / 1000)?;
        if self.service != service {
            return Err(invalid(format!("Credential should be scoped to correct service: '{service}'. ")));
        }
        let signed: Vec<&str> = self.signed_headers.split(';').collect();
        if !signed.contains(&"host") && !signed.contains(&":authority") {
            return Err(invalid("'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization."));
        }
        // Otherwise whoever sees a request could have the same body done by another operation.
        let unsigned = |name: &&str| request.header(name).is_some() && !signed.contains(name);
        if let Some(name) = ["x-amz-target", "x-amz-date"].iter().find(|name| unsigned(name)) {
            return Err(invalid(format!("'{name}' must be a 'SignedHeader' in the AWS Authorization.")));
        }
        let mac = hmac(&self.key(secret), self.string_to_sign(request).as_bytes());
        let mine = mac.finalize().into_bytes();
        let theirs = unhex(&self.signature);
        // In constant time.
        let same = theirs.len() == mine.len()
            && theirs.iter().zip(mine.iter()).fold(0, |all, (a, b)| all | (a ^ b)) == 0;
        let signature_is_good = same && self.body_is_as_signed(request);
        signature_is_good.then_some(()).ok_or_else(|| {
            invalid(
                "The request signature we calculated does not match the signature you provided. Check your AWS \
                 Secret Access Key and signing method. Consult the service documentation for details.",
            )
        })
    }

    fn check_time(&self, now_s: u64) -> Result<(), SignatureError> {
        let life = self.expires_s.unwrap_or(SKEW_S);
        let (time, now) = (&self.time, basic(now_s));
        if self.time_s + life < now_s {
            let least = basic(now_s - life);
            let span = if self.expires_s.is_some() {
                format!("{life} sec.")
            } else {
                format!("{} min.", SKEW_S / 60)
            };
            return Err(invalid(format!(
                "Signature expired: {time} is now earlier than {least} ({now} - {span})"
            )));
        }
        if self.time_s > now_s + SKEW_S {
            let most = basic(now_s + SKEW_S);
            return Err(invalid(format!(
                "Signature not yet current: {time} is still later than {most} ({now} + {} min.)",
                SKEW_S / 60
            )));
        }
        Ok(())
    }

    fn key(&self, secret: &str) -> Vec<u8> {
        let steps = [&self.date, &self.region, &self.service, "aws4_request"];
        steps.iter().fold(format!("AWS4{secret}").into_bytes(), |key, step| {
            hmac(&key, step.as_bytes()).finalize().into_bytes().to_vec()
        })
    }

    /// A header may state the body's hash in place of the body's; then it must be right. Of a body without end (`PutMedia`)
    /// nothing is here: the SDK for Java says that it streams, and signs no part of it.
    fn body_is_as_signed(&self, request: &Request<'_>) -> bool {
        match request.header("x-amz-content-sha256") {
            None | Some("UNSIGNED-PAYLOAD") => true,
            Some("STREAMING-AWS4-HMAC-SHA256-PAYLOAD") => request.body.is_empty(),
            Some(stated) => stated.eq_ignore_ascii_case(&hex(&Sha256::digest(request.body))),
        }
    }

    fn string_to_sign(&self, request: &Request<'_>) -> String {
        let canonical = self.canonical(request);
        let hash = hex(&Sha256::digest(canonical.as_bytes()));
        let (date, region, service) = (&self.date, &self.region, &self.service);
        format!("{ALGORITHM}\n{}\n{date}/{region}/{service}/aws4_request\n{hash}", self.time)
    }

    fn canonical(&self, request: &Request<'_>) -> String {
        let mut text = format!("{}\n{}\n", request.method, canonical_path(request.path));
        let mut parameters: Vec<(String, String)> = request
            .parameters()
            .filter(|(name, _)| name != "X-Amz-Signature")
            .map(|(name, value)| (escape(&name, false), escape(&value, false)))
            .collect();
        parameters.sort();
        let pairs: Vec<String> = parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
        text.push_str(&pairs.join("&"));
        text.push('\n');
        for name in self.signed_headers.split(';') {
            let values = request
                .headers
                .iter()
                .filter(|(is, _)| *is == name)
                .map(|(_, value)| value.split_ascii_whitespace().collect::<Vec<_>>().join(" "));
            let _ = writeln!(text, "{name}:{}", values.collect::<Vec<_>>().join(","));
        }
        let body = match request.header("x-amz-content-sha256") {
            Some(stated) => stated.to_owned(),
            None => hex(&Sha256::digest(request.body)),
        };
        let _ = write!(text, "\n{}\n{body}", self.signed_headers);
        text
    }
}

/// What a client writes into the header `authorization`. `headers` of the request are all signed; `host` and `x-amz-date`
/// (see [`date_header`]) are among them, in the order of their names.
#[must_use]
pub fn authorization(
    request: &Request<'_>,
    access_key: &str,
    secret: &str,
    region: &str,
    service: &str,
    now: UnixMs,
) -> String {
    let (time_s, names) = (now.0 / 1000, request.headers.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    let time = basic(time_s);
    let mut claim = Claim {
        access_key: access_key.to_owned(),
        region: region.to_owned(),
        date: time[..8].to_owned(),
        service: service.to_owned(),
        signed_headers: names.join(";"),
        signature: String::new(),
        time,
        time_s,
        expires_s: None,
    };
    let mac = hmac(&claim.key(secret), claim.string_to_sign(request).as_bytes());
    claim.signature = hex(&mac.finalize().into_bytes());
    let Claim { date, signed_headers, signature, .. } = claim;
    format!(
        "{ALGORITHM} Credential={access_key}/{date}/{region}/{service}/aws4_request, SignedHeaders={signed_headers}, \
         Signature={signature}"
    )
}

/// What goes with it as `x-amz-date`.
#[must_use]
pub fn date_header(now: UnixMs) -> String {
    basic(now.0 / 1000)
}

impl Request<'_> {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(is, _)| *is == name).map(|(_, value)| *value)
    }

    fn parameters(&self) -> impl Iterator<Item = (String, String)> {
        self.query.split('&').filter(|part| !part.is_empty()).map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            (unescape(name), unescape(value))
        })
    }

    fn parameter(&self, name: &str) -> Option<String> {
        self.parameters().find(|(is, _)| is == name).map(|(_, value)| value)
    }
}

fn hmac(key: &[u8], data: &[u8]) -> Hmac<Sha256> {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length");
    mac.update(data);
    mac
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Empty where it is no hexadecimal text.
fn unhex(text: &str) -> Vec<u8> {
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2)).unwrap_or_default();
    digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}

fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let code = (bytes[at] == b'%').then(|| bytes.get(at + 1..at + 3)).flatten();
        match code.and_then(|code| std::str::from_utf8(code).ok()).map(unhex).filter(|code| !code.is_empty())
        {
            Some(code) => {
                out.extend_from_slice(&code);
                at += 3;
            }
            None => {
                out.push(if bytes[at] == b'+' { b' ' } else { bytes[at] });
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn escape(text: &str, keep_slash: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || keep_slash && byte == b'/' {
            out.push(byte as char);
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// Without `.` and `..`, and escaped once more than it was sent.
fn canonical_path(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let end = if path.ends_with('/') && !parts.is_empty() { "/" } else { "" };
    escape(&format!("/{}{end}", parts.join("/")), true)
}

/// `20150830T123600Z`.
fn basic(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// Year, month and day of a day since 1970 (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + u64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

/// Days since 1970; the inverse of [`civil`].
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let y = year.checked_sub(u64::from(month <= 2))?;
    let (era, yoe) = (y / 400, y % 400);
    let mp = (month + 9) % 12;
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + (153 * mp + 2) / 5 + day - 1;
    let found = (era * 146_097 + doe).checked_sub(719_468)?;
    (civil(found) == (year, month, day)).then_some(found)
}

fn seconds_of(time: &str) -> Option<u64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    if time.len() == 16 && time.is_ascii() && &time[8..9] == "T" && time.ends_with('Z') {
        let day = days(number(&time[..4])?, number(&time[4..6])?, number(&time[6..8])?)?;
        let (hour, minute, second): (u64, u64, u64) =
            (number(&time[9..11])?, number(&time[11..13])?, number(&time[13..15])?);
        return (hour < 24 && minute < 60 && second < 61)
            .then(|| day * 86_400 + hour * 3600 + minute * 60 + second);
    }
    // `Mon, 09 Sep 2011 23:36:00 GMT`
    let words: Vec<&str> = time.split_ascii_whitespace().collect();
    let [_, day, month, year, clock, "GMT"] = words.as_slice() else { return None };
    let month = MONTHS.iter().position(|name| name == month)? as u64 + 1;
    let clock: Vec<u64> = clock.split(':').filter_map(number).collect();
    let [hour, minute, second] = clock.as_slice() else { return None };
    Some(days(number(year)?, month, number(day)?)? * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
    /// 2015-08-30T12:36:00Z
    const NOW: UnixMs = UnixMs(1_440_938_160_000);

    fn header(signature: &str) -> String {
        format!(
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
             SignedHeaders=host;x-amz-date, Signature={signature}"
        )
    }

    fn verify(method: &str, query: &str, authorization: &str, now: UnixMs) -> Result<(), SignatureError> {
        let headers = [
            ("host", "example.amazonaws.com"),
            ("x-amz-date", "20150830T123600Z"),
            ("authorization", authorization),
        ];
        let request = Request { method, path: "/", query, headers: &headers, body: b"" };
        Claim::read(&request)?.verify(&request, SECRET, "service", now)
    }

    /// From AWS's published test suite for Signature Version 4.
    #[test]
    fn what_a_client_signs_is_good_with_its_secret_only() {
        let now = UnixMs(1_700_000_000_000);
        let date = date_header(now);
        let unsigned = [("host", "localhost:4567"), ("x-amz-date", date.as_str())];
        let request = Request {
            method: "POST",
            path: "/",
            query: "",
            headers: &unsigned,
            body: b"{\"StreamName\":\"a\"}",
        };
        let text = authorization(&request, "AKID", "secret", "local-1", "kinesis", now);
        let headers = [unsigned[0], unsigned[1], ("authorization", text.as_str())];
        let request = Request { headers: &headers, ..request };
        let claim = Claim::read(&request).unwrap();
        assert_eq!((claim.access_key.as_str(), claim.region.as_str()), ("AKID", "local-1"));
        claim.verify(&request, "secret", "kinesis", now).unwrap();
        assert!(claim.verify(&request, "other", "kinesis", now).is_err());
        assert!(claim.verify(&Request { body: b"{}", ..request }, "secret", "kinesis", now).is_err());
    }

    #[test]
    fn a_body_that_streams_is_not_signed_and_one_that_is_here_must_be() {
        let now = UnixMs(1_700_000_000_000);
        let date = date_header(now);
        let headers = [
            ("host", "localhost:4567"),
            ("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
            ("x-amz-date", date.as_str()),
        ];
        let request = Request { method: "POST", path: "/putMedia", query: "", headers: &headers, body: b"" };
        let text = authorization(&request, "AKID", "secret", "local-1", "kinesisvideo", now);
        let signed = [headers[0], headers[1], headers[2], ("authorization", text.as_str())];
        let request = Request { headers: &signed, ..request };
        let claim = Claim::read(&request).unwrap();
        claim.verify(&request, "secret", "kinesisvideo", now).unwrap();
        let here = Request { body: b"{}", ..request };
        assert!(claim.verify(&here, "secret", "kinesisvideo", now).is_err(), "nobody signed that");
    }

    #[test]
    fn published_examples_are_good() {
        for (method, query, signature) in [
            ("GET", "", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
            ("POST", "", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
            (
                "GET",
                "Param2=value2&Param1=value1",
                "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
            ),
        ] {
            let authorization = header(signature);
            assert_eq!(verify(method, query, &authorization, NOW), Ok(()), "{method} {query}");
            let spaceless = authorization.replace(", ", ",");
            assert_eq!(verify(method, query, &spaceless, NOW), Ok(()), "without spaces");
            let other = if method == "GET" { "POST" } else { "GET" };
            let error = verify(other, query, &authorization, NOW).unwrap_err();
            assert_eq!(error.kind, "InvalidSignatureException");
        }
    }

    #[test]
    fn what_is_missing_old_or_early_is_said_so() {
        let good = header("5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31");
        let text = |now| verify("GET", "", &good, UnixMs(now)).unwrap_err().message;
        assert_eq!(
            text(NOW.0 + 301_000),
            "Signature expired: 20150830T123600Z is now earlier than 20150830T123601Z (20150830T124101Z - 5 min.)"
        );
        assert_eq!(
            text(NOW.0 - 301_000),
            "Signature not yet current: 20150830T123600Z is still later than 20150830T123559Z \
             (20150830T123059Z + 5 min.)"
        );
        let error = verify("GET", "", "AWS4-HMAC-SHA256 X=y", NOW).unwrap_err();
        assert_eq!(
            error.message,
            "Authorization header requires 'Credential' parameter. Authorization header requires 'Signature' \
             parameter. Authorization header requires 'SignedHeaders' parameter. \
             Authorization=AWS4-HMAC-SHA256 X=y"
        );
        let request = Request { method: "GET", path: "/", query: "", headers: &[], body: b"" };
        assert_eq!(Claim::read(&request).unwrap_err().kind, "MissingAuthenticationTokenException");
        let error = verify("GET", "X-Amz-Algorithm=x", &good, NOW).unwrap_err();
        assert!(error.message.starts_with("Found both"));
    }

    #[test]
    fn an_operation_that_is_not_signed_is_refused() {
        let authorization = header("5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b");
        let headers = [
            ("host", "example.amazonaws.com"),
            ("x-amz-date", "20150830T123600Z"),
            ("x-amz-target", "Kinesis_20131202.DeleteStream"),
            ("authorization", authorization.as_str()),
        ];
        let mut request = Request { method: "POST", path: "/", query: "", headers: &headers, body: b"" };
        let run = |request: &Request<'_>| Claim::read(request)?.verify(request, SECRET, "service", NOW);
        assert_eq!(
            run(&request).unwrap_err().message,
            "'x-amz-target' must be a 'SignedHeader' in the AWS Authorization."
        );
        let without = [headers[0], headers[1], headers[3]];
        request.headers = &without;
        assert_eq!(run(&request), Ok(()));
    }

    #[test]
    fn the_host_may_be_signed_under_either_name_and_under_one_it_must() {
        let headers =
            |names: &str| header("00").replace("SignedHeaders=host;", &format!("SignedHeaders={names}"));
        let text = |names: &str| verify("GET", "", &headers(names), NOW).unwrap_err().message;
        for names in ["host;", ":authority;"] {
            assert!(text(names).starts_with("The request signature we calculated"), "{names}");
        }
        assert!(text("").starts_with("'Host' or ':authority' must be"));
    }

    #[test]
    fn days_and_dates_are_inverse() {
        for day in (0..40_000).step_by(17) {
            let (year, month, date) = civil(day);
            assert_eq!(days(year, month, date), Some(day));
        }
        assert_eq!(seconds_of("20150830T123600Z"), Some(NOW.0 / 1000));
        assert_eq!(seconds_of("Sun, 30 Aug 2015 12:36:00 GMT"), Some(NOW.0 / 1000));
        for bad in ["", "20150231T000000Z", "2015-08-30T12:36:00Z", "20150830T123600+"] {
            assert_eq!(seconds_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn paths_are_made_canonical() {
        for (path, want) in [("/", "/"), ("", "/"), ("/a/../b/./c/", "/b/c/"), ("/%20x", "/%2520x")] {
            assert_eq!(canonical_path(path), want);
        }
    }

    /// Reaches `EXPIRES_S_MAX`.
    #[test]
    fn a_signed_query_is_usable_for_a_week_and_not_for_longer() {
        let read = |expires: u64| {
            let query = format!(
                "X-Amz-Algorithm={ALGORITHM}&X-Amz-Credential=AKID%2F20150830%2Fus-east-1%2Fkinesis%2F\
                 aws4_request&X-Amz-SignedHeaders=host&X-Amz-Signature=00&X-Amz-Date=20150830T123600Z&\
                 X-Amz-Expires={expires}"
            );
            let headers = [("host", "localhost")];
            let request = Request { method: "GET", path: "/", query: &query, headers: &headers, body: b"" };
            Claim::read(&request).map(|_| ()).map_err(|error| error.message)
        };
        assert_eq!(read(EXPIRES_S_MAX), Ok(()));
        let refused = read(EXPIRES_S_MAX + 1).unwrap_err();
        assert!(refused.contains("from 1 to 604800"), "{refused}");
    }
}
