//! Names of streams and their consumers as the API writes them across accounts and regions. Pure.

/// A stream, or a consumer of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arn {
    /// The region.
    pub region: String,
    /// Twelve digits.
    pub account: String,
    /// Name of the stream.
    pub stream: String,
    /// A consumer's name and the second of its creation.
    pub consumer: Option<(String, u64)>,
}

impl Arn {
    /// Reads one; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Arn> {
        let mut parts = text.splitn(6, ':');
        let (arn, partition, service) = (parts.next()?, parts.next()?, parts.next()?);
        let (region, account, resource) = (parts.next()?, parts.next()?, parts.next()?);
        if arn != "arn" || !partition.starts_with("aws") || service != "kinesis" {
            return None;
        }
        let path = resource.strip_prefix("stream/")?;
        let (stream, consumer) = match path.split_once("/consumer/") {
            None => (path, None),
            Some((stream, consumer)) => {
                let (name, created) = consumer.rsplit_once(':')?;
                (stream, Some((name.to_owned(), created.parse().ok()?)))
            }
        };
        let (region, account, stream) = (region.to_owned(), account.to_owned(), stream.to_owned());
        Some(Arn { region, account, stream, consumer })
    }
}

impl std::fmt::Display for Arn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "arn:aws:kinesis:{}:{}:stream/{}", self.region, self.account, self.stream)?;
        match &self.consumer {
            Some((name, created)) => write!(f, "/consumer/{name}:{created}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_others_are_none() {
        for text in [
            "arn:aws:kinesis:local-1:000000000000:stream/a.b",
            "arn:aws:kinesis:eu-west-1:123456789012:stream/a/consumer/c:1700000000",
        ] {
            assert_eq!(Arn::parse(text).unwrap().to_string(), text);
        }
        for bad in
            ["", "arn:aws:s3:::x", "arn:aws:kinesis:r:1:queue/x", "arn:aws:kinesis:r:1:stream/a/consumer/c"]
        {
            assert_eq!(Arn::parse(bad), None, "{bad}");
        }
    }
}
