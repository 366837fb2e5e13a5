//! Names of streams as the Kinesis Video Streams API writes them across accounts and regions, and numbers of fragments.
//! Pure.

use protocol::sequence::SequenceNumber;
use protocol::time::UnixMs;

/// A stream of video.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Arn {
    pub(super) region: String,
    pub(super) account: String,
    pub(super) stream: String,
    /// Another stream of the same name has another time.
    pub(super) created: UnixMs,
}

impl Arn {
    pub(super) fn parse(text: &str) -> Option<Arn> {
        let parts: Vec<&str> = text.splitn(6, ':').collect();
        let ["arn", partition, "kinesisvideo", region, account, resource] = parts.as_slice() else {
            return None;
        };
        if !partition.starts_with("aws") {
            return None;
        }
        let (stream, created) = resource.strip_prefix("stream/")?.split_once('/')?;
        Some(Arn {
            region: (*region).to_owned(),
            account: (*account).to_owned(),
            stream: stream.to_owned(),
            created: UnixMs(created.parse().ok()?),
        })
    }
}

impl std::fmt::Display for Arn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Arn { region, account, stream, created } = self;
        write!(f, "arn:aws:kinesisvideo:{region}:{account}:stream/{stream}/{}", created.0)
    }
}

const DIGITS: usize = 46;

/// The number of a fragment: that of its first frame, as long as the service's are, so that their order as text is
/// their order.
pub(in crate::api) fn fragment_number(number: SequenceNumber) -> String {
    format!("9{:0DIGITS$}", number.0)
}

pub(super) fn read_fragment_number(text: &str) -> Option<SequenceNumber> {
    let digits = text.strip_prefix('9').filter(|digits| digits.len() == DIGITS)?;
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok().map(SequenceNumber)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_read_back_and_others_are_none() {
        let text = "arn:aws:kinesisvideo:local-1:000000000000:stream/a.b/1700000000123";
        assert_eq!(Arn::parse(text).unwrap().to_string(), text);
        for bad in
            ["", "arn:aws:kinesis:r:1:stream/x/1", "arn:aws:kinesisvideo:r:1:stream/x", "arn:aws:s3:::x"]
        {
            assert_eq!(Arn::parse(bad), None, "{bad}");
        }
        let (small, large) = (fragment_number(SequenceNumber(9)), fragment_number(SequenceNumber(10)));
        assert!(small < large && small.len() == 47);
        assert_eq!(read_fragment_number(&large), Some(SequenceNumber(10)));
        for bad in ["", "9", "12", &large[1..], &format!("{large}0"), &large.replace("10", "-1")] {
            assert_eq!(read_fragment_number(bad), None, "{bad}");
        }
    }
}
